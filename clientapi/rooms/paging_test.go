package rooms_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// afar is another server's point of view of a room: what it builds upon.
type afar struct {
	*server
	room  id.RoomID
	state map[pdu.Key]gomatrixserverlib.PDU
	tips  []gomatrixserverlib.PDU
}

var finance = pdu.Signer{ServerName: "finance", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}

// afar gives finance's view of the room as it stands.
func (s *server) afar(room string) *afar {
	s.t.Helper()
	f := &afar{server: s, room: id.RoomID(room), state: map[pdu.Key]gomatrixserverlib.PDU{}}
	row, err := s.store.Rooms.ByID(s.t.Context(), f.room)
	if err != nil {
		s.t.Fatal(err)
	}
	refs, err := s.store.State.Refs(s.t.Context(), row.State)
	if err != nil {
		s.t.Fatal(err)
	}
	for key, ref := range refs {
		f.state[key] = s.pdu(ref.ID)
	}
	for _, tip := range row.Extremities {
		f.tips = append(f.tips, s.pdu(tip))
	}
	return f
}

func (s *server) pdu(event id.EventID) gomatrixserverlib.PDU {
	s.t.Helper()
	e, err := s.store.Events.ByID(s.t.Context(), event)
	if err != nil || e == nil {
		s.t.Fatalf("%s: %v, %v", event, e, err)
	}
	ev, err := pdu.Trusted("11", event, e.JSON)
	if err != nil {
		s.t.Fatal(err)
	}
	return ev
}

// makes builds an event of dora's, and goes on from it.
func (f *afar) makes(typ string, key *string, content string) gomatrixserverlib.PDU {
	f.t.Helper()
	const dora = id.UserID("@dora:finance")
	d := pdu.Draft{Type: typ, StateKey: key, Sender: dora, RoomID: f.room, Content: json.RawMessage(content), Timestamp: time.Now()}
	for _, tip := range f.tips {
		d.PrevEvents, d.Depth = append(d.PrevEvents, id.EventID(tip.EventID())), max(d.Depth, tip.Depth()+1)
	}
	for _, key := range auth.Needed("11", typ, key, dora, d.Content) {
		if ev := f.state[key]; ev != nil {
			d.AuthEvents = append(d.AuthEvents, id.EventID(ev.EventID()))
		}
	}
	ev, err := pdu.Build("11", d, finance)
	if err != nil {
		f.t.Fatal(err)
	}
	f.tips = []gomatrixserverlib.PDU{ev}
	if key, ok := pdu.KeyOf(ev); ok {
		f.state[key] = ev
	}
	return ev
}

func (f *afar) says(text string) gomatrixserverlib.PDU {
	f.t.Helper()
	return f.makes("m.room.message", nil, `{"msgtype":"m.text","body":"`+text+`"}`)
}

// gives hands events to the room, as the receiver would.
func (f *afar) gives(q bus.Received, events ...gomatrixserverlib.PDU) error {
	q.Origin, q.Version = "finance", "11"
	for _, ev := range events {
		q.PDUs = append(q.PDUs, ev.JSON())
	}
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](context.Background(), f.bus, bus.RoomDo(f.room), bus.RoomQuestion{Receive: &q})
	for _, o := range answer.Outcomes {
		if o.Verdict != bus.Accepted {
			return fmt.Errorf("got %+v, want it accepted", o)
		}
	}
	return err
}

// snapshot writes the state as one that was fetched.
func (f *afar) snapshot() (int64, error) {
	numbers := map[storage.Key]int64{}
	for key, ev := range f.state {
		e, err := f.store.Events.ByID(context.Background(), id.EventID(ev.EventID()))
		if err != nil {
			return 0, err
		}
		numbers[key] = e.Number
	}
	return f.store.State.WriteUnattached(context.Background(), f.room, numbers)
}

// TestPagingKeepsWhole: whoever walks through a room's history in either direction meets each event once, while sixteen people
// send, with a hole in the history that is filled on the way, and with a state that was put back by a resolution.
func TestPagingKeepsWhole(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	room := alice.create(m{"preset": "public_chat", "power_level_content_override": m{"state_default": 0}})
	people := make([]*user, 16)
	for i := range people {
		people[i] = s.register(fmt.Sprintf("u%d", i))
		people[i].join(room).ok()
	}
	far := s.afar(room)
	dora := "@dora:finance"
	if err := far.gives(bus.Received{}, far.makes("m.room.member", &dora, `{"membership":"join"}`)); err != nil {
		t.Fatal(err)
	}
	// What dora says while the line is down; the room's servers give it out ten at a time, the newest first.
	var mu sync.Mutex
	var hole []gomatrixserverlib.PDU
	var sent []string
	for n := range 35 {
		ev := far.says(fmt.Sprint("gap ", n))
		hole, sent = append(hole, ev), append(sent, ev.EventID())
	}
	stop, err := bus.Answer(t.Context(), s.bus, bus.FederationDo, func(_ context.Context, _ string, q bus.FederationQuestion) (bus.FederationAnswer, error) {
		if q.Backfill == nil {
			return bus.FederationAnswer{}, bus.Refuse(404, "M_NOT_FOUND", "nothing but history")
		}
		mu.Lock()
		defer mu.Unlock()
		n := min(10, len(hole))
		part := hole[len(hole)-n:]
		hole = hole[:len(hole)-n]
		if n == 0 {
			return bus.FederationAnswer{}, nil
		}
		snapshot, err := far.snapshot()
		if err == nil {
			err = far.gives(bus.Received{Backfill: true, Snapshot: snapshot}, part...)
		}
		return bus.FederationAnswer{Events: n}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()

	fork := *far // dora's other view, for the resolution
	fork.state = map[pdu.Key]gomatrixserverlib.PDU{}
	for key, ev := range far.state {
		fork.state[key] = ev
	}
	newest := far.says("the line is up again")
	sent = append(sent, newest.EventID())
	speaking := make(chan string, 16*30)
	var wg sync.WaitGroup
	for _, u := range people {
		wg.Go(func() {
			for n := range 30 {
				speaking <- u.set(room, fmt.Sprintf("send/m.room.message/p%d", n), m{"msgtype": "m.text", "body": "x"}).str("event_id")
			}
		})
	}
	wg.Go(func() {
		snapshot, err := far.snapshot()
		if err == nil {
			err = far.gives(bus.Received{Snapshot: snapshot}, newest)
		}
		if err != nil {
			t.Error(err)
		}
	})
	// Somebody walks both ways meanwhile: what comes, comes once.
	once(t, "backwards meanwhile", walkAll(alice, room, "b", 7))
	once(t, "forwards meanwhile", walkAll(alice, room, "f", 7))
	wg.Wait()
	close(speaking)
	for event := range speaking {
		sent = append(sent, event)
	}
	// Two who set the same state, neither knowing of the other.
	key := ""
	sent = append(sent, alice.set(room, "state/m.room.topic", m{"topic": "alice's"}).ok().str("event_id"))
	snapshot, err := fork.snapshot()
	theirs := fork.makes("m.room.topic", &key, `{"topic":"dora's"}`)
	if err == nil {
		err = fork.gives(bus.Received{Snapshot: snapshot}, theirs)
	}
	if err != nil {
		t.Fatal(err)
	}
	sent = append(sent, theirs.EventID(), alice.send(room, "last"))

	back := walkAll(alice, room, "b", 7)
	for _, limit := range []int{1, 13, 100} {
		again := walkAll(alice, room, "b", limit)
		if !slices.Equal(again, back) {
			t.Errorf("backwards in pages of %d: got %d events in another order than %d in pages of 7", limit, len(again), len(back))
		}
	}
	forth := walkAll(alice, room, "f", 7)
	once(t, "backwards", back)
	for _, event := range sent {
		if !slices.Contains(back, event) {
			t.Errorf("%q is missing", event)
		}
	}
	slices.Reverse(forth)
	if !slices.Equal(forth, back) {
		t.Errorf("forwards is not backwards the other way round: %d and %d events", len(forth), len(back))
	}
	if len(hole) != 0 {
		t.Errorf("%d events of the hole were never asked for", len(hole))
	}
}

// walkAll gives the IDs of the events of a room in the order in which a walk meets them.
func walkAll(u *user, room, dir string, limit int) []string {
	var met []string
	from := ""
	for range 10_000 {
		a := u.in(room, fmt.Sprintf("messages?dir=%s&limit=%d%s", dir, limit, from)).ok()
		for _, e := range a.body.Get("chunk").Array() {
			met = append(met, e.Get("event_id").Str)
		}
		end := a.str("end")
		if end == "" {
			return met
		}
		from = "&from=" + url.QueryEscape(end)
	}
	u.t.Fatalf("%s: the walk has no end", dir)
	return nil
}

func once(t *testing.T, name string, events []string) {
	t.Helper()
	met := map[string]bool{}
	for _, event := range events {
		if met[event] {
			t.Errorf("%s: %s comes twice", name, event)
		}
		met[event] = true
	}
}
