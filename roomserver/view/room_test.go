package view

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
	"chancery/storage/testdb"
)

// room is a stored room to which a test adds one event after the other.
type room struct {
	t       testing.TB
	id      id.RoomID
	version id.RoomVersion
	store   *storage.Store
	reader  *Reader
	writer  *storage.RoomWriter
	line    *storage.Line
	chain   int64
	entries int64
	// at is the snapshot before the next event.
	at     storage.Snapshot
	clock  int64
	prefix string
	events map[string]*storage.Event
}

// readingTime is when the tests' readers read.
const readingTime = 1_000_000

func eachDatabase(t *testing.T, test func(t *testing.T, r *room)) {
	testdb.Each(t, func(t *testing.T, database string) { test(t, newRoom(t, database)) })
}

func newRoom(t testing.TB, database string) *room {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(t.Context(), storage.Config{Database: database}, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(); b.Close() })
	r := &room{t: t, id: "!r:x", version: id.RoomV11, store: store, writer: store.RoomWriter(nil), line: &storage.Line{}, events: map[string]*storage.Event{}}
	r.reader = New(store)
	r.reader.now = func() time.Time { return time.UnixMilli(readingTime) }
	if r.chain, err = store.Numbers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.write(&storage.RoomRows{
		Chains: []storage.Chain{{Chain: r.chain, RoomID: r.id}},
		Head:   &storage.Room{ID: r.id, Version: r.version, State: storage.Snapshot{Chain: r.chain}},
	})
	return r
}

func (r *room) write(rows *storage.RoomRows) {
	r.t.Helper()
	rows.Line, rows.Room = r.line, r.id
	if err := r.writer.WriteAndWait(rows); err != nil {
		r.t.Fatal(err)
	}
}

// send stores an event; change alters it before.
func (r *room) send(name, sender, eventType string, stateKey *string, content string, change ...func(*storage.Event)) *storage.Event {
	r.t.Helper()
	number, err := r.store.Numbers(r.t.Context(), 1)
	if err != nil {
		r.t.Fatal(err)
	}
	r.clock++
	raw, err := json.Marshal(map[string]any{
		"type": eventType, "sender": sender, "content": json.RawMessage(content), "origin_server_ts": r.clock, "depth": r.clock,
		"auth_events": []string{}, "prev_events": []string{}, "hashes": map[string]string{"sha256": ""},
		"signatures": map[string]any{"x": map[string]string{"ed25519:1": ""}}, "room_id": r.id,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	e := &storage.Event{
		Number: number, ID: id.EventID(name), RoomID: r.id, Standing: storage.Accepted, Type: eventType, Sender: id.UserID(sender),
		StateKey: stateKey, Depth: r.clock, Timestamp: r.clock, Before: r.at, After: r.at, JSON: raw,
		RelatesTo: id.EventID(gjson.Get(content, `m\.relates_to.event_id`).Str), RelType: gjson.Get(content, `m\.relates_to.rel_type`).Str,
	}
	for _, c := range change {
		c(e)
	}
	rows := &storage.RoomRows{Events: []*storage.Event{e}, News: []bool{e.Standing == storage.Accepted}}
	if stateKey != nil && e.Standing == storage.Accepted {
		r.entries++
		e.After = storage.Snapshot{Chain: r.chain, Sequence: r.entries}
		r.at = e.After
		rows.Entries = []storage.Entry{{Chain: r.chain, Sequence: r.entries, Key: pdu.Key{Type: eventType, StateKey: *stateKey}, Event: number, News: true}}
		rows.Head = &storage.Room{ID: r.id, Version: r.version, State: e.After}
	}
	if eventType == "m.room.member" {
		rows.Memberships = []*storage.Membership{{RoomID: r.id, UserID: id.UserID(*stateKey), EventID: e.ID, Event: number,
			Membership: event.Membership(gjson.Get(content, "membership").Str), Sender: id.UserID(sender), News: true}}
	}
	r.write(rows)
	if r.events[name], err = r.store.Events.ByID(r.t.Context(), e.ID); err != nil || r.events[name] == nil {
		r.t.Fatalf("event %s was not stored: %v", name, err)
	}
	return r.events[name]
}

func (r *room) message(name, sender string, change ...func(*storage.Event)) *storage.Event {
	r.t.Helper()
	return r.send(name, sender, "m.room.message", nil, `{"body":"`+name+`","msgtype":"m.text"}`, change...)
}

func (r *room) state(name, sender, eventType, stateKey, content string) *storage.Event {
	r.t.Helper()
	return r.send(name, sender, eventType, &stateKey, content)
}

// play performs a short script: "@u:x join", "shared", "$message", separated by semicolons.
func (r *room) play(script string) (inOrder []*storage.Event) {
	r.t.Helper()
	for i, step := range strings.Split(script, ";") {
		words := strings.Fields(step)
		name := fmt.Sprintf("%s%d", cmp.Or(r.prefix, "$"), i)
		switch {
		case strings.HasPrefix(words[0], "@"):
			inOrder = append(inOrder, r.state(name, "@admin:x", "m.room.member", words[0], `{"membership":"`+words[1]+`"}`))
		case strings.HasPrefix(words[0], "$"):
			inOrder = append(inOrder, r.message(words[0], "@admin:x"))
		default:
			inOrder = append(inOrder, r.state(name, "@admin:x", "m.room.history_visibility", "", `{"history_visibility":"`+words[0]+`"}`))
		}
	}
	return inOrder
}

func (r *room) redact(target, by *storage.Event) {
	r.t.Helper()
	r.write(&storage.RoomRows{Redactions: map[id.EventID]id.EventID{target.ID: by.ID}})
	fresh, err := r.store.Events.ByID(r.t.Context(), target.ID)
	if err != nil || fresh.RedactedBy != by.ID {
		r.t.Fatalf("redaction of %s: got %+v, %v", target.ID, fresh, err)
	}
	*target = *fresh
}

// client renders one event.
func (r *room) client(viewer Viewer, form Form, e *storage.Event) gjson.Result {
	r.t.Helper()
	raw, err := r.reader.Render(r.t.Context(), viewer, form, []*storage.Event{e})
	if err != nil {
		r.t.Fatalf("render %s: %v", e.ID, err)
	}
	if !json.Valid(raw[0]) {
		r.t.Fatalf("render %s: got what is no JSON: %s", e.ID, raw[0])
	}
	return gjson.ParseBytes(raw[0])
}
