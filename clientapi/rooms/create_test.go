package rooms_test

import (
	"testing"
)

func TestCreate(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	alice.put("/v3/profile/"+alice.id+"/displayname", m{"displayname": "Alice"}).ok()

	t.Run("presets", func(t *testing.T) {
		for _, c := range []struct{ preset, visibility, rule, guests, listed string }{
			{"", "", "invite", "can_join", "private"},
			{"", "public", "public", "", "public"},
			{"public_chat", "private", "public", "", "private"},
			{"private_chat", "public", "invite", "can_join", "public"},
		} {
			room := alice.create(m{"preset": c.preset, "visibility": c.visibility})
			alice.in(room, "state/m.room.join_rules").ok().has("join_rule", c.rule)
			if guests := alice.in(room, "state/m.room.guest_access/"); c.guests == "" {
				guests.fails(404, "M_NOT_FOUND") // which forbids them
			} else {
				guests.ok().has("guest_access", c.guests)
			}
			alice.in(room, "state/m.room.history_visibility").ok().has("history_visibility", "shared")
			alice.get("/v3/directory/list/room/"+room).ok().has("visibility", c.listed)
		}
	})
	t.Run("everything", func(t *testing.T) {
		room := alice.create(m{
			"name": "Cabinet", "topic": "Secrets", "room_alias_name": "cabinet", "invite": []string{bob.id}, "is_direct": true,
			"creation_content":             m{"type": "m.space", "room_version": "3", "creator": "@eve:interior"},
			"initial_state":                []m{{"type": "m.room.history_visibility", "content": m{"history_visibility": "joined"}}},
			"power_level_content_override": m{"invite": 50},
		})
		alice.in(room, "state/m.room.create").ok().has("type", "m.space").has("room_version", "11").has("creator", "")
		alice.in(room, "state/m.room.name").ok().has("name", "Cabinet")
		alice.in(room, "state/m.room.topic").ok().has("topic", "Secrets").has(`m\.topic.m\.text.0.body`, "Secrets")
		alice.in(room, "state/m.room.canonical_alias").ok().has("alias", "#cabinet:interior")
		alice.in(room, "state/m.room.history_visibility").ok().has("history_visibility", "joined")
		alice.in(room, "state/m.room.member/"+bob.id).ok().has("membership", "invite").has("is_direct", "true")
		alice.in(room, "state/m.room.member/"+alice.id).ok().has("membership", "join").has("displayname", "Alice")
		alice.in(room, "state/m.room.power_levels").ok().has("invite", "50").has("users.@alice:interior", "100").
			has(`events.org\.matrix\.msc3401\.call\.member`, "0")
		alice.get("/v3/directory/room/%23cabinet:interior").ok().has("room_id", room).has("servers.0", "interior")
	})
	t.Run("version 12", func(t *testing.T) {
		room := alice.create(m{"room_version": "12", "preset": "trusted_private_chat", "invite": []string{bob.id}})
		if len(room) != 44 {
			t.Errorf("room ID: got %q, want a hash", room)
		}
		alice.in(room, "state/m.room.create").ok().has("additional_creators.0", bob.id)
		alice.in(room, "state/m.room.create?format=event").ok().has("room_id", room)
		alice.in(room, "state/m.room.power_levels").ok().has("users", "{}").has(`events.m\.room\.tombstone`, "150")
	})
	t.Run("every version", func(t *testing.T) {
		for _, v := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
			room := alice.create(m{"room_version": v})
			alice.in(room, "state/m.room.create").ok().has("room_version", v)
			alice.send(room, "hello")
		}
	})
	t.Run("refusals", func(t *testing.T) {
		for _, c := range []struct {
			name    string
			body    any
			errcode string
		}{
			{"unknown version", m{"room_version": "nonsense"}, "M_UNSUPPORTED_ROOM_VERSION"},
			{"version is no text", m{"room_version": 1}, "M_BAD_JSON"},
			{"not JSON", "{", "M_NOT_JSON"},
			{"alias taken", m{"room_alias_name": "cabinet"}, "M_ROOM_IN_USE"},
			{"alias malformed", m{"room_alias_name": "a:b"}, "M_INVALID_PARAM"},
			{"unknown preset", m{"preset": "loud"}, "M_INVALID_PARAM"},
			{"unknown visibility", m{"visibility": "dim"}, "M_INVALID_PARAM"},
			{"invites nobody", m{"invite": []string{"bob"}}, "M_INVALID_PARAM"},
			{"R7 levels that lock out", m{"power_level_content_override": m{"users": m{}, "state_default": 100}}, "M_INVALID_ROOM_STATE"},
			{"R7 levels that are no numbers", m{"power_level_content_override": m{"ban": "50"}}, "M_INVALID_ROOM_STATE"},
			{"R7 state without content", m{"initial_state": []m{{"type": "m.room.name"}}}, "M_BAD_JSON"},
			{"R7 membership in initial state", m{"initial_state": []m{{"type": "m.room.member", "state_key": bob.id, "content": m{"membership": "join"}}}}, "M_INVALID_ROOM_STATE"},
		} {
			t.Run(c.name, func(t *testing.T) { alice.post("/v3/createRoom", c.body).fails(400, c.errcode) })
		}
		before := len(alice.get("/v3/joined_rooms").ok().body.Get("joined_rooms").Array())
		alice.post("/v3/createRoom", m{"power_level_content_override": m{"ban": "50"}})
		if after := len(alice.get("/v3/joined_rooms").ok().body.Get("joined_rooms").Array()); after != before {
			t.Errorf("a refused creation left a room: %d rooms before, %d after", before, after)
		}
	})
}
