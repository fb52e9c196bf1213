package calls

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"chancery/calls/signal"
)

// TestJoinWhileTheRoomEnds: who comes as a room ends is sent to another one, or goes with it; nobody sits in a room that is over.
func TestJoinWhileTheRoomEnds(t *testing.T) {
	f, _ := newTestFocus(t)
	newcomer := func(r *Room) *Participant {
		p := newParticipant(r, &entry{single: true, claims: &Claims{}, join: &signal.Join{}, ruling: unbound})
		p.identity = "ann"
		return p
	}
	ran := func(t *testing.T, r *Room) <-chan struct{} {
		done := make(chan struct{})
		go func() { defer close(done); r.run() }()
		return done
	}
	over := func(t *testing.T, done <-chan struct{}, what string) {
		t.Helper()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("%s: the room is still there after %v", what, patience)
		}
	}

	var all sync.WaitGroup
	for range 16 { // the room may take the join or its end first
		all.Go(func() {
			r := newRoom(f, "room")
			p := newcomer(r)
			result := make(chan error, 1)
			go func() {
				_, err := r.join(p, p.snapshot())
				result <- err
			}()
			for len(r.inbox) == 0 {
				time.Sleep(time.Millisecond)
			}
			r.end(signal.DisconnectReason_ROOM_CLOSED, signal.Leave_DISCONNECT)
			done := ran(t, r)
			if err := <-result; !errors.Is(err, errNoRoom) {
				t.Errorf("a join that waited: got %v, want %v", err, errNoRoom)
				r.leave(p, 0)
			}
			over(t, done, "a join that waited")
		})
	}
	all.Wait()

	r := newRoom(f, "room")
	p := newcomer(r)
	r.members[p.identity] = p.snapshot() // it has come in, and the end did not see it yet
	r.end(signal.DisconnectReason_ROOM_DELETED, signal.Leave_DISCONNECT)
	done := ran(t, r)
	select {
	case <-p.done:
		if p.because.reason != signal.DisconnectReason_ROOM_DELETED {
			t.Errorf("got reason %v, want %v", p.because.reason, signal.DisconnectReason_ROOM_DELETED)
		}
	case <-time.After(patience):
		t.Errorf("one who had just come in was told nothing within %v", patience)
	}
	r.leave(p, p.because.reason)
	over(t, done, "one who had just come in")
}

// TestTheRemovedLeaveNoPlace: who is sent away while busy has no place left that a session of the same name could take.
func TestTheRemovedLeaveNoPlace(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason signal.DisconnectReason
		want   error
	}{
		{"removed", signal.DisconnectReason_PARTICIPANT_REMOVED, errLocked},
		{"still there", signal.DisconnectReason_UNKNOWN_REASON, nil},
		{"timed out", signal.DisconnectReason_CONNECTION_TIMEOUT, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _ := newTestFocus(t)
			r := newRoom(f, "room")
			done := make(chan struct{})
			go func() { defer close(done); r.run() }()
			locked := unbound
			locked.locked = true
			claims := &Claims{Again: true, RegisteredClaims: jwt.RegisteredClaims{Subject: "ann", NotBefore: jwt.NewNumericDate(time.Now().Add(-tokenSkew - time.Second))}}
			session := func() *Participant {
				return newParticipant(r, &entry{single: true, claims: claims, join: &signal.Join{}, ruling: locked})
			}
			old, again := session(), session()
			r.ask(func() { r.members["ann"] = old.snapshot(); r.setEveryone() })
			if c.reason != signal.DisconnectReason_UNKNOWN_REASON {
				old.end(c.reason, signal.Leave_DISCONNECT)
			}
			if _, err := r.join(again, again.snapshot()); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			r.end(signal.DisconnectReason_ROOM_CLOSED, signal.Leave_DISCONNECT)
			r.leave(old, 0)
			r.leave(again, 0)
			<-done
		})
	}
}
