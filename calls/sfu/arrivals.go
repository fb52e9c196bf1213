package sfu

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/interceptor/pkg/twcc"
	"github.com/pion/rtcp"
	"github.com/pion/sdp/v3"

	"chancery/calls/packet"
)

// arrivals notes what comes in on one peer connection, repairs and padding included, and tells its sender: transport-wide
// feedback ten times a second while packets come, and a receiver report for each stream each second. It is the only
// interceptor: what goes out is ours alone.
type arrivals struct {
	interceptor.NoOp
	began  time.Time
	timer  *time.Timer   // runs while there is something to tell
	number atomic.Uint32 // extension that bears the transport-wide number; 0: each stream says its own, once Pion has met it

	mu      sync.Mutex // guards the rest; held for lines
	writer  interceptor.RTCPWriter
	record  *twcc.Recorder
	sender  uint32 // SSRC of the feedback
	last    uint16 // the highest transport-wide number; holds once known
	known   bool
	skipped int  // numbers that were passed over since the last feedback
	anew    bool // the record was begun anew since then
	noted   bool // since the last feedback
	armed   bool
	closed  bool
	rounds  int
	streams map[uint32]*arriving
}

const (
	feedbackEvery = 100 * time.Millisecond
	reportRounds  = 10 // feedbacks between two receiver reports

	// maxSkipped is how many transport-wide numbers may be missing between two feedbacks, or lie between a late packet and the newest: the
	// record takes time for each of them.
	maxSkipped = 4096
)

func newArrivals() *arrivals {
	sender := rand.Uint32()
	return &arrivals{began: time.Now(), sender: sender, record: twcc.NewRecorder(sender), streams: map[uint32]*arriving{}}
}

// BindRTCPWriter takes the mouth through which is told.
func (a *arrivals) BindRTCPWriter(w interceptor.RTCPWriter) interceptor.RTCPWriter {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writer = w
	return w
}

// BindRemoteStream notes each packet of a stream as it is read.
func (a *arrivals) BindRemoteStream(info *interceptor.StreamInfo, next interceptor.RTPReader) interceptor.RTPReader {
	s := &arriving{ssrc: info.SSRC, clock: max(info.ClockRate, 1)}
	for _, ext := range info.RTPHeaderExtensions {
		if ext.URI == sdp.TransportCCURI {
			s.transportID = uint8(ext.ID)
		}
	}
	a.mu.Lock()
	a.streams[info.SSRC] = s
	a.mu.Unlock()
	return interceptor.RTPReaderFunc(func(b []byte, attr interceptor.Attributes) (int, interceptor.Attributes, error) {
		n, attr, err := next.Read(b, attr)
		if err == nil {
			a.read(s, b[:n], time.Now())
		}
		return n, attr, err
	})
}

// UnbindRemoteStream forgets a stream.
func (a *arrivals) UnbindRemoteStream(info *interceptor.StreamInfo) {
	a.mu.Lock()
	delete(a.streams, info.SSRC)
	a.mu.Unlock()
}

// Close ends the telling.
func (a *arrivals) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.timer != nil {
		a.timer.Stop()
	}
	return nil
}

// stream is what is noted of an SSRC, or nil.
func (a *arrivals) stream(ssrc uint32) *arriving {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams[ssrc]
}

// expect takes what the peer says of itself before its media come.
func (a *arrivals) expect(description string) {
	for uri, id := range extensions(description) {
		if uri == sdp.TransportCCURI {
			a.number.Store(id)
		}
	}
}

// note takes a packet of a known stream as it comes in.
func (a *arrivals) note(s *arriving, b []byte, now time.Time) {
	h, ok := packet.ParseHeader(b)
	if !ok {
		return
	}
	id := uint8(a.number.Load())
	if id == 0 {
		id = s.transportID
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.note(&h, now)
	a.noteNumber(s.ssrc, h.Extension(b, id), now)
}

// early takes a packet as it comes in of a stream that is not known yet: that it waits to be read must not look like a delay of the line.
func (a *arrivals) early(ssrc uint32, b []byte, now time.Time) {
	id := uint8(a.number.Load())
	h, ok := packet.ParseHeader(b)
	if id == 0 || !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noteNumber(ssrc, h.Extension(b, id), now)
}

// read takes a packet that early has taken, when Pion reads it.
func (a *arrivals) read(s *arriving, b []byte, now time.Time) {
	if a.number.Load() == 0 {
		a.note(s, b, now)
		return
	}
	if h, ok := packet.ParseHeader(b); ok {
		a.mu.Lock()
		s.note(&h, now)
		a.mu.Unlock()
	}
}

func (a *arrivals) noteNumber(ssrc uint32, ext []byte, now time.Time) {
	if len(ext) >= 2 && a.follows(binary.BigEndian.Uint16(ext)) {
		a.record.Record(ssrc, binary.BigEndian.Uint16(ext), now.Sub(a.began).Microseconds())
		a.noted = true
	}
	if a.armed || a.closed {
		return
	}
	a.armed = true
	if a.timer == nil {
		a.timer = time.AfterFunc(feedbackEvery, a.tell)
	} else {
		a.timer.Reset(feedbackEvery)
	}
}

// follows says whether a transport-wide number is recorded. One that lies far from those before begins the record anew, once between two
// feedbacks; more of them are left out, for whoever makes up numbers shall not be dearer than others.
func (a *arrivals) follows(number uint16) bool {
	ahead := int(int16(number - a.last))
	skipped := a.skipped + max(ahead-1, 0)
	switch {
	case !a.known:
		a.known, a.last = true, number
	case ahead >= -maxSkipped && skipped <= maxSkipped:
		a.skipped = skipped
		if ahead > 0 {
			a.last = number
		}
	case a.anew:
		return false
	default:
		a.record, a.anew, a.skipped, a.last = twcc.NewRecorder(a.sender), true, 0, number
	}
	return true
}

// noteReport takes the body of a sender report, for the round trip.
func (a *arrivals) noteReport(body []byte, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.streams[binary.BigEndian.Uint32(body)]; s != nil {
		s.report, s.reported = binary.BigEndian.Uint32(body[6:]), now // the middle of its NTP time
	}
}

// tell is the timer's.
func (a *arrivals) tell() {
	now := time.Now()
	var said []rtcp.Packet
	a.mu.Lock()
	a.skipped, a.anew = 0, false
	if a.closed || a.writer == nil {
		a.armed = false
		a.mu.Unlock()
		return
	}
	quiet := !a.noted
	if a.noted {
		said = a.record.BuildFeedbackPacket()
		a.noted = false
	}
	if a.rounds++; a.rounds%reportRounds == 0 {
		for _, s := range a.streams {
			if s.fresh() {
				said = append(said, &rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{s.told(now)}})
				quiet = false
			}
		}
	} else {
		quiet = quiet && len(a.streams) == 0
	}
	if a.armed = !quiet; a.armed {
		a.timer.Reset(feedbackEvery)
	}
	writer := a.writer
	a.mu.Unlock()
	for part := range slices.Chunk(said, reportsTogether) {
		_, _ = writer.Write(part, nil) // a closed connection is noticed elsewhere
	}
}

// reportsTogether leave as one packet, of some thousand bytes: one that is longer than a line takes would be lost.
const reportsTogether = 30

// arriving is one stream, as its receiver report wants it (RFC 3550, section 6.4 and appendix A).
type arriving struct {
	ssrc        uint32
	clock       uint32
	transportID uint8

	unwrap           packet.Unwrapper
	first            int64
	received         int64
	toldHigh, toldIn int64 // highest number and packets received, at the last report
	transit          int64
	jitter           float64
	report           uint32
	reported         time.Time
}

func (s *arriving) note(h *packet.Header, now time.Time) {
	seq := s.unwrap.Unwrap(h.Sequence)
	if s.received == 0 {
		s.first, s.toldHigh = seq, seq-1
	}
	s.received++
	transit := ticks(now, s.clock) - int64(h.Timestamp)
	if s.received > 1 {
		d := int64(int32(transit - s.transit))
		s.jitter += (float64(max(d, -d)) - s.jitter) / 16
	}
	s.transit = transit
}

// fresh says whether packets have come since the last report.
func (s *arriving) fresh() bool { return s.received > s.toldIn }

func (s *arriving) told(now time.Time) rtcp.ReceptionReport {
	high := s.unwrap.Highest()
	r := rtcp.ReceptionReport{
		SSRC: s.ssrc, LastSequenceNumber: uint32(high - 1<<16), Jitter: uint32(s.jitter),
		TotalLost: uint32(max(0, min(high-s.first+1-s.received, 1<<23-1))),
	}
	if expected, got := high-s.toldHigh, s.received-s.toldIn; expected > got && expected > 0 {
		r.FractionLost = uint8((expected - got) * 256 / expected)
	}
	if !s.reported.IsZero() {
		r.LastSenderReport = s.report
		r.Delay = uint32(now.Sub(s.reported) * 65536 / time.Second)
	}
	s.toldHigh, s.toldIn = high, s.received
	return r
}
