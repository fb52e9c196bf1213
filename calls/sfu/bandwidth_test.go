package sfu

import (
	"slices"
	"testing"
	"time"

	"github.com/pion/rtp"

	"chancery/calls/packet"
)

// road is a line that carries so much, queues for so long, and loses what comes on top.
type road struct {
	bps     int
	queue   int64 // microseconds that it can hold
	loss    int   // one packet in so many is lost, 0: none
	free    int64 // when it has sent all that it was given
	count   int
	pending []onRoad
	longer  int64 // microseconds that the way takes beyond oneWay
	clock   int64 // what the receiver's clock shows at the beginning
}

type onRoad struct {
	seq     uint16
	at      int64 // arrival
	arrived bool
}

const oneWay = 20_000

func (r *road) send(seq uint16, size int, now int64) {
	r.count++
	if r.bps == 0 {
		r.free = now
	}
	start := max(r.free, now)
	if start-now > r.queue || r.loss > 0 && r.count%r.loss == 0 {
		r.pending = append(r.pending, onRoad{seq: seq, at: now})
		return
	}
	r.free = start
	if r.bps > 0 {
		r.free += int64(size) * 8 * 1_000_000 / int64(r.bps)
	}
	r.pending = append(r.pending, onRoad{seq: seq, at: r.free + oneWay + r.longer, arrived: true})
}

// drive runs the controller of one subscriber with three layers of video and a voice over a road, in simulated time.
type drive struct {
	link  *Downlink
	up    *UpTrack
	down  *DownTrack
	road  *road
	now   int64
	seq   uint16
	least [MaxLayers]int // bps of the layers
	voice int
	audio *DownTrack
	told  []bool
	padN  int
	quiet []*UpTrack // others of which nothing comes
	lumps int64      // microseconds from one picture to the next; 0: they come evenly
}

func newDrive(t *testing.T, bps int) *drive {
	t.Helper()
	d := &drive{road: &road{bps: bps, queue: 600_000, clock: 77_000_000}, least: [MaxLayers]int{150_000, 450_000, 1_700_000}, voice: 40_000}
	s := newStage(t, 3)
	d.link, d.up, d.down = s.link, s.up, s.down
	d.link.cfg.Paused = func(_ string, paused bool) { d.told = append(d.told, paused) }
	d.down.binding.Store(&binding{writer: padWriter{d}, ssrc: 7, payload: 120, rtxSSRC: 8, rtx: 121, numbers: d.down.extension(3)})
	voice := newUpTrack(s.mouth, nil, false, [MaxLayers]Size{})
	t.Cleanup(voice.Close)
	l := newLayer(voice, 0, 99, vp8.RTPCodecCapability)
	l.rates.usual.Store(int64(d.voice))
	voice.layers[0].Store(l)
	d.audio = NewDownTrack(voice, d.link, "TR_A", "PA_1")
	d.audio.Start()
	for i, l := range s.layers {
		l.rates.usual.Store(int64(d.least[i]))
		l.rates.shares.Store(50 | 75<<8 | 100<<16 | 100<<24)
	}
	d.down.current.Store(2)
	return d
}

// sending is what the video takes of the line at the moment.
func (d *drive) sending() int {
	target := int(d.down.target.Load())
	if target == paused {
		return 0
	}
	d.down.current.Store(int32(target))
	share := 100
	switch d.down.maxTID.Load() {
	case 0:
		share = 50
	case 1:
		share = 75
	}
	return d.least[target] * share / 100
}

// run lets the given time pass and calls each with every tenth of a second.
func (d *drive) run(length time.Duration, each func(second float64)) {
	const tick = 5_000
	video, voice := 0.0, 0.0
	for end := d.now + length.Microseconds(); d.now < end; d.now += tick {
		if d.voice > 0 {
			d.audio.up.layers[0].Load().lastPacket.Store(millis(d.time()))
		}
		video += float64(d.sending()) * tick / 8e6
		for due := d.lumps == 0 || d.now%d.lumps == 0; due && video >= 1000; video -= 1000 {
			d.packet(1000, false)
		}
		voice += float64(d.voice) * tick / 8e6
		for ; voice >= 100; voice -= 100 {
			d.packet(100, false)
		}
		if d.now%100_000 == 0 {
			d.feedback()
			if each != nil {
				each(float64(d.now) / 1e6)
			}
		}
		if d.now%100_000 == 0 || d.link.estimate.probe.running() {
			d.link.steerLocked(d.now, d.time())
		}
	}
}

// time is what everybody's clock shows.
func (d *drive) time() time.Time { return d.link.began.Add(time.Duration(d.now) * time.Microsecond) }

// others brings tracks of so many bits in a second, of which nothing comes any more.
func (d *drive) others(t *testing.T, n, bps int, video bool) {
	for range n {
		up := newUpTrack(d.up.up, nil, video, [MaxLayers]Size{})
		t.Cleanup(up.Close)
		l := newLayer(up, 0, 98, vp8.RTPCodecCapability)
		l.rates.usual.Store(int64(bps))
		up.layers[0].Store(l)
		down := NewDownTrack(up, d.link, "TR_O", "PA_1")
		down.binding.Store(&binding{writer: padWriter{d}, ssrc: 17, payload: 120})
		down.Start()
		d.quiet = append(d.quiet, up)
	}
}

func (d *drive) packet(size int, probe bool) {
	if !d.link.estimate.wants(d.now) {
		d.road.send(0, size, d.now)
		d.road.pending = d.road.pending[:len(d.road.pending)-1] // nobody tells of it
		return
	}
	d.link.next++
	d.seq = d.link.next
	d.link.estimate.note(d.seq, size, d.now, probe)
	d.road.send(d.seq, size, d.now)
}

func (d *drive) feedback() {
	r := feedbackRound{least: noDelay}
	keep := d.road.pending[:0]
	for _, p := range d.road.pending {
		if p.at+oneWay > d.now {
			keep = append(keep, p)
			continue
		}
		d.link.estimate.arrival(p.seq, p.arrived, (p.at+d.road.clock)%packet.ClockRound, &r) // another clock
	}
	d.road.pending = keep
	if d.link.estimate.hear(d.now, &r) {
		d.link.steerLocked(d.now, d.time())
	}
}

func TestAWideLineStaysOpen(t *testing.T) {
	d := newDrive(t, 0)
	d.road.loss = 20 // five percent, of the air
	d.run(20*time.Second, func(second float64) {
		if n := d.link.Numbers(); n.Bounded || d.down.target.Load() != 2 {
			t.Fatalf("after %.1f s: got %+v and layer %d, want an open line and layer 2", second, n, d.down.target.Load())
		}
	})
}

// A line of 250 kbit/s gets what it carries soon, without a queue that grows; when it is wide again all comes back in time.
func TestANarrowLine(t *testing.T) {
	d := newDrive(t, 250_000)
	settled := 0.0
	late := 0
	d.run(20*time.Second, func(second float64) {
		if settled == 0 && d.down.target.Load() == 0 {
			settled = second
		}
		if wait := d.road.free - d.now; second > 4 && wait > 350_000 {
			late++
		}
	})
	if settled == 0 || settled > 1.5 {
		t.Errorf("got the lowest layer after %.1f s, want within 1.5 s", settled)
	}
	if got := d.down.target.Load(); got != 0 || d.down.maxTID.Load() < 1 {
		t.Errorf("got layer %d, temporal layer %d, want 0 and at least 1", got, d.down.maxTID.Load())
	}
	if late > 2 {
		t.Errorf("the queue was long %d times", late)
	}
	if est := d.link.Numbers().Estimate; est < 180_000 || est > 270_000 {
		t.Errorf("got an estimate of %d, want about 250000", est)
	}
	d.road.bps = 0
	back := 0.0
	from := float64(d.now) / 1e6
	d.run(10*time.Second, func(second float64) {
		if back == 0 && d.down.target.Load() == 2 {
			back = second - from
		}
	})
	if back == 0 || back > 6 {
		t.Errorf("the high layer was back after %.1f s, want within 6 s", back)
	}
	d.run(10*time.Second, nil)
	if d.link.Numbers().Bounded {
		t.Error("the line did not become open again")
	}
}

// The receiver's clock begins anew every twelve days: what the line carries is known all the same.
func TestTheClockBeginsAnew(t *testing.T) {
	d := newDrive(t, 250_000)
	d.road.clock = packet.ClockRound - 10_000_000
	d.run(20*time.Second, func(second float64) {
		if est := d.link.Numbers().Estimate; second > 4 && (est < 180_000 || est > 300_000) {
			t.Fatalf("after %.1f s: got an estimate of %d, want about 250000", second, est)
		}
	})
	d.road.bps = 100_000
	d.run(5*time.Second, func(second float64) {
		if est := d.link.Numbers().Estimate; second > 20.6 && (est < 60_000 || est > 130_000) {
			t.Fatalf("after %.1f s: got an estimate of %d, want about 100000", second, est)
		}
	})
}

// A way that becomes longer is no line that becomes narrow.
func TestALongerWay(t *testing.T) {
	d := newDrive(t, 0)
	d.run(3*time.Second, nil)
	d.road.longer = 140_000
	low := 0
	d.run(20*time.Second, func(float64) {
		if d.down.target.Load() != 2 {
			low++
		}
	})
	if low > 50 || d.down.target.Load() != 2 {
		t.Errorf("got a lower layer for %d tenths of a second, and layer %d in the end, want at most 50, and 2", low, d.down.target.Load())
	}
}

// A queue that stays full is no longer way.
func TestAFullQueue(t *testing.T) {
	d := newDrive(t, 0)
	d.run(3*time.Second, nil)
	d.road.bps, d.road.queue = 250_000, 300_000
	d.run(3*time.Second, nil)
	d.run(5*time.Second, func(second float64) {
		if est := d.link.Numbers().Estimate; est > 300_000 {
			t.Fatalf("after %.1f s: got an estimate of %d, want about 250000", second, est)
		}
	})
}

// At 100 kbit/s the voice has its room: video pauses, and is told to.
func TestVoiceFirst(t *testing.T) {
	d := newDrive(t, 90_000)
	late := 0
	d.run(15*time.Second, func(second float64) {
		if d.road.free-d.now > 300_000 && second > 6 {
			late++
		}
	})
	if d.down.target.Load() != paused || len(d.told) == 0 && !d.down.told {
		t.Errorf("got layer %d, told %v, want a pause that is told", d.down.target.Load(), d.told)
	}
	if late > 0 {
		t.Errorf("the voice waited long in %d tenths of a second", late)
	}
	d.road.bps = 0
	d.run(10*time.Second, nil)
	if d.down.target.Load() != 2 || d.down.told {
		t.Errorf("after the line is wide again: got layer %d, want 2", d.down.target.Load())
	}
}

// Where all pictures have paused and nobody speaks nothing goes out, and no feedback tells that the queue has drained. The pictures
// come back all the same, also for a client without a stream to pad on.
func TestPausedWithoutAVoice(t *testing.T) {
	for _, c := range []struct {
		name   string
		muted  bool // there is a voice, and it says nothing
		repair uint8
		want   int32
	}{
		{"no voice", false, 121, 2},
		{"a muted voice", true, 121, 2},
		{"nothing to pad on", false, 0, 0}, // and then it grows slowly
	} {
		d := newDrive(t, 60_000)
		d.voice = 0
		if !c.muted {
			d.audio.Stop()
		}
		d.down.binding.Load().rtx = c.repair
		d.run(3*time.Second, nil)
		if d.down.target.Load() != paused && c.repair != 0 {
			t.Errorf("%s: got layer %d, want a pause", c.name, d.down.target.Load())
		}
		stopped := 0
		d.run(10*time.Second, func(float64) {
			if d.down.target.Load() == paused {
				stopped++
			}
		})
		if stopped < 50 {
			t.Errorf("%s: paused for %d tenths of ten seconds, want most of them", c.name, stopped)
		}
		d.road.bps = 0
		if d.run(10*time.Second, nil); d.down.target.Load() != c.want || d.down.told {
			t.Errorf("%s: when the line is wide again: got layer %d, told of a pause %v, want layer %d", c.name, d.down.target.Load(), d.down.told, c.want)
		}
	}
}

// Tracks that are muted, as most are in a great call, keep no place on a line that is narrow: the pictures come back when it is wide again, and
// share what it carries meanwhile. A screen that merely stands still keeps its place.
func TestTheMutedTakeNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		n     int
		video bool
		does  func(*UpTrack)
		bps   int
		want  int32 // the layer while the line is narrow
		ask   int   // pictures among which it is shared
	}{
		{"microphones that were heard once", 10, false, func(*UpTrack) {}, 90_000, paused, 1},
		{"microphones that were heard once, beside a picture", 10, false, func(*UpTrack) {}, 300_000, 0, 1},
		{"cameras that are muted", 2, true, func(u *UpTrack) { u.Mute(true) }, 300_000, 0, 1},
		{"cameras that are silenced", 2, true, func(u *UpTrack) { u.Silence(true) }, 300_000, 0, 1},
		{"screens that stand still", 2, true, func(*UpTrack) {}, 300_000, 0, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDrive(t, c.bps)
			d.others(t, c.n, 150_000, c.video)
			for _, up := range d.quiet {
				c.does(up)
			}
			if d.run(15*time.Second, nil); d.down.target.Load() != c.want {
				t.Errorf("got layer %d of a line of %d, want %d", d.down.target.Load(), c.bps, c.want)
			}
			if n := len(d.link.demands); n != c.ask {
				t.Errorf("the line is shared among %d pictures, want %d", n, c.ask)
			}
			d.road.bps = 0
			if d.run(15*time.Second, nil); c.ask == 1 && d.down.target.Load() != 2 {
				t.Errorf("after the line is wide again: got layer %d, want 2", d.down.target.Load())
			}
		})
	}
}

// What is unmuted has its place again at once: what it had goes out, and it is counted as soon as it is no longer muted, or sends.
func TestUnmutedOnANarrowLine(t *testing.T) {
	d := newDrive(t, 400_000)
	d.others(t, 1, 150_000, true)
	camera := d.quiet[0]
	camera.Mute(true)
	d.run(10*time.Second, nil)
	asks := func() bool {
		d.link.gather(d.time())
		for _, one := range d.link.demands {
			if one.track.up == camera {
				return true
			}
		}
		return false
	}
	var sink *DownTrack
	for _, one := range d.link.tracks {
		if one.up == camera {
			sink = one
		}
	}
	if asks() || sink.target.Load() != 0 {
		t.Errorf("muted: asks for its part: %v, its layer: %d; want neither a part nor a pause", asks(), sink.target.Load())
	}
	camera.layers[0].Load().lastPacket.Store(millis(d.time()))
	if !asks() {
		t.Error("a muted track that sends is not counted")
	}
	d.now += 2_000_000
	if asks() {
		t.Error("a muted track that has stopped is counted")
	}
	camera.Mute(false)
	if !asks() {
		t.Error("a track that is unmuted is not counted")
	}
	if d.run(5*time.Second, nil); sink.target.Load() != 0 || d.down.target.Load() != 0 {
		t.Errorf("got layers %d and %d, want the lowest of both", sink.target.Load(), d.down.target.Load())
	}
}

// padWriter sends the padding of a probe over the road.
type padWriter struct{ d *drive }

func (w padWriter) WriteRTP(h *rtp.Header, _ []byte) (int, error) {
	w.d.padN++
	size := int(h.PaddingSize) + packetOverhead
	w.d.road.send(w.d.link.next, size, w.d.now)
	w.d.link.estimate.probe.sent -= size // the packet was noted with the time of the test's start
	w.d.link.estimate.note(w.d.link.next, size, w.d.now, true)
	w.d.seq = w.d.link.next
	return 0, nil
}

func (w padWriter) Write([]byte) (int, error) { panic("not used") }

// TestAFastLineIsRemembered: what is under way on a line of six thousand packets in a second is known when feedback tells of it, half
// a second later; and a slow line keeps no more than it needs.
func TestAFastLineIsRemembered(t *testing.T) {
	for _, c := range []struct {
		packets int64 // in a second
		late    int64 // microseconds until feedback
		most    int   // remembered
	}{{6000, 500_000, mostSent}, {6000, 200_000, 2048}, {300, 500_000, sentPackets}} {
		const size = 1000
		e := &estimate{bounded: true}
		told := int64(0)
		for i := range 5 * c.packets {
			now := i * 1_000_000 / c.packets
			e.note(uint16(i), size, now, false)
			if i%(c.packets/10) != 0 {
				continue
			}
			r := feedbackRound{least: noDelay}
			for ; told*1_000_000/c.packets < now-c.late; told++ {
				e.arrival(uint16(told), true, told*1_000_000/c.packets+1_000_000, &r)
			}
			e.hear(now, &r)
		}
		if want := int(c.packets * size * 8); e.acked < want*9/10 || len(e.sent) > c.most {
			t.Errorf("%d packets, %d us: got %d bit/s of %d with %d packets remembered, want at most %d", c.packets, c.late, e.acked, want, len(e.sent), c.most)
		}
	}
}

// TestFeedbackOnWhatWasNeverSent: who tells of any number has no more remembered than there is room for.
func TestFeedbackOnWhatWasNeverSent(t *testing.T) {
	e := &estimate{bounded: true}
	for i := range 100_000 {
		e.note(uint16(i), 1000, int64(i), false)
		e.arrival(uint16(i*40_503), true, int64(i), &feedbackRound{})
	}
	if len(e.sent) > mostSent {
		t.Errorf("got %d packets remembered, want at most %d", len(e.sent), mostSent)
	}
}

// Loss is judged by a second of packets, not by the few of one feedback.
func TestLossByChance(t *testing.T) {
	for _, c := range []struct {
		name           string
		received, lost int // in each tenth of a second
		want           bool
	}{
		{"one of six, once in a while", 5, 0, false},
		{"five percent", 19, 1, false},
		{"fifteen percent", 17, 3, true},
	} {
		e := &estimate{bounded: true, bps: 1_000_000}
		lossy := false
		for i := range int64(20) {
			r := feedbackRound{received: c.received, lost: c.lost}
			if c.lost == 0 && i%10 == 5 {
				r.lost = 1
			}
			e.hear(1_000_000+i*100_000, &r)
			lossy = lossy || e.lossy
		}
		if lossy != c.want {
			t.Errorf("%s: got %v with %.2f lost, want %v", c.name, lossy, e.loss, c.want)
		}
	}
}

// However long the line was narrow, all comes back soon when it is wide again: that packets come sooner than they did says so at once. Pictures
// come in lumps, and a probe is filled up to its rate all the same.
func TestBackSoon(t *testing.T) {
	for _, c := range []struct {
		bps, voice int
		lumps      int64
		stopped    bool // there is no room for a picture
	}{
		{60_000, 45_000, 0, true},
		{100_000, 75_000, 0, true},
		{100_000, 40_000, 65_000, true},
		{250_000, 40_000, 0, false},
		{250_000, 40_000, 65_000, false},
	} {
		var some, all []time.Duration // until there is a picture, and until it is the best
		for phase := range 35 {
			d := newDrive(t, c.bps)
			d.voice, d.lumps = c.voice, c.lumps
			d.audio.up.layers[0].Load().rates.usual.Store(int64(d.voice))
			d.run(12*time.Second+time.Duration(phase)*100*time.Millisecond, nil)
			if target := d.down.target.Load(); target > 0 || c.stopped && target != paused {
				t.Fatalf("%+v: got layer %d", c, target)
			}
			lifted := d.now
			first, best := 20*time.Second, 20*time.Second
			d.road.bps = 0
			d.run(10*time.Second, func(float64) {
				since := time.Duration(d.now-lifted) * time.Microsecond
				if target := d.down.target.Load(); target != paused {
					first = min(first, since)
				}
				if d.down.target.Load() == 2 {
					best = min(best, since)
				}
			})
			some, all = append(some, first), append(all, best)
		}
		slices.Sort(some)
		slices.Sort(all)
		t.Logf("%+v: a picture after %v to %v, the best after %v, %v in the median, %v at most", c, some[0], some[34], all[0], all[17], all[34])
		if some[34] > time.Second || all[34] > 2*time.Second {
			t.Errorf("%+v: got a picture after %v, the best after %v, want within a second and within two", c, some, all)
		}
	}
}

// A probe that is more than the line carries tells what it carries: there is no other way to that, where the next layer lies between.
func TestAProbeThatIsTooMuch(t *testing.T) {
	d := newDrive(t, 0)
	d.least[1] = 275_000
	d.up.Layer(1).rates.usual.Store(int64(d.least[1]))
	d.down.SetWish(Wish{Quality: 0})
	d.run(time.Second, nil)
	d.road.bps = 360_000
	e := &d.link.estimate
	e.bounded, e.bps, e.probe.next = true, 310_000, d.now+1_000_000 // too little for both, and half as much again is too much
	d.run(100*time.Millisecond, nil)
	d.down.SetWish(Wish{Quality: 1})
	d.run(400*time.Millisecond, nil)
	if got := d.down.target.Load(); got != 0 {
		t.Fatalf("got layer %d, want 0 before a probe", got)
	}
	d.run(time.Second, func(float64) {
		if e.probe.proved > 0 {
			t.Fatal("the first probe proved its rate")
		}
	})
	if got := d.link.Numbers().Estimate; got < 335_000 || got > 360_000 {
		t.Errorf("got an estimate of %d after the first probe, want nearly 360000", got)
	}
	if got := d.down.target.Load(); got != 1 {
		t.Errorf("got layer %d, want 1", got)
	}
}
