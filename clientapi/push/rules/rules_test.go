package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

const bob = id.UserID("@bob:interior")

func text(s string) *string { return &s }

func TestDefaultsJudge(t *testing.T) {
	cases := []struct {
		name     string
		event    Event
		members  int
		may      bool
		rule     string
		notify   bool
		loud     bool
		concerns bool
	}{
		{name: "message", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"hi"}}`)}, rule: ".m.rule.message", notify: true},
		{name: "one to one", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"hi"}}`)}, members: 2, rule: ".m.rule.room_one_to_one", notify: true},
		{name: "encrypted", event: Event{Type: "m.room.encrypted", JSON: []byte(`{"content":{}}`)}, rule: ".m.rule.encrypted", notify: true},
		{name: "encrypted one to one", event: Event{Type: "m.room.encrypted", JSON: []byte(`{"content":{}}`)}, members: 2, rule: ".m.rule.encrypted_room_one_to_one", notify: true},
		{name: "notice", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"bob","msgtype":"m.notice"}}`)}, rule: ".m.rule.suppress_notices", concerns: true},
		{name: "mention", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"x","m.mentions":{"user_ids":["@bob:interior"]}}}`)}, rule: ".m.rule.is_user_mention", notify: true, loud: true, concerns: true},
		{name: "mention of another", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"bob","m.mentions":{"user_ids":["@eve:interior"]}}}`)}, rule: ".m.rule.message", notify: true},
		{name: "localpart in the text", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"Hello @BOB:interior!"}}`)}, rule: ".m.rule.contains_user_name", notify: true, loud: true, concerns: true},
		{name: "localpart within a word", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"bobsleigh"}}`)}, rule: ".m.rule.message", notify: true, concerns: true},
		{name: "display name", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"the Minister, please"}}`)}, rule: ".m.rule.contains_display_name", notify: true, loud: true, concerns: true},
		{name: "@room by one who may", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"hi @room"}}`)}, may: true, rule: ".m.rule.roomnotif", notify: true, loud: true},
		{name: "@room by one who may not", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"hi @room"}}`)}, rule: ".m.rule.message", notify: true},
		{name: "room mention", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"hi","m.mentions":{"room":true}}}`)}, may: true, rule: ".m.rule.is_room_mention", notify: true, loud: true},
		{name: "room mention that is a text", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"hi","m.mentions":{"room":"true"}}}`)}, may: true, rule: ".m.rule.message", notify: true},
		{name: "edit", event: Event{Type: "m.room.message", JSON: []byte(`{"content":{"body":"x","m.relates_to":{"rel_type":"m.replace"}}}`)}, rule: ".m.rule.suppress_edits"},
		{name: "reaction", event: Event{Type: "m.reaction", JSON: []byte(`{"content":{}}`)}, rule: ".m.rule.reaction"},
		{name: "invite", event: Event{Type: "m.room.member", StateKey: text("@bob:interior"), JSON: []byte(`{"content":{"membership":"invite"}}`)}, rule: ".m.rule.invite_for_me", notify: true, concerns: true},
		{name: "another's invite", event: Event{Type: "m.room.member", StateKey: text("@eve:interior"), JSON: []byte(`{"content":{"membership":"invite"}}`)}, rule: ".m.rule.member_event"},
		{name: "tombstone", event: Event{Type: "m.room.tombstone", StateKey: text(""), JSON: []byte(`{"content":{}}`)}, rule: ".m.rule.tombstone", notify: true, loud: true},
		{name: "tombstone that is no state", event: Event{Type: "m.room.tombstone", JSON: []byte(`{"content":{}}`)}, rule: ""},
		{name: "server ACL", event: Event{Type: "m.room.server_acl", StateKey: text(""), JSON: []byte(`{"content":{}}`)}, rule: ".m.rule.room.server_acl"},
		{name: "poll", event: Event{Type: "org.matrix.msc3381.poll.start", JSON: []byte(`{"content":{}}`)}, rule: ".org.matrix.msc3930.rule.poll_start", notify: true},
		{name: "poll response", event: Event{Type: "m.poll.response", JSON: []byte(`{"content":{}}`)}, rule: ".m.rule.poll_response"},
		{name: "call", event: Event{Type: "m.call.invite", JSON: []byte(`{"content":{}}`)}, rule: ".m.rule.call", notify: true},
		{name: "unknown", event: Event{Type: "m.unknown", JSON: []byte(`{"content":{"body":1}}`)}, rule: ""},
	}
	set := Default(bob)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := c.event
			if c.members == 0 {
				c.members = 3
			}
			e.Members, e.SenderMayNotify = func() int { return c.members }, func() bool { return c.may }
			me := Person{ID: bob, DisplayName: "The Minister"}
			v := set.Judge(&e, me)
			if v.Rule != c.rule || v.Notify != c.notify || v.Highlight != c.loud {
				t.Errorf("got rule %q notify %t highlight %t, want %q %t %t", v.Rule, v.Notify, v.Highlight, c.rule, c.notify, c.loud)
			}
			if got := e.Concerns(me); got != c.concerns {
				t.Errorf("concerns Bob: got %t, want %t", got, c.concerns)
			}
		})
	}
}

func TestThreads(t *testing.T) {
	set := Default(bob)
	const inThread = `{"content":{"body":"hi","m.relates_to":{"rel_type":"m.thread","event_id":"$root"}}}`
	follows := func(is bool) func(id.EventID) bool {
		return func(root id.EventID) bool { return is && root == "$root" }
	}
	for _, c := range []struct {
		name     string
		json     string
		follows  func(id.EventID) bool
		rule     string
		notify   bool
		concerns bool
	}{
		{"of one who knows no subscriptions", inThread, nil, ".m.rule.message", true, false},
		{"followed", inThread, follows(true), ".io.element.msc4306.rule.subscribed_thread", true, true},
		{"not followed", inThread, follows(false), ".io.element.msc4306.rule.unsubscribed_thread", false, true},
		{"not followed, but mentioned", `{"content":{"body":"hi bob","m.relates_to":{"rel_type":"m.thread","event_id":"$root"}}}`, follows(false),
			".m.rule.contains_user_name", true, true},
		{"in no thread", `{"content":{"body":"hi"}}`, follows(false), ".m.rule.message", true, false},
		{"another relation", `{"content":{"body":"hi","m.relates_to":{"rel_type":"m.reference","event_id":"$root"}}}`, follows(false), ".m.rule.message", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := Event{Type: "m.room.message", JSON: []byte(c.json), Members: func() int { return 3 }}
			me := Person{ID: bob, Subscribed: c.follows}
			if v := set.Judge(&e, me); v.Rule != c.rule || v.Notify != c.notify {
				t.Errorf("got rule %q notify %t, want %q %t", v.Rule, v.Notify, c.rule, c.notify)
			}
			if got := e.Concerns(me); got != c.concerns {
				t.Errorf("concerns Bob: got %t, want %t", got, c.concerns)
			}
		})
	}
}

func TestOwnRules(t *testing.T) {
	set := Default(bob)
	class := set.Class()
	if other := Default("@eve:interior").Class(); other != class {
		t.Errorf("two default sets have the classes %s and %s, want one", class, other)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(set.Put(Room, Rule{ID: "!quiet:x", Actions: []json.RawMessage{json.RawMessage(`"dont_notify"`)}}, "", ""))
	must(set.Put(Content, Rule{ID: "tea", Pattern: text("t?a*cup"), Actions: []json.RawMessage{json.RawMessage(`"notify"`), json.RawMessage(`{"set_tweak":"highlight"}`)}}, "", ""))
	must(set.Put(Content, Rule{ID: "first", Pattern: text("first")}, "", ""))
	must(set.Put(Content, Rule{ID: "between", Pattern: text("x")}, "tea", ""))
	must(set.Put(Content, Rule{ID: "last", Pattern: text("x")}, "", "tea"))
	must(set.SetEnabled(Override, ".m.rule.suppress_notices", false))
	if set.Class() == class {
		t.Error("own rules do not change the class")
	}
	raw, err := set.JSON()
	must(err)
	set, err = Parse(bob, raw)
	must(err)
	var order []string
	for _, r := range set.Global()[Content] {
		order = append(order, r.ID)
	}
	if got, want := strings.Join(order, " "), "first between tea last .m.rule.contains_user_name"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	if set.Rule(Override, ".m.rule.suppress_notices").Enabled {
		t.Error("a default that was turned off is on again")
	}
	if set.Global()[Override][0].ID != ".m.rule.master" {
		t.Errorf("first override is %s, want the master", set.Global()[Override][0].ID)
	}
	judge := func(room id.RoomID, body string) Verdict {
		raw, _ := json.Marshal(map[string]any{"content": map[string]any{"body": body, "msgtype": "m.text"}})
		return set.Judge(&Event{Type: "m.room.message", RoomID: room, JSON: raw, Members: func() int { return 5 }}, Person{ID: bob})
	}
	if v := judge("!quiet:x", "hi"); v.Notify || v.Rule != "!quiet:x" {
		t.Errorf("in the quiet room: %+v", v)
	}
	if v := judge("!r:x", "a tea in my CUP."); !v.Highlight || v.Rule != "tea" {
		t.Errorf("tea: %+v", v)
	}
	if v := judge("!r:x", "a teacups"); v.Rule == "tea" {
		t.Errorf("tea within a word: %+v", v)
	}
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"a default made", set.Put(Override, Rule{ID: ".m.mine"}, "", ""), ErrDefault},
		{"a slash", set.Put(Override, Rule{ID: "a/b"}, "", ""), ErrBadRule},
		{"no pattern", set.Put(Content, Rule{ID: "a"}, "", ""), ErrBadRule},
		{"no anchor", set.Put(Override, Rule{ID: "a"}, "nothing", ""), ErrNoAnchor},
		{"a kind of the server's", set.Put(Postcontent, Rule{ID: "a"}, "", ""), ErrBadRule},
		{"no kind", set.Put("other", Rule{ID: "a"}, "", ""), ErrBadRule},
		{"a bad action", set.Put(Override, Rule{ID: "a", Actions: []json.RawMessage{json.RawMessage(`5`)}}, "", ""), ErrBadRule},
		{"unknown deleted", set.Delete(Override, "a"), ErrNoRule},
		{"default deleted", set.Delete(Override, ".m.rule.master"), ErrDefault},
		{"unknown enabled", set.SetEnabled(Override, "a", true), ErrNoRule},
		{"own deleted", set.Delete(Content, "tea"), nil},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, c.err, c.want)
		}
	}
	must(set.SetEnabled(Override, ".m.rule.master", true))
	if v := judge("!r:x", "first"); v.Notify || v.Rule != ".m.rule.master" {
		t.Errorf("with the master on: %+v", v)
	}
}

func TestPatternsAreLinear(t *testing.T) {
	set := Default(bob)
	if err := set.Put(Content, Rule{ID: "slow", Pattern: text(strings.Repeat("*a", 250))}, "", ""); err != nil {
		t.Fatal(err)
	}
	raw := fmt.Appendf(nil, `{"content":{"body":%q}}`, strings.Repeat("a", 200)+strings.Repeat("b", 2000))
	start := time.Now()
	set.Judge(&Event{Type: "m.room.message", JSON: raw, Members: func() int { return 5 }}, Person{ID: bob})
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
}

func FuzzParse(f *testing.F) {
	raw, _ := Default(bob).JSON()
	f.Add([]byte(raw), []byte(`{"content":{"body":"bob"}}`))
	f.Add([]byte(`{"global":{"override":[{"rule_id":"x","enabled":true,"conditions":[{"kind":"event_match","key":"content.\\.a","pattern":"*"}]},null]}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, raw, event []byte) {
		set, err := Parse(bob, raw)
		if err != nil {
			return
		}
		if !json.Valid(event) {
			return
		}
		set.Judge(&Event{Type: "m.room.message", JSON: event, Members: func() int { return 2 }}, Person{ID: bob, DisplayName: "b"})
		out, err := set.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(bob, out); err != nil {
			t.Errorf("own JSON is refused: %v", err)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	set := Default(bob)
	raw := []byte(`{"content":{"body":"good morning to all","msgtype":"m.text"}}`)
	for b.Loop() {
		set.Judge(&Event{Type: "m.room.message", JSON: raw, Members: func() int { return 5 }}, Person{ID: bob, DisplayName: "The Minister"})
	}
}
