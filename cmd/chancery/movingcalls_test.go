package main

import (
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// TestBrowserSeveralFoci takes away the process on which a call lives, under browsers: each is back on another within five
// seconds, with the token that it has.
func TestBrowserSeveralFoci(t *testing.T) {
	for _, c := range []struct {
		name, scenario string
		foci           int
		people         []string
		locked         bool // the first of them locks the call before
	}{
		{"killed", "homeKilled", 2, []string{"anna", "ben"}, false},
		{"drained", "homeDrained", 2, []string{"anna", "ben"}, false},
		{"stopped", "homeStopped", 2, []string{"anna", "ben"}, false},
		{"killed, of three with four people", "homeKilled", 3, []string{"anna", "ben", "carl", "dora"}, false},
		{"killed, the call locked", "homeKilled", 2, []string{"anna", "ben", "carl"}, true},
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
			controls := httptest.NewServer(h.controls(func() error {
				if !c.locked {
					return nil
				}
				_, err := first.SendStateEvent(t.Context(), room, event.Type{Type: "chancery.call.settings", Class: event.StateEventType}, "", map[string]any{"locked": true})
				return err
			}))
			defer controls.Close()
			callBrowsers(t, c.scenario, map[string]any{"urls": h.fronts(), "tokens": tokens, "controls": controls.URL})
		})
	}
}

// controls let a browser's driver take the home of the call away. Before that something else is done.
func (h *fociHouse) controls(before func() error) http.Handler {
	mux := http.NewServeMux()
	for what, do := range map[string]func() error{
		"kill":  func() error { h.foci[h.home()].kill(); return nil },
		"stop":  func() error { return h.foci[h.home()].cmd.Process.Signal(syscall.SIGTERM) },
		"drain": func() error { return h.drain(h.home(), "drain") },
	} {
		mux.HandleFunc("POST /"+what, func(w http.ResponseWriter, _ *http.Request) {
			err := before()
			if err == nil {
				err = do()
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	return mux
}

// drain readies a focus for its end, as an operator does.
func (h *fociHouse) drain(n int, verb string) error {
	return focusCommand(h.t.Context(), []string{"--config", h.foci[n].file, "--within", "0s", verb})
}
