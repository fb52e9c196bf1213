package federation_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// peer asks a house how it stands with another server.
func (h *house) peer(server string) bus.Peer {
	h.Helper()
	answer, err := h.federate(bus.FederationQuestion{Peers: &bus.Peers{Server: server}})
	if err != nil {
		h.Fatal(err)
	}
	var list bus.PeerList
	if err := json.Unmarshal(answer.Body, &list); err != nil || len(list.Peers) > 1 {
		h.Fatalf("got %s and error %v", answer.Body, err)
	}
	if len(list.Peers) == 0 {
		return bus.Peer{}
	}
	return list.Peers[0]
}

func TestPeers(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example", "evil.example")
	interior, finance, evil := w.open("interior.example"), w.open("finance.example"), w.stranger("evil.example")
	alice, bob, mallory := interior.account("alice"), finance.account("bob"), id.UserID("@mallory:evil.example")
	room := interior.room(id.RoomV11, alice, "public")
	finance.join(room, bob, interior)
	finance.waitFor(interior.say(room, alice, "hello"))
	interior.waitFor(finance.say(room, bob, "hello yourself"))
	interior.wait("finance in good standing", func() bool {
		p := interior.peer(finance.name)
		return p.Reachable && p.Allowed && p.Failures == 0 && p.Answered > 0 && p.Heard > 0 && p.Accepted > 0 && p.Queue == 0 && p.Lagging == 0
	})
	p := interior.peer(finance.name)
	if p.Skew == nil || *p.Skew < -3000 || *p.Skew > 3000 {
		t.Errorf("clock skew: got %v, want about none", p.Skew)
	}
	if left := time.Until(time.UnixMilli(p.Certificate)); left < 30*time.Minute || left > 2*time.Hour {
		t.Errorf("certificate: good for %v, want about an hour", left)
	}

	// A server that is away.
	finance.stop()
	interior.say(room, alice, "are you there?")
	interior.wait("finance away", func() bool {
		p := interior.peer(finance.name)
		return !p.Reachable && p.Tried && p.Failures > 0 && p.RetryAt > 0 && p.Lagging == 1 && p.Failure != "" && p.Failed > 0
	})
	finance.start()
	interior.wait("finance back", func() bool {
		p := interior.peer(finance.name)
		return p.Reachable && p.Lagging == 0 && p.Failures == 0 && p.Failure == ""
	})

	// One whose events are no good.
	join := evil.joinBy(interior, id.RoomV11, room, mallory)
	create, levels := evil.stateIDs(interior, room, join)
	empty := ""
	draft := pdu.Draft{Type: "m.room.name", StateKey: &empty, Sender: mallory, RoomID: room, Content: json.RawMessage(`{"name":"mine"}`),
		PrevEvents: []id.EventID{join}, AuthEvents: []id.EventID{create, levels, join}, Depth: 100}
	rejected := evil.build(id.RoomV11, draft)
	draft.Type, draft.StateKey = "m.room.message", nil
	forged := json.RawMessage(strings.Replace(string(evil.build(id.RoomV11, draft)), `"depth":100`, `"depth":101`, 1))
	evil.send(interior, "1", rejected, forged)
	interior.set(room, alice, "m.room.member", string(mallory), `{"membership":"ban"}`)
	draft.Depth = 102
	evil.send(interior, "2", evil.build(id.RoomV11, draft))
	p = interior.peer(evil.name)
	if p.Rejected != 1 || p.SoftFailed != 1 || p.Dropped != 1 || len(p.Reasons) != 3 {
		t.Errorf("evil: got %d rejected, %d soft-failed, %d dropped for %v; want one of each, and reasons", p.Rejected, p.SoftFailed, p.Dropped, p.Reasons)
	}

	// All of them, a page at a time.
	var names []string
	for q := (bus.Peers{Limit: 1}); ; {
		answer, err := interior.federate(bus.FederationQuestion{Peers: &q})
		if err != nil {
			t.Fatal(err)
		}
		var list bus.PeerList
		if err := json.Unmarshal(answer.Body, &list); err != nil || list.Total != 2 {
			t.Fatalf("got %s and error %v, want two in all", answer.Body, err)
		}
		for _, p := range list.Peers {
			names = append(names, p.Server)
		}
		if q.After = list.Next; q.After == "" {
			break
		}
	}
	if got := strings.Join(names, ", "); got != "evil.example, finance.example" {
		t.Errorf("got %s", got)
	}
}

// send puts PDUs into a transaction, and gives the answer.
func (s *stranger) send(to *house, txn string, pdus ...json.RawMessage) json.RawMessage {
	s.Helper()
	status, code, body := s.ask(to, "PUT", []string{"v1", "send", txn}, map[string]any{
		"origin": s.name, "origin_server_ts": time.Now().UnixMilli(), "pdus": pdus,
	})
	if status != 200 {
		s.Fatalf("transaction %s: got %d %s", txn, status, code)
	}
	return body
}
