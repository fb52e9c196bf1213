package rooms_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestSend(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room, other := alice.create(m{"preset": "public_chat"}), alice.create(m{"preset": "public_chat"})
	bob.join(room).ok()

	t.Run("R8 one event of a transaction", func(t *testing.T) {
		var wg sync.WaitGroup
		ids := make([]string, 8)
		for i := range ids {
			wg.Add(1)
			go func() {
				defer wg.Done()
				ids[i] = alice.set(room, "send/m.room.message/same", m{"body": "once"}).str("event_id")
			}()
		}
		wg.Wait()
		for _, id := range ids {
			if id == "" || id != ids[0] {
				t.Fatalf("event IDs: got %q, want one", ids)
			}
		}
		if again := alice.set(room, "send/m.room.message/same", m{"body": "twice"}).ok().str("event_id"); again != ids[0] {
			t.Errorf("again: got %s, want %s", again, ids[0])
		}
		for name, id := range map[string]string{
			"another room": alice.set(other, "send/m.room.message/same", m{"body": "x"}).ok().str("event_id"),
			"another type": alice.set(room, "send/m.sticker/same", m{"body": "x"}).ok().str("event_id"),
			"another user": bob.set(room, "send/m.room.message/same", m{"body": "x"}).ok().str("event_id"),
		} {
			if id == ids[0] {
				t.Errorf("%s: got the same event", name)
			}
		}
	})
	t.Run("wrong input", func(t *testing.T) {
		for _, c := range []struct {
			name, body string
			code       int
			errcode    string
		}{
			{"not JSON", `{"body":`, 400, "M_NOT_JSON"},
			{"a list", `[]`, 400, "M_BAD_JSON"},
			{"a float", `{"n":1.5}`, 400, "M_BAD_JSON"},
			{"a huge integer", `{"n":9007199254740992}`, 400, "M_BAD_JSON"},
			{"no body", ``, 400, "M_NOT_JSON"},
			{"64 KiB and more", `{"body":"` + strings.Repeat("x", 65537) + `"}`, 413, "M_TOO_LARGE"},
		} {
			t.Run(c.name, func(t *testing.T) { alice.sends(room, "m.room.message", c.body).fails(c.code, c.errcode) })
		}
		alice.sends(room, strings.Repeat("x", 256), m{}).fails(413, "M_TOO_LARGE")
	})
	t.Run("state", func(t *testing.T) {
		first := alice.set(room, "state/m.room.topic", m{"topic": "one"}).ok().str("event_id")
		if same := alice.set(room, "state/m.room.topic/", m{"topic": "one"}).ok().str("event_id"); same != first {
			t.Errorf("the same state again: got %s, want %s", same, first)
		}
		alice.set(room, "state/org.test/a%2Fb", m{"x": 1}).ok()
		alice.in(room, "state/org.test/a%2Fb").ok().has("x", "1")
		alice.in(room, "state/org.test/a%2Fb?format=event").ok().has("state_key", "a/b").has("type", "org.test")
		alice.in(room, "state/org.test/nothing").fails(404, "M_NOT_FOUND")
		bob.set(room, "state/m.room.topic", m{"topic": "two"}).fails(403, "M_FORBIDDEN")
		bob.set(room, "state/org.matrix.msc3401.call.member/_@bob:interior_X", m{"x": 1}).ok()
		if all := alice.in(room, "state").ok().body.Array(); len(all) < 9 {
			t.Errorf("state: got %d events", len(all))
		}
	})
	t.Run("R2 power levels", func(t *testing.T) {
		levels := func(field, value string) string {
			return fmt.Sprintf(`{"users":{"@alice:interior":100},"state_default":0,%q:%s}`, field, value)
		}
		open := alice.create(m{"preset": "public_chat"})
		bob.join(open).ok()
		alice.set(open, "state/m.room.power_levels", `{"users":{"@alice:interior":100},"state_default":0}`).ok()
		for _, field := range []string{"users_default", "events_default", "ban", "kick", "redact", "invite"} {
			bob.set(open, "state/m.room.power_levels", levels(field, "60")).fails(403, "M_FORBIDDEN")
		}
		for _, value := range []string{`"50"`, `null`} {
			if got := alice.set(open, "state/m.room.power_levels", levels("ban", value)).code; got != 400 && got != 403 {
				t.Errorf("R3 level %s: got %d", value, got)
			}
		}
	})
	t.Run("redact", func(t *testing.T) {
		mine, his := alice.send(room, "mine"), bob.send(room, "his")
		bob.put(bob.event(room, mine, "redact")+"/r1", m{"reason": "no"}).fails(403, "M_FORBIDDEN")
		redaction := alice.put(alice.event(room, his, "redact")+"/r1", m{"reason": "no"}).ok().str("event_id")
		if again := alice.put(alice.event(room, his, "redact")+"/r1", nil).ok().str("event_id"); again != redaction {
			t.Errorf("again: got %s, want %s", again, redaction)
		}
		bob.get(bob.event(room, his, "event")).ok().has("content", "{}").has("unsigned.redacted_because.event_id", redaction)
		alice.put(alice.event(other, mine, "redact")+"/r2", m{}).fails(404, "M_NOT_FOUND") // V4
		alice.put(alice.event(room, "$notherebutthere", "redact")+"/r3", m{}).ok()         // others may have it
	})
	t.Run("one reaction of a kind", func(t *testing.T) {
		target := alice.send(room, "like me")
		like := m{"m.relates_to": m{"rel_type": "m.annotation", "event_id": target, "key": "+"}}
		id := alice.set(room, "send/m.reaction/l1", like).ok().str("event_id")
		alice.set(room, "send/m.reaction/l1", like).ok().has("event_id", id)
		alice.set(room, "send/m.reaction/l2", like).fails(400, "M_DUPLICATE_ANNOTATION")
		bob.set(room, "send/m.reaction/l2", like).ok()
		alice.put(alice.event(room, id, "redact")+"/l3", m{}).ok()
		alice.set(room, "send/m.reaction/l4", like).ok()
	})
	t.Run("canonical alias", func(t *testing.T) {
		set := func(content m) *answer { return alice.set(room, "state/m.room.canonical_alias", content) }
		alice.put("/v3/directory/room/%23here:interior", m{"room_id": room}).ok()
		alice.put("/v3/directory/room/%23here:interior", m{"room_id": room}).fails(409, "M_UNKNOWN")
		alice.put("/v3/directory/room/%23there:interior", m{"room_id": other}).ok()
		alice.put("/v3/directory/room/%23here:finance", m{"room_id": room}).fails(400, "M_INVALID_PARAM")
		set(m{"alias": "#there:interior"}).fails(400, "M_BAD_ALIAS")
		set(m{"alias": "#nowhere:interior"}).fails(400, "M_BAD_ALIAS")
		set(m{"alias": "here"}).fails(400, "M_INVALID_PARAM")
		set(m{"alias": 5}).fails(400, "M_INVALID_PARAM")
		set(m{"alias": "#here:interior", "alt_aliases": []any{"#there:interior"}}).fails(400, "M_BAD_ALIAS")
		set(m{"alias": "#here:interior", "alt_aliases": []any{"#here:interior"}}).ok()
		alice.in(room, "aliases").ok().has("aliases", `["#here:interior"]`)
		bob.do("DELETE", "/_matrix/client/v3/directory/room/%23here:interior", nil).fails(403, "M_FORBIDDEN")
		alice.do("DELETE", "/_matrix/client/v3/directory/room/%23here:interior", nil).ok()
		alice.in(room, "state/m.room.canonical_alias").ok().has("@this", "{}")
		alice.do("DELETE", "/_matrix/client/v3/directory/room/%23here:interior", nil).fails(404, "M_NOT_FOUND")
	})
}
