package sfu

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/pion/transport/v4/packetio"

	"chancery/calls/packet"
)

// A publisher that answers no rule: bad padding, lengths that lie, versions that are none. Nothing is forwarded of it, and
// what is good goes on.
func TestBadPacketsAreLeftOut(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 1}
	s.feed(t, 0, v.frame(true, 0, 2)...)
	good := len(s.out.packets)
	now := time.Now()
	for _, b := range [][]byte{
		nil, {0x80}, make([]byte, 12),
		{0xa0, 96, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0},                         // padding of none
		{0xa0, 96, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 255},                       // more padding than packet
		{0x8f, 96, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1},                         // fifteen sources, none there
		{0x90, 96, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0xff, 0xff, 1}, // an extension beyond the end
	} {
		s.layers[0].receive(b, now)
	}
	for range 10_000 {
		b := make([]byte, rand.IntN(60))
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		if len(b) > 3 {
			b[2], b[3] = 0, 1 // an old number: what happens to be good RTP is a repetition
		}
		s.layers[0].receive(b, now)
	}
	if got := len(s.out.packets); got != good {
		t.Errorf("got %d packets of nonsense", got-good)
	}
	s.feed(t, 0, v.frame(false, 0, 2)...)
	if got := len(s.out.packets); got != good+2 {
		t.Errorf("afterwards: got %d good packets, want 2", got-good)
	}
}

// judge is a subscriber's writer that looks with which key stream each packet would be enciphered.
type judge struct {
	testing.TB
	out  *srtp.Context
	used map[string]string // packets by key stream
}

// newJudge lets all that s's subscriber gets be judged.
func newJudge(t testing.TB, s *stage) *judge {
	t.Helper()
	out, err := srtp.CreateContext(make([]byte, 16), make([]byte, 12), srtp.ProtectionProfileAeadAes128Gcm)
	must(t, err)
	j := &judge{TB: t, out: out, used: map[string]string{}}
	b := *s.down.binding.Load()
	b.writer = j
	s.down.binding.Store(&b)
	return j
}

func (j *judge) WriteRTP(h *rtp.Header, payload []byte) (int, error) {
	raw, err := (&rtp.Packet{Header: *h, Payload: payload}).Marshal()
	must(j, err)
	const zeros = 16
	bare, err := (&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: h.SequenceNumber, SSRC: h.SSRC}, Payload: make([]byte, zeros)}).Marshal()
	must(j, err)
	sealed, err := j.out.EncryptRTP(nil, bare, nil)
	must(j, err)
	stream := string(sealed[12 : 12+zeros]) // of zeros
	if before, ok := j.used[stream]; ok && before != string(raw) {
		j.Errorf("number %d of %d: two packets with one key stream", h.SequenceNumber, h.SSRC)
	}
	j.used[stream] = string(raw)
	return len(payload), nil
}

func (j *judge) Write([]byte) (int, error) { panic("not used") }

// jump is a publisher's packet whose number lies so far beyond that of the one before.
type jump struct {
	ahead int16
	bare  bool // mere padding, which is left out
}

// jumps feeds them.
func (s *stage) jumps(t testing.TB, v *stream, all ...jump) {
	for _, j := range all {
		s.layers[0].rates.counted = 0
		if j.bare {
			v.seq += uint16(j.ahead)
			s.feed(t, 0, &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: v.seq, Timestamp: v.ts, Padding: true, PaddingSize: 9}})
			continue
		}
		v.seq += uint16(j.ahead) - 1
		s.feed(t, 0, v.frame(false, 0, 1)...)
	}
}

// Whatever numbers a publisher makes up, no two packets of a subscriber are enciphered with one key stream.
func TestNumbersThatJump(t *testing.T) {
	times := func(n int, all ...jump) (many []jump) {
		for range n {
			many = append(many, all...)
		}
		return many
	}
	ahead, bare := func(n int16) jump { return jump{ahead: n} }, func(n int16) jump { return jump{ahead: n, bare: true} }
	for _, c := range []struct {
		name  string
		jumps []jump
	}{
		{"two holes before padding", append(times(20, ahead(1)), bare(32767), bare(32760))},
		{"small holes before padding", append(times(20, ahead(1)), times(30, bare(2184))...)},
		{"holes before pictures", append(times(20, ahead(1)), times(4, ahead(32767))...)},
		{"holes before both", append(times(20, ahead(1)), times(9, ahead(20_000), bare(25_000))...)},
		{"back as far as can be", append(times(20, ahead(1)), ahead(32767), ahead(-32768), ahead(32767), ahead(-32767), ahead(32767))},
		{"past where the numbers begin anew", times(50, ahead(3000), ahead(-1000), ahead(1000))},
		{"late in a hole", append(times(20, ahead(1)), times(9, ahead(30_000), ahead(-29_000), ahead(29_000))...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, v := newStage(t, 1), &stream{seq: 100}
			j := newJudge(t, s)
			s.feed(t, 0, v.frame(true, 0, 1)...)
			s.jumps(t, v, c.jumps...)
			before := len(j.used)
			if s.jumps(t, v, times(60, ahead(1))...); len(j.used) < before+50 {
				t.Errorf("got %d pictures afterwards, want nearly 60", len(j.used)-before)
			}
		})
	}
}

// The same of a stream with all layers in it, of which the subscriber is spared the larger ones.
func TestNumbersThatJumpInAScalableStream(t *testing.T) {
	for _, ahead := range []uint16{1, 500, 4000, 21_000, 32_700, 32_766} {
		v := newSVC(3, 3, true)
		s := newScalableStage(t, v)
		j := newJudge(t, s)
		s.down.SetWish(Wish{Quality: 0})
		jumped := uint16(0)
		for i := range 60 {
			for k, p := range v.next(i == 0) {
				if (k == 1 || k == 3) && i < 40 { // where the second and the third layer begin
					jumped += ahead
				}
				q := *p
				q.SequenceNumber += jumped
				s.layers[0].rates.counted = 0
				s.feed(t, 0, &q)
			}
		}
		if len(j.used) < 50 {
			t.Errorf("holes of %d: got %d pictures, want nearly 60", ahead, len(j.used))
		}
	}
}

// FuzzNumbers is TestNumbersThatJump with any numbers.
func FuzzNumbers(f *testing.F) {
	f.Add([]byte{1, 0, 1, 0, 0xff, 0x7f, 1, 0xff, 0x7f, 1, 1, 0, 0})
	f.Add([]byte{1, 0, 0, 0xff, 0x7f, 0, 0, 0x80, 0, 0xff, 0x7f, 0})
	f.Add([]byte{0x88, 0x13, 1, 0x88, 0x13, 0, 0x70, 0xec, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, v := newStage(t, 1), &stream{seq: 100}
		newJudge(t, s)
		s.feed(t, 0, v.frame(true, 0, 1)...)
		for ; len(b) >= 3 && s.layers[0].counts.packets.Load() < 400; b = b[3:] {
			s.jumps(t, v, jump{int16(uint16(b[0]) | uint16(b[1])<<8), b[2]&1 != 0})
		}
		for range 20 {
			s.jumps(t, v, jump{ahead: 1})
		}
	})
}

// Key frames are asked of a publisher at most so often, however many subscribers ask.
func TestAStormOfKeyFrameRequests(t *testing.T) {
	s, v := newStage(t, 2), [2]stream{}
	for i := range v {
		s.feed(t, i, v[i].frame(true, 0, 1)...)
	}
	for range 5000 {
		s.down.feedback(&rtcp.PictureLossIndication{MediaSSRC: 7}, 7, nil)
		s.down.feedback(&rtcp.FullIntraRequest{MediaSSRC: 7, FIR: []rtcp.FIREntry{{SSRC: 7}}}, 7, nil)
	}
	for i := range v {
		if got := s.layers[i].numbers().KeyAsks; got > 2 {
			t.Errorf("layer %d: got %d requests to the publisher in a moment, want at most 2", i, got)
		}
	}
	if got := s.down.Numbers().KeyAsks; got != 10_000 {
		t.Errorf("got %d counted, want 10000", got)
	}
}

// A subscriber that asks for everything again and again gets each packet a few times, and on a narrow line less.
func TestAStormOfNacks(t *testing.T) {
	s, v := newStage(t, 1), &stream{seq: 10}
	s.feed(t, 0, v.frame(true, 0, 50)...)
	sent := len(s.out.packets)
	all := &rtcp.TransportLayerNack{}
	for i := range 20 {
		all.Nacks = append(all.Nacks, rtcp.NackPair{PacketID: s.out.packets[0].SequenceNumber + uint16(17*i), LostPackets: 0xffff})
	}
	buf := make([]byte, receiveMTU+2)
	for range 2000 {
		s.down.feedback(all, 7, buf)
	}
	if got := len(s.out.packets) - sent; got < 50 || got > 50*maxRepairs {
		t.Errorf("got %d repairs of 50 packets, want each at most %d times", got, maxRepairs)
	}
	s.link.estimate.bounded, s.link.repairs = true, 100
	s.down.repaired = nil
	before := len(s.out.packets)
	s.down.feedback(all, 7, buf)
	if got := len(s.out.packets) - before; got*9 > 100 {
		t.Errorf("on a narrow line: got %d repairs of 9 bytes, want no more than 100 bytes", got)
	}
}

// Feedback on packets that were sent, by a receiver whose clock shows any time whatever, and goes back.
func TestFeedbackOfStrangeTimes(t *testing.T) {
	s := newStage(t, 1)
	before := []byte{0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0x40, 0x01, 0x80, 0x00} // one packet, 8.2 s before the clock's beginning
	for i := range 200_000 {
		seq := uint16(i)
		s.link.estimate.note(seq, 100, int64(i)*1000, false)
		body := before
		if i > 0 {
			before[12], before[13], before[14] = byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())
		}
		if i%3 > 0 { // always as far back as can be told
			at := uint32(1<<24-i%2) - uint32(i)*(1<<23-1)
			before[12], before[13], before[14] = byte(at>>16), byte(at>>8), byte(at)
		}
		body[8], body[9] = byte(seq>>8), byte(seq)
		s.link.transportFeedback(body)
	}
	if e := &s.link.estimate; e.clock == 0 {
		t.Error("no feedback was believed: the test tests nothing")
	}
}

// Numbers that lie as far apart as the memory of repairs is long do not make one another forgotten, and all repairs together are no
// more than the track itself.
func TestNacksThatHideOneAnother(t *testing.T) {
	const span = 256
	s, v := newStage(t, 1), &stream{seq: 10}
	s.feed(t, 0, v.frame(true, 0, 1)...)
	for range videoCache - 1 {
		s.feed(t, 0, v.frame(false, 0, 1)...)
	}
	first, sent, buf := s.out.packets[0].SequenceNumber, len(s.out.packets), make([]byte, receiveMTU+2)
	var nacks []rtcp.NackPair
	for range 100 { // one packet of RTCP
		nacks = append(nacks, rtcp.NackPair{PacketID: first + 3}, rtcp.NackPair{PacketID: first + 3 + span})
	}
	s.down.feedback(&rtcp.TransportLayerNack{Nacks: nacks}, 7, buf)
	if got := len(s.out.packets) - sent; got != 2 {
		t.Errorf("got %d repairs of two packets at once, want 2", got)
	}
	r := &repaired{slots: make([]repairedSlot, videoCache)}
	got := 0
	for now := int64(10_000); now < 10_000+repairedKept; now += 500 {
		for _, seq := range []uint16{40, 40 + videoCache, 40, 40 + videoCache} {
			if r.allows(seq, now, 0) {
				r.note(seq, now)
				got++
			}
		}
	}
	if got != 1+maxRepairs {
		t.Errorf("got %d repairs, want %d of the newer and one of the older", got, maxRepairs)
	}
}

func TestRepairsTakeNoMoreThanTheTrack(t *testing.T) {
	const seconds, size = 10, 1200
	for _, c := range []struct {
		name string
		rate float64
	}{{"a camera", 250_000}, {"a voice", leastAudioRepairs}} {
		r := &repaired{}
		sent, last := 0, 0
		for ms := int64(1_000_000); ms < 1_000_000+1000*seconds; ms++ {
			for range 100 {
				if r.afford(size, c.rate, ms) {
					sent += size
					last = int(ms - 1_000_000)
				}
			}
		}
		if most := c.rate * (seconds + repairBurst); float64(sent) > most || float64(sent) < 0.9*most || last < 9000 {
			t.Errorf("%s: got %d bytes of repairs in %d s, the last after %d ms, want nearly %v", c.name, sent, seconds, last, most)
		}
	}
	s, v := newStage(t, 1), &stream{seq: 10}
	frame := v.frame(true, 0, 400)
	for _, p := range frame {
		p.Payload = append(p.Payload, make([]byte, size-len(p.Payload))...)
	}
	s.feed(t, 0, frame...)
	s.layers[0].rates.usual.Store(0)
	var nacks []rtcp.NackPair
	for i := range 400 / 17 {
		nacks = append(nacks, rtcp.NackPair{PacketID: s.out.packets[17*i].SequenceNumber, LostPackets: 0xffff})
	}
	before, began := len(s.out.packets), time.Now()
	for range 1000 {
		s.down.feedback(&rtcp.TransportLayerNack{Nacks: nacks}, 7, make([]byte, receiveMTU+2))
	}
	least := leastRepairs * repairBurst / (size + packetOverhead)
	most := least + 1 + leastRepairs*int(time.Since(began).Milliseconds()+1)/1000/(size+packetOverhead)
	if got := len(s.out.packets) - before; got < least || got > most {
		t.Errorf("on an open line: got %d repairs, want %d to %d", got, least, most)
	}
}

// Feedback on packets that were never sent, or long ago, changes nothing.
func TestFeedbackThatLies(t *testing.T) {
	s := newStage(t, 1)
	for range 100_000 {
		body := make([]byte, 16+rand.IntN(40))
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		s.link.transportFeedback(body)
	}
	if n := s.link.Numbers(); n.Bounded {
		t.Errorf("got %+v", n)
	}
}

// heard is a subscriber's end of a line whose reports are told to it.
func heard(t *testing.T) (*stage, *incoming) {
	t.Helper()
	s, in := newStage(t, 1), newIncoming()
	in.downs[7] = s.down
	return s, in
}

// maximal is feedback, 24 bytes long, that as many packets as it can tell of have not come.
func maximal() []byte {
	return []byte{0x80 | packet.FormatTransportCC, packet.TransportFeedback, 0, 5, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0}
}

// A few bytes of feedback speak of thousands of packets: of many together the first are heard.
func TestFeedbackOnManyPackets(t *testing.T) {
	s, in := heard(t)
	const sent = 100
	for seq := range uint16(sent) {
		s.link.estimate.note(seq, 100, 0, false)
	}
	s.link.suspect()
	in.hear(bytes.Repeat(maximal(), 58), 0, time.Now(), nil)
	if _, lost := s.link.estimate.lost.sum(s.link.micros(time.Now())); lost != sent {
		t.Errorf("got %d packets told as lost, want %d: those of the first of 58 feedbacks", lost, sent)
	}
}

// What a peer's reports may cost is bounded, whatever they are, and however they come: each compound by itself, or once for every
// stream that it speaks of. Who has said too much is heard again a moment later.
func TestAStormOfReports(t *testing.T) {
	var nack, asks, feedback []byte
	for i := range uint16(345) {
		nack = binary.BigEndian.AppendUint32(nack, uint32(i*17)<<16|0xffff)
	}
	nack = append([]byte{0x81, packet.TransportFeedback, 1, 91, 0, 0, 0, 1, 0, 0, 0, 7}, nack...)
	ask := []byte{0x81, packet.PayloadFeedback, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7}
	asks = bytes.Repeat(ask, 115)
	feedback = append(maximal(), ask...)
	const storm, most = 2000, 2000 / 10
	for name, c := range map[string]struct {
		report []byte
		said   int // in one report
		heard  func(DownNumbers) uint64
	}{
		"packets asked for again": {nack, 345, func(n DownNumbers) uint64 { return n.Nacks }},
		"key frames asked for":    {asks, 115, func(n DownNumbers) uint64 { return n.KeyAsks }},
		"feedback":                {feedback, 1, func(n DownNumbers) uint64 { return n.KeyAsks }},
	} {
		for _, only := range []uint32{0, 7} {
			s, in := heard(t)
			now, buf := time.Now(), make([]byte, receiveMTU+2)
			for i := range storm {
				in.hear(c.report, only, now.Add(time.Second*time.Duration(i)/storm), buf)
			}
			got := int(c.heard(s.down.Numbers())) / c.said
			if got == 0 || got > most {
				t.Errorf("%s: got %d of %d reports of a second heard, want some, and at most %d", name, got, storm, most)
			}
			in.hear(c.report, only, now.Add(1200*time.Millisecond), buf)
			if again := int(c.heard(s.down.Numbers())) / c.said; again != got+1 {
				t.Errorf("%s: got %d heard of one a moment later, want 1", name, again-got)
			}
		}
	}
}

// A client with seven hundred pictures, a tenth of whose packets are lost, is heard in all that it says.
func TestReportsOfAGreatCall(t *testing.T) {
	s, in := heard(t)
	feedback := maximal()
	binary.BigEndian.PutUint16(feedback[14:], 300)
	binary.BigEndian.PutUint16(feedback[20:], 300)
	nack := []byte{0x81, packet.TransportFeedback, 0, 3, 0, 0, 0, 1, 0, 0, 0, 7, 0, 9, 0, 0}
	reception := append([]byte{0x81, packet.ReceiverReport, 0, 7, 0, 0, 0, 1, 0, 0, 0, 7}, make([]byte, 20)...)
	ask := []byte{0x81, packet.PayloadFeedback, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7}
	const seconds, pictures, lost, feedbacks, parts = 10, 700, 600, 20, 4200
	began, buf, said := time.Now(), make([]byte, receiveMTU+2), uint64(0)
	for i := range seconds * parts {
		say := func(each int, b []byte) {
			if i%(parts/each) == 0 {
				said++
				in.hear(append(bytes.Clone(b), ask...), 0, began.Add(time.Second*time.Duration(i)/parts), buf)
			}
		}
		say(pictures, reception)
		say(lost, nack)
		say(feedbacks, feedback)
	}
	if got := s.down.Numbers(); got.KeyAsks != said || got.Nacks != seconds*lost {
		t.Errorf("got %d of %d reports heard, and %d of %d packets asked for", got.KeyAsks, said, got.Nacks, seconds*lost)
	}
}

// RTCP for streams that nobody has is dropped, and costs a bounded number of places.
func TestUnknownStreams(t *testing.T) {
	closed := make(chan struct{}, 1)
	in := newIncoming()
	in.excess = func() { closed <- struct{}{} }
	raw, err := rtcp.Marshal([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 5}, &rtcp.SenderReport{SSRC: 5}})
	if err != nil {
		t.Fatal(err)
	}
	for ssrc := range uint32(maxStreams + 1) {
		b := in.buffer(packetio.RTCPBufferPacket, ssrc)
		if _, err := b.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Errorf("a peer that speaks of %d streams was kept", maxStreams+1)
	}
}

// Streams that begin and end may be many; so many at once are nobody's.
func TestTooManyStreamsAtOnce(t *testing.T) {
	closed := make(chan struct{}, 1)
	in := newIncoming()
	in.excess = func() { closed <- struct{}{} }
	for ssrc := range uint32(maxSent) {
		must(t, unowned(in, ssrc).Close())
		unowned(in, ssrc)
	}
	if len(closed) > 0 {
		t.Errorf("a peer with %d streams was closed", maxSent)
	}
	unowned(in, maxSent)
	await(t, "the end of a peer with too many streams", closed)
}

// FuzzIncomingRTCP gives a peer's RTCP to the one who handles it as it comes.
func FuzzIncomingRTCP(f *testing.F) {
	for _, p := range []rtcp.Packet{
		&rtcp.TransportLayerCC{
			Header:    rtcp.Header{Count: rtcp.FormatTCC, Type: rtcp.TypeTransportSpecificFeedback, Length: 5},
			MediaSSRC: 7, BaseSequenceNumber: 1, PacketStatusCount: 1,
			PacketChunks: []rtcp.PacketStatusChunk{&rtcp.RunLengthChunk{PacketStatusSymbol: rtcp.TypeTCCPacketReceivedLargeDelta, RunLength: 1}},
			RecvDeltas:   []*rtcp.RecvDelta{{Type: rtcp.TypeTCCPacketReceivedLargeDelta, Delta: -8_000_000}},
		},
		&rtcp.PictureLossIndication{MediaSSRC: 7}, &rtcp.FullIntraRequest{FIR: []rtcp.FIREntry{{SSRC: 7}}},
		&rtcp.TransportLayerNack{MediaSSRC: 7, Nacks: []rtcp.NackPair{{PacketID: 1, LostPackets: 3}}},
		&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 7, FractionLost: 9}}}, &rtcp.SenderReport{SSRC: 7},
	} {
		if b, err := p.Marshal(); err == nil {
			f.Add(b)
		}
	}
	s := newStage(f, 1)
	in := newIncoming()
	in.layers[7], in.downs[7] = s.layers[0], s.down
	stream, scratch := in.buffer(packetio.RTCPBufferPacket, 7), make([]byte, receiveMTU+2)
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := stream.Write(b); err != nil || n != len(b) {
			t.Errorf("got %d, %v", n, err)
		}
		for seq := range uint16(64) {
			s.link.estimate.note(seq, 100, int64(seq)*1000, false)
		}
		in.hear(b, 0, time.Now(), scratch)
	})
}

// FuzzReceive gives a publisher's RTP to a layer of each codec.
func FuzzReceive(f *testing.F) {
	v := &stream{seq: 1}
	for _, p := range v.frame(true, 0, 2) {
		if b, err := p.Marshal(); err == nil {
			f.Add(b)
		}
	}
	s := newStage(f, 1)
	s.out.keep = false
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, codec := range []packet.Codec{packet.VP8, packet.VP9, packet.H264, packet.AV1, packet.Audio} {
			s.layers[0].codec, s.layers[0].rates.counted = codec, 0
			s.layers[0].receive(b, time.Now())
		}
	})
}
