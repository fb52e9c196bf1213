package calls

import (
	"fmt"
	"runtime"
	"testing"
	"time"
	"weak"

	"chancery/calls/signal"
)

// TestTheDepartedKeepNobody: a track that has ended may stay in memory in a media section that nobody has used again, and its
// publisher with it, but nobody who was in the call when that publisher left, and nobody who was there when they left.
func TestTheDepartedKeepNobody(t *testing.T) {
	f, base := newTestFocus(t)
	bob := join(t, base, "room", "bob")
	var gone []weak.Pointer[Participant]
	enter := func(name string) *testClient {
		c := join(t, base, "room", name)
		f.mu.Lock()
		r := f.rooms["room"]
		f.mu.Unlock()
		gone = append(gone, weak.Make(r.find(name)))
		return c
	}
	leave := func(c *testClient, name string) {
		c.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
		bob.wait(name+"'s going", func(res *signal.Response) bool { return mentions(res, name, signal.Participant_DISCONNECTED) })
	}
	last, lastName := enter("ann"), "ann"
	last.publish("ann")
	bob.hears("ann")
	for i := range 4 { // each comes while the one before is still there
		name := fmt.Sprintf("guest%d", i)
		next := enter(name)
		leave(last, lastName)
		last, lastName = next, name
	}
	leave(last, lastName)
	for deadline := time.Now().Add(patience); ; {
		runtime.GC()
		kept := 0
		for _, p := range gone {
			if p.Value() != nil {
				kept++
			}
		}
		if kept <= 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d who have left are kept, want the publisher at most", kept, len(gone))
		}
		runtime.Gosched()
	}
}
