package syncing

import (
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

func slideInvites(t *testing.T, h *house) {
	room := h.create(alice, "invite", bus.Proposal{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: content(`{"name":"Secret"}`)})
	knocking := h.create(alice, "knock")
	c := &slider{house: h, user: bob}
	ask := list(0, 9, 5, `["*","*"]`, "")
	same(t, "at first", c.slide(ask).Get("lists.all.count").Int(), int64(0))
	r := c.later(ask, func() { h.member(room, alice, bob, "invite") })
	same(t, "counted", r.Get("lists.all.count").Int(), int64(1))
	invite := slid(r, room)
	state := strings.Join(types(invite.Get("invite_state")), " ")
	for _, want := range []string{"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member @alice:interior", "m.room.member @bob:interior"} {
		if !strings.Contains(state, want) {
			t.Errorf("invite_state has no %s: %s", want, state)
		}
	}
	same(t, "no more is shown", fmt.Sprint(invite.Get("timeline").Exists(), invite.Get("required_state").Exists(), invite.Get("joined_count").Exists()), "false false false")
	same(t, "initial", invite.Get("initial").Bool(), true)
	same(t, "once", slid(c.slide(ask), room).Exists(), false)
	h.say(room, alice, "not for bob")
	same(t, "what is said inside is not told", slid(c.slide(ask), room).Exists(), false)
	h.member(room, bob, bob, "join")
	joined := slid(c.slide(ask), room)
	same(t, "joined", fmt.Sprint(joined.Get("initial").Bool(), joined.Get("invite_state").Exists(), joined.Get("name").Str), "true falseSecret")
	h.member(knocking, bob, bob, "knock")
	knock := slid(c.slide(ask), knocking)
	same(t, "knock", strings.Contains(strings.Join(types(knock.Get("invite_state")), " "), "m.room.member @bob:interior"), true)
	h.member(knocking, alice, bob, "leave")
	gone := slid(c.slide(ask), knocking)
	same(t, "knock refused", gone.Get(`required_state.#(type=="m.room.member").content.membership`).Str, "leave")
	same(t, "no history", len(texts(gone)), 1)
}

func slideLeaves(t *testing.T, h *house) {
	room, banned, rejected := h.create(alice, "public"), h.create(alice, "public"), h.create(alice, "invite")
	h.member(room, bob, bob, "join")
	h.member(banned, bob, bob, "join")
	h.member(rejected, alice, bob, "invite")
	c := &slider{house: h, user: bob}
	ask := list(0, 9, 5, `["m.room.topic",""]`, "")
	c.slide(ask)
	h.say(room, alice, "before")
	h.member(room, bob, bob, "leave")
	h.state(room, alice, "m.room.topic", "", content(`{"topic":"behind his back"}`))
	h.say(room, alice, "after")
	h.member(banned, alice, bob, "ban")
	h.say(banned, alice, "after")
	h.member(rejected, bob, bob, "leave")
	r := c.slide(ask)
	same(t, "told once more", roomIDs(r), sorted(room, banned, rejected))
	own := func(room id.RoomID) string {
		return slid(r, room).Get(`required_state.#(state_key=="@bob:interior").content.membership`).Str
	}
	same(t, "left", own(room), "leave")
	same(t, "banned", own(banned), "ban")
	same(t, "rejected", own(rejected), "leave")
	same(t, "up to the leave", texts(slid(r, room)), []string{"before", "m.room.member"})
	same(t, "up to the ban", texts(slid(r, banned)), []string{"m.room.member"})
	same(t, "of an invite only its end", texts(slid(r, rejected)), []string{"m.room.member"})
	same(t, "no later state", types(slid(r, room).Get("required_state")), []string{"m.room.member @bob:interior"})
	same(t, "and never again", roomIDs(c.slide(ask)), []string{})
	same(t, "who left has it in no list, who was banned does", c.slide(ask).Get("lists.all.count").Int(), int64(1))
	h.say(banned, alice, "later")
	same(t, "and hears nothing", roomIDs(c.slide(ask)), []string{})
	fresh := &slider{house: h, user: bob}
	r = fresh.slide(ask)
	same(t, "a new connection", roomIDs(r), sorted(banned))
}

func slideKickedAway(t *testing.T, h *house) {
	room := h.create(alice, "public", bus.Proposal{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: content(`{"name":"Then"}`)})
	h.member(room, bob, bob, "join")
	h.say(room, alice, "before")
	h.member(room, alice, bob, "leave")
	h.state(room, alice, "m.room.name", "", content(`{"name":"Now"}`))
	h.say(room, alice, "after")
	revoked := h.create(alice, "invite")
	h.member(revoked, alice, bob, "invite")
	h.member(revoked, alice, bob, "leave")
	c := &slider{house: h, user: bob}
	r := c.slide(list(0, 9, 2, `["m.room.name",""]`, ""))
	same(t, "rooms", roomIDs(r), sorted(room))
	kicked := slid(r, room)
	same(t, "as it was", kicked.Get("name").Str, "Then")
	same(t, "timeline", texts(kicked), []string{"before", "m.room.member"})
	same(t, "state", kicked.Get(`required_state.#(type=="m.room.name").content.name`).Str, "Then")
}

func slideFilters(t *testing.T, h *house) {
	event := func(typ, body string) bus.Proposal {
		return bus.Proposal{Sender: alice, Type: typ, StateKey: key(""), Content: content("%s", body)}
	}
	plain := h.create(alice, "public", event("m.room.name", `{"name":"Plain room"}`))
	secret := h.create(alice, "public", event("m.room.encryption", `{"algorithm":"m.megolm.v1.aes-sha2"}`))
	tagged := h.create(alice, "public")
	direct := h.create(alice, "public")
	space := h.createOf(alice, "m.space")
	h.state(space, alice, "m.space.child", string(plain), content(`{"via":["interior"]}`))
	h.state(space, alice, "m.space.child", string(tagged), content(`{}`))
	h.note(alice, tagged, "m.tag", `{"tags":{"m.favourite":{},"u.x":{}}}`)
	h.note(alice, "", "m.direct", fmt.Sprintf(`{"@bob:interior":[%q]}`, direct))
	other := h.create(bob, "invite")
	h.member(other, bob, alice, "invite")
	for filter, want := range map[string][]string{
		`{}`:                             sorted(plain, secret, tagged, direct, space, other),
		`{"is_dm":true}`:                 sorted(direct),
		`{"is_dm":false}`:                sorted(plain, secret, tagged, space, other),
		`{"is_encrypted":true}`:          sorted(secret),
		`{"is_encrypted":false}`:         sorted(plain, tagged, direct, space, other),
		`{"is_invite":true}`:             sorted(other),
		`{"is_invite":false}`:            sorted(plain, secret, tagged, direct, space),
		`{"room_types":["m.space"]}`:     sorted(space),
		`{"room_types":[null]}`:          sorted(plain, secret, tagged, direct, other),
		`{"not_room_types":["m.space"]}`: sorted(plain, secret, tagged, direct, other),
		`{"room_types":["m.space",null],"not_room_types":["m.space"]}`:                        sorted(plain, secret, tagged, direct, other),
		`{"room_name_like":"LAIN"}`:                                                           sorted(plain),
		`{"tags":["m.favourite"]}`:                                                            sorted(tagged),
		`{"tags":["m.favourite"],"not_tags":["u.x"]}`:                                         sorted(),
		`{"not_tags":["m.favourite"]}`:                                                        sorted(plain, secret, direct, space, other),
		fmt.Sprintf(`{"spaces":[%q]}`, space):                                                 sorted(plain),
		`{"spaces":["!none:interior"]}`:                                                       sorted(),
		`{"is_invite":false,"is_dm":false,"not_room_types":["m.space"],"is_encrypted":false}`: sorted(plain, tagged),
	} {
		c := &slider{house: h, user: alice}
		r := c.slide(list(0, 20, 1, "", `,"filters":`+filter))
		same(t, filter, roomIDs(r), want)
		same(t, filter+" counts", int(r.Get("lists.all.count").Int()), len(want))
	}
	// A filter sees what changes.
	c := &slider{house: h, user: alice}
	ask := list(0, 20, 1, "", `,"filters":{"is_encrypted":true}`)
	c.slide(ask)
	h.state(plain, alice, "m.room.encryption", "", content(`{"algorithm":"m.megolm.v1.aes-sha2"}`))
	same(t, "encrypted now", roomIDs(c.slide(ask)), sorted(plain))
	ask = list(0, 20, 1, "", `,"filters":{"tags":["u.new"]}`)
	d := &slider{house: h, user: alice}
	d.slide(ask)
	r := d.later(ask, func() { h.note(alice, plain, "m.tag", `{"tags":{"u.new":{}}}`) })
	same(t, "tagged now", fmt.Sprint(r.Get("lists.all.count").Int(), roomIDs(r)), fmt.Sprint(1, sorted(plain)))
}

func slideOrder(t *testing.T, h *house) {
	one, two, three := h.create(alice, "public"), h.create(alice, "public"), h.create(alice, "public")
	top := func(merged bool) []string {
		c := &slider{house: h, user: alice, merged: merged}
		if merged {
			return roomIDs(c.slide(`{"lists":{"all":{"range":[0,0],"timeline_limit":1,"required_state":{}}}}`))
		}
		return roomIDs(c.slide(list(0, 0, 1, "", "")))
	}
	same(t, "the newest", top(false), sorted(three))
	h.say(one, alice, "x")
	same(t, "who spoke last", top(false), sorted(one))
	h.state(two, alice, "m.room.topic", "", content(`{"topic":"x"}`))
	same(t, "a topic moves nothing", top(false), sorted(one))
	same(t, "but in the merged shape", top(true), sorted(two))
	c := &slider{house: h, user: alice}
	c.slide(list(0, 0, 1, "", ""))
	r := c.later(list(0, 0, 1, "", ""), func() { h.say(three, alice, "up") })
	same(t, "a room that comes into the window", roomIDs(r), sorted(three))
	same(t, "with its news", fmt.Sprint(texts(slid(r, three)), slid(r, three).Get("initial").Bool(), slid(r, three).Get("num_live").Int()), "[up] true 1")
	h.say(one, alice, "back")
	r = c.slide(list(0, 0, 1, "", ""))
	same(t, "and one that comes back is told what it missed", fmt.Sprint(texts(slid(r, one)), slid(r, one).Get("initial").Bool()), "[back] false")
	same(t, "several ranges", len(roomIDs((&slider{house: h, user: alice}).slide(`{"lists":{"all":{"ranges":[[0,0],[2,2]],"timeline_limit":1,"required_state":[]}}}`))), 2)
}

func slideRejoins(t *testing.T, h *house) {
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	c := &slider{house: h, user: bob}
	ask := list(0, 9, 3, memberAndCreate, "")
	c.slide(ask)
	h.member(room, bob, bob, "leave")
	h.say(room, alice, "unseen")
	h.member(room, bob, bob, "join")
	r := slid(c.slide(ask), room)
	same(t, "between two answers", r.Get("initial").Bool(), true)
	h.member(room, bob, bob, "leave")
	c.slide(ask)
	h.member(room, bob, bob, "join")
	same(t, "after it was told", slid(c.slide(ask), room).Get("initial").Bool(), true)
	h.propose(room, profile(bob, 3))
	same(t, "a profile is no joining", slid(c.slide(ask), room).Get("initial").Bool(), false)
}

func slideIgnores(t *testing.T, h *house) {
	room, other := h.create(alice, "public"), h.create(bob, "invite")
	h.member(room, bob, bob, "join")
	h.note(alice, "", "m.ignored_user_list", `{"ignored_users":{"@bob:interior":{}}}`)
	c := &slider{house: h, user: alice}
	ask := list(0, 9, 2, "", "")
	c.slide(ask)
	h.say(room, bob, "unheard")
	h.say(room, alice, "heard")
	h.member(other, bob, alice, "invite")
	r := c.slide(ask)
	same(t, "rooms", roomIDs(r), sorted(room))
	same(t, "timeline", texts(slid(r, room)), []string{"heard"})
}
