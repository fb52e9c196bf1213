package calls

import (
	"errors"
	"sync"
	"testing"
	"time"

	"chancery/calls/signal"
)

// TestJoinWhileTheRoomEnds: who comes as a room ends is sent to another one, or goes with it; nobody sits in a room that is over.
func TestJoinWhileTheRoomEnds(t *testing.T) {
	f, _ := newTestFocus(t)
	newcomer := func(r *Room) *Participant {
		p := newParticipant(r, &entry{claims: &Claims{}, join: &signal.Join{}, ruling: unbound}, true)
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
