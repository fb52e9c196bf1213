//go:build goexperiment.jsonv2

package auth

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"chancery/roomserver/pdu"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/federation/eventauth"
	oracle "maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"
)

var people = []string{"@c:a", "@m:a", "@b:b", "@d:b", "@e:e"}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// randomLevels is the content of a power levels event.
func randomLevels(r *rand.Rand, version id.RoomVersion) string {
	level := func() string { return pick(r, "0", "10", "50", "50", "99", "100", "100", "-1") }
	var parts []string
	for _, name := range singleNames {
		if r.IntN(4) == 0 {
			parts = append(parts, fmt.Sprintf("%q:%s", name, level()))
		}
	}
	object := func(keys ...string) string {
		var all []string
		for _, key := range keys {
			if r.IntN(2) == 0 {
				all = append(all, fmt.Sprintf("%q:%s", key, level()))
			}
		}
		return "{" + strings.Join(all, ",") + "}"
	}
	users := people
	if version == "12" && r.IntN(8) > 0 {
		users = people[1:]
	}
	parts = append(parts, `"users":`+object(users...), `"events":`+object("m.room.topic", "m.room.message", "m.room.power_levels"))
	if r.IntN(2) == 0 {
		parts = append(parts, `"notifications":`+object("room", "x"))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func randomEvent(r *rand.Rand, version id.RoomVersion) string {
	who, whom := pick(r, people...), pick(r, people...)
	switch r.IntN(8) {
	case 0, 1, 2, 3:
		if r.IntN(2) == 0 {
			whom = who
		}
		more := ""
		if r.IntN(4) == 0 { // only one of the server that signs, so that the signature rule holds
			more = `,"join_authorised_via_users_server":"` + pick(r, "@c:a", "@m:a") + `"`
		}
		return fmt.Sprintf(`m.room.member %s %s {"membership":%q%s}`, whom, who, pick(r, "join", "invite", "leave", "ban", "knock", "odd"), more)
	case 4, 5:
		return fmt.Sprintf(`m.room.power_levels "" %s %s`, who, randomLevels(r, version))
	case 6:
		return fmt.Sprintf(`m.room.topic %s %s {}`, pick(r, `""`, who, whom), who)
	}
	return fmt.Sprintf(`%s - %s {}`, pick(r, "m.room.message", "m.room.redaction"), who)
}

func randomWorld(r *rand.Rand, version id.RoomVersion) []string {
	lines := []string{fmt.Sprintf(created, version)}
	if r.IntN(5) == 0 {
		lines[0] = strings.TrimSuffix(lines[0], "}") + `,"m.federate":false}`
	}
	if r.IntN(5) == 0 {
		lines[0] = strings.TrimSuffix(lines[0], "}") + `,"additional_creators":["@m:a"]}`
	}
	for _, user := range people {
		if r.IntN(4) > 0 {
			lines = append(lines, fmt.Sprintf(`m.room.member %s %s {"membership":%q}`, user, user, pick(r, "join", "join", "join", "invite", "leave", "ban", "knock")))
		}
	}
	if r.IntN(4) > 0 {
		lines = append(lines, `m.room.power_levels "" @c:a `+randomLevels(r, version))
	}
	if r.IntN(4) > 0 {
		lines = append(lines, fmt.Sprintf(`m.room.join_rules "" @c:a {"join_rule":%q}`, pick(r, "public", "invite", "knock", "restricted", "knock_restricted", "odd")))
	}
	return lines
}

// authorize asks the oracle; ok is false where it has no answer.
func authorize(t *testing.T, version id.RoomVersion, ev gomatrixserverlib.PDU, state Events) (err error, ok bool) {
	t.Helper()
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	theirs := func(ev gomatrixserverlib.PDU) *oracle.PDU {
		var p oracle.PDU
		if err := json.Unmarshal(ev.JSON(), &p); err != nil {
			t.Fatal(err)
		}
		return &p
	}
	create := theirs(state[createKey])
	selected := []*oracle.PDU{}
	if version != "12" {
		selected = append(selected, create)
	}
	for _, key := range NeededBy(ev) {
		if ae := state[key]; ae != nil && key != createKey {
			selected = append(selected, theirs(ae))
		}
	}
	key := func(server string, _ id.KeyID, _ time.Time) (id.SigningKey, time.Time, error) {
		if server != "a" {
			return "", time.Time{}, nil
		}
		return id.SigningKey(identityKey), time.UnixMilli(1 << 45), nil
	}
	get := func([]id.EventID) ([]*oracle.PDU, error) { return []*oracle.PDU{create}, nil }
	return eventauth.Authorize(version, theirs(ev), selected, get, key), true
}

// TestOracle compares verdicts with mautrix' on random events in random rooms of versions 6 to 12.
func TestOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	compared, allowed := 0, 0
	for i := range 20000 {
		version := pdu.Versions()[5+i%7]
		lines := randomWorld(r, version)
		state, room, create := world(t, version, lines)
		text := randomEvent(r, version)
		prev := []id.EventID{"$x"}
		if r.IntN(10) == 0 {
			prev[0] = create
		}
		ev := line(t, version, text, room, prev...)
		theirs, ok := authorize(t, version, ev, state)
		if !ok {
			continue
		}
		ours := Check(version, ev, state)
		if (ours == nil) != (theirs == nil) {
			t.Errorf("version %s: got %v, want %v\n%s\n in %s", version, ours, theirs, text, strings.Join(lines, "\n    "))
		}
		compared++
		if ours == nil {
			allowed++
		}
	}
	t.Logf("%d compared, %d allowed", compared, allowed)
}
