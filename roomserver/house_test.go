package roomserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
	"chancery/storage/testdb"
)

// house is a running room server with a real store and a real bus. Its server is interior.example.
type house struct {
	testing.TB
	cfg    storage.Config
	signer pdu.Signer
	bus    *bus.Bus
	store  *storage.Store
	server *Server
	// idle is how long a room stays in memory, where a test cannot wait.
	idle time.Duration
	end  func()
}

const (
	alice = id.UserID("@alice:interior.example")
	bob   = id.UserID("@bob:interior.example")
	carol = id.UserID("@carol:interior.example")
	// dora and eve live on another server.
	dora = id.UserID("@dora:finance.example")
	eve  = id.UserID("@eve:finance.example")
)

func signerFor(name string) pdu.Signer {
	seed := bytes.Repeat([]byte{byte(len(name))}, ed25519.SeedSize)
	return pdu.Signer{ServerName: name, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed)}
}

// eachDatabase runs the test on SQLite and on PostgreSQL.
func eachDatabase(t *testing.T, test func(h *house)) {
	testdb.Each(t, func(t *testing.T, database string) { test(newHouse(t, storage.Config{Database: database})) })
}

// onSQLite is for tests in which the database plays no part.
func onSQLite(t testing.TB) *house {
	return newHouse(t, storage.Config{Database: testdb.SQLite(t)})
}

func newHouse(t testing.TB, cfg storage.Config) *house {
	h := &house{TB: t, cfg: cfg, signer: signerFor("interior.example")}
	h.start()
	t.Cleanup(func() { h.end() })
	return h
}

func (h *house) start() {
	h.Helper()
	// Not the test's context: that ends before the cleanup, which shall still find the house in order.
	ctx, cancel := context.WithCancel(zerolog.New(zerolog.NewTestWriter(h.TB)).Level(zerolog.WarnLevel).WithContext(context.Background()))
	var err error
	if h.bus, err = bus.Open(ctx, bus.DefaultConfig()); err != nil {
		h.Fatal(err)
	}
	if h.store, err = storage.Open(ctx, h.cfg, h.bus); err != nil {
		h.Fatal(err)
	}
	cfg := DefaultConfig()
	if h.idle > 0 {
		cfg.IdleAfter = h.idle
	}
	h.server = New(cfg, h.store, h.bus, h.signer)
	ended := make(chan error, 1)
	go func() { ended <- h.server.Run(ctx) }()
	h.end = func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			h.Errorf("room server ended with %v", err)
		}
		if err := h.store.Close(); err != nil {
			h.Error(err)
		}
		h.bus.Close()
	}
}

// restart stops the house and opens it again on the same database.
func (h *house) restart() {
	h.Helper()
	h.end()
	h.start()
}

func (h *house) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	h.Cleanup(cancel)
	return ctx
}

// ask puts a question to a room.
func (h *house) ask(room id.RoomID, q bus.RoomQuestion) ([]bus.Outcome, error) {
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](h.context(), h.bus, bus.RoomDo(room), q)
	return answer.Outcomes, err
}

func (h *house) propose(room id.RoomID, p bus.Proposal) (bus.Outcome, error) {
	outcomes, err := h.ask(room, bus.RoomQuestion{Propose: &p})
	if err != nil {
		return bus.Outcome{}, err
	}
	if len(outcomes) != 1 {
		return bus.Outcome{}, fmt.Errorf("%d outcomes, want one", len(outcomes))
	}
	return outcomes[0], nil
}

// must proposes what has to succeed.
func (h *house) must(room id.RoomID, p bus.Proposal) id.EventID {
	h.Helper()
	outcome, err := h.propose(room, p)
	if err != nil || outcome.Verdict != bus.Accepted {
		h.Fatalf("%s by %s: got %+v, %v, want it accepted", p.Type, p.Sender, outcome, err)
	}
	return outcome.EventID
}

// refused proposes what has to be refused, with that error code, and where a rule is given, by it.
func (h *house) refused(name string, room id.RoomID, p bus.Proposal, status int, code, rule string) {
	h.Helper()
	outcome, err := h.propose(room, p)
	var refusal *bus.Refusal
	if !errors.As(err, &refusal) {
		h.Errorf("%s: got %+v, %v, want a refusal", name, outcome, err)
		return
	}
	if refusal.Status != status || refusal.Code != code || rule != "" && refusal.Rule != rule {
		h.Errorf("%s: refused with %d %s by rule %q (%s), want %d %s by %q", name, refusal.Status, refusal.Code, refusal.Rule, refusal.Message, status, code, rule)
	}
}

func message(sender id.UserID, body string) bus.Proposal {
	content, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": body})
	return bus.Proposal{Sender: sender, Type: "m.room.message", Content: content}
}

func stateEvent(sender id.UserID, kind, stateKey, content string) bus.Proposal {
	return bus.Proposal{Sender: sender, Type: kind, StateKey: &stateKey, Content: json.RawMessage(content)}
}

func membership(sender, target id.UserID, how string) bus.Proposal {
	return stateEvent(sender, "m.room.member", string(target), fmt.Sprintf(`{"membership":%q}`, how))
}

func joinRules(sender id.UserID, rule string) bus.Proposal {
	return stateEvent(sender, "m.room.join_rules", "", fmt.Sprintf(`{"join_rule":%q}`, rule))
}

// levelsIn are power levels in which alice, the creator, stands above all.
func levelsIn(version id.RoomVersion, more string) string {
	users := `"@alice:interior.example":100`
	if version == "12" {
		users = ""
	}
	if more != "" && users != "" {
		users += ","
	}
	return `{"users":{` + users + more + `}}`
}

// create makes a public room of alice's.
func (h *house) create(version id.RoomVersion, more ...bus.Proposal) id.RoomID {
	h.Helper()
	events := append([]bus.Proposal{
		membership(alice, alice, "join"),
		stateEvent(alice, "m.room.power_levels", "", levelsIn(version, "")),
		joinRules(alice, "public"),
		stateEvent(alice, "m.room.history_visibility", "", `{"history_visibility":"shared"}`),
	}, more...)
	created, err := bus.Ask[bus.Create, bus.Created](h.context(), h.bus, bus.CreateRoom, bus.Create{
		Version: version, Content: json.RawMessage(`{}`), Events: events, Sender: alice,
	})
	if err != nil {
		h.Fatalf("create a room of version %s: %v", version, err)
	}
	return created.RoomID
}

// timeline lists what is shown of a room, oldest first.
func (h *house) timeline(room id.RoomID) []*storage.Event {
	h.Helper()
	events, err := h.store.Events.Forwards(h.context(), room, storage.Page{Place: -1 << 62}, 100000)
	if err != nil {
		h.Fatal(err)
	}
	return events
}

func (h *house) room(room id.RoomID) *storage.Room {
	h.Helper()
	row, err := h.store.Rooms.ByID(h.context(), room)
	if err != nil || row == nil {
		h.Fatalf("room %s: %v, %v", room, row, err)
	}
	return row
}

// state is the room's current state, as stored.
func (h *house) state(room id.RoomID) map[pdu.Key]id.EventID {
	h.Helper()
	return h.stateAt(h.room(room).State)
}

func (h *house) stateAt(at storage.Snapshot) map[pdu.Key]id.EventID {
	h.Helper()
	refs, err := h.store.State.Refs(h.context(), at)
	if err != nil {
		h.Fatal(err)
	}
	state := make(map[pdu.Key]id.EventID, len(refs))
	for key, ref := range refs {
		state[key] = ref.ID
	}
	return state
}

// event gives an event that must be stored.
func (h *house) event(eventID id.EventID) *storage.Event {
	h.Helper()
	e, err := h.store.Events.ByID(h.context(), eventID)
	if err != nil || e == nil {
		h.Fatalf("event %s: %v, %v, want it stored", eventID, e, err)
	}
	return e
}

// parsed is a stored event as a PDU.
func (h *house) parsed(version id.RoomVersion, eventID id.EventID) gomatrixserverlib.PDU {
	h.Helper()
	ev, err := pdu.Trusted(version, eventID, h.event(eventID).JSON)
	if err != nil {
		h.Fatal(err)
	}
	return ev
}

// raw opens the database beside the store, for what the store does not tell.
func (h *house) raw() *sql.DB {
	h.Helper()
	driver, dsn := "sqlite3", h.cfg.Database
	if h.store.Postgres() {
		driver = "pgx"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { db.Close() })
	return db
}

// rows counts the rows of the tables that rooms are written to.
func (h *house) rows() int {
	h.Helper()
	db, total := h.raw(), 0
	for _, table := range []string{"rooms", "events", "state_chains", "state_entries", "memberships", "room_servers", "edges", "aliases", "waiting_redactions"} {
		var n int
		if err := db.QueryRow("SELECT COUNT(*) FROM " + table).Scan(&n); err != nil {
			h.Fatal(err)
		}
		total += n
	}
	return total
}

// stranger is another server's view of a room: a point in its history on which it builds events.
type stranger struct {
	*house
	signer  pdu.Signer
	version id.RoomVersion
	room    id.RoomID
	state   map[pdu.Key]gomatrixserverlib.PDU
	tips    []gomatrixserverlib.PDU
}

// stranger copies what the house holds of a room now, for finance.example to go on from.
func (h *house) stranger(room id.RoomID) *stranger {
	h.Helper()
	row := h.room(room)
	s := &stranger{house: h, signer: signerFor("finance.example"), version: row.Version, room: room, state: map[pdu.Key]gomatrixserverlib.PDU{}}
	for key, eventID := range h.state(room) {
		s.state[key] = h.parsed(row.Version, eventID)
	}
	for _, tip := range row.Extremities {
		s.tips = append(s.tips, h.parsed(row.Version, tip))
	}
	return s
}

// fork is a copy that goes its own way.
func (s *stranger) fork() *stranger {
	c := *s
	c.state = make(map[pdu.Key]gomatrixserverlib.PDU, len(s.state))
	for key, ev := range s.state {
		c.state[key] = ev
	}
	c.tips = append([]gomatrixserverlib.PDU(nil), s.tips...)
	return &c
}

// draft outlines an event on the stranger's tips and state.
func (s *stranger) draft(p bus.Proposal) pdu.Draft {
	s.Helper()
	d := pdu.Draft{
		Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, RoomID: s.room, Content: p.Content, Redacts: p.Redacts,
		Timestamp: time.UnixMilli(p.Timestamp), Hashes: map[id.EventID][]byte{},
	}
	if p.Timestamp == 0 {
		d.Timestamp = time.Now()
	}
	for _, tip := range s.tips {
		d.PrevEvents = append(d.PrevEvents, id.EventID(tip.EventID()))
		d.Depth = max(d.Depth, tip.Depth())
		d.Hashes[id.EventID(tip.EventID())], _ = pdu.ReferenceHash(tip)
	}
	d.Depth++
	for _, key := range auth.Needed(s.version, p.Type, p.StateKey, p.Sender, p.Content) {
		if ev := s.state[key]; ev != nil {
			d.AuthEvents = append(d.AuthEvents, id.EventID(ev.EventID()))
			d.Hashes[id.EventID(ev.EventID())], _ = pdu.ReferenceHash(ev)
		}
	}
	return d
}

func (s *stranger) build(d pdu.Draft) gomatrixserverlib.PDU {
	s.Helper()
	ev, err := pdu.Build(s.version, d, s.signer)
	if err != nil {
		s.Fatalf("build %s: %v", d.Type, err)
	}
	return ev
}

// make builds an event and goes on from it.
func (s *stranger) make(p bus.Proposal) gomatrixserverlib.PDU {
	s.Helper()
	ev := s.build(s.draft(p))
	s.take(ev)
	return ev
}

// take makes ev the only tip, and part of the state.
func (s *stranger) take(ev gomatrixserverlib.PDU) {
	s.tips = []gomatrixserverlib.PDU{ev}
	if key, ok := pdu.KeyOf(ev); ok {
		s.state[key] = ev
	}
}

// receive hands events to the house's room, and gives an outcome for each.
func (s *stranger) receive(events ...gomatrixserverlib.PDU) []bus.Outcome {
	s.Helper()
	return s.receiveAs(bus.Received{}, events...)
}

func (s *stranger) receiveAs(q bus.Received, events ...gomatrixserverlib.PDU) []bus.Outcome {
	s.Helper()
	q.Origin, q.Version = s.signer.ServerName, s.version
	for _, ev := range events {
		q.PDUs = append(q.PDUs, ev.JSON())
	}
	outcomes, err := s.ask(s.room, bus.RoomQuestion{Receive: &q})
	if err != nil || len(outcomes) != len(events) {
		s.Fatalf("receive %d events: got %+v, %v", len(events), outcomes, err)
	}
	return outcomes
}

// want receives events that must all get the verdict.
func (s *stranger) want(verdict bus.Verdict, events ...gomatrixserverlib.PDU) []bus.Outcome {
	s.Helper()
	outcomes := s.receive(events...)
	for i, o := range outcomes {
		if o.Verdict != verdict || string(o.EventID) != events[i].EventID() {
			s.Fatalf("%s of %s: got %+v, want %s", events[i].Type(), events[i].SenderID(), o, verdict)
		}
	}
	return outcomes
}

// admits lets dora of finance.example into a room, and gives her server's view.
func (h *house) admits(room id.RoomID) *stranger {
	h.Helper()
	s := h.stranger(room)
	s.want(bus.Accepted, s.make(membership(dora, dora, "join")))
	return s
}

// same compares two states and tells the difference.
func (h *house) same(name string, got, want map[pdu.Key]id.EventID) {
	h.Helper()
	for key, eventID := range want {
		if got[key] != eventID {
			h.Errorf("%s: %s is %s, want %s", name, key, got[key], eventID)
		}
	}
	for key, eventID := range got {
		if _, ok := want[key]; !ok {
			h.Errorf("%s: %s is %s, want none", name, key, eventID)
		}
	}
}
