package calls

import (
	"context"
	"fmt"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// attention hears each Matrix room in a goroutine of its own, while the room has news for its calls: what one room's rules cost, which are as
// long as its members like, or that they cannot be read just now, is no other room's delay.
type attention struct {
	mu    sync.Mutex
	rooms map[id.RoomID]*roomNews // those that are being heard: what came since
}

// roomNews is what a room says that its calls have yet to hear.
type roomNews struct {
	ruled    bool             // its rules may be others
	commands []*storage.Event // in the room's order
}

// mostCommands is how many commands of one room wait, while its rules cannot be read; what comes then is passed over.
const mostCommands = 200

// heed notes news of a room that has a live call here, and has them heard until ctx ends.
func (f *Focus) heed(ctx context.Context, room id.RoomID, note func(*roomNews)) {
	if !f.has(room) {
		return
	}
	a := &f.attention
	a.mu.Lock()
	defer a.mu.Unlock()
	news, begun := a.rooms[room]
	if !begun {
		if a.rooms == nil {
			a.rooms = map[id.RoomID]*roomNews{}
		}
		news = &roomNews{}
		a.rooms[room] = news
	}
	note(news)
	if !begun {
		f.live.Go(func() { f.attend(ctx, room) })
	}
}

// newRules is the news that a room's rules may be others.
func newRules(n *roomNews) { n.ruled = true }

// newCommand is the news of a command.
func newCommand(e *storage.Event) func(*roomNews) {
	return func(n *roomNews) {
		if len(n.commands) < mostCommands {
			n.commands = append(n.commands, e)
		}
	}
}

// take gives what has come of a room; nil if nothing has, and then the room is heard no longer.
func (a *attention) take(room id.RoomID) *roomNews {
	a.mu.Lock()
	defer a.mu.Unlock()
	news := a.rooms[room]
	if !news.ruled && len(news.commands) == 0 {
		delete(a.rooms, room)
		return nil
	}
	a.rooms[room] = &roomNews{}
	return news
}

// attend hears a room until it has said all. What cannot be read is asked again.
func (f *Focus) attend(ctx context.Context, room id.RoomID) {
	log := seldom(ctx)
	for news := f.attention.take(room); news != nil; news = f.attention.take(room) {
		for {
			err := f.hearRoom(ctx, room, news)
			if err == nil || ctx.Err() != nil {
				break
			}
			log.Warn().Err(err).Stringer("room_id", room).Msg("What a room says of its calls not heard, will try again")
			select {
			case <-ctx.Done():
			case <-time.After(patrolEvery):
			}
		}
	}
}

// hearRoom has a room's calls obey it. The rules are read once, however much there is to be heard.
func (f *Focus) hearRoom(ctx context.Context, room id.RoomID, news *roomNews) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			faults.Inc()
			err = fmt.Errorf("panic: %v", fault)
		}
	}()
	if news.ruled {
		if err := f.rejudge(ctx, room); err != nil {
			return err
		}
	}
	if len(news.commands) == 0 || !f.has(room) {
		return nil
	}
	rules, err := f.house.rules(ctx, room)
	if err != nil {
		return err
	}
	for _, e := range news.commands {
		f.commanded(ctx, e, rules)
	}
	return nil
}
