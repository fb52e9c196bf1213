package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"chancery/storage"
)

// What the user ignores, and what was there before the user blocked it, is not shown; it is when they change their mind.
func TestUnwelcomeInvites(t *testing.T) {
	h := newHouse(t)
	wish := func(typ, wishes string) {
		t.Helper()
		err := h.store.Do(t.Context(), func(ctx context.Context) error {
			return h.store.AccountData.Put(ctx, storage.AccountData{UserID: alice, Type: typ, Content: json.RawMessage(wishes)})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	since := next(h.answerTo(alice, ""))
	room := h.create(bob, "invite")
	h.member(room, bob, alice, "invite")
	for _, c := range []struct {
		name, typ, wishes string
		want              bool
	}{
		{"ignored", "org.matrix.msc4155.invite_permission_config", `{"ignored_users":["@b*"]}`, false},
		{"blocked", "org.matrix.msc4155.invite_permission_config", `{"blocked_servers":["*"]}`, false},
		{"neither", "org.matrix.msc4155.invite_permission_config", `{"blocked_servers":["other.example"]}`, true},
		{"all blocked", "m.invite_permission_config", `{"default_action":"block"}`, false},
		{"no longer", "m.invite_permission_config", `{}`, true},
	} {
		wish(c.typ, c.wishes)
		same(t, c.name+", at first", in(h.answerTo(alice, ""), "invite", room).Exists(), c.want)
		same(t, c.name+", since", in(h.answerTo(alice, since), "invite", room).Exists(), c.want)
	}
}

// An invite that was never shown, and is taken back, is no room that was left.
func TestUnwelcomeInviteTakenBack(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		for typ, wishes := range map[string]string{
			"m.ignored_user_list": `{"ignored_users":{"@bob:interior":{}}}`, "m.invite_permission_config": `{"default_action":"block"}`, "x": `{}`,
		} {
			t.Run(fmt.Sprint(typ, ", restarted ", restarted), func(t *testing.T) {
				h := newHouse(t)
				err := h.store.Do(t.Context(), func(ctx context.Context) error {
					return h.store.AccountData.Put(ctx, storage.AccountData{UserID: alice, Type: typ, Content: json.RawMessage(wishes)})
				})
				if err != nil {
					t.Fatal(err)
				}
				since := next(h.answerTo(alice, ""))
				room := h.create(bob, "invite")
				h.member(room, bob, alice, "invite")
				welcome := typ == "x"
				r := h.answerTo(alice, since)
				same(t, "invited", in(r, "invite", room).Exists(), welcome)
				h.member(room, bob, alice, "leave")
				if restarted {
					h.again()
				}
				same(t, "left", in(h.answerTo(alice, next(r)), "leave", room).Exists(), welcome)
				same(t, "left, in one answer", in(h.answerTo(alice, since), "leave", room).Exists(), welcome)
			})
		}
	}
}

// Whoever saw an invite, and then blocked or ignored its sender, is told when it is taken back: the room would stay among the invites.
func TestBlockedAfterTheInvite(t *testing.T) {
	for typ, wishes := range map[string]string{
		"m.ignored_user_list": `{"ignored_users":{"@bob:interior":{}}}`, "m.invite_permission_config": `{"default_action":"block"}`,
	} {
		t.Run(typ, func(t *testing.T) {
			h := newHouse(t)
			before := next(h.answerTo(alice, ""))
			room := h.create(bob, "invite")
			h.member(room, bob, alice, "invite")
			r := h.answerTo(alice, before)
			same(t, "invited", in(r, "invite", room).Exists(), true)
			err := h.store.Do(t.Context(), func(ctx context.Context) error {
				return h.store.AccountData.Put(ctx, storage.AccountData{UserID: alice, Type: typ, Content: json.RawMessage(wishes)})
			})
			if err != nil {
				t.Fatal(err)
			}
			r = h.answerTo(alice, next(r))
			h.member(room, bob, alice, "leave")
			same(t, "left", in(h.answerTo(alice, next(r)), "leave", room).Exists(), true)
			same(t, "left, to a device that never saw the invite", in(h.answerTo(alice, before), "leave", room).Exists(), false)
		})
	}
}
