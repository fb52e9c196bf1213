package calls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// strictHouse lets everybody in, and moderators alone where it is locked.
type strictHouse struct{ locked atomic.Bool }

func (h *strictHouse) admit(_ context.Context, c *Claims) (ruling, error) {
	return ruling{start: true, publish: true, locked: h.locked.Load(), moderate: strings.HasPrefix(string(c.user()), "@mod")}, nil
}

// seatToken is a token of a user's device, as it was given some time ago.
func seatToken(t *testing.T, user id.UserID, device id.DeviceID, again bool, ago time.Duration) string {
	t.Helper()
	key := tokens{key: testKey, secret: []byte(testSecret), now: func() time.Time { return time.Now().Add(-ago) }}
	token, err := key.sign(Claims{
		RegisteredClaims: jwt.RegisteredClaims{Subject: legacyIdentity(user, device)}, Video: Grant{Room: "room", RoomJoin: true},
		Matrix: &Matrix{User: user, Device: device, Room: "!room:x"}, Again: again,
	}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// enters opens a socket, and says how the focus received it: 0 is a welcome, another number the status of a refusal.
func enters(t *testing.T, base, token string) (ws *websocket.Conn, status int) {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.Dial(base+"/rtc?"+url.Values{"access_token": {token}}.Encode(), nil)
	if err != nil {
		if resp == nil {
			t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	t.Cleanup(func() { ws.Close() })
	if res, err := readResponse(ws); err != nil || res.GetJoin() == nil {
		t.Fatalf("got %v, %v, want a welcome", res, err)
	}
	return ws, 0
}

// TestWhoReturnsToALockedCall: a token that was given inside, lately, opens a locked call to its bearer, but not to one who has left some
// seconds ago, or was removed.
func TestWhoReturnsToALockedCall(t *testing.T) {
	house := &strictHouse{}
	f, base := newTestFocus(t)
	f.admit = house
	bob, _ := enters(t, base, seatToken(t, "@bob:x", "D", false, 0))
	enters(t, base, seatToken(t, "@cat:x", "D", false, 0))
	house.locked.Store(true)
	frame, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}}, false)
	if err == nil {
		err = bob.WriteMessage(websocket.BinaryMessage, frame)
	}
	if err != nil {
		t.Fatal(err)
	}
	room := f.liveRooms("room")[0]
	for deadline := time.Now().Add(patience); room.find("@bob:x:D") != nil; time.Sleep(time.Millisecond) { // until he is out
		if time.Now().After(deadline) {
			t.Fatal("bob is still in the call")
		}
	}
	left := func(ago time.Duration) {
		room.left.mu.Lock()
		defer room.left.mu.Unlock()
		room.left.known["@bob:x:D"] = leaver{time.Now().Add(-ago), room.left.known["@bob:x:D"].reason}
	}
	for _, c := range []struct {
		name   string
		user   id.UserID
		device id.DeviceID
		again  bool
		ago    time.Duration
		want   int
	}{
		{"a moderator", "@mod:x", "D", false, 0, 0},
		{"who is new", "@dan:x", "D", false, 0, 403},
		{"who was inside until now", "@eve:x", "D", true, insideFor - 10*time.Second, 0},
		{"who was inside before the clock was set back", "@ida:x", "D", true, -time.Hour, 0},
		{"who was inside some time ago", "@fay:x", "D", true, insideFor + 10*time.Second, 403},
		{"who takes the own place", "@cat:x", "D", false, 0, 0},
		{"who is in with another device", "@cat:x", "E", false, 0, 0},
	} {
		token := seatToken(t, c.user, c.device, c.again, c.ago)
		if _, got := enters(t, base, token); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
	his := seatToken(t, "@bob:x", "D", true, startsOver+10*time.Second)
	left(startsOver + time.Second)
	if _, got := enters(t, base, his); got != 403 {
		t.Errorf("who has left, with what he had inside: got %d, want 403", got)
	}
	left(startsOver / 2)
	if _, got := enters(t, base, his); got != 0 {
		t.Errorf("who took his leave to begin anew: got %d, want a welcome", got)
	}
	room.left.note("@gus:x:D", signal.DisconnectReason_PARTICIPANT_REMOVED.String(), time.Now())
	if _, got := enters(t, base, seatToken(t, "@gus:x", "D", true, 2*time.Second)); got != 403 {
		t.Errorf("who was removed: got %d, want 403", got)
	}
	if _, got := enters(t, base, seatToken(t, "@gus:x", "D", true, -time.Hour)); got != 403 {
		t.Errorf("who was removed, with what he had before the clock was set back: got %d, want 403", got)
	}
}

// TestTheSentOutHaveNoOtherName: somebody who was sent out of a locked call does not come back with what another device of theirs had, whose
// line was lost before. A device that was signed out is no reason to keep the others out.
func TestTheSentOutHaveNoOtherName(t *testing.T) {
	house := &strictHouse{}
	f, base := newTestFocus(t)
	f.admit = house
	enters(t, base, seatToken(t, "@ann:x", "D", false, 0))
	enters(t, base, seatToken(t, "@gus:x", "D", false, 0))
	enters(t, base, seatToken(t, "@ida:x", "D", false, 0))
	house.locked.Store(true)
	room := f.liveRooms("room")[0]
	f.command(t.Context(), "!room:x", policy.CallCommand{Do: policy.CallRemove, UserID: "@gus:x"})
	room.find("@ida:x:D").dismiss(t.Context())
	for deadline := time.Now().Add(patience); len(*room.everyone.Load()) > 1; time.Sleep(time.Millisecond) { // until both are out
		if time.Now().After(deadline) {
			t.Fatal("who was sent out is still in the call")
		}
	}
	if _, got := enters(t, base, seatToken(t, "@gus:x", "E", true, time.Minute)); got != 403 {
		t.Errorf("with another device's: got %d, want 403", got)
	}
	if _, got := enters(t, base, seatToken(t, "@ida:x", "E", true, time.Minute)); got != 0 {
		t.Errorf("where another device was signed out: got %d, want a welcome", got)
	}
}

// TestRecordsTellOfTheSentOut is the same where the focus that knew is no more.
func TestRecordsTellOfTheSentOut(t *testing.T) {
	l := newTestLeaves(t)
	now := time.Now()
	for name, c := range map[string]struct {
		removed time.Duration // ago, with another device
		again   bool
	}{"since it was inside": {10 * time.Second, false}, "before": {2 * time.Minute, true}} {
		user := id.NewUserID(strings.Fields(name)[0], "x")
		lost := storage.CallRecord{Session: name + " E", Call: "c", RoomID: "!room:x", UserID: user, DeviceID: "E", Focus: "FO_1", CallSID: "RM_1", Rule: "member",
			Joined: now.Add(-time.Hour).UnixMilli(), Ended: now.Add(-30 * time.Second).UnixMilli(), Reason: signal.DisconnectReason_SIGNAL_CLOSE.String()}
		removed := lost
		removed.Session, removed.DeviceID = name+" D", "D"
		removed.Ended, removed.Reason = now.Add(-c.removed).UnixMilli(), signal.DisconnectReason_PARTICIPANT_REMOVED.String()
		if err := l.house.store.CallRecords.Put(t.Context(), &lost, &removed); err != nil {
			t.Fatal(err)
		}
		claims := &Claims{
			RegisteredClaims: jwt.RegisteredClaims{NotBefore: jwt.NewNumericDate(now.Add(-time.Minute - tokenSkew))},
			Video:            Grant{Room: "c"}, Matrix: &Matrix{User: user, Device: "E", Room: "!room:x"}, Again: true,
		}
		if err := l.house.recall(t.Context(), claims); err != nil {
			t.Fatal(err)
		}
		if claims.Again != c.again {
			t.Errorf("sent out %s: may come back %v, want %v", name, claims.Again, c.again)
		}
	}
}

// TestOneUserTakesSomePlaces: what a device is called is the client's choice, and opens no more places of a call than a few.
func TestOneUserTakesSomePlaces(t *testing.T) {
	f, base := newTestFocus(t)
	f.admit = &strictHouse{}
	for n := range maxSessions {
		if _, got := enters(t, base, seatToken(t, "@eve:x", id.DeviceID(fmt.Sprint("D", n)), false, 0)); got != 0 {
			t.Fatalf("session %d: got %d, want a welcome", n, got)
		}
	}
	token := seatToken(t, "@eve:x", "E", false, 0)
	if _, got := enters(t, base, token); got != http.StatusServiceUnavailable {
		t.Errorf("one session more: got %d, want 503", got)
	}
	resp, err := http.Get("http" + strings.TrimPrefix(base, "ws") + "/rtc/validate?" + url.Values{"access_token": {token}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusServiceUnavailable || string(text) != errSessions.Error() {
		t.Errorf("asked why: got %d %q, want 503 %q", resp.StatusCode, text, errSessions)
	}
	if _, got := enters(t, base, seatToken(t, "@eve:x", "D3", false, 0)); got != 0 {
		t.Errorf("in place of one of them: got %d, want a welcome", got)
	}
	if _, got := enters(t, base, seatToken(t, "@ann:x", "D", false, 0)); got != 0 {
		t.Errorf("another user: got %d, want a welcome", got)
	}
}

// TestAllCallsTogetherAreBounded: a user has no more places in many calls than in a great one, and the focus has no more than it is given.
func TestAllCallsTogetherAreBounded(t *testing.T) {
	f, _ := newTestFocus(t, func(c *Config) { c.MaxTotalParticipants = maxPlaces + 2 })
	place := func(user id.UserID, device int) (*Participant, error) {
		claims := &Claims{Matrix: &Matrix{User: user, Device: id.DeviceID(fmt.Sprint("D", device)), Room: "!room:x"}}
		p := newParticipant(newRoom(f, fmt.Sprint("room ", device)), &entry{single: true, claims: claims, join: &signal.Join{}, ruling: unbound})
		return p, p.takePlace()
	}
	var eves []*Participant
	for n := range maxPlaces {
		p, err := place("@eve:x", n)
		if err != nil {
			t.Fatalf("place %d: %v", n, err)
		}
		eves = append(eves, p)
	}
	for _, c := range []struct {
		who  id.UserID
		want error
	}{{"@eve:x", errSessions}, {"@ann:x", nil}, {"@bob:x", nil}, {"@cat:x", errCrowded}} {
		if p, err := place(c.who, maxPlaces); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.who, err, c.want)
		} else if err != nil {
			p.leavePlace() // it has none
		}
	}
	eves[0].leavePlace()
	eves[0].leavePlace()
	if _, err := place("@eve:x", 0); err != nil {
		t.Errorf("a place that was left: got %v", err)
	}
	if _, err := place("@cat:x", 1); !errors.Is(err, errCrowded) {
		t.Errorf("one more: got %v, want %v", err, errCrowded)
	}
}

// TestOurUsersFindAPlace: guests of however many servers leave a quarter of the places to our own users.
func TestOurUsersFindAPlace(t *testing.T) {
	l := newTestLeaves(t)
	l.focus.config.MaxTotalParticipants = 8
	place := func(user id.UserID) (*Participant, error) {
		p := l.inRoom("!a:interior.test", user)
		return p, p.takePlace()
	}
	var guests []*Participant
	for n := range 9 {
		p, err := place(id.NewUserID("eve", fmt.Sprintf("evil%d.test", n%3)))
		if want := map[bool]error{true: errCrowded}[n >= 6]; !errors.Is(err, want) {
			t.Fatalf("guest %d: got %v, want %v", n, err, want)
		}
		if guests = append(guests, p); err != nil {
			p.leavePlace() // it has none
		}
	}
	if _, err := place("@ann:interior.test"); err != nil {
		t.Errorf("one of ours, beside as many guests as there may be: got %v", err)
	}
	guests[0].leavePlace()
	if _, err := place("@eve:evil0.test"); err != nil {
		t.Errorf("a guest, in the place of one who has left: got %v", err)
	}
	if _, err := place("@ben:interior.test"); err != nil {
		t.Errorf("another of ours: got %v", err)
	}
	if _, err := place("@cat:interior.test"); !errors.Is(err, errCrowded) {
		t.Errorf("one more: got %v, want %v", err, errCrowded)
	}
}

// TestTokensAreRefreshed: whoever is inside gets new tokens that say so and hold for a while, until it may no longer be there.
func TestTokensAreRefreshed(t *testing.T) {
	house := &fickleHouse{}
	f, base := newTestFocus(t)
	f.admit, f.refreshEvery = house, 20*time.Millisecond
	for _, c := range []struct {
		name string
		left time.Duration // of the first token
		want time.Duration
	}{
		{"a fresh token", time.Hour, time.Hour},
		{"one that is about to end", time.Minute, leastRefresh},
	} {
		t.Run(c.name, func(t *testing.T) {
			house.out.Store(false)
			old := seatToken(t, "@ann:x", "D", false, time.Hour-c.left)
			ws, _ := enters(t, base, old)
			first, err := f.tokens.verify(old)
			if err != nil {
				t.Fatal(err)
			}
			refreshed := func() (token string, leave *signal.Leave) {
				t.Helper()
				if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				for {
					res, err := readResponse(ws)
					if err != nil {
						return "", nil // closed
					}
					if res.GetRefreshToken() != "" || res.GetLeave() != nil {
						return res.GetRefreshToken(), res.GetLeave()
					}
				}
			}
			for n := range 4 { // the first comes with the welcome, the others by themselves
				token, leave := refreshed()
				if leave != nil || token == "" {
					t.Fatalf("token %d: got %v, want a token", n, leave)
				}
				got, err := f.tokens.verify(token)
				if err != nil {
					t.Fatal(err)
				}
				if left := time.Until(got.ExpiresAt.Time); left < c.want-5*time.Second || left > c.want+5*time.Second {
					t.Errorf("token %d holds for %v, want %v", n, left, c.want)
				}
				if !got.Again || !got.inside(time.Now()) || got.Subject != first.Subject || got.Video.Room != "room" || *got.Matrix != *first.Matrix || got.Video.RoomAdmin {
					t.Errorf("token %d: got %+v, want what the first one said, and that its bearer was inside", n, got)
				}
			}
			house.out.Store(true)
			asked := house.asked.Load()
			leave := (*signal.Leave)(nil)
			for token := "x"; token != ""; {
				token, leave = refreshed()
			}
			if leave.GetReason() != signal.DisconnectReason_PARTICIPANT_REMOVED || leave.GetAction() != signal.Leave_DISCONNECT {
				t.Errorf("no longer admitted: got %v, want PARTICIPANT_REMOVED", leave)
			}
			if house.asked.Load() == asked {
				t.Error("nobody was asked")
			}
			if token, _ := refreshed(); token != "" {
				t.Error("there is a token after the removal")
			}
		})
	}
}

// fickleHouse lets everybody in, until it does not.
type fickleHouse struct {
	out   atomic.Bool
	asked atomic.Int64
}

func (h *fickleHouse) admit(context.Context, *Claims) (ruling, error) {
	h.asked.Add(1)
	if h.out.Load() {
		return ruling{}, ErrNotAdmitted
	}
	return ruling{start: true, publish: true}, nil
}
