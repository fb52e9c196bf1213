package federation_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

// fill lets many users join a room, and puts other state into it.
func (h *house) fill(room id.RoomID, creator id.UserID, members, state int) {
	h.Helper()
	work := make(chan bus.Proposal)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for p := range work {
				if _, err := h.propose(room, p); err != nil {
					h.Error(err)
				}
			}
		})
	}
	for n := range members {
		key := string(h.user(fmt.Sprintf("member%d", n)))
		work <- bus.Proposal{Sender: id.UserID(key), Type: "m.room.member", StateKey: &key, Content: []byte(`{"membership":"join","displayname":"Member"}`)}
	}
	for n := range state {
		key := fmt.Sprint(n)
		work <- bus.Proposal{Sender: creator, Type: "test.state", StateKey: &key, Content: []byte(`{"some":"thing"}`)}
	}
	close(work)
	all.Wait()
}

// heap watches how far the memory in use grows, until it is stopped.
func heap() (stop func() uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := m.HeapInuse, m.HeapInuse
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
			}
		}
	}()
	return func() uint64 { close(end); <-ended; return most - before }
}

// greatJoin has a user of finance join a great room of interior while others on finance go on talking in another room.
func greatJoin(t *testing.T, members, state int) (took, p99 time.Duration, memory uint64) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.open("finance.example")
	alice, bob, carl := interior.account("alice"), finance.account("bob"), finance.account("carl")
	room := interior.room(id.RoomV11, alice, "public")
	interior.fill(room, alice, members-1, state-members)
	other := finance.room(id.RoomV11, carl, "public")

	var over atomic.Bool
	var times []time.Duration
	talk := make(chan struct{})
	go func() {
		defer close(talk)
		for !over.Load() {
			begun := time.Now()
			finance.say(other, carl, "meanwhile")
			times = append(times, time.Since(begun))
			time.Sleep(2 * time.Millisecond) // a talker's pace
		}
	}()
	stop := heap()
	begun := time.Now()
	finance.join(room, bob, interior)
	took = time.Since(begun)
	finance.say(room, bob, "here at once")
	over.Store(true)
	memory = stop()
	<-talk
	slices.Sort(times)
	p99 = times[len(times)*99/100]

	counts, _, err := finance.store.Memberships.Counts(t.Context(), room)
	if err != nil || counts != members+1 {
		t.Errorf("%d members are joined (%v), want %d", counts, err, members+1)
	}
	row, err := finance.store.Rooms.ByID(t.Context(), room)
	if err != nil || row == nil {
		t.Fatal(row, err)
	}
	refs, err := finance.store.State.Refs(t.Context(), row.State)
	if err != nil || len(refs) < state {
		t.Errorf("the state holds %d events (%v), want %d and a few", len(refs), err, state)
	}
	interior.wait("bob's join", func() bool { return interior.membership(room, bob) == event.MembershipJoin })
	t.Logf("%d members, %d state events: joined in %v; %d messages meanwhile in another room, p99 %v, slowest %v; %d MB more memory in both servers",
		members, state, took, len(times), p99, times[len(times)-1], memory>>20)
	return took, p99, memory
}

// busy is by how much this machine's other work stretches times, and the race detector.
func busy(t *testing.T) time.Duration {
	load := 0.0
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(raw), &load)
	}
	factor := time.Duration(max(1, load/float64(runtime.NumCPU()))) * slow
	if factor > 1 {
		t.Logf("load %v on %d processors, race detector %v: times may be %d times as long", load, runtime.NumCPU(), slow > 1, factor)
	}
	return factor
}

// thrice tries up to three times, for what a busy machine may spoil.
func thrice(t *testing.T, try func() error) {
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return
		}
		if t.Log(err); n == 3 {
			t.Fatal("three times in vain")
		}
	}
}

// TestJoinAGreatRoom joins a room of a thousand members. Nobody else waits for it.
func TestJoinAGreatRoom(t *testing.T) {
	thrice(t, func() error {
		factor := busy(t)
		took, p99, _ := greatJoin(t, 1000, 2000)
		if limit := 1500 * time.Millisecond * factor; took > limit {
			return fmt.Errorf("joining took %v, want less than %v", took, limit)
		}
		if limit := 100 * time.Millisecond * factor; p99 > limit {
			return fmt.Errorf("meanwhile one message in a hundred took %v or more in another room, want less than %v", p99, limit)
		}
		return nil
	})
}

// TestJoinAHugeRoom joins a room of twenty thousand members.
func TestJoinAHugeRoom(t *testing.T) {
	if testing.Short() || slow > 1 {
		t.Skip("twenty thousand joins")
	}
	thrice(t, func() error {
		factor := busy(t)
		took, p99, memory := greatJoin(t, 20_000, 21_000)
		if limit := 15 * time.Second * factor; took > limit {
			return fmt.Errorf("joining took %v, want less than %v", took, limit)
		}
		if limit := 100 * time.Millisecond * factor; p99 > limit {
			return fmt.Errorf("meanwhile one message in a hundred took %v or more in another room, want less than %v", p99, limit)
		}
		if limit := uint64(300 << 20); memory > limit {
			return fmt.Errorf("joining took %d MB, want less than %d", memory>>20, limit>>20)
		}
		return nil
	})
}
