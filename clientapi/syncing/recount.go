package syncing

import (
	"context"
	"maps"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

const (
	// maxUnread bounds how many events are looked at for the counts of one room while a client waits for its answer. What lies
	// before them is counted afterwards, and told with the next answer.
	maxUnread = 4000
	// unreadPage is how many are read at once.
	unreadPage = 250
	// maxLater bounds how many rooms wait for being counted afterwards.
	maxLater = 1000
	// laterPause lies between two pages that are counted afterwards: answers come first.
	laterPause = 2 * time.Millisecond
)

// walk goes back through a room's history, from the newest event to what the user has read: first through all events, down
// to where the main timeline is read, and from there on through threads alone.
type walk struct {
	room    id.RoomID
	page    storage.Page
	threads map[string]unread
	read    map[string]storage.Place
	// some are the threads that are counted; nil counts all.
	some map[string]bool
	// threadless: there is nothing in threads.
	threadless bool
	done       bool
}

// wants tells whether the walk counts what stands there, or is through.
func (w *walk) wants(thread string, at storage.Place) bool {
	return (w.some == nil || w.some[thread]) && at > w.floor(thread)
}

// floor is up to where the thread is read.
func (w *walk) floor(thread string) storage.Place { return max(w.read[""], w.read[thread]) }

// end is where nothing unread can stand any more.
func (w *walk) end() storage.Place {
	if w.some == nil {
		return w.read[""]
	}
	end := storage.Place(1<<62 - 1)
	for thread := range w.some {
		end = min(end, w.floor(thread))
	}
	return end
}

// threadsOnly tells whether nothing but threads is of interest before the place.
func (w *walk) threadsOnly(at storage.Place) bool {
	return at <= w.floor(mainThread) || w.some != nil && !w.some[mainThread]
}

// take counts one event.
func (w *walk) take(ctx context.Context, j *judge, x *entry, e *storage.Event) error {
	thread := threadOf(e)
	if e.Position == 0 || !w.wants(thread, e.Place) {
		return nil
	}
	if e.Sender == j.person.ID { // who speaks has read
		w.read = raised(w.read, thread, e.Place)
		return nil
	}
	return j.add(ctx, w.threads, x, e)
}

// step reads one page.
func (w *walk) step(ctx context.Context, j *judge) error {
	entries, err := w.next(ctx, j.s)
	if err != nil {
		return err
	}
	end := w.end()
	for _, x := range entries {
		e := x.row()
		if e.Place <= end {
			w.done = true
			return nil
		}
		w.page = e.PageOf()
		if err := w.take(ctx, j, x, e); err != nil {
			return err
		}
		end = w.end()
	}
	w.done = len(entries) < unreadPage
	return nil
}

// next gives the next page, newest first.
func (w *walk) next(ctx context.Context, s *Syncing) ([]*entry, error) {
	key := pageKey{w.room, w.page, w.threadsOnly(w.page.Place)}
	if key.threadsOnly && w.threadless {
		return nil, nil
	}
	found, version := s.walked.find(key)
	if found != nil {
		return found, nil
	}
	ask := s.store.Events.Backwards
	if key.threadsOnly {
		ask = s.store.Events.InThreads
	}
	events, err := ask(ctx, w.room, w.page, unreadPage)
	if err != nil {
		return nil, err
	}
	entries := make([]*entry, len(events))
	for i, e := range events {
		entries[i] = newEntry(e)
	}
	s.walked.keep(key, entries, version)
	return entries, nil
}

// countAgain counts the stale threads anew: from the memory as far as it reaches back, then from the tables. rest is what
// would take too long now.
func (a *answer) countAgain(ctx context.Context, p *roomPlan, j *judge, c *count) (rest *walk, err error) {
	w := &walk{room: p.id, page: a.to.End(), threads: map[string]unread{}, read: c.read, threadless: p.threadless}
	if !c.stale[""] {
		w.some = c.stale
		w.threads = maps.Clone(c.threads)
		if w.threads == nil {
			w.threads = map[string]unread{}
		}
		for thread := range c.stale {
			delete(w.threads, thread)
		}
	}
	if p.live {
		for i := len(p.events) - 1; i >= 0 && !w.done; i-- {
			x := p.events[i]
			if x.position > a.to {
				continue
			}
			e, err := x.now(ctx, a.s)
			if err != nil {
				return nil, err
			}
			if w.done = e.Place <= w.end(); !w.done {
				err = w.take(ctx, j, x, e)
			}
			if err != nil {
				return nil, err
			}
		}
		w.page = min(a.to, p.eventsFrom).End()
		w.done = w.done || w.page.Place <= w.end()
	}
	for seen := 0; !w.done && seen < maxUnread; seen += unreadPage {
		if err := w.step(ctx, j); err != nil {
			return nil, err
		}
	}
	c.threads, c.read = maps.Clone(w.threads), w.read
	if !w.done {
		w.threads = map[string]unread{} // what is counted from here on is added
		return w, nil
	}
	return nil, nil
}

// later is a count that goes on after its answer was given.
type later struct {
	user    *user
	room    id.RoomID
	version int
	walk    *walk
}

// countLater hands a walk to who finishes it. What finds no room is counted when the user next syncs after a receipt.
func (s *Syncing) countLater(l *later) {
	select {
	case s.later <- l:
	default:
	}
}

// finishCounts goes on with counts that took too long, one page at a time, until ctx ends.
func (s *Syncing) finishCounts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-s.later:
			_ = s.finishCount(ctx, l) // counted again with the next receipt
		}
	}
}

func (s *Syncing) finishCount(ctx context.Context, l *later) error {
	a := &answer{s: s, u: l.user, q: &question{filter: &Filter{}}}
	s.mu.RLock()
	st := l.user.stays[l.room]
	a.ignored = l.user.ignored
	s.mu.RUnlock()
	if st == nil {
		return nil
	}
	j, err := a.judge(ctx, &roomPlan{id: l.room, stay: *st})
	if err != nil {
		return err
	}
	for !l.walk.done {
		if err := l.walk.step(ctx, j); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(laterPause):
		}
		s.mu.RLock()
		moved := l.user.count(l.room).version != l.version
		s.mu.RUnlock()
		if moved {
			return nil // the next answer has counted it again, or will
		}
	}
	woken := wake{}
	s.mu.Lock()
	if c := l.user.count(l.room); c.version == l.version && len(l.walk.threads) > 0 {
		c.threads = maps.Clone(c.threads)
		if c.threads == nil {
			c.threads = map[string]unread{}
		}
		for thread, n := range l.walk.threads {
			sum := c.threads[thread]
			c.threads[thread] = unread{sum.notify + n.notify, sum.highlight + n.highlight}
		}
		s.mark++
		l.user.counted[l.room], l.user.marked = s.mark, s.mark
		woken.all(l.user)
	}
	s.mu.Unlock()
	woken.ring()
	return nil
}

// pages keeps at hand the newest pages of history that were walked through: many a count goes the same way.
type pages struct {
	mu         sync.Mutex
	version    int // rises when an event looks otherwise: what was read before is not kept
	young, old map[pageKey][]*entry
}

type pageKey struct {
	room        id.RoomID
	page        storage.Page
	threadsOnly bool
}

// maxPagesKept is how many pages each of two halves holds.
const maxPagesKept = 16

func (p *pages) find(key pageKey) (found []*entry, version int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if found := p.young[key]; found != nil {
		return found, p.version
	}
	return p.old[key], p.version
}

func (p *pages) keep(key pageKey, entries []*entry, version int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.version != version {
		return
	}
	if p.young == nil || len(p.young) >= maxPagesKept {
		p.young, p.old = map[pageKey][]*entry{}, p.young
	}
	p.young[key] = entries
}

// outdate drops what is kept of a room: one of its events looks otherwise now.
func (p *pages) outdate(room id.RoomID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version++
	for _, half := range []map[pageKey][]*entry{p.young, p.old} {
		for key := range half {
			if key.room == room {
				delete(half, key)
			}
		}
	}
}

// age drops what was not walked through for a while.
func (p *pages) age() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.young, p.old = nil, p.young
}
