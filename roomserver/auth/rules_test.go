package auth

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/roomserver/pdu"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"
)

var signer = pdu.Signer{ServerName: "a", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}

// line makes an event of "type state-key sender content"; a state key of - is none, "" is empty.
// Names like @u stand for themselves, the room is always the same.
func line(t testing.TB, version id.RoomVersion, text string, room id.RoomID, prev ...id.EventID) gomatrixserverlib.PDU {
	t.Helper()
	parts := strings.SplitN(text, " ", 4)
	if len(parts) != 4 {
		t.Fatalf("%q has no four parts", text)
	}
	d := pdu.Draft{Type: parts[0], Sender: id.UserID(parts[2]), RoomID: room, Content: []byte(parts[3]), PrevEvents: prev, Depth: 3, Timestamp: time.UnixMilli(1)}
	if parts[1] != "-" {
		sk := strings.Trim(parts[1], `"`)
		d.StateKey = &sk
	}
	if rest, redacts, ok := strings.Cut(parts[3], " redacts "); ok {
		d.Content, d.Redacts = []byte(rest), id.EventID(redacts)
	}
	ev, err := pdu.Build(version, d, signer)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return ev
}

// world makes a room's state of lines; the first is the create event.
func world(t testing.TB, version id.RoomVersion, lines []string) (Events, id.RoomID, id.EventID) {
	t.Helper()
	room := id.RoomID("!r:a")
	if version == "12" {
		room = ""
	}
	create := line(t, version, lines[0], room)
	room = pdu.RoomIDOf(create)
	events := []gomatrixserverlib.PDU{create}
	for _, text := range lines[1:] {
		events = append(events, line(t, version, text, room, "$x:a"))
	}
	return EventsOf(events...), room, id.EventID(create.EventID())
}

const (
	created = `m.room.create "" @c:a {"creator":"@c:a","room_version":"%s"}`
	creator = `m.room.member @c:a @c:a {"membership":"join"}`
	bob     = `m.room.member @b:b @b:b {"membership":"join"}`
	banned  = `m.room.member @b:b @c:a {"membership":"ban"}`
	invited = `m.room.member @b:b @c:a {"membership":"invite"}`
	left    = `m.room.member @b:b @b:b {"membership":"leave"}`
	knocked = `m.room.member @b:b @b:b {"membership":"knock"}`
	public  = `m.room.join_rules "" @c:a {"join_rule":"public"}`
	levels  = `m.room.power_levels "" @c:a {"users":{"@c:a":100,"@m:a":50}}`
	mod     = `m.room.member @m:a @m:a {"membership":"join"}`
)

// signedInvite is the content of an invite by e-mail for @b:b with token t, signed by the key that key encodes.
func signedInvite(mxid string) string {
	message := fmt.Sprintf(`{"extra":"kept","mxid":%q,"token":"t"}`, mxid)
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(signer.Key, []byte(message)))
	return fmt.Sprintf(`{"membership":"invite","third_party_invite":{"display_name":"B","signed":{"extra":"kept","mxid":%q,"token":"t","signatures":{"is":{"ed25519:0":%q}}}}}`, mxid, sig)
}

var identityKey = base64.RawStdEncoding.EncodeToString(signer.Key.Public().(ed25519.PublicKey))

var ruleCases = []struct {
	name     string
	versions string // from-to
	state    []string
	event    string
	rules    string // the rule that refuses; several, separated by commas, for v1-5, v6-7, v8-11, v12; empty: allowed
}{
	{"message", "1-12", []string{creator, bob}, `m.room.message - @b:b {}`, ``},
	{"message of a stranger", "1-12", []string{creator}, `m.room.message - @b:b {}`, `6,5,5,6`},
	{"message of the banned", "1-12", []string{creator, banned}, `m.room.message - @b:b {}`, `6,5,5,6`},
	{"state without level", "1-12", []string{creator, bob}, `m.room.topic "" @b:b {}`, `8,7,7,8`},
	{"state by the creator", "1-12", []string{creator}, `m.room.topic "" @c:a {}`, ``},
	{"events_default", "1-11", []string{creator, bob, `m.room.power_levels "" @c:a {"events_default":1}`}, `m.room.message - @b:b {}`, `8,7,7,8`},
	{"event's own level", "1-12", []string{creator, bob, `m.room.power_levels "" @c:a {"events":{"x":0},"state_default":50}`}, `x "" @b:b {}`, ``},
	{"aliases by a stranger", "1-5", []string{creator}, `m.room.aliases b @b:b {}`, ``},
	{"aliases of others", "1-5", []string{creator}, `m.room.aliases a @b:b {}`, `4.2`},
	{"aliases without key", "1-5", []string{creator}, `m.room.aliases - @b:b {}`, `4.1`},
	{"aliases are ordinary", "6-12", []string{creator, bob}, `m.room.aliases b @b:b {}`, `,7,7,8`},
	{"redaction by level", "1-2", []string{creator}, `m.room.redaction - @c:a {} redacts $x:z`, ``},
	{"redaction of an event of the same server", "1-2", []string{creator, bob}, `m.room.redaction - @b:b {} redacts $x:a`, ``},
	{"redaction of others' events", "1-2", []string{creator, bob}, `m.room.redaction - @b:b {} redacts $x:z`, `11.3`},
	{"redaction is an event like others", "3-12", []string{creator, bob}, `m.room.redaction - @b:b {} redacts $x`, ``},
	{"member without state key", "1-12", []string{creator, public}, `m.room.member - @b:b {"membership":"join"}`, `5.1,4.1,4.1,5.1`},
	{"member without membership", "1-12", []string{creator, public}, `m.room.member @b:b @b:b {}`, `5.1,4.1,4.1,5.1`},
	{"unknown membership", "8-12", []string{creator, public}, `m.room.member @b:b @b:b {"membership":"dance"}`, `,,4.8,5.8`},
	{"unknown membership, old", "1-6", []string{creator, public}, `m.room.member @b:b @b:b {"membership":"dance"}`, `5.6,4.6`},
	{"public join", "1-12", []string{creator, public}, `m.room.member @b:b @b:b {"membership":"join"}`, ``},
	{"public join of the banned", "1-12", []string{creator, public, banned}, `m.room.member @b:b @b:b {"membership":"join"}`, `5.2.3,4.2.3,4.3.3,5.3.3`},
	{"join of another", "1-12", []string{creator, public}, `m.room.member @b:b @c:a {"membership":"join"}`, `5.2.2,4.2.2,4.3.2,5.3.2`},
	{"no join rules", "1-7", []string{creator}, `m.room.member @b:b @b:b {"membership":"join"}`, `5.2.6,4.2.6`},
	{"no join rules", "8-12", []string{creator}, `m.room.member @b:b @b:b {"membership":"join"}`, `,,4.3.7,5.3.7`},
	{"join by invite", "1-12", []string{creator, invited}, `m.room.member @b:b @b:b {"membership":"join"}`, ``},
	{"odd join rule", "8-12", []string{creator, invited, `m.room.join_rules "" @c:a {"join_rule":"odd"}`}, `m.room.member @b:b @b:b {"membership":"join"}`, `,,4.3.7,5.3.7`},
	{"knock room, invited", "7-12", []string{creator, invited, `m.room.join_rules "" @c:a {"join_rule":"knock"}`}, `m.room.member @b:b @b:b {"membership":"join"}`, ``},
	{"knock room before knocking", "1-6", []string{creator, invited, `m.room.join_rules "" @c:a {"join_rule":"knock"}`}, `m.room.member @b:b @b:b {"membership":"join"}`, `5.2.6,4.2.6`},
	{"restricted room before restriction", "1-7", []string{creator, invited, `m.room.join_rules "" @c:a {"join_rule":"restricted"}`}, `m.room.member @b:b @b:b {"membership":"join"}`, `5.2.6,4.2.6`},
	{"restricted", "8-12", []string{creator, `m.room.join_rules "" @c:a {"join_rule":"restricted"}`}, `m.room.member @b:b @b:b {"membership":"join","join_authorised_via_users_server":"@c:a"}`, ``},
	{"restricted, authoriser has left", "8-12", []string{creator, `m.room.join_rules "" @c:a {"join_rule":"restricted"}`}, `m.room.member @b:b @b:b {"membership":"join","join_authorised_via_users_server":"@x:a"}`, `,,4.3.5.2,5.3.5.2`},
	{"restricted, authoriser is weak", "8-12", []string{creator, mod, `m.room.power_levels "" @c:a {"invite":60,"users":{"@m:a":50}}`, `m.room.join_rules "" @c:a {"join_rule":"restricted"}`},
		`m.room.member @b:b @b:b {"membership":"join","join_authorised_via_users_server":"@m:a"}`, `,,4.3.5.2,5.3.5.2`},
	{"knock_restricted", "10-12", []string{creator, `m.room.join_rules "" @c:a {"join_rule":"knock_restricted"}`}, `m.room.member @b:b @b:b {"membership":"join","join_authorised_via_users_server":"@c:a"}`, ``},
	{"knock_restricted too early", "8-9", []string{creator, `m.room.join_rules "" @c:a {"join_rule":"knock_restricted"}`}, `m.room.member @b:b @b:b {"membership":"join","join_authorised_via_users_server":"@c:a"}`, `,,4.3.7`},
	{"invite", "1-12", []string{creator}, `m.room.member @b:b @c:a {"membership":"invite"}`, ``},
	{"invite by a stranger", "1-12", []string{creator}, `m.room.member @b:b @x:a {"membership":"invite"}`, `5.3.2,4.3.2,4.4.2,5.4.2`},
	{"invite of a member", "1-12", []string{creator, bob}, `m.room.member @b:b @c:a {"membership":"invite"}`, `5.3.3,4.3.3,4.4.3,5.4.3`},
	{"invite of the banned", "1-12", []string{creator, banned}, `m.room.member @b:b @c:a {"membership":"invite"}`, `5.3.3,4.3.3,4.4.3,5.4.3`},
	{"invite without level", "1-11", []string{creator, bob, `m.room.power_levels "" @c:a {"invite":10}`}, `m.room.member @x:a @b:b {"membership":"invite"}`, `5.3.5,4.3.5,4.4.5,5.4.5`},
	{"invite of the knocking", "7-12", []string{creator, knocked}, `m.room.member @b:b @c:a {"membership":"invite"}`, ``},
	{"reject an invite", "1-12", []string{creator, invited}, `m.room.member @b:b @b:b {"membership":"leave"}`, ``},
	{"take back a knock", "7-12", []string{creator, knocked}, `m.room.member @b:b @b:b {"membership":"leave"}`, ``},
	{"leave when banned", "1-12", []string{creator, banned}, `m.room.member @b:b @b:b {"membership":"leave"}`, `5.4.1,4.4.1,4.5.1,5.5.1`},
	{"kick", "1-12", []string{creator, bob}, `m.room.member @b:b @c:a {"membership":"leave"}`, ``},
	{"kick by a stranger", "1-12", []string{creator, bob}, `m.room.member @b:b @x:a {"membership":"leave"}`, `5.4.2,4.4.2,4.5.2,5.5.2`},
	{"kick without level", "1-12", []string{creator, bob, mod}, `m.room.member @m:a @b:b {"membership":"leave"}`, `5.4.5,4.4.5,4.5.5,5.5.5`},
	{"kick of an equal", "1-11", []string{creator, mod, `m.room.power_levels "" @c:a {"users":{"@c:a":100,"@m:a":100}}`}, `m.room.member @m:a @c:a {"membership":"leave"}`, `5.4.5,4.4.5,4.5.5`},
	{"unban", "1-12", []string{creator, banned}, `m.room.member @b:b @c:a {"membership":"leave"}`, ``},
	{"unban without level", "1-11", []string{creator, mod, banned, `m.room.power_levels "" @c:a {"ban":60,"users":{"@m:a":50}}`}, `m.room.member @b:b @m:a {"membership":"leave"}`, `5.4.3,4.4.3,4.5.3,5.5.3`},
	{"ban", "1-12", []string{creator, mod, levels}, `m.room.member @b:b @m:a {"membership":"ban"}`, ``},
	{"ban by a stranger", "1-12", []string{creator}, `m.room.member @b:b @x:a {"membership":"ban"}`, `5.5.1,4.5.1,4.6.1,5.6.1`},
	{"ban without level", "1-12", []string{creator, bob}, `m.room.member @x:a @b:b {"membership":"ban"}`, `5.5.3,4.5.3,4.6.3,5.6.3`},
	{"ban of the stronger", "1-12", []string{creator, mod, levels}, `m.room.member @c:a @m:a {"membership":"ban"}`, `5.5.3,4.5.3,4.6.3,5.6.3`},
	{"knock", "7-12", []string{creator, `m.room.join_rules "" @c:a {"join_rule":"knock"}`}, `m.room.member @b:b @b:b {"membership":"knock"}`, ``},
	{"knock in an invite room", "8-12", []string{creator}, `m.room.member @b:b @b:b {"membership":"knock"}`, `,,4.7.1,5.7.1`},
	{"knock for another", "8-12", []string{creator, `m.room.join_rules "" @c:a {"join_rule":"knock"}`}, `m.room.member @x:a @b:b {"membership":"knock"}`, `,,4.7.2,5.7.2`},
	{"knock when invited", "8-12", []string{creator, invited, `m.room.join_rules "" @c:a {"join_rule":"knock"}`}, `m.room.member @b:b @b:b {"membership":"knock"}`, `,,4.7.4,5.7.4`},
	{"knock before knocking", "1-6", []string{creator, `m.room.join_rules "" @c:a {"join_rule":"knock"}`}, `m.room.member @b:b @b:b {"membership":"knock"}`, `5.6,4.6`},
	{"another's state key", "1-12", []string{creator}, `x @b:b @c:a {}`, `9,8,8,9`},
	{"own state key", "1-12", []string{creator}, `x @c:a @c:a {}`, ``},
	{"token of an e-mail invite", "1-12", []string{creator, mod, `m.room.power_levels "" @c:a {"invite":10,"users":{"@m:a":9},"state_default":0}`}, `m.room.third_party_invite t @m:a {}`, `7.1,6.1,6.1,7.1`},
	{"e-mail invite", "1-12", []string{creator, `m.room.third_party_invite t @c:a {"public_key":"KEY"}`}, `m.room.member @b:b @c:a ` + signedInvite("@b:b"), ``},
	{"e-mail invite, key in the list", "1-12", []string{creator, `m.room.third_party_invite t @c:a {"public_keys":[{"public_key":"AAAA"},{"public_key":"KEY"}]}`}, `m.room.member @b:b @c:a ` + signedInvite("@b:b"), ``},
	{"e-mail invite of the banned", "1-12", []string{creator, banned, `m.room.third_party_invite t @c:a {"public_key":"KEY"}`}, `m.room.member @b:b @c:a ` + signedInvite("@b:b"), `5.3.1.1,4.3.1.1,4.4.1.1,5.4.1.1`},
	{"e-mail invite unsigned", "1-12", []string{creator}, `m.room.member @b:b @c:a {"membership":"invite","third_party_invite":{}}`, `5.3.1.2,4.3.1.2,4.4.1.2,5.4.1.2`},
	{"e-mail invite without token", "1-12", []string{creator}, `m.room.member @b:b @c:a {"membership":"invite","third_party_invite":{"signed":{"mxid":"@b:b"}}}`, `5.3.1.3,4.3.1.3,4.4.1.3,5.4.1.3`},
	{"e-mail invite for another", "1-12", []string{creator}, `m.room.member @b:b @c:a ` + signedInvite("@x:b"), `5.3.1.4,4.3.1.4,4.4.1.4,5.4.1.4`},
	{"e-mail invite, token unknown", "1-12", []string{creator}, `m.room.member @b:b @c:a ` + signedInvite("@b:b"), `5.3.1.5,4.3.1.5,4.4.1.5,5.4.1.5`},
	{"e-mail invite by another", "1-12", []string{creator, mod, `m.room.third_party_invite t @m:a {"public_key":"KEY"}`}, `m.room.member @b:b @c:a ` + signedInvite("@b:b"), `5.3.1.6,4.3.1.6,4.4.1.6,5.4.1.6`},
	{"e-mail invite, wrong key", "1-12", []string{creator, `m.room.third_party_invite t @c:a {"public_key":"AAAA"}`}, `m.room.member @b:b @c:a ` + signedInvite("@b:b"), `5.3.1.8,4.3.1.8,4.4.1.8,5.4.1.8`},
	{"float levels", "1-5", []string{creator, bob, `m.room.power_levels "" @c:a {"users":{"@b:b":50.9}}`}, `m.room.topic "" @b:b {}`, ``},
	{"float below", "1-5", []string{creator, bob, `m.room.power_levels "" @c:a {"users":{"@b:b":4.99e1}}`}, `m.room.topic "" @b:b {}`, `8`},
	{"string levels", "1-9", []string{creator, bob, `m.room.power_levels "" @c:a {"users":{"@b:b":" +0050 "}}`}, `m.room.topic "" @b:b {}`, ``},
	{"string that is no number", "1-9", []string{creator, bob}, `m.room.power_levels "" @c:a {"users":{"@b:b":"50.0"}}`, `10.1,9.1,9.1`},
	{"notifications unchecked", "1-5", []string{creator, mod, levels}, `m.room.power_levels "" @m:a {"users":{"@c:a":100,"@m:a":50},"notifications":{"room":90}}`, ``},
	{"notifications", "6-7", []string{creator, mod, levels}, `m.room.power_levels "" @m:a {"users":{"@c:a":100,"@m:a":50},"notifications":{"room":90}}`, `,9.5.1`},
	{"notifications", "10-12", []string{creator, mod, `m.room.power_levels "" @c:a {"users":{"@m:a":50}}`}, `m.room.power_levels "" @m:a {"users":{"@m:a":50},"notifications":{"room":90}}`, `,,9.7.1,10.8.1`},
	{"lower what is above", "6-7", []string{creator, mod, `m.room.power_levels "" @c:a {"users":{"@m:a":50},"ban":90}`}, `m.room.power_levels "" @m:a {"users":{"@m:a":50},"ban":10}`, `,9.3.1`},
	{"take out what is above", "10-12", []string{creator, mod, `m.room.power_levels "" @c:a {"users":{"@m:a":50},"events":{"x":90}}`}, `m.room.power_levels "" @m:a {"users":{"@m:a":50}}`, `,,9.6.1,10.7.1`},
	{"raise oneself", "10-12", []string{creator, mod, `m.room.power_levels "" @c:a {"users":{"@m:a":50}}`}, `m.room.power_levels "" @m:a {"users":{"@m:a":51}}`, `,,9.9.1,10.10.1`},
	{"lower oneself", "1-12", []string{creator, mod, `m.room.power_levels "" @c:a {"users":{"@m:a":50}}`}, `m.room.power_levels "" @m:a {"users":{"@m:a":1}}`, ``},
	{"drop an equal", "10-12", []string{creator, mod, `m.room.power_levels "" @c:a {"users":{"@m:a":50,"@n:a":50}}`}, `m.room.power_levels "" @m:a {"users":{"@m:a":50}}`, `,,9.8.1,10.9.1`},
	{"users no object", "1-12", []string{creator}, `m.room.power_levels "" @c:a {"users":[]}`, `10.1,9.1,9.1,10.3`},
}

func TestRules(t *testing.T) {
	for _, c := range ruleCases {
		from, to, _ := strings.Cut(c.versions, "-")
		first, _ := strconv.Atoi(from)
		last, _ := strconv.Atoi(to)
		for n := first; n <= last; n++ {
			version := id.RoomVersion(strconv.Itoa(n))
			want := wantedRule(c.rules, n)
			lines := append([]string{fmt.Sprintf(created, version)}, c.state...)
			for i := range lines {
				lines[i] = strings.ReplaceAll(lines[i], "KEY", identityKey)
			}
			if version == "12" { // creators are not to be listed
				for i := range lines {
					lines[i] = strings.ReplaceAll(lines[i], `"@c:a":100,`, "")
				}
			}
			state, room, _ := world(t, version, lines)
			ev := line(t, version, c.event, room, "$x:a", "$y:a")
			if got := ruleOf(t, Check(version, ev, state)); got != want {
				t.Errorf("%s, version %s: refused by rule %q, want %q", c.name, version, got, want)
			}
		}
	}
}

func wantedRule(rules string, n int) string {
	all := strings.Split(rules, ",")
	group := 0
	switch {
	case n >= 12:
		group = 3
	case n >= 8:
		group = 2
	case n >= 6:
		group = 1
	}
	if rules == "" {
		return ""
	}
	if n >= 10 && n <= 11 && all[min(group, len(all)-1)] == "9.1" {
		return "9.3" // users, where version 10 counts them third
	}
	return all[group]
}

// ruleOf is the rule that refused; empty if nothing was.
func ruleOf(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var refusal *pdu.AuthError
	if !errors.As(err, &refusal) {
		t.Fatalf("got %v, want a refusal", err)
	}
	return refusal.Rule
}

func TestFirstJoin(t *testing.T) {
	for n := 1; n <= 12; n++ {
		version := id.RoomVersion(strconv.Itoa(n))
		state, room, create := world(t, version, []string{fmt.Sprintf(created, version)})
		join := line(t, version, creator, room, create)
		if err := Check(version, join, state); err != nil {
			t.Errorf("version %s: %v", version, err)
		}
		for name, ev := range map[string]gomatrixserverlib.PDU{
			"another user": line(t, version, bob, room, create),
			"two parents":  line(t, version, creator, room, create, "$x:a"),
		} {
			if err := Check(version, ev, state); err == nil {
				t.Errorf("version %s, %s: allowed", version, name)
			}
		}
	}
}

func TestCreatorIsNamedByContentBeforeVersion11(t *testing.T) {
	for version, want := range map[id.RoomVersion]bool{"10": true, "11": false, "12": false} {
		state, room, create := world(t, version, []string{`m.room.create "" @c:a {"creator":"@d:a"}`})
		join := line(t, version, `m.room.member @d:a @d:a {"membership":"join"}`, room, create)
		if err := Check(version, join, state); (err == nil) != want {
			t.Errorf("version %s: got %v, want allowed %v", version, err, want)
		}
	}
}

func TestCreate(t *testing.T) {
	cases := []struct {
		name, versions, text string
		room                 id.RoomID
		prev                 []id.EventID
		rule                 string
	}{
		{"plain", "1 6 10", `m.room.create "" @c:a {"creator":"@c:a"}`, "!r:a", nil, ""},
		{"no creator", "1 6 10", `m.room.create "" @c:a {}`, "!r:a", nil, "1.4"},
		{"no creator needed", "11", `m.room.create "" @c:a {}`, "!r:a", nil, ""},
		{"parents", "1 11", `m.room.create "" @c:a {"creator":"@c:a"}`, "!r:a", []id.EventID{"$x:a"}, "1.1"},
		{"another server's room", "1 11", `m.room.create "" @c:a {"creator":"@c:a"}`, "!r:b", nil, "1.2"},
		{"unknown version", "1 11", `m.room.create "" @c:a {"creator":"@c:a","room_version":"99"}`, "!r:a", nil, "1.3"},
		{"version no string", "1 11", `m.room.create "" @c:a {"creator":"@c:a","room_version":1}`, "!r:a", nil, "1.3"},
		{"version 12", "12", `m.room.create "" @c:a {"additional_creators":["@d:b"]}`, "", nil, ""},
		{"room ID", "12", `m.room.create "" @c:a {}`, id.RoomID("!" + strings.Repeat("a", 43)), nil, "1.2"},
		{"creators no list", "12", `m.room.create "" @c:a {"additional_creators":"@d:b"}`, "", nil, "1.4"},
		{"creators no users", "12", `m.room.create "" @c:a {"additional_creators":["d"]}`, "", nil, "1.4"},
	}
	for _, c := range cases {
		for _, v := range strings.Fields(c.versions) {
			ev := line(t, id.RoomVersion(v), c.text, c.room, c.prev...)
			if got := ruleOf(t, Check(id.RoomVersion(v), ev, Events{})); got != c.rule {
				t.Errorf("%s, version %s: refused by %q, want %q", c.name, v, got, c.rule)
			}
		}
	}
}

func TestCreateEventOfAnotherRoom(t *testing.T) {
	for version, want := range map[id.RoomVersion]string{"11": "2.5", "12": "2"} {
		state, _, _ := world(t, version, []string{fmt.Sprintf(created, version), creator})
		room := id.RoomID("!other:a")
		if version == "12" {
			room = id.RoomID("!" + strings.Repeat("b", 43))
		}
		ev := line(t, version, `m.room.message - @c:a {}`, room, "$x:a")
		if got := ruleOf(t, Check(version, ev, state)); got != want {
			t.Errorf("version %s: refused by %q, want %q", version, got, want)
		}
	}
}

func TestCheckAuthEvents(t *testing.T) {
	for _, version := range []id.RoomVersion{"6", "11", "12"} {
		lines := []string{fmt.Sprintf(created, version), creator, levels, bob}
		if version == "12" {
			lines[2] = `m.room.power_levels "" @c:a {}`
		}
		state, room, _ := world(t, version, lines)
		ev := line(t, version, `m.room.message - @c:a {}`, room, "$x:a")
		create, mine, pl := state[createKey], state[memberKey("@c:a")], state[powerLevelsKey]
		topic := line(t, version, `m.room.topic "" @c:a {}`, room, "$x:a")
		elsewhere := id.RoomID("!z:a")
		if version == "12" {
			elsewhere = id.RoomID("!" + strings.Repeat("z", 43))
		}
		foreign := line(t, version, creator, elsewhere, "$x:a")
		base := map[bool]int{false: 2, true: 3}[version == "12"]
		rule := func(n int) string { return fmt.Sprintf("%d.%d", base, n) }
		none := func(id.EventID) bool { return false }
		noCreate, otherRoom := rule(4), rule(5)
		if version == "12" {
			noCreate, otherRoom = "2", rule(4)
		}
		for _, c := range []struct {
			name     string
			events   []gomatrixserverlib.PDU
			rejected func(id.EventID) bool
			want     string
		}{
			{"all", []gomatrixserverlib.PDU{create, pl, mine}, none, ""},
			{"one fewer", []gomatrixserverlib.PDU{create, mine}, none, ""},
			{"no create", []gomatrixserverlib.PDU{pl, mine}, none, noCreate},
			{"twice", []gomatrixserverlib.PDU{create, mine, mine}, none, rule(1)},
			{"too many", []gomatrixserverlib.PDU{create, mine, topic}, none, rule(2)},
			{"another's member", []gomatrixserverlib.PDU{create, mine, state[memberKey("@b:b")]}, none, rule(2)},
			{"rejected", []gomatrixserverlib.PDU{create, mine, pl}, func(e id.EventID) bool { return string(e) == pl.EventID() }, rule(3)},
			{"foreign", []gomatrixserverlib.PDU{create, foreign}, none, otherRoom},
		} {
			if got := ruleOf(t, CheckAuthEvents(version, ev, c.events, c.rejected)); got != c.want {
				t.Errorf("%s, version %s: refused by %q, want %q", c.name, version, got, c.want)
			}
		}
	}
}

func TestNeeded(t *testing.T) {
	bob := "@b:b"
	for _, c := range []struct {
		version id.RoomVersion
		kind    string
		target  *string
		content string
		want    string
	}{
		{"11", "m.room.create", nil, `{}`, ""},
		{"11", "m.room.message", nil, `{}`, "create power_levels member@c:a"},
		{"12", "m.room.message", nil, `{}`, "power_levels member@c:a"},
		{"11", "m.room.member", &bob, `{"membership":"ban"}`, "create power_levels member@c:a member@b:b"},
		{"11", "m.room.member", &bob, `{"membership":"invite"}`, "create power_levels member@c:a member@b:b join_rules"},
		{"11", "m.room.member", &bob, `{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}`, "create power_levels member@c:a member@b:b join_rules third_party_invitet"},
		{"8", "m.room.member", &bob, `{"membership":"join","join_authorised_via_users_server":"@x:x"}`, "create power_levels member@c:a member@b:b join_rules member@x:x"},
		{"7", "m.room.member", &bob, `{"membership":"join","join_authorised_via_users_server":"@x:x"}`, "create power_levels member@c:a member@b:b join_rules"},
	} {
		var got []string
		for _, key := range Needed(c.version, c.kind, c.target, "@c:a", []byte(c.content)) {
			got = append(got, strings.TrimPrefix(key.Type, "m.room.")+key.StateKey)
		}
		if joined := strings.Join(got, " "); joined != c.want {
			t.Errorf("version %s, %s %s: got %s, want %s", c.version, c.kind, c.content, joined, c.want)
		}
	}
}

func TestLevels(t *testing.T) {
	state, _, _ := world(t, "11", []string{fmt.Sprintf(created, "11"), `m.room.power_levels "" @c:a {"users":{"@m:a":50},"users_default":3,"events":{"x":7},"kick":1,"notifications":{"room":9}}`})
	l, err := ParsePowerLevels("11", state[createKey], state[powerLevelsKey])
	if err != nil {
		t.Fatal(err)
	}
	again, _ := ParsePowerLevels("11", state[createKey], state[powerLevelsKey])
	if l != again {
		t.Error("parsed twice")
	}
	got := fmt.Sprint(l.User("@m:a"), l.User("@c:a"), l.Event("x", true), l.Event("y", true), l.Event("y", false), l.Kick(), l.Ban(), l.Redact(), l.Invite(), l.Notification("room"), l.Notification("other"))
	if want := "50 3 7 50 0 1 50 50 0 9 50"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if l, _ = ParsePowerLevels("11", state[createKey], nil); l.User("@c:a") != 100 || l.User("@m:a") != 0 {
		t.Errorf("without an event: creator %d, others %d", l.User("@c:a"), l.User("@m:a"))
	}
	state, _, _ = world(t, "12", []string{`m.room.create "" @c:a {"additional_creators":["@d:b"]}`})
	if l, _ = ParsePowerLevels("12", state[createKey], nil); l.User("@c:a") != Creator || l.User("@d:b") != Creator || l.User("@m:a") != 0 {
		t.Error("creators of version 12 are not above all")
	}
}

func bigRoom(tb testing.TB) (gomatrixserverlib.PDU, State) {
	var users bytes.Buffer
	for i := range 1500 {
		fmt.Fprintf(&users, `"@user%d:a":50,`, i)
	}
	lines := []string{fmt.Sprintf(created, "11"), creator, bob, `m.room.power_levels "" @c:a {"users":{` + users.String() + `"@c:a":100}}`}
	state, room, _ := world(tb, "11", lines)
	return line(tb, "11", `m.room.message - @b:b {"body":"x","msgtype":"m.text"}`, room, "$x:a"), state
}

func BenchmarkMessage(b *testing.B) {
	ev, state := bigRoom(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := Check("11", ev, state); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVectors(b *testing.B) {
	type prepared struct {
		version id.RoomVersion
		ev      gomatrixserverlib.PDU
		state   State
	}
	var all []prepared
	for _, v := range readVectors(b) {
		if len(v.AuthEvents) == 0 {
			continue
		}
		events := []gomatrixserverlib.PDU{v.event(b, v.Create.ID, v.Create.Event)}
		for _, ae := range v.AuthEvents {
			events = append(events, v.event(b, ae.ID, ae.Event))
		}
		all = append(all, prepared{v.Version, v.event(b, "", v.Event), EventsOf(events...)})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := all[i%len(all)]
		_ = Check(p.version, p.ev, p.state)
	}
}
