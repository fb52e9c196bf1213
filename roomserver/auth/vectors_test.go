package auth

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"chancery/roomserver/pdu"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"
)

// vector is one line of testdata/auth-vectors.jsonl.
type vector struct {
	Name       string         `json:"name"`
	Version    id.RoomVersion `json:"room_version"`
	Allow      bool           `json:"allow"`
	Create     vectorEvent    `json:"create"`
	AuthEvents []vectorEvent  `json:"auth_events"`
	Event      json.RawMessage
}

type vectorEvent struct {
	ID    id.EventID      `json:"event_id"`
	Event json.RawMessage `json:"event"`
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	file, err := os.Open("testdata/auth-vectors.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var all []vector
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if len(all) != 150 {
		t.Fatalf("got %d vectors, want 150", len(all))
	}
	return all
}

func (v *vector) event(t testing.TB, eventID id.EventID, raw []byte) gomatrixserverlib.PDU {
	t.Helper()
	clean, err := pdu.Canonical(raw)
	if err != nil {
		t.Fatalf("%s, version %s: %v", v.Name, v.Version, err)
	}
	ev, err := pdu.Trusted(v.Version, eventID, clean)
	if err != nil {
		t.Fatalf("%s, version %s: %v", v.Name, v.Version, err)
	}
	return ev
}

// judge runs all rules, as for the first check of a received event.
func (v *vector) judge(t testing.TB) error {
	t.Helper()
	ev := v.event(t, "", v.Event)
	if ev.Type() == "m.room.create" {
		return Check(v.Version, ev, Events{})
	}
	create := v.event(t, v.Create.ID, v.Create.Event)
	var named []gomatrixserverlib.PDU
	listed := false
	for _, ae := range v.AuthEvents {
		named = append(named, v.event(t, ae.ID, ae.Event))
		listed = listed || ae.ID == v.Create.ID
	}
	state := EventsOf(append(named, create)...)
	if v.Version == id.RoomV12 && !listed {
		named = append(named, create)
	}
	none := func(id.EventID) bool { return false }
	if err := CheckAuthEvents(v.Version, ev, named, none); err != nil {
		return err
	}
	return Check(v.Version, ev, state)
}

func TestVectors(t *testing.T) {
	for _, v := range readVectors(t) {
		err := v.judge(t)
		if (err == nil) != v.Allow {
			t.Errorf("%s, version %s: got %v, want allowed %v", v.Name, v.Version, err, v.Allow)
		}
		var refusal *pdu.AuthError
		if err != nil && (!errors.As(err, &refusal) || refusal.Rule == "") {
			t.Errorf("%s, version %s: got %v, want a refusal with its rule", v.Name, v.Version, err)
		}
		if testing.Verbose() && err != nil {
			t.Logf("%s, version %s: %v", v.Name, v.Version, err)
		}
	}
}
