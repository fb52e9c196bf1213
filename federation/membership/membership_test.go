package membership

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

func TestStripped(t *testing.T) {
	good := `{"type":"m.room.name","state_key":"","sender":"@a:b.example","content":{"name":"x"}}`
	for _, c := range []struct {
		name, entry string
		want        bool
	}{
		{"good", good, true},
		{"a whole event", strings.Replace(good, `{"type"`, `{"origin_server_ts":1,"depth":2,"type"`, 1), true},
		{"no object", `[]`, false},
		{"nothing", `null`, false},
		{"no state key", strings.Replace(good, `"state_key":"",`, ``, 1), false},
		{"a number as type", strings.Replace(good, `"m.room.name"`, `5`, 1), false},
		{"content no object", strings.Replace(good, `{"name":"x"}`, `"x"`, 1), false},
		{"no user as sender", strings.Replace(good, `@a:b.example`, `b.example`, 1), false},
		{"a key twice", strings.Replace(good, `{"name":"x"}`, `{"name":"x","name":"y"}`, 1), false},
		{"a lone surrogate", strings.Replace(good, `"x"`, `"\ud800"`, 1), false},
	} {
		if got := len(stripped([]json.RawMessage{json.RawMessage(c.entry)})) == 1; got != c.want {
			t.Errorf("%s: got taken %v, want %v", c.name, got, c.want)
		}
	}
	var many []json.RawMessage
	for i := range 100 {
		many = append(many, json.RawMessage(fmt.Sprintf(`{"type":"t%d","state_key":"","sender":"@a:b.example","content":{"x":"%s"}}`, i, strings.Repeat("x", 1000))))
	}
	size := 0
	for _, raw := range stripped(many) {
		size += len(raw)
	}
	if size == 0 || size > maxStripped {
		t.Errorf("of many entries %d bytes were taken, want some and at most %d", size, maxStripped)
	}
}

func TestContent(t *testing.T) {
	given := json.RawMessage(`{"displayname":"A","membership":"ban","join_authorised_via_users_server":"@x:y","third_party_invite":{}}`)
	got, err := content(given, event.MembershipJoin, map[string]string{"join_authorised_via_users_server": "@r:z.example"})
	if want := `{"displayname":"A","join_authorised_via_users_server":"@r:z.example","membership":"join"}`; err != nil || string(got) != want {
		t.Errorf("got %s and error %v, want %s", got, err, want)
	}
}

func FuzzStripped(f *testing.F) {
	f.Add([]byte(`{"type":"m.room.create","state_key":"","sender":"@a:b.example","content":{"room_version":"12"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, entry := range stripped([]json.RawMessage{raw}) {
			if !json.Valid(entry) {
				t.Errorf("took %q, which is no JSON", entry)
			}
			strippedVersion([]json.RawMessage{entry})
		}
	})
}

func FuzzReferences(f *testing.F) {
	f.Add("11", []byte(`{"prev_events":["$0000000000000000000000000000000000000000000"]}`))
	f.Add("1", []byte(`{"prev_events":[["$a:b.example",{"sha256":"AAAA"}]]}`))
	f.Fuzz(func(t *testing.T, version string, raw []byte) {
		m := &Membership{}
		ids, err := m.references(template{Version: id.RoomVersion(version), Event: raw}, "prev_events", 20, map[id.EventID][]byte{})
		if err == nil && len(ids) > 20 {
			t.Errorf("got %d references, want at most 20", len(ids))
		}
	})
}
