package view

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

func idOf(user string) id.UserID { return id.UserID(user) }

// newCase is another room in the same store.
func newCase(r *room, n int) *room {
	r.t.Helper()
	fresh := *r
	fresh.id = id.RoomID(fmt.Sprintf("!case%d:x", n))
	fresh.line = &storage.Line{}
	fresh.entries, fresh.at = 0, storage.Snapshot{}
	fresh.events = map[string]*storage.Event{}
	var err error
	if fresh.chain, err = r.store.Numbers(r.t.Context(), 1); err != nil {
		r.t.Fatal(err)
	}
	fresh.write(&storage.RoomRows{
		Chains: []storage.Chain{{Chain: fresh.chain, RoomID: fresh.id}},
		Head:   &storage.Room{ID: fresh.id, Version: r.version, State: storage.Snapshot{Chain: fresh.chain}},
	})
	fresh.prefix = fmt.Sprintf("$case%d-", n)
	return &fresh
}

func TestClientForm(t *testing.T) {
	eachDatabase(t, func(t *testing.T, r *room) {
		r.state("$u", "@u:x", "m.room.member", "@u:x", `{"membership":"join"}`)
		e := r.message("$m", "@u:x", func(e *storage.Event) {
			e.DeviceID, e.Path, e.TransactionID = "PHONE", "PUT m.room.message", "txn \"1\""
		})
		got := r.client(Viewer{User: "@u:x", Device: "PHONE"}, Form{}, e)
		want := `{"content":{"body":"$m","msgtype":"m.text"},"event_id":"$m","origin_server_ts":2,"room_id":"!r:x",` +
			`"sender":"@u:x","type":"m.room.message","unsigned":{"age":999998,"membership":"join","transaction_id":"txn \"1\""}}`
		if got.Raw != want {
			t.Errorf("got  %s\nwant %s", got.Raw, want)
		}
		for _, other := range []Viewer{{User: "@u:x", Device: "LAPTOP"}, {User: "@w:x", Device: "PHONE"}, {}} {
			if id := r.client(other, Form{}, e).Get("unsigned.transaction_id"); id.Exists() {
				t.Errorf("%+v was told the transaction %s", other, id.Raw)
			}
		}
		if got := r.client(Viewer{User: "@w:x"}, Form{WithoutRoomID: true}, e); got.Get("room_id").Exists() || got.Get("unsigned.membership").Str != "leave" {
			t.Errorf("got %s, want no room_id, and membership leave", got.Raw)
		}
	})
}

func TestClientFormOfState(t *testing.T) {
	eachDatabase(t, func(t *testing.T, r *room) {
		first := r.state("$one", "@u:x", "m.room.topic", "", `{"topic":"one"}`)
		r.message("$between", "@u:x")
		second := r.state("$two", "@w:x", "m.room.topic", "", `{"topic":"two"}`)
		if got := r.client(Viewer{}, Form{}, first); got.Get("unsigned.prev_content").Exists() || !got.Get("state_key").Exists() {
			t.Errorf("first topic: got %s, want a state_key and no prev_content", got.Raw)
		}
		got := r.client(Viewer{}, Form{}, second)
		if got.Get("unsigned.prev_content.topic").Str != "one" || got.Get("unsigned.replaces_state").Str != "$one" || got.Get("unsigned.prev_sender").Str != "@u:x" {
			t.Errorf("second topic: got %s, want what it replaced", got.Raw)
		}
		r.redact(first, r.send("$gone", "@u:x", "m.room.redaction", nil, `{"redacts":"$one"}`))
		if got := r.client(Viewer{}, Form{}, second); got.Get("unsigned.prev_content").Raw != "{}" {
			t.Errorf("got prev_content %s of a redacted event, want it pruned", got.Get("unsigned.prev_content").Raw)
		}
		pieces, err := r.reader.StrippedState(t.Context(), first.After)
		if err != nil || len(pieces) != 1 || strings.Contains(string(pieces[0].JSON), `"one"`) {
			t.Errorf("stripped state: got %v (%v), want the topic pruned", pieces, err)
		}
	})
}

func TestMembershipAtTheEvent(t *testing.T) {
	eachDatabase(t, func(t *testing.T, r *room) {
		events := r.play("$a; @u:x invite; $b; @u:x join; $c; @u:x leave; $d")
		for i, want := range []string{"leave", "invite", "invite", "join", "join", "leave", "leave"} {
			if got := r.client(Viewer{User: "@u:x"}, Form{}, events[i]).Get("unsigned.membership").Str; got != want {
				t.Errorf("event %d: got membership %s, want %s", i, got, want)
			}
		}
	})
}

func TestRedactedForm(t *testing.T) {
	eachDatabase(t, func(t *testing.T, r *room) {
		e := r.message("$m", "@u:x")
		by := r.send("$gone", "@admin:x", "m.room.redaction", nil, `{"reason":"rude","redacts":"$m"}`)
		r.redact(e, by)
		got := r.client(Viewer{User: "@u:x"}, Form{}, e)
		if got.Get("content").Raw != "{}" || got.Get("unsigned.redacted_because.event_id").Str != "$gone" ||
			got.Get("unsigned.redacted_because.content.reason").Str != "rude" || got.Get("unsigned.redacted_because.redacts").Str != "$m" {
			t.Errorf("got %s, want no content, and why it was redacted", got.Raw)
		}
		raw, err := r.reader.Federation(t.Context(), e)
		if err != nil || strings.Contains(string(raw), "body") {
			t.Errorf("federation gets %s (%v), want it pruned", raw, err)
		}
	})
}

func TestRedactsStandsInBothPlaces(t *testing.T) {
	for name, raw := range map[string]string{
		"inside":  `{"content":{"redacts":"$x"},"type":"m.room.redaction"}`,
		"outside": `{"content":{},"redacts":"$x","type":"m.room.redaction"}`,
	} {
		content, redacts, err := redaction(&storage.Event{Type: "m.room.redaction"}, []byte(raw))
		if err != nil || content != `{"redacts":"$x"}` || redacts != `"$x"` {
			t.Errorf("%s: got %s and %s (%v), want it in both places", name, content, redacts, err)
		}
	}
}

func TestBundledRelations(t *testing.T) {
	eachDatabase(t, func(t *testing.T, r *room) {
		relate := func(name, sender, to, kind, more string, change ...func(*storage.Event)) *storage.Event {
			return r.send(name, sender, "m.room.message", nil, `{"body":"`+name+`","m.relates_to":{"event_id":"`+to+`","rel_type":"`+kind+`"}`+more+`}`, change...)
		}
		later := func(e *storage.Event) { e.Timestamp = 500 }
		newContent := `,"m.new_content":{"body":"new"}`
		r.play("@u:x join; @w:x join")
		root := r.message("$root", "@u:x")
		other := r.message("$other", "@u:x")
		relate("$newest", "@u:x", "$root", "m.replace", newContent, later)
		relate("$older", "@u:x", "$root", "m.replace", newContent)
		relate("$stranger", "@w:x", "$root", "m.replace", newContent, later)
		relate("$empty", "@u:x", "$root", "m.replace", "", func(e *storage.Event) { e.Timestamp = 900 })
		relate("$t1", "@w:x", "$root", "m.thread", "")
		t2 := relate("$t2", "@w:x", "$root", "m.thread", "")
		relate("$t2edit", "@w:x", "$t2", "m.replace", newContent)
		relate("$r1", "@w:x", "$root", "m.reference", "")
		gone := relate("$r2", "@w:x", "$root", "m.reference", "")
		relate("$r3", "@w:x", "$root", "m.reference", "")
		r.redact(gone, r.send("$gone", "@w:x", "m.room.redaction", nil, `{"redacts":"$r2"}`))

		got := r.client(Viewer{User: "@w:x"}, Form{}, root).Get(`unsigned.m\.relations`)
		for path, want := range map[string]string{
			`m\.replace.event_id`:                 "$newest",
			`m\.thread.count`:                     "2",
			`m\.thread.current_user_participated`: "true",
			`m\.thread.latest_event.event_id`:     "$t2",
			`m\.thread.latest_event.unsigned.m\.relations.m\.replace.event_id`: "$t2edit",
			`m\.reference.chunk.#.event_id`:                                    `["$r1","$r3"]`,
		} {
			if v := got.Get(path).String(); v != want {
				t.Errorf("%s: got %s, want %s (of %s)", path, v, want, got.Raw)
			}
		}
		if got := r.client(Viewer{User: "@u:x"}, Form{}, root).Get(`unsigned.m\.relations.m\.thread.current_user_participated`); !got.Bool() {
			t.Error("who sent the root takes part in the thread")
		}
		if got := r.client(Viewer{User: "@x:x"}, Form{}, root).Get(`unsigned.m\.relations`); got.Exists() {
			t.Errorf("one who may see nothing got %s", got.Raw)
		}
		if got := r.client(Viewer{}, Form{}, root).Get(`unsigned.m\.relations`); got.Exists() {
			t.Errorf("nobody got %s", got.Raw)
		}
		if got := r.client(Viewer{User: "@w:x"}, Form{Bare: true}, root).Get(`unsigned.m\.relations`); got.Exists() {
			t.Errorf("bare: got %s", got.Raw)
		}
		if got := r.client(Viewer{User: "@w:x"}, Form{}, other).Get(`unsigned.m\.relations`); got.Exists() {
			t.Errorf("nothing relates to it, got %s", got.Raw)
		}
		if got := r.client(Viewer{User: "@w:x"}, Form{}, t2).Get(`unsigned.m\.relations.m\.replace.event_id`).Str; got != "$t2edit" {
			t.Errorf("edit in the thread: got %s, want $t2edit", got)
		}
		r.redact(root, r.send("$gone2", "@u:x", "m.room.redaction", nil, `{"redacts":"$root"}`))
		got = r.client(Viewer{User: "@w:x"}, Form{}, root).Get(`unsigned.m\.relations`)
		if got.Get(`m\.replace`).Exists() || !got.Get(`m\.thread`).Exists() {
			t.Errorf("redacted root: got %s, want the thread and no edit", got.Raw)
		}
	})
}

func TestStripped(t *testing.T) {
	key := "@u:x"
	raw, err := Stripped(&storage.Event{Type: "m.room.member", StateKey: &key, Sender: "@w:x", JSON: []byte(`{"auth_events":[],"content":{"membership":"invite"},"depth":1}`)})
	want := `{"content":{"membership":"invite"},"sender":"@w:x","state_key":"@u:x","type":"m.room.member"}`
	if err != nil || string(raw) != want {
		t.Errorf("got %s (%v), want %s", raw, err, want)
	}
}

func TestAppendText(t *testing.T) {
	for _, s := range []string{"", "plain", "ünïcode ☎", "quote\"back\\slash", "\x00\x1f\n", "bad \xff byte", "\u2028"} {
		var back string
		if err := json.Unmarshal(appendText(nil, s), &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") {
			t.Errorf("%q: got %q back (%v)", s, back, err)
		}
	}
}

func TestMemoryForgets(t *testing.T) {
	m := newMemory[int, int](10)
	for i := range 100 {
		m.set(i, i)
		if v, ok := m.get(0); !ok || v != 0 { // what is asked for stays
			t.Fatalf("after %d: got %d, %v, want it kept", i, v, ok)
		}
	}
	if _, ok := m.get(50); ok || len(m.young)+len(m.old) > 10 {
		t.Errorf("holds %d values, want at most 10 and the old ones gone", len(m.young)+len(m.old))
	}
}

func BenchmarkPage(b *testing.B) {
	r := newRoom(b, filepath.Join(b.TempDir(), "bench.db"))
	r.play("@u:x join")
	var events []*storage.Event
	for i := range 100 {
		events = append(events, r.message(fmt.Sprintf("$m%d", i), "@u:x"))
	}
	viewer := Viewer{User: "@u:x"}
	b.Run("visible", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got, err := r.reader.Visible(b.Context(), viewer.User, events); err != nil || len(got) != 100 {
				b.Fatal(len(got), err)
			}
		}
	})
	for name, form := range map[string]Form{"client": {}, "client bare": {Bare: true}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.reader.Render(b.Context(), viewer, form, events); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("visible, nothing remembered", func(b *testing.B) {
		for b.Loop() {
			fresh := New(r.store)
			if _, err := fresh.Visible(b.Context(), viewer.User, events); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func FuzzClientForm(f *testing.F) {
	f.Add([]byte(`{"content":{"body":"x"},"type":"m.room.message"}`), "m.room.message", "@u:x")
	f.Add([]byte(`{"content":{"redacts":"$x"},"redacts":7}`), "m.room.redaction", "\x00\"")
	f.Fuzz(func(t *testing.T, raw []byte, eventType, sender string) {
		if pdu.CheckJSON(raw, true) != nil {
			return // what is stored has been checked
		}
		p := &page{Reader: New(nil)}
		out, err := p.event(t.Context(), nil, &storage.Event{ID: "$e", RoomID: "!r:x", Type: eventType, Sender: id.UserID(sender), JSON: raw})
		if err == nil && !json.Valid(out) {
			t.Errorf("of %q became what is no JSON: %s", raw, out)
		}
	})
}
