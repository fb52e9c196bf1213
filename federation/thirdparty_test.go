package federation_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
)

// TestInviteByAddress: an identity server learns that an invited address is bob's, tells bob's server, and that has the inviter's
// server make an invite of it. What the identity server did not sign makes none.
func TestInviteByAddress(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob, carl, here := interior.account("alice"), finance.account("bob"), finance.account("carl"), interior.account("here")
	room := interior.room(id.RoomV11, alice, "invite")
	identity := remote.GenerateKeys("identity.example")
	_, key := identity.Current()
	public := base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	for _, token := range []string{"token", "carls", "here"} {
		interior.set(room, alice, event.StateThirdPartyInvite.Type, token, `{"display_name":"B","public_key":"`+public+`","key_validity_url":"https://identity.example/valid"}`)
	}
	bind := func(h *house, user id.UserID, token string, keys *remote.Keys) int {
		t.Helper()
		signed, err := keys.Sign([]byte(`{"mxid":"` + string(user) + `","token":"` + token + `","more":"kept"}`))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := json.Marshal(map[string]any{"medium": "email", "address": "b@example.org", "mxid": user, "invites": []any{
			map[string]any{"medium": "email", "address": "b@example.org", "mxid": user, "room_id": room, "sender": alice, "signed": json.RawMessage(signed)},
		}})
		status, _ := h.raw("PUT", "/_matrix/federation/v1/3pid/onbind", "", body)
		return status
	}
	if status := bind(finance, bob, "token", identity); status != http.StatusOK {
		t.Errorf("bound: got %d, want 200", status)
	}
	if got := finance.membership(room, bob); got != event.MembershipInvite {
		t.Errorf("bob, at finance: got %q, want invite", got)
	}
	if got := interior.membership(room, bob); got != event.MembershipInvite {
		t.Errorf("bob, at interior: got %q, want invite", got)
	}
	finance.join(room, bob, interior)
	if status := bind(interior, here, "here", identity); status != http.StatusOK {
		t.Errorf("bound here: got %d, want 200", status)
	}
	if got := interior.membership(room, here); got != event.MembershipInvite {
		t.Errorf("one of interior's own: got %q, want invite", got)
	}
	bind(finance, carl, "carls", remote.GenerateKeys("identity.example"))
	bind(finance, carl, "unknown", identity)
	if got := interior.membership(room, carl); got != "" {
		t.Errorf("carl, whose address nobody vouched for: got %q, want none", got)
	}
	if status := bind(finance, "@nobody:finance.example", "carls", identity); status != http.StatusForbidden {
		t.Errorf("nobody: got %d, want 403", status)
	}
	if status := bind(finance, alice, "carls", identity); status != http.StatusForbidden {
		t.Errorf("another server's user: got %d, want 403", status)
	}
}
