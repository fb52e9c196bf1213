package pdu

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// One event of each kind with everything in it. The table says from which to which version a key survives.
var redactionTable = []struct {
	kind, key string
	from, to  int
}{
	{"m.room.member", "membership", 1, 12},
	{"m.room.member", "join_authorised_via_users_server", 9, 12},
	{"m.room.member", "third_party_invite", 11, 12},
	{"m.room.member", "displayname", 0, 0},
	{"m.room.create", "creator", 1, 12},
	{"m.room.create", "room_version", 11, 12},
	{"m.room.create", "anything", 11, 12},
	{"m.room.join_rules", "join_rule", 1, 12},
	{"m.room.join_rules", "allow", 8, 12},
	{"m.room.join_rules", "other", 0, 0},
	{"m.room.power_levels", "ban", 1, 12},
	{"m.room.power_levels", "events", 1, 12},
	{"m.room.power_levels", "events_default", 1, 12},
	{"m.room.power_levels", "kick", 1, 12},
	{"m.room.power_levels", "redact", 1, 12},
	{"m.room.power_levels", "state_default", 1, 12},
	{"m.room.power_levels", "users", 1, 12},
	{"m.room.power_levels", "users_default", 1, 12},
	{"m.room.power_levels", "invite", 11, 12},
	{"m.room.power_levels", "notifications", 0, 0},
	{"m.room.aliases", "aliases", 1, 5},
	{"m.room.history_visibility", "history_visibility", 1, 12},
	{"m.room.redaction", "redacts", 11, 12},
	{"m.room.redaction", "reason", 0, 0},
	{"m.room.message", "body", 0, 0},
	{"m.room.topic", "topic", 0, 0},
}

var topLevelTable = []struct {
	key      string
	from, to int
}{
	{"event_id", 1, 12}, {"type", 1, 12}, {"room_id", 1, 12}, {"sender", 1, 12}, {"state_key", 1, 12}, {"content", 1, 12},
	{"hashes", 1, 12}, {"signatures", 1, 12}, {"depth", 1, 12}, {"prev_events", 1, 12}, {"auth_events", 1, 12},
	{"origin_server_ts", 1, 12}, {"prev_state", 1, 10}, {"origin", 1, 10}, {"membership", 1, 10},
	{"redacts", 0, 0}, {"unsigned", 0, 0}, {"age_ts", 0, 0}, {"sticky", 0, 0},
}

func TestRedactionTable(t *testing.T) {
	for i, version := range versions {
		n := i + 1
		for _, row := range redactionTable {
			raw := fmt.Sprintf(`{"type":%q,"content":{%q:{"signed":{"x":1},"y":2},"zzz":1}}`, row.kind, row.key)
			got, err := Redact(version, []byte(raw))
			if err != nil {
				t.Fatalf("version %d, %s: %v", n, row.kind, err)
			}
			want := n >= row.from && n <= row.to
			if kept := gjson.GetBytes(got, "content."+row.key).Exists(); kept != want {
				t.Errorf("version %d, %s: %s kept %v, want %v", n, row.kind, row.key, kept, want)
			}
			all := row.kind == "m.room.create" && n >= 11
			if kept := gjson.GetBytes(got, "content.zzz").Exists(); kept != all {
				t.Errorf("version %d, %s: unknown key kept %v, want %v", n, row.kind, kept, all)
			}
		}
		testTopLevel(t, n)
	}
}

func testTopLevel(t *testing.T, n int) {
	t.Helper()
	parts := []string{}
	for _, row := range topLevelTable {
		value := `{"v":1}`
		if row.key == "type" {
			value = `"m.room.redaction"`
		}
		parts = append(parts, fmt.Sprintf("%q:%s", row.key, value))
	}
	got, err := Redact(versions[n-1], []byte("{"+strings.Join(parts, ",")+"}"))
	if err != nil {
		t.Fatalf("version %d: %v", n, err)
	}
	for _, row := range topLevelTable {
		want := n >= row.from && n <= row.to
		if kept := gjson.GetBytes(got, row.key).Exists(); kept != want {
			t.Errorf("version %d: top-level %s kept %v, want %v", n, row.key, kept, want)
		}
	}
}

func TestRedactThirdPartyInvite(t *testing.T) {
	for in, want := range map[string]string{
		`{"display_name":"x","signed":{"token":"t","mxid":"m"}}`: `{"signed":{"mxid":"m","token":"t"}}`,
		`{"display_name":"x"}`: `{}`,
		`"text"`:               ``,
		`null`:                 ``,
	} {
		raw := []byte(`{"type":"m.room.member","content":{"membership":"invite","third_party_invite":` + in + `}}`)
		got, err := Redact("11", raw)
		if err != nil {
			t.Fatal(err)
		}
		if kept := gjson.GetBytes(got, "content.third_party_invite").Raw; kept != want {
			t.Errorf("%s: got %s, want %s", in, kept, want)
		}
		if got, _ = Redact("10", raw); slices.Contains(strings.Split(string(got), `"`), "third_party_invite") {
			t.Errorf("version 10 kept third_party_invite: %s", got)
		}
	}
}

func TestRedactRefuses(t *testing.T) {
	for _, in := range []string{``, `[]`, `1`, `{}`, `{"type":1}`, `{"type":"a","content":[]}`, `{"type":"m.room.member","content":"x"}`} {
		if got, err := Redact("11", []byte(in)); err == nil {
			t.Errorf("%s: got %s, want a refusal", in, got)
		}
	}
	if _, err := Redact("13", []byte(`{"type":"a"}`)); err != ErrUnknownVersion {
		t.Errorf("version 13: got %v, want ErrUnknownVersion", err)
	}
}
