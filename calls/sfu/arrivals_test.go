package sfu

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
)

// numbered is an arrivals whose timer never runs, what it has told, and a function that brings a packet of this transport-wide number.
func numbered(t *testing.T) (a *arrivals, told *[]*rtcp.TransportLayerCC, bring func(uint16)) {
	t.Helper()
	a, told = newArrivals(), new([]*rtcp.TransportLayerCC)
	a.BindRTCPWriter(interceptor.RTCPWriterFunc(func(said []rtcp.Packet, _ interceptor.Attributes) (int, error) {
		for _, p := range said {
			if p, ok := p.(*rtcp.TransportLayerCC); ok {
				*told = append(*told, p)
			}
		}
		return 0, nil
	}))
	a.timer, a.armed = time.NewTimer(time.Hour), true
	t.Cleanup(func() { _ = a.Close() })
	now, ext := a.began, make([]byte, 2)
	return a, told, func(number uint16) {
		now = now.Add(100 * time.Microsecond)
		binary.BigEndian.PutUint16(ext, number)
		a.noteNumber(1, ext, now)
	}
}

// The record takes time for each number that is passed over: however a publisher makes its numbers jump, they are few between two feedbacks.
func TestTransportNumbersThatJump(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		name string
		next func(i int, last uint16) uint16
	}{
		{"half of all at once", func(_ int, last uint16) uint16 { return last + 32767 }},
		{"to and fro", func(i int, last uint16) uint16 { return last + []uint16{32767, 32776}[i%2] }},
		{"back", func(_ int, last uint16) uint16 { return last - 5000 }},
		{"just so far", func(_ int, last uint16) uint16 { return last + maxSkipped }},
		{"just so far, to and fro", func(i int, last uint16) uint16 { return last + []uint16{maxSkipped, -maxSkipped & 0xffff}[i%2] }},
		{"small steps", func(_ int, last uint16) uint16 { return last + 50 }},
		{"any", func(int, uint16) uint16 { return uint16(r.Uint32()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _, bring := numbered(t)
			number, record := uint16(0), a.record
			bring(number)
			for round := range 20 {
				low, high, records, passed := 0, 0, 0, 0 // of the record, from where it was
				at := 0
				for i := range 500 {
					before, held := a.last, a.record.PacketsHeld()
					number = c.next(i, number)
					bring(number)
					switch {
					case a.record != record:
						record, low, high, at = a.record, 0, 0, 0
						records++
					case a.record.PacketsHeld() > held:
						at += int(int16(number - before))
						passed += max(at-high, low-at, 0)
						low, high = min(low, at), max(high, at)
						at = high
					}
				}
				if records > 1 || passed > 3*maxSkipped+500 {
					t.Fatalf("round %d: got %d records begun anew and %d numbers passed over, want at most 1 and about %d", round, records, passed, 3*maxSkipped)
				}
				a.tell()
			}
		})
	}
}

// A publisher that was away for a while, or numbers anew, is told of what comes then, and not that all between was lost.
func TestTransportNumbersGoOnAfterAJump(t *testing.T) {
	for _, c := range []struct {
		name  string
		first uint16 // after 99
		lost  int    // numbers of which is told that they did not come
		anew  bool
	}{
		{"a small hole", 300, 200, false},
		{"a large hole", 99 + maxSkipped, maxSkipped - 1, false},
		{"away", 20_000, 0, true},
		{"away for long", 40_000, 0, true},
		{"numbered anew", 60_000, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, told, bring := numbered(t)
			record := a.record
			for n := range uint16(100) {
				bring(n)
			}
			a.tell()
			for range 2 {
				for n := range uint16(100) {
					bring(c.first + n)
				}
				a.tell()
				c.first += 100
			}
			if anew := a.record != record; anew != c.anew {
				t.Errorf("got a record begun anew: %v, want %v", anew, c.anew)
			}
			came, lost := 0, 0
			for _, p := range *told {
				came += len(p.RecvDeltas)
				lost += int(p.PacketStatusCount) - len(p.RecvDeltas)
				if p.SenderSSRC != a.sender {
					t.Errorf("got feedback of %d, want of %d", p.SenderSSRC, a.sender)
				}
			}
			if last := (*told)[len(*told)-1]; came != 300 || lost != c.lost || last.BaseSequenceNumber != c.first-100 {
				t.Errorf("told of %d that came and %d that did not, last from %d on; want 300, %d and %d", came, lost, last.BaseSequenceNumber, c.lost, c.first-100)
			}
		})
	}
}

// Two jumps between two feedbacks: what comes after the second is told of after the feedback.
func TestTransportNumbersThatJumpTwice(t *testing.T) {
	a, told, bring := numbered(t)
	for _, n := range []uint16{1, 10_000, 20_000} {
		bring(n)
	}
	a.tell()
	bring(20_001)
	a.tell()
	var bases []uint16
	for _, p := range *told {
		bases = append(bases, p.BaseSequenceNumber)
	}
	if len(bases) != 2 || bases[0] != 10_000 || bases[1] != 20_001 {
		t.Errorf("told from %v on, want from 10000 and from 20001", bases)
	}
}

func TestTransportNumbersDoNotAllocate(t *testing.T) {
	_, _, bring := numbered(t)
	n := uint16(0)
	ten := func() {
		for range 10 {
			n++
			bring(n)
		}
	}
	for range 1 << 12 { // the record takes its memory as it fills
		ten()
	}
	if got := testing.AllocsPerRun(200, ten); got != 0 {
		t.Errorf("got %v allocations for ten packets, want none", got)
	}
}
