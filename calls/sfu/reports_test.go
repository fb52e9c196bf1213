package sfu

import (
	"math"
	"testing"
	"time"

	"github.com/pion/rtcp"
)

// second lets a second go by on s's line, in which its track was sent and so many percent of it were lost.
func (s *stage) second(loss uint32) {
	if i := s.down.target.Load(); i >= 0 {
		s.down.counts.bytes.Add(uint64(typicalRate(s.up.pictures()[i]) / 8))
	}
	s.down.counts.loss.Store(loss)
	s.link.report(time.Now())
	s.link.steer(time.Now())
}

// mouth is who sends what a Downlink reports.
type mouth func([]rtcp.Packet) error

func (m mouth) WriteRTCP(packets []rtcp.Packet) error { return m(packets) }

// TestManySenderReportsLeaveInPieces: who gets a hundred tracks is told of each, in packets that a line takes.
func TestManySenderReportsLeaveInPieces(t *testing.T) {
	const tracks = 100
	s, v := newStage(t, 1), &stream{}
	told := map[uint32]bool{}
	link := newDownlink(mouth(func(packets []rtcp.Packet) error {
		if raw, err := rtcp.Marshal(packets); err != nil || len(raw) > 1200 {
			t.Errorf("got a packet of %d bytes, %v, want at most 1200", len(raw), err)
		}
		for _, p := range packets {
			told[p.(*rtcp.SenderReport).SSRC] = true
		}
		return nil
	}), nil, LinkConfig{})
	link.Ready()
	for ssrc := range uint32(tracks) {
		d := NewDownTrack(s.up, link, "TR_1", "PA_1")
		d.binding.Store(&binding{writer: s.out, ssrc: ssrc, payload: 120})
		d.Start()
	}
	s.reports(t, 0, 7<<32, 1000, time.Now())
	s.feed(t, 0, v.frame(true, 0, 1)...)
	link.report(time.Now())
	if len(told) != tracks {
		t.Errorf("got reports of %d tracks, want %d", len(told), tracks)
	}
}

// TestReportsAloneJudgeALine: a client that gives no transport-wide feedback has its line judged by what its reports say is lost: it
// becomes narrow at the second bad one, wider with good ones, and in the end open, however long that goes on.
func TestReportsAloneJudgeALine(t *testing.T) {
	s := newStage(t, 3)
	top := typicalRate(s.up.pictures()[2])
	for _, step := range []struct {
		what     string
		seconds  int
		loss     uint32
		bounded  bool
		estimate int
		layer    int32
	}{
		{"nothing is lost", 5, 0, false, 0, 2},
		{"a bad report", 1, 20, false, 0, 2},
		{"a good one", 1, 0, false, 0, 2},
		{"a bad one again", 1, 20, false, 0, 2},
		{"and one more", 1, 20, true, top * 3 / 4, 1},
		{"neither good nor bad", 5, 8, true, top * 3 / 4, 1},
		{"three good ones", 3, 0, true, top * 3 / 4, 1},
		{"a fourth", 1, 0, true, top * 15 / 16, 1},
		{"good ones", 20, 0, false, 0, 2},
		{"hours of them", 10_000, 0, false, 0, 2},
		{"bad ones", 2, 50, true, top * 3 / 4, 1},
	} {
		for range step.seconds {
			s.second(step.loss)
		}
		n := s.link.Numbers()
		if n.Bounded != step.bounded || n.Estimate != step.estimate || s.down.target.Load() != step.layer {
			t.Fatalf("%s: got %+v and layer %d, want bounded %v, %d bit/s and layer %d", step.what, n, s.down.target.Load(), step.bounded, step.estimate, step.layer)
		}
	}
}

// TestReportsJudgeTheLineAlone: what one publisher's track loses on its way to us is not the subscriber's line; and a client that gives
// feedback is judged by that.
func TestReportsJudgeTheLineAlone(t *testing.T) {
	for _, c := range []struct {
		name    string
		others  []uint32 // what is lost of other tracks
		sent    uint64   // bytes of each of them in a second
		heard   int64
		bounded bool
	}{
		{name: "one track", bounded: true},
		{name: "another one is whole", others: []uint32{0, 50}, sent: 100},
		{name: "another one sends nothing", others: []uint32{0, 50}, bounded: true},
		{name: "all lose", others: []uint32{30, 50}, sent: 100, bounded: true},
		{name: "feedback", heard: 1},
	} {
		s := newStage(t, 3)
		s.link.estimate.heard = c.heard
		var others []*DownTrack
		for _, loss := range c.others {
			other := NewDownTrack(s.up, s.link, "TR_2", "PA_1")
			other.counts.loss.Store(loss)
			other.Start()
			others = append(others, other)
		}
		for range 10 {
			for _, o := range others {
				o.counts.bytes.Add(c.sent)
			}
			s.second(50)
		}
		if n := s.link.Numbers(); n.Bounded != c.bounded {
			t.Errorf("%s: got %+v, want it bounded: %v", c.name, n, c.bounded)
		}
	}
}

// TestWhatASubscriberSaysOfItsLine: where there is no transport-wide feedback a REMB that falls below what is sent is the line's rate, and no other is:
// a receiver comes to more slowly than it could be sent more.
func TestWhatASubscriberSaysOfItsLine(t *testing.T) {
	for _, c := range []struct {
		name  string
		said  []float32 // parts of what is sent
		heard int64
		want  float64 // part of it; 0: open
	}{
		{name: "it falls", said: []float32{1.2, 0.5}, want: 0.5},
		{name: "it falls twice", said: []float32{1.2, 0.5, 0.4}, want: 0.4},
		{name: "it falls, and rises", said: []float32{1.2, 0.5, 0.6, 0.7}, want: 0.5},
		{name: "it is less from the beginning, and rises", said: []float32{0.3, 0.4, 0.5}},
		{name: "it falls to more than is sent", said: []float32{3, 1.5, 1}},
		{name: "by a little", said: []float32{0.9, 0.89}},
		{name: "transport-wide feedback tells more", said: []float32{1.2, 0.5}, heard: 1},
		{name: "no number", said: []float32{1.2, float32(math.NaN()), -1}},
	} {
		s := newStage(t, 3)
		s.link.estimate.heard = c.heard
		s.second(0)
		s.second(0)
		sent := s.link.estimate.acked
		if c.heard == 0 && sent == 0 {
			t.Fatal("nothing was sent: the test tests nothing")
		}
		for _, part := range c.said {
			s.down.feedback(&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: part * float32(sent), SSRCs: []uint32{7}}, 7, nil)
		}
		n := s.link.Numbers()
		if want := int(float64(float32(c.want) * float32(sent))); n.Bounded != (c.want > 0) || n.Bounded && (n.Estimate < want-1 || n.Estimate > want+1) {
			t.Errorf("%s: got %+v, want %d bit/s of %d", c.name, n, want, sent)
		}
	}
}

// TestReportsOfAPausedLine: where all is paused nothing is lost, and what the line carries is tried again.
func TestReportsOfAPausedLine(t *testing.T) {
	s := newStage(t, 3)
	s.link.estimate.bounded, s.link.estimate.bps = true, leastRate
	s.link.steer(time.Now())
	if s.down.target.Load() != paused {
		t.Fatalf("got layer %d, want a pause: the test tests nothing", s.down.target.Load())
	}
	for range 20 {
		if s.second(50); s.down.target.Load() != paused { // that is what the reports of before said
			return
		}
	}
	t.Errorf("got %+v, still paused after 20 s", s.link.Numbers())
}

// TestReportsAloneOpenALine: where no feedback comes, that none does is no sign of a calm line.
func TestReportsAloneOpenALine(t *testing.T) {
	s := newStage(t, 3)
	s.link.estimate.bounded, s.link.estimate.bps = true, 50_000_000
	for i := range 200 {
		s.link.steer(s.link.began.Add(time.Duration(i) * steerEvery))
	}
	if n := s.link.Numbers(); !n.Bounded {
		t.Errorf("got %+v after 20 s without a report, want it bounded", n)
	}
}

// TestReportsOfABoundedLine: what good reports let a line grow to has an end, also where something always waits.
func TestReportsOfABoundedLine(t *testing.T) {
	s := newStage(t, 3)
	s.link.estimate.bounded, s.link.estimate.bps = true, leastRate
	s.link.SetMost(100_000)
	for range 10_000 {
		s.down.counts.bytes.Add(10_000)
		s.second(0)
	}
	if got := s.link.estimate.bps; got < leastRate || got > mostRate {
		t.Errorf("got a line of %d bit/s, want at most %d", got, mostRate)
	}
}
