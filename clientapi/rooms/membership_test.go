package rooms_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/tidwall/gjson"

	"chancery/storage/bus"
)

// federation answers questions to other servers as the test says.
func (s *server) federation(answer func(bus.FederationQuestion) (bus.FederationAnswer, error)) {
	s.t.Helper()
	stop, err := bus.Answer(context.Background(), s.bus, bus.FederationDo,
		func(_ context.Context, _ string, q bus.FederationQuestion) (bus.FederationAnswer, error) {
			return answer(q)
		})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(stop)
}

func TestUnwelcomeInvites(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{})
	wish := func(typ string, wishes m) { t.Helper(); bob.put("/v3/user/"+bob.id+"/account_data/"+typ, wishes).ok() }
	refused := func() {
		t.Helper()
		alice.to(room, "invite", m{"user_id": bob.id}).fails(403, "M_INVITE_BLOCKED")
		alice.put("/v3/rooms/"+room+"/state/m.room.member/"+bob.id, m{"membership": "invite"}).fails(403, "M_INVITE_BLOCKED")
		alice.post("/v3/createRoom", m{"invite": []string{bob.id}}).fails(403, "M_INVITE_BLOCKED")
		alice.in(room, "state/m.room.member/"+bob.id).fails(404, "M_NOT_FOUND")
	}
	wish("m.invite_permission_config", m{"default_action": "block"})
	refused()
	wish("m.invite_permission_config", m{})
	wish("org.matrix.msc4155.invite_permission_config", m{"blocked_users": []string{"@al*:*"}})
	refused()
	wish("org.matrix.msc4155.invite_permission_config", m{"ignored_users": []string{"@al*:*"}})
	alice.to(room, "invite", m{"user_id": bob.id}).ok()
	alice.in(room, "state/m.room.member/"+bob.id).ok().has("membership", "invite")
}

func TestMembership(t *testing.T) {
	s := start(t)
	alice, bob, eve := s.register("alice"), s.register("bob"), s.register("eve")

	room := alice.create(m{"room_alias_name": "hall"})
	bob.join(room).fails(403, "M_FORBIDDEN")
	alice.to(room, "invite", m{"user_id": bob.id, "reason": "come"}).ok()
	alice.in(room, "state/m.room.member/"+bob.id).ok().has("membership", "invite").has("reason", "come")
	bob.post("/v3/join/%23hall:interior", m{}).ok().has("room_id", room)
	bob.join(room).ok() // again
	bob.get("/v3/joined_rooms").ok().has("joined_rooms.0", room)
	alice.in(room, "joined_members").ok().has(`joined.@bob:interior.display_name`, "bob")

	bob.to(room, "kick", m{"user_id": alice.id}).fails(403, "M_FORBIDDEN")
	alice.to(room, "kick", m{"user_id": eve.id}).fails(403, "M_FORBIDDEN")
	alice.to(room, "unban", m{"user_id": bob.id}).fails(403, "M_FORBIDDEN")
	alice.to(room, "kick", m{"user_id": bob.id, "reason": "out"}).ok()
	bob.sends(room, "m.room.message", m{"body": "x"}).fails(403, "M_FORBIDDEN")
	alice.to(room, "ban", m{"user_id": bob.id}).ok()
	alice.to(room, "invite", m{"user_id": bob.id}).fails(403, "M_FORBIDDEN")
	bob.join(room).fails(403, "M_FORBIDDEN")
	alice.to(room, "unban", m{"user_id": bob.id}).ok()
	bob.to(room, "leave", m{}).ok() // left already
	bob.to(room, "forget", m{}).ok()
	bob.in(room, "messages?dir=b").fails(403, "M_FORBIDDEN")

	alice.to(room, "forget", m{}).fails(400, "M_UNKNOWN")
	alice.to(room, "invite", m{}).fails(400, "M_MISSING_PARAM")
	alice.to(room, "invite", m{"user_id": "nobody"}).fails(400, "M_INVALID_PARAM")
	alice.to(room, "invite", m{"user_id": 5}).fails(400, "M_BAD_JSON")
	alice.post("/v3/join/nonsense", m{}).fails(400, "M_INVALID_PARAM")
	alice.post("/v3/join/%23nowhere:interior", m{}).fails(404, "M_NOT_FOUND")
	eve.to("!unknown:interior", "leave", m{}).fails(404, "M_NOT_FOUND")
	eve.sends("!unknown:interior", "m.room.message", m{}).fails(403, "M_FORBIDDEN")

	knockable := alice.create(m{"initial_state": []m{{"type": "m.room.join_rules", "content": m{"join_rule": "knock"}}}})
	eve.post("/v3/knock/"+knockable, m{"reason": "please"}).ok().has("room_id", knockable)
	alice.in(knockable, "state/m.room.member/"+eve.id).ok().has("membership", "knock")
	eve.post("/v3/knock/"+room, m{}).fails(403, "M_FORBIDDEN")

	// R4: nobody lets himself in.
	closed := alice.create(m{"initial_state": []m{{"type": "m.room.join_rules", "content": m{
		"join_rule": "restricted", "allow": []m{{"type": "m.room_membership", "room_id": room}}}}}})
	eve.join(closed).fails(403, "M_FORBIDDEN")
	eve.set(closed, "state/m.room.member/"+eve.id, m{"membership": "join", "join_authorised_via_users_server": alice.id}).fails(403, "M_FORBIDDEN")
	alice.to(room, "invite", m{"user_id": eve.id}).ok()
	eve.join(room).ok()
	eve.join(closed).ok()
	alice.in(closed, "state/m.room.member/"+eve.id).ok().has("join_authorised_via_users_server", alice.id)
	// R5
	eve.set(closed, "state/m.room.member/"+alice.id, m{"membership": "leave"}).fails(403, "M_FORBIDDEN")
	eve.set(closed, "state/m.room.create/", m{}).fails(400, "M_INVALID_PARAM")
}

func TestOtherServers(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	var asked []bus.FederationQuestion
	s.federation(func(q bus.FederationQuestion) (bus.FederationAnswer, error) {
		asked = append(asked, q)
		switch {
		case q.Invite != nil:
			return bus.FederationAnswer{Body: q.Invite.Event}, nil
		case q.QueryAlias != nil:
			return bus.FederationAnswer{Body: json.RawMessage(`{"room_id":"!far:finance","servers":["finance","treasury"]}`)}, nil
		case q.PublicRooms != nil:
			return bus.FederationAnswer{Body: json.RawMessage(`{"chunk":[{"room_id":"!far:finance"}]}`)}, nil
		}
		return bus.FederationAnswer{}, bus.Refuse(404, "M_NOT_FOUND", "no")
	})
	last := func() bus.FederationQuestion { return asked[len(asked)-1] }

	room := alice.create(m{"name": "Joint", "invite": []string{"@bob:finance"}, "is_direct": true})
	alice.in(room, "state/m.room.member/@bob:finance").ok().has("membership", "invite").has("is_direct", "true")
	stripped := map[string]bool{}
	for _, raw := range last().Invite.Stripped {
		stripped[gjson.GetBytes(raw, "type").Str] = true
	}
	for _, typ := range []string{"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member"} {
		if !stripped[typ] {
			t.Errorf("%s is missing in the stripped state: %v", typ, stripped)
		}
	}
	alice.to(room, "invite", m{"user_id": "@carol:finance"}).ok()
	alice.in(room, "state/m.room.member/@carol:finance").ok().has("membership", "invite")
	alice.set(room, "state/m.room.member/@dave:finance", m{"membership": "invite"}).ok()
	alice.in(room, "state/m.room.member/@dave:finance").ok().has("membership", "invite")

	alice.post("/v3/join/%23far:finance?via=elsewhere&server_name=further", m{}).fails(404, "M_NOT_FOUND")
	if got := last().Join; got == nil || got.RoomID != "!far:finance" || len(got.Servers) != 4 || got.Servers[0] != "finance" {
		t.Errorf("join: got %+v, want !far:finance through finance, treasury, elsewhere, further", got)
	}
	alice.post("/v3/knock/!x:finance?via=finance", m{}).fails(404, "M_NOT_FOUND")
	if last().Knock == nil {
		t.Errorf("knock: got %+v", last())
	}
	alice.get("/v3/directory/room/%23far:finance").ok().has("room_id", "!far:finance")
	alice.get("/v3/publicRooms?server=finance").ok().has("chunk.0.room_id", "!far:finance")
	alice.get("/v3/publicRooms?server=../etc").fails(400, "M_INVALID_PARAM")
}
