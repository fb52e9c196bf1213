package rooms

import (
	"context"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

const (
	searchLease = "search"
	// indexEvery is how long news is gathered before it goes into the index, unless somebody searches.
	indexEvery = time.Second
	// indexSlice is how many events go into the index with one write.
	indexSlice = 100
	// indexPatience is how long a search waits for the index; indexLook how often it looks, where another process has it.
	indexPatience = 2 * time.Second
	indexLook     = 100 * time.Millisecond
)

// index is the follower that feeds the search index, and what searches know of it.
type index struct {
	store *storage.Store

	mu      sync.Mutex
	running bool
	done    storage.Position // everything up to here is in the index
	wanted  storage.Position // somebody waits for this
	moved   chan struct{}    // closed and replaced when done moves
	hurry   chan struct{}
}

func newIndex(store *storage.Store) *index {
	return &index{store: store, moved: make(chan struct{}), hurry: make(chan struct{}, 1)}
}

// run feeds the index, until ctx ends; in one process alone.
func (x *index) run(ctx context.Context) error {
	if !x.store.Search.Available() {
		zerolog.Ctx(ctx).Warn().Msg("This build has no full-text search: build with -tags sqlite_fts5, or use PostgreSQL")
		<-ctx.Done()
		return nil
	}
	return x.store.Leases.Hold(ctx, searchLease, func(ctx context.Context) error {
		defer x.begin(0, false)
		return x.store.Follow(ctx, storage.Follower{
			// A new index begins with all that is there.
			Name: searchLease, FromStart: true, Started: func(at storage.Position) { x.begin(at, true) },
			Kinds: []storage.Kind{storage.EventNews}, Handle: x.handle,
		})
	})
}

func (x *index) begin(at storage.Position, running bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done, x.running = at, running
}

// searchable is the text of an event that can be found, and where it stands; empty for others.
func searchable(e *storage.Event) (storage.SearchKey, string) {
	switch e.Type {
	case event.EventMessage.Type:
		return storage.SearchBody, gjson.GetBytes(e.JSON, "content.body").Str
	case event.StateRoomName.Type:
		return storage.SearchName, gjson.GetBytes(e.JSON, "content.name").Str
	case event.StateTopic.Type:
		return storage.SearchTopic, gjson.GetBytes(e.JSON, "content.topic").Str
	}
	return 0, ""
}

// handle puts a run of events into the index, and takes those out that were redacted.
func (x *index) handle(ctx context.Context, news []storage.Change, upTo storage.Position) error {
	var entries []storage.SearchEntry
	var redacted []id.EventID
	for _, c := range news {
		e := c.Event
		if e.Type == event.EventRedaction.Type {
			redacted = append(redacted, id.EventID(gjson.GetBytes(e.JSON, "redacts").Str), id.EventID(gjson.GetBytes(e.JSON, "content.redacts").Str))
			continue
		}
		if key, text := searchable(e); text != "" && e.RedactedBy == "" {
			entries = append(entries, storage.SearchEntry{Number: e.Number, RoomID: e.RoomID, Place: e.Place, Key: key, Text: text})
		}
	}
	if len(entries)+len(redacted) > 0 {
		if upTo >= x.store.Head() && !x.gather(ctx, news[0].Position) {
			return ctx.Err()
		}
		if err := x.write(ctx, entries, redacted); err != nil {
			return err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done = upTo
	close(x.moved)
	x.moved = make(chan struct{})
	return nil
}

// gather waits for more, so that messages do not cost a write each; false if ctx ended.
func (x *index) gather(ctx context.Context, first storage.Position) bool {
	enough := time.NewTimer(indexEvery)
	defer enough.Stop()
	for {
		x.mu.Lock()
		wanted := x.wanted >= first
		x.mu.Unlock()
		if wanted {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-enough.C:
			return true
		case <-x.hurry:
		}
	}
}

func (x *index) write(ctx context.Context, entries []storage.SearchEntry, redacted []id.EventID) error {
	for len(entries) > 0 {
		n := min(indexSlice, len(entries))
		if err := x.store.Do(ctx, func(ctx context.Context) error { return x.store.Search.Add(ctx, entries[:n]) }); err != nil {
			return err
		}
		entries = entries[n:]
	}
	if len(redacted) == 0 {
		return nil
	}
	// A redaction takes effect if its sender was entitled: the target says so.
	targets, err := x.store.Events.ByIDs(ctx, redacted)
	if err != nil {
		return err
	}
	var numbers []int64
	for _, e := range targets {
		if e.RedactedBy != "" {
			numbers = append(numbers, e.Number)
		}
	}
	for len(numbers) > 0 {
		n := min(indexSlice, len(numbers))
		if err := x.store.Do(ctx, func(ctx context.Context) error { return x.store.Search.Remove(ctx, numbers[:n]) }); err != nil {
			return err
		}
		numbers = numbers[n:]
	}
	return nil
}

// await waits a little, until everything is in the index that is there now: who has just read a message finds it.
func (x *index) await(ctx context.Context) {
	head := x.store.Head()
	ctx, cancel := context.WithTimeout(ctx, indexPatience)
	defer cancel()
	for ctx.Err() == nil {
		x.mu.Lock()
		running, done, moved := x.running, x.done, x.moved
		x.wanted = max(x.wanted, head)
		x.mu.Unlock()
		if running && done >= head {
			return
		}
		select {
		case x.hurry <- struct{}{}:
		default: // it has been told already
		}
		if running {
			select {
			case <-ctx.Done():
			case <-moved:
			}
			continue
		}
		// Another process feeds it, and saves each second how far it is.
		at, err := x.store.Saved(ctx, searchLease)
		if err == nil && at >= head {
			return
		}
		look := time.NewTimer(indexLook)
		select {
		case <-ctx.Done():
		case <-look.C:
		}
		look.Stop()
	}
}
