package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/clientapi"
	"chancery/storage"
	"chancery/storage/bus"
)

// keptSeat is somebody alone in a call.
type keptSeat struct {
	who    *mautrix.Client
	room   id.RoomID
	caller *caller
}

// ended waits until the focus has sent the caller away, and gives its word.
func (s *keptSeat) ended(t *testing.T) *signal.Leave {
	t.Helper()
	select {
	case <-s.caller.gone:
		return s.caller.because
	case <-time.After(patience):
		t.Fatalf("%s is still in the call", s.who.UserID)
		return nil
	}
}

// TestSeveralFociAreKeptAsOne: two processes with a call on each are one to an administrator: both calls are listed, wishes
// reach the right one, and what was there is remembered of both.
func TestSeveralFociAreKeptAsOne(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three processes")
	}
	h := openFoci(t, 2)
	house := &testHouse{t: t, config: h.config, url: h.config.Client.PublicURL}
	root := house.administrator("root")
	public := "ws" + strings.TrimPrefix(h.config.Calls.URL, "http")
	var seats []*keptSeat
	for _, name := range []string{"anna", "ben"} {
		s := &keptSeat{who: house.person(name)}
		s.room = must(s.who.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
		s.caller = must(enter(t.Context(), public, h.token(s.who, s.room)))(t, name+" enters")
		t.Cleanup(s.caller.drop)
		if err := s.caller.publish(name, false); err != nil {
			t.Fatalf("%s publishes: %v", name, err)
		}
		seats = append(seats, s)
	}
	// The first focus was asked for both; the second call went to the one that carries less.
	for n := range h.foci {
		if rooms := h.gauge(n, "chancery_calls_rooms"); rooms != "1" {
			t.Errorf("focus %d: chancery_calls_rooms is %s, want 1", n, rooms)
		}
	}

	// Both are listed: by the admin API, by its page's list at the client process, and each with its own focus.
	live := func(path string) []bus.LiveCall {
		var list struct{ Calls []bus.LiveCall }
		do(t, root, "GET", path, nil, &list)
		return list.Calls
	}
	both := live("/_chancery/admin/v1/calls")
	if len(both) != 2 || both[0].Focus == both[1].Focus || both[0].Focus == "" {
		t.Fatalf("the admin API lists %+v, want a call on each of two foci", both)
	}
	said, err := askCalls(t.Context(), h.rest.admin(), "GET", "/calls/list", nil)
	var page callList
	if err != nil || json.Unmarshal(said, &page) != nil || len(page.Calls) != 2 {
		t.Errorf("the page's list has %s (%v), want both calls", said, err)
	}
	for n, focus := range h.foci {
		said, err := askCalls(t.Context(), focus.admin(), "GET", "/calls/list", nil)
		var own callList
		if err != nil || json.Unmarshal(said, &own) != nil || len(own.Calls) != 1 {
			t.Errorf("focus %d itself lists %s (%v), want its own call", n, said, err)
		}
	}
	focusOf := func(s *keptSeat) string {
		at := slices.IndexFunc(both, func(c bus.LiveCall) bool { return c.RoomID == s.room })
		if at < 0 {
			t.Fatalf("no call of %s in %+v", s.room, both)
		}
		return both[at].Focus
	}

	// Each wish reaches the call that it means, and leaves the other alone.
	roomPath := func(s *keptSeat) string {
		return "/_chancery/admin/v1/rooms/" + url.PathEscape(string(s.room)) + "/call"
	}
	for _, s := range seats {
		var done struct{ Done int }
		do(t, root, "POST", roomPath(s)+"/mute", map[string]any{"user_id": s.who.UserID}, &done)
		if done.Done != 1 {
			t.Errorf("mute of %s: got %d, want 1", s.who.UserID, done.Done)
		}
		muted := func() bool {
			var one struct{ Calls []bus.LiveCall }
			do(t, root, "GET", roomPath(s), nil, &one)
			return len(one.Calls) == 1 && len(one.Calls[0].Participants) == 1 && len(one.Calls[0].Participants[0].Tracks) == 1 &&
				one.Calls[0].Participants[0].Tracks[0].Muted && one.Calls[0].Participants[0].Tracks[0].Silenced
		}
		for deadline := time.Now().Add(patience); !muted(); time.Sleep(50 * time.Millisecond) { // until it was measured again
			if time.Now().After(deadline) {
				t.Fatalf("%s's track is not muted: %+v", s.who.UserID, live("/_chancery/admin/v1/calls"))
			}
		}
	}
	var done struct{ Done int }
	do(t, root, "POST", roomPath(seats[0])+"/remove", map[string]any{"user_id": seats[1].who.UserID}, &done)
	if done.Done != 0 {
		t.Errorf("remove of somebody who is in another call: got %d, want 0", done.Done)
	}
	do(t, root, "POST", roomPath(seats[0])+"/remove", map[string]any{"user_id": seats[0].who.UserID}, &done)
	if because := seats[0].ended(t); done.Done != 1 || because.GetReason() != signal.DisconnectReason_PARTICIPANT_REMOVED {
		t.Errorf("remove: got %d, %v, want 1 and PARTICIPANT_REMOVED", done.Done, because)
	}
	if because, out := seats[1].caller.out(); out {
		t.Fatalf("%s is out too: %v", seats[1].who.UserID, because)
	}
	if said, err := askCalls(t.Context(), h.rest.admin(), http.MethodPost, "/calls", clientapi.CallWish{Do: "end", Room: string(seats[1].room)}); err != nil || string(said) != "end: 1\n" {
		t.Errorf("end: got %s (%v)", said, err)
	}
	if because := seats[1].ended(t); because.GetReason() != signal.DisconnectReason_ROOM_DELETED {
		t.Errorf("end: got %v, want ROOM_DELETED", because)
	}

	// What is remembered names the focus of each.
	for _, s := range seats {
		var records struct{ Records []storage.CallRecord }
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // until it is written
			do(t, root, "GET", "/_chancery/admin/v1/calls/records?room_id="+url.QueryEscape(string(s.room)), nil, &records)
			if len(records.Records) == 1 && records.Records[0].Ended != 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("records of %s: got %+v, want one that has ended", s.room, records.Records)
			}
		}
		if r := records.Records[0]; r.UserID != s.who.UserID || r.Focus != focusOf(s) || r.Kinds != "microphone" {
			t.Errorf("got %+v, want %s on %s with a microphone", r, s.who.UserID, focusOf(s))
		}
	}
}
