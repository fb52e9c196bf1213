package sfu

import (
	"testing"
	"time"

	"github.com/pion/rtcp"
)

// TestRoundTrip: a receiver report tells the round trip by the sender report that it names, less the time that the subscriber kept it.
func TestRoundTrip(t *testing.T) {
	s, v := newStage(t, 1), &stream{}
	s.feed(t, 0, v.frame(true, 0, 1)...)
	now := time.Now()
	s.reports(t, 0, 7<<32, 1000, now)
	sent := s.down.senderReport(now)
	answer := func(middle, delay uint32, after time.Duration) {
		s.down.noteRoundTrip(&rtcp.ReceptionReport{SSRC: 7, LastSenderReport: middle, Delay: delay}, now.Add(after))
	}
	middle := uint32(sent.NTPTime >> 16)
	for _, c := range []struct {
		name   string
		middle uint32
		delay  uint32 // in parts of a second, 65536 of them
		after  time.Duration
		want   time.Duration
	}{
		{"of none yet", 0, 0, time.Second, 0},
		{"half a second kept", middle, 1 << 15, 580 * time.Millisecond, 80 * time.Millisecond},
		{"of an older report", middle - 1<<16, 0, time.Second, 80 * time.Millisecond},
		{"kept for longer than it took", middle, 1 << 16, 900 * time.Millisecond, 80 * time.Millisecond},
		{"hours", middle, 0, time.Hour, 80 * time.Millisecond},
		{"at once", middle, 0, 30 * time.Millisecond, 30 * time.Millisecond},
	} {
		answer(c.middle, c.delay, c.after)
		if got := s.down.RoundTrip(); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	s.down.feedback(&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{
		{SSRC: 7, FractionLost: 64, Jitter: 900}, {SSRC: 8, FractionLost: 255},
	}}, 7, nil)
	if n := s.down.Numbers(); s.down.Loss() != 25 || n.Jitter != 10*time.Millisecond {
		t.Errorf("got a loss of %d%% and a jitter of %v, want 25 and 10ms", s.down.Loss(), n.Jitter)
	}
}

// TestWhatIsTooOldIsNotSentAgain: of a packet that is gone from the cache a key frame is asked for instead; of one that was sent so
// often already nothing is.
func TestWhatIsTooOldIsNotSentAgain(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 100}
	s.feed(t, 0, v.frame(true, 0, 1)...)
	for range videoCache + 10 {
		s.feed(t, 0, v.frame(false, 0, 1)...)
	}
	ask := func(i int) (again, asks int) {
		sent, asked := len(s.out.packets), int(s.layers[0].numbers().KeyAsks)
		s.down.repair(s.out.packets[i].SequenceNumber, 0, make([]byte, receiveMTU+2))
		return len(s.out.packets) - sent, int(s.layers[0].numbers().KeyAsks) - asked
	}
	if again, asks := ask(2); again != 0 || asks != 1 {
		t.Errorf("too old: got %d packets and %d key frames asked for, want a key frame", again, asks)
	}
	for range 2 * maxRepairs {
		s.down.repaired.slots[int(s.out.packets[2].SequenceNumber)%videoCache].at -= 300
		ask(2)
	}
	if got := s.down.repaired.slots[int(s.out.packets[2].SequenceNumber)%videoCache].tries; got != maxRepairs {
		t.Errorf("too old: got %d questions that were heard, want %d", got, maxRepairs)
	}
	newest := len(s.out.packets) - 1
	if again, asks := ask(newest); again != 1 || asks != 0 {
		t.Errorf("new: got %d packets and %d key frames asked for, want the packet", again, asks)
	}
	for range 2 * maxRepairs {
		for i := range s.down.repaired.slots { // a round trip later
			s.down.repaired.slots[i].at -= 300
		}
		ask(newest)
	}
	if got := len(s.out.packets) - newest - 1; got != maxRepairs {
		t.Errorf("got the packet %d times, want at most %d", got, maxRepairs)
	}
}

// TestAskedForBeforeItCame: who asks for a packet that the publisher itself has to send again, and again when that is lost too, gets it.
func TestAskedForBeforeItCame(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 100}
	s.feed(t, 0, v.frame(true, 0, 1)...)
	late := v.frame(false, 0, 1)
	s.feed(t, 0, v.frame(false, 0, 1)...)
	missing := s.out.packets[len(s.out.packets)-1].SequenceNumber - 1
	ask := func() int {
		sent := len(s.out.packets)
		s.down.repair(missing, 0, make([]byte, receiveMTU+2))
		return len(s.out.packets) - sent
	}
	for range 2 * maxRepairs {
		if got := ask(); got != 0 {
			t.Fatalf("got %d packets before it came", got)
		}
	}
	s.feed(t, 0, late...) // and this is lost on its way to the subscriber
	if got := ask(); got != 1 {
		t.Errorf("got %d packets, want the one that was lost twice", got)
	}
}

// TestRepairsComeAfterTheVoice: on a narrow line repairs of a picture take a part of what the voices leave, and of one that has stopped nothing.
func TestRepairsComeAfterTheVoice(t *testing.T) {
	for _, c := range []struct {
		name        string
		bps, voice  int
		least, most int // bytes in ten seconds
	}{
		{"a voice that leaves half of the line", 100_000, 50_000, 10_000, 16_000},
		{"one that leaves little", 100_000, 95_000, 800, 2000},
		{"one that leaves nothing", 60_000, 75_000, 0, 200},
	} {
		d := newDrive(t, c.bps)
		d.audio.up.layers[0].Load().rates.usual.Store(int64(c.voice))
		d.link.estimate.bounded, d.link.estimate.bps = true, c.bps
		got := 0
		for range 100 {
			d.now += 100_000
			d.audio.up.layers[0].Load().lastPacket.Store(millis(d.time()))
			d.link.steerLocked(d.now, d.time())
			for d.link.mayRepair(100) {
				got += 100
			}
		}
		if got < c.least || got > c.most {
			t.Errorf("%s: got %d bytes of repairs, want %d to %d", c.name, got, c.least, c.most)
		}
	}
	s, v := newStage(t, 1), &stream{seq: 100}
	s.feed(t, 0, v.frame(true, 0, 1)...)
	s.down.setGrant(grant{layer: paused})
	sent := len(s.out.packets)
	if s.down.repair(s.out.packets[sent-1].SequenceNumber, 0, make([]byte, receiveMTU+2)); len(s.out.packets) != sent {
		t.Error("a picture that has stopped was repaired")
	}
}

// TestOldPacketsOfAnotherLayer: what is missing of a layer that is not shown any more needs no key frame, for the one that is has begun with one.
func TestOldPacketsOfAnotherLayer(t *testing.T) {
	s := newStage(t, 3)
	high, low := &stream{seq: 100}, &stream{seq: 9000, ts: 1e9}
	s.feed(t, 2, high.frame(true, 0, 3)...)
	s.feed(t, 2, high.frame(false, 0, 3)...)
	old := s.out.packets[len(s.out.packets)-1].SequenceNumber
	s.down.SetWish(Wish{Quality: 0})
	s.feed(t, 0, low.frame(true, 0, 3)...)
	for range videoCache {
		s.feed(t, 2, high.frame(false, 0, 3)...)
	}
	if got := s.down.current.Load(); got != 0 {
		t.Fatalf("got layer %d, want 0: the test tests nothing", got)
	}
	s.layers[0].lastAsk.Store(0)
	s.layers[0].askDue.Store(0)
	s.up.lastAsk.Store(0)
	before := asked(s, 0)
	s.down.repair(old, 0, make([]byte, receiveMTU+2))
	if got := asked(s, 0) - before; got != 0 {
		t.Errorf("got %d key frames asked for, want none", got)
	}
}

func TestRepairsDoNotAllocate(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 100}
	b := *s.down.binding.Load()
	b.numbers = s.down.extension(3)
	s.down.binding.Store(&b)
	s.link.suspect() // every packet is numbered
	s.feed(t, 0, v.frame(true, 0, 9)...)
	s.feed(t, 0, v.bare())
	late := v.bare()
	s.feed(t, 0, v.frame(false, 0, 1)...)
	s.feed(t, 0, late) // which went out as padding
	first := s.out.packets[0].SequenceNumber
	s.out.keep, s.out.count = false, 0
	buf, rounds := make([]byte, receiveMTU+2), 0
	ten := func() {
		rounds++
		if s.down.repaired != nil {
			clear(s.down.repaired.slots) // long after
			s.down.repaired.at = 0
		}
		s.down.repair(first, 1<<9-1, buf)
	}
	if got := testing.AllocsPerRun(200, ten); got > poolsEmpty {
		t.Errorf("got %v allocations for ten packets again, want none", got)
	}
	if s.out.count != 10*rounds {
		t.Errorf("got %d packets again, want %d: the test tests nothing", s.out.count, 10*rounds)
	}
}
