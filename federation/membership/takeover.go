package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
)

const (
	// maxValue bounds one value in the answer to send_join: an event, or the list of servers.
	maxValue = 4 << 20
	// takenAtOnce is how many events are checked and stored together. While they are stored, what others write waits.
	takenAtOnce = 200
)

// takeover is a room that another server hands over in its answer to send_join. The answer is read as it comes: events are checked
// side by side and stored as outliers, and of those of the state no more is kept in memory than where they stand.
type takeover struct {
	m       *Membership
	version id.RoomVersion
	room    id.RoomID

	checks *errgroup.Group
	// storing is held by whoever stores, one at a time: others' writes go on in between.
	storing sync.Mutex

	mu sync.Mutex
	// numbers of the events that are stored, and the state that they make.
	numbers map[id.EventID]int64
	state   map[pdu.Key]int64
	created bool
}

// takeOver reads the answer. It gives the number of the unattached snapshot that holds the state, and our join as the other server
// gave it back, if it did.
func (m *Membership) takeOver(ctx context.Context, version id.RoomVersion, room id.RoomID, answer io.Reader) (int64, json.RawMessage, error) {
	t := &takeover{m: m, version: version, room: room, numbers: map[id.EventID]int64{}, state: map[pdu.Key]int64{}}
	var checking context.Context
	t.checks, checking = errgroup.WithContext(ctx)
	t.checks.SetLimit(runtime.GOMAXPROCS(0))
	event, err := readAnswer(checking, answer, func(raws []json.RawMessage, state bool) {
		t.checks.Go(func() error { return t.take(checking, raws, state) }) // waits while as many are under way as there are processors
	})
	if failed := t.checks.Wait(); failed != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = failed // what ended the reading
	}
	if err != nil {
		return 0, nil, fmt.Errorf("send_join: %w", err)
	}
	if !t.created {
		return 0, nil, errors.New("join: the state has no create event")
	}
	chain, err := m.store.State.WriteUnattached(ctx, room, t.state)
	if err != nil {
		return 0, nil, fmt.Errorf("store fetched state: %w", err)
	}
	return chain, event, nil
}

// leash lets only so many bytes through until it is given more.
type leash struct {
	io.Reader
	left int
}

func (l *leash) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("a value of more than %d bytes", maxValue)
	}
	n, err := l.Reader.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// readAnswer walks over an answer to send_join: it gives our event as it came back, and hands out the events of the state and of
// its auth chain, some at a time. No value may be longer than maxValue.
func readAnswer(ctx context.Context, answer io.Reader, take func(raws []json.RawMessage, state bool)) (event json.RawMessage, err error) {
	in := &leash{io.LimitReader(answer, remote.LargeAnswer), maxValue}
	d := json.NewDecoder(in)
	if err := expect(d, '{'); err != nil {
		return nil, err
	}
	for d.More() {
		in.left = maxValue
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch key {
		case "state", "auth_chain":
			err = readEvents(ctx, d, in, func(raws []json.RawMessage) { take(raws, key == "state") })
		case "event":
			err = d.Decode(&event)
		default:
			var other json.RawMessage
			err = d.Decode(&other)
		}
		if err != nil {
			return nil, err
		}
	}
	return event, expect(d, '}')
}

func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%v where %v belongs", got, want)
	}
	return err
}

// readEvents hands out the events of a list, some at a time.
func readEvents(ctx context.Context, d *json.Decoder, in *leash, take func([]json.RawMessage)) error {
	if err := expect(d, '['); err != nil {
		return err
	}
	var raws []json.RawMessage
	for d.More() {
		in.left = maxValue
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		if raws = append(raws, raw); len(raws) == takenAtOnce {
			take(raws)
			raws = nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if len(raws) > 0 {
		take(raws)
	}
	return expect(d, ']')
}

// take checks some of the events, and stores those that are good and new. The others are left out.
func (t *takeover) take(ctx context.Context, raws []json.RawMessage, state bool) error {
	events, errs := t.m.ring.Believe(ctx, t.version, t.room, raws)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	good := events[:0]
	for i, ev := range events {
		if errs[i] != nil {
			zerolog.Ctx(ctx).Debug().Err(errs[i]).Stringer("room_id", t.room).Msg("Event of a joined room left out")
			continue
		}
		good = append(good, ev)
	}
	if err := t.store(ctx, good); err != nil || !state {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ev := range good {
		key, ok := pdu.KeyOf(ev)
		if !ok {
			return fmt.Errorf("state of %s: %s is no state event", t.room, ev.EventID())
		}
		if key == (pdu.Key{Type: "m.room.create"}) {
			if err := rightVersion(t.version, ev); err != nil {
				return err
			}
			t.created = true
		}
		t.state[key] = t.numbers[id.EventID(ev.EventID())]
	}
	return nil
}

// store keeps those of the events that are not kept yet: most of the auth chain stands in the state too.
func (t *takeover) store(ctx context.Context, events []gomatrixserverlib.PDU) error {
	var fresh []gomatrixserverlib.PDU
	t.mu.Lock()
	for _, ev := range events {
		if _, ok := t.numbers[id.EventID(ev.EventID())]; !ok {
			fresh = append(fresh, ev)
		}
	}
	t.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	t.storing.Lock()
	numbers, err := remote.StoreOutliers(ctx, t.m.store, fresh)
	t.storing.Unlock()
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for event, number := range numbers {
		t.numbers[event] = number
	}
	return nil
}

// rightVersion checks that the create event is of the version that make_join told.
func rightVersion(version id.RoomVersion, create gomatrixserverlib.PDU) error {
	is := gjson.GetBytes(create.Content(), "room_version")
	if is.Exists() && is.Str != string(version) || !is.Exists() && version != id.RoomV1 {
		return fmt.Errorf("join: the room has version %q, not %q as was told before", is.Str, version)
	}
	return nil
}
