package appservice

import (
	"context"
	"encoding/json"
	"math"
	"sync"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/view"
	"chancery/storage"
)

// Bounds of one transaction.
const (
	maxEvents = 100
	maxBytes  = 1 << 20
)

// parcel is what concerns a service in one stretch of the stream.
type parcel struct {
	events    []json.RawMessage
	ephemeral []json.RawMessage
	encrypted encrypted
	bytes     int
	// count is how many parcels were joined to make it.
	count int
	// upTo is the position up to which everything is in this parcel and those before it.
	upTo storage.Position
}

func (p *parcel) empty() bool {
	return len(p.events) == 0 && len(p.ephemeral) == 0 && p.encrypted.empty()
}

func (p *parcel) full() bool {
	return len(p.events)+len(p.ephemeral)+len(p.encrypted.messages) >= maxEvents || p.bytes >= maxBytes
}

// join adds a later parcel to this one.
func (p *parcel) join(next *parcel) {
	p.events = append(p.events, next.events...)
	p.ephemeral = append(p.ephemeral, next.ephemeral...)
	p.encrypted.join(next.encrypted)
	p.bytes += next.bytes
	p.count += next.count
	p.upTo = next.upTo
}

// progress is how much of what was handed over has been sent.
type progress struct {
	mu          sync.Mutex
	outstanding int
	sent        storage.Position
}

// hand notes a parcel that is about to be handed over, and where the stream stood before it.
func (p *progress) hand(before storage.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outstanding == 0 {
		p.sent = before
	}
	p.outstanding++
}

// settle notes that parcels are safe up to the position.
func (p *progress) settle(parcels int, upTo storage.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outstanding -= parcels
	p.sent = upTo
}

func (p *progress) settled() storage.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outstanding == 0 {
		return math.MaxInt64
	}
	return p.sent
}

// feeder follows the stream for one service.
type feeder struct {
	*service
	parcels  chan *parcel
	progress progress
	// from is where the service's own cursor stands: what is not after it has been put into transactions.
	from storage.Position
	at   storage.Position
}

// kinds of news that services may learn of.
func (a *service) kinds() []storage.Kind {
	kinds := []storage.Kind{storage.EventNews, storage.MembershipNews}
	if a.Ephemeral || a.OldEphemeral {
		kinds = append(kinds, storage.ReceiptNews)
	}
	if a.Encryption {
		kinds = append(kinds, storage.ToDeviceNews, storage.DeviceListNews)
	}
	return kinds
}

// run follows the stream for the service and sends what concerns it, until ctx ends.
func (a *service) run(ctx context.Context) error {
	row, err := a.all.store.AppServices.ByID(ctx, a.ID())
	if err != nil {
		return err
	}
	if row == nil {
		row = &storage.AppService{ServiceID: a.ID()}
	}
	ctx = zerolog.Ctx(ctx).With().Str("service", a.ID()).Logger().WithContext(ctx)
	f := &feeder{service: a, parcels: make(chan *parcel, 16), from: row.Position, at: row.Position}
	d := &deliverer{service: a, row: *row, parcels: f.parcels, progress: &f.progress, told: map[deviceName]string{}}
	stop, err := d.listen()
	if err != nil {
		return err
	}
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.run(ctx) })
	group.Go(func() error {
		return a.all.store.Follow(ctx, storage.Follower{
			Name: "appservice." + a.ID(), Kinds: a.kinds(), Handle: f.handle, Settled: f.progress.settled,
		})
	})
	return group.Wait()
}

// handle makes parcels of a run of news. A position is never divided between two of them.
func (f *feeder) handle(ctx context.Context, news []storage.Change, upTo storage.Position) error {
	p := &parcel{count: 1}
	for i := range news {
		c := &news[i]
		if c.Position <= max(f.from, f.at) {
			continue // in a transaction already
		}
		if p.full() && c.Position > p.upTo {
			if err := f.hand(ctx, p); err != nil {
				return err
			}
			p = &parcel{count: 1}
		}
		if err := f.add(ctx, p, c); err != nil {
			return err
		}
		p.upTo = c.Position
	}
	p.upTo = upTo
	return f.hand(ctx, p)
}

// hand gives a parcel to the deliverer, and waits while that has too many. One with nothing in it is dropped.
func (f *feeder) hand(ctx context.Context, p *parcel) error {
	if !p.empty() {
		f.progress.hand(f.at)
		select {
		case f.parcels <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.at = max(f.at, p.upTo)
	return nil
}

// add puts one change into the parcel, if it concerns the service.
func (f *feeder) add(ctx context.Context, p *parcel, c *storage.Change) error {
	switch c.Kind {
	case storage.EventNews:
		return f.addEvent(ctx, p, c.Event)
	case storage.MembershipNews:
		return f.addMembership(ctx, p, c.Membership)
	case storage.ReceiptNews:
		return f.addReceipt(ctx, p, c.Row.(*storage.Receipt))
	case storage.ToDeviceNews:
		return f.addToDevice(ctx, p, c)
	case storage.DeviceListNews:
		return f.addDeviceList(ctx, p, c)
	}
	return nil
}

func (f *feeder) addEvent(ctx context.Context, p *parcel, e *storage.Event) error {
	concerns, err := f.interest.event(ctx, e)
	if err != nil || !concerns {
		return err
	}
	if e.Type == typeMember && e.StateKey != nil {
		f.ask(ctx, id.UserID(*e.StateKey))
		if f.Encryption {
			if err := f.addMember(ctx, p, e); err != nil {
				return err
			}
		}
	}
	return f.render(ctx, p, e, nil)
}

// render appends an event as clients get it, the same for whoever looks.
func (f *feeder) render(ctx context.Context, p *parcel, e *storage.Event, stripped []json.RawMessage) error {
	list, err := f.all.view.Render(ctx, view.Viewer{}, view.Form{Bare: true}, []*storage.Event{e})
	if err != nil {
		return err
	}
	raw := list[0]
	if len(stripped) > 0 {
		if raw, err = sjson.SetBytes(raw, "unsigned.invite_room_state", stripped); err != nil {
			return err
		}
	}
	p.events = append(p.events, raw)
	p.bytes += len(raw)
	return nil
}

// addMembership takes care of what is in no room's history that we hold: invites and knocks from afar, and their end.
func (f *feeder) addMembership(ctx context.Context, p *parcel, m *storage.Membership) error {
	if !f.Owns(m.UserID) {
		return nil
	}
	f.interest.forget(m.RoomID)
	if m.Membership == event.MembershipJoin || m.Event == 0 {
		return nil
	}
	events, err := f.all.store.Events.ByNumbers(ctx, []int64{m.Event})
	if err != nil || len(events) == 0 || events[0].Position != 0 {
		return err // with a position it comes by itself
	}
	f.ask(ctx, m.UserID)
	return f.render(ctx, p, events[0], m.Stripped)
}

// membershipOf is the membership that an event sets.
func membershipOf(e *storage.Event) event.Membership {
	return event.Membership(gjson.GetBytes(e.JSON, "content.membership").Str)
}
