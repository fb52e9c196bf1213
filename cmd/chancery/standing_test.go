package main

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix"

	"chancery/calls/signal"
)

// TestStandingAcrossProcesses changes how accounts stand in one process, and looks at the others: the focus, and the process where a sync waits.
func TestStandingAcrossProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three processes")
	}
	h := openFoci(t, 1, func(c *Config) { c.Client.Account.Validity.Period = 1000 * time.Hour })
	second := h.config
	second.Listen.Client = loopback("tcp", 0)
	another := newProcess(t, second, "client")
	another.start()
	house := &testHouse{t: t, config: h.config, url: h.config.Client.PublicURL}
	root, anna := house.administrator("root"), house.person("anna")
	root.HomeserverURL.Host = second.Listen.Client
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	for _, c := range []struct {
		name, method, path string
		content            map[string]any
		code               string // what a sync says that waits, where it hears of it
	}{
		{"expired", "POST", "/_synapse/client/email_account_validity/admin", map[string]any{"expiration_ts": 1}, "ORG_MATRIX_EXPIRED_ACCOUNT"},
		{"locked", "PUT", "/_synapse/admin/v2/users/", map[string]any{"locked": true}, ""},
		{"deactivated", "POST", "/_synapse/admin/v1/deactivate/", map[string]any{}, "M_UNKNOWN_TOKEN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			who := house.person(c.name)
			must(who.JoinRoomByID(t.Context(), room))(t, "join room")
			token := h.token(who, room)
			ws := enterCall(t, h.socket(0), token)
			first := must(who.FullSyncRequest(t.Context(), mautrix.ReqSync{}))(t, "sync")
			waits := make(chan error, 1)
			go func() {
				since := first.NextBatch
				for { // what comes of the join and the call is no end
					next, err := who.FullSyncRequest(t.Context(), mautrix.ReqSync{Since: since, Timeout: 30_000})
					if err != nil {
						waits <- err
						return
					}
					since = next.NextBatch
				}
			}()
			path, begun := c.path, time.Now()
			if path[len(path)-1] == '/' {
				path += string(who.UserID)
			} else {
				c.content["user_id"] = who.UserID
			}
			do(t, root, c.method, path, c.content, nil)
			if reason := sentAway(t, ws); reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
				t.Errorf("got reason %v, want PARTICIPANT_REMOVED", reason)
			}
			if took := time.Since(begun); took > time.Second {
				t.Errorf("the session ended after %v, want within a second", took)
			}
			if _, err := who.Whoami(t.Context()); err == nil {
				t.Error("the session at the other process goes on")
			}
			if c.code == "" {
				return
			}
			select {
			case err := <-waits:
				var refusal mautrix.HTTPError
				if !errors.As(err, &refusal) || refusal.RespError == nil || refusal.RespError.ErrCode != c.code {
					t.Errorf("the sync that waited: got %v, want %s", err, c.code)
				}
			case <-time.After(10 * time.Second):
				t.Error("the sync still waits")
			}
		})
	}
	// What was renewed in one process is good in the other.
	back := house.person("back")
	for _, content := range []map[string]any{{"expiration_ts": 1}, {}} {
		content["user_id"] = back.UserID
		do(t, root, "POST", "/_synapse/client/email_account_validity/admin", content, nil)
		_, err := back.Whoami(t.Context())
		if expired := errors.Is(err, mautrix.RespError{ErrCode: "ORG_MATRIX_EXPIRED_ACCOUNT", StatusCode: http.StatusForbidden}); expired != (content["expiration_ts"] != nil) {
			t.Errorf("after %v: got %v", content, err)
		}
	}
}
