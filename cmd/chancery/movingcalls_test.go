package main

import (
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// TestBrowserSeveralFoci takes away the process on which a call lives, under browsers: each is back on another within five
// seconds, with the token that it has.
func TestBrowserSeveralFoci(t *testing.T) {
	for _, c := range []struct {
		name, scenario string
		foci           int
		people         []string
	}{
		{"killed", "homeKilled", 2, []string{"anna", "ben"}},
		{"drained", "homeDrained", 2, []string{"anna", "ben"}},
		{"stopped", "homeStopped", 2, []string{"anna", "ben"}},
		{"killed, of three with four people", "homeKilled", 3, []string{"anna", "ben", "carl", "dora"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			needBrowser(t, false)
			h := openFoci(t, c.foci)
			var room id.RoomID
			var first *mautrix.Client
			tokens := map[string]string{}
			for _, name := range c.people {
				who := signIn(t, h.config.Client.PublicURL, name)
				if first == nil {
					first = who
					room = must(who.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
				} else {
					must(who.JoinRoomByID(t.Context(), room))(t, "join room")
				}
				tokens[name] = h.token(who, room)
			}
			controls := httptest.NewServer(h.controls())
			defer controls.Close()
			callBrowsers(t, c.scenario, map[string]any{"urls": h.fronts(), "tokens": tokens, "controls": controls.URL})
		})
	}
}

// controls let a browser's driver take the home of the call away.
func (h *fociHouse) controls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /kill", func(http.ResponseWriter, *http.Request) { h.foci[h.home()].kill() })
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		if err := h.foci[h.home()].cmd.Process.Signal(syscall.SIGTERM); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, _ *http.Request) {
		if err := h.drain(h.home(), "drain"); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// drain readies a focus for its end, as an operator does.
func (h *fociHouse) drain(n int, verb string) error {
	return focusCommand(h.t.Context(), []string{"--config", h.foci[n].file, "--within", "0s", verb})
}
