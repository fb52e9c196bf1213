// Package receiver takes in what other servers send: transactions of PDUs and EDUs.
//
// It judges what needs the network (form, hashes, signatures) in the order of the spec's own receipt checks, and asks the room
// for the rest. What a reader must not break:
//   - a transaction that was answered before gets the same answer, and nothing of it happens twice;
//   - no PDU is dropped because its parents are missing: it is set aside in storage, and gaps.go goes for them;
//   - an EDU speaks only for users of the server that sent it, and only for rooms in which that server is;
//   - one bad item never spoils those beside it.
package receiver

import (
	"context"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

// Receiver takes transactions in. It is safe for concurrent use.
type Receiver struct {
	client *remote.Client
	ring   *remote.Ring
	store  *storage.Store
	bus    *bus.Bus
	view   *view.Reader
	now    func() time.Time
	// entered waits while a room is being joined.
	entered func(ctx context.Context, room id.RoomID)

	origins *origins
	tallies *tallies
	gaps    *gaps
	lists   *lists
}

// New makes a receiver. Gaps are filled and device lists fetched only while Run runs. entered waits while a room is being joined through
// another server, which may send what happens there before the room is ours.
func New(client *remote.Client, ring *remote.Ring, store *storage.Store, b *bus.Bus, entered func(context.Context, id.RoomID)) *Receiver {
	r := &Receiver{client: client, ring: ring, store: store, bus: b, view: view.New(store), now: time.Now, entered: entered, origins: newOrigins(), tallies: newTallies()}
	r.gaps = newGaps(r)
	r.lists = newLists(r)
	return r
}

// sweepEvery is how often old memories are forgotten.
const sweepEvery = time.Hour

// Run goes on with the gaps that are open, fetches device lists, and forgets what is old, until ctx ends.
func (r *Receiver) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.gaps.run(ctx) })
	group.Go(func() error { return r.lists.run(ctx) })
	group.Go(func() error {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			if err := r.store.Received.Sweep(ctx); err != nil && ctx.Err() == nil {
				zerolog.Ctx(ctx).Warn().Err(err).Msg("Old transactions not forgotten")
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
	return group.Wait()
}
