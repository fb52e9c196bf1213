package packet

// Span is a run of packets of one layer whose numbers all move by the same amount.
type Span struct {
	Layer     int8
	In, Out   int64  // the run's first number, coming in and going out
	Timestamp uint32 // is added to the timestamps
	VP8       Shift

	// Of a stream with several layers in it: the highest spatial layer that goes out, and which decode targets the
	// subscriber is told to be left; 0: as the publisher tells.
	Top  int8
	Mask uint32
}

// Map lays the packets of one layer after another onto one outgoing stream. Lost packets keep their numbers
// free, so that they can still be repaired; dropped ones leave no hole. Numbers are unwrapped ones, and each that goes out
// lies within maxFree of the highest before it: SRTP guesses from 16 bits which number is meant, and would encipher two packets
// alike after a wrong guess. A larger hole is closed.
// The zero value is ready. It belongs to one goroutine.
type Map struct {
	spans [64]Span // the newest ones; spans[(count-1)%64] is in force
	count int
	next  int64 // the next outgoing number, when Begin is called
	high  int64 // highest incoming number of the layer in force
	sent  int64 // highest outgoing number that Forward gave
}

// maxFree is how many numbers in a row may be kept free; many times more than are ever repaired.
const maxFree = 4096

// Follow gives a map for another stream whose packets go out after those of m, under the next numbers. It knows nothing of m's packets.
func (m *Map) Follow() Map { return Map{next: m.next, sent: m.sent} }

// Current is the span in force, or nil before the first Begin.
func (m *Map) Current() *Span {
	if m.count == 0 {
		return nil
	}
	return &m.spans[(m.count-1)%len(m.spans)]
}

// Begin starts a run at the incoming number s.In; s.Out is set to the number that goes out next. The first of all is from the lower
// half: if the first packets are lost, and the numbers had begun anew meanwhile, the receiver could not know (RFC 3711, section 3.3.1).
func (m *Map) Begin(s Span) {
	m.start(s.In)
	s.Out = m.next
	m.spans[m.count%len(m.spans)] = s
	m.count++
	m.high = s.In - 1
}

func (m *Map) start(at int64) {
	if m.count == 0 && m.next == 0 {
		m.next = 1<<16 + at&0x7fff
		m.sent = m.next - 1
	}
}

// Spend takes the next outgoing number for a packet of no layer, before the first run begins; start is where the numbers begin if this is
// the first of all, by its lower bits.
func (m *Map) Spend(start int64) int64 {
	m.start(start)
	m.sent = m.next
	m.next++
	return m.sent
}

// Drop leaves out the packet in of the layer in force. shift holds for the packets after it.
// It is false for a late packet, whose number is spoken for: it is left out by not being sent.
func (m *Map) Drop(in int64, shift Shift) bool {
	cur := m.Current()
	if cur == nil || in <= m.high {
		return false
	}
	if in == cur.In { // nothing of this run has come yet
		cur.In, cur.VP8, m.high = in+1, shift, in
		return true
	}
	next := *cur
	next.In, next.VP8 = in+1, shift
	m.reach(in - cur.In + cur.Out)
	m.Begin(next)
	return true
}

// reach sets the number that goes out next. One that would leave too many free comes right after those that have gone out, and
// what was before is forgotten.
func (m *Map) reach(next int64) {
	if m.next = next; next > m.sent+maxFree {
		m.count, m.next = 0, m.sent+1
	}
}

// Skip leaves out the packet in like Drop, and with it what is missing between the one left out before and in.
func (m *Map) Skip(in int64) bool {
	cur := m.Current()
	if cur == nil || in <= m.high {
		return false
	}
	if m.high >= cur.In { // something has gone out since
		return m.Drop(in, cur.VP8)
	}
	cur.In, m.high = in+1, in
	return true
}

// Cut lets a run begin at the packet in that goes on with the numbers as before, for the caller to change what else its span
// says. It is nil for a late packet.
func (m *Map) Cut(in int64) *Span {
	cur := m.Current()
	if cur == nil || in <= m.high {
		return nil
	}
	if m.high >= cur.In {
		m.cut(cur, in)
	}
	return m.Current()
}

// cut is Cut where it leads to a run of its own.
func (m *Map) cut(cur *Span, in int64) {
	next := *cur
	next.In = in
	m.reach(in - cur.In + cur.Out)
	m.Begin(next)
}

// Forward gives the outgoing number of a packet of the layer in force, and the span that it belongs to.
// It is false for late packets that were dropped, or are older than what is remembered.
func (m *Map) Forward(in int64) (out int64, span *Span, ok bool) {
	cur := m.Current()
	if cur == nil {
		return 0, nil, false
	}
	if in-cur.In+cur.Out > m.sent+maxFree {
		m.cut(cur, in)
		cur = m.Current()
	}
	if in >= cur.In {
		out = in - cur.In + cur.Out
		if in > m.high {
			m.high = in
			m.next = out + 1
		}
		return out, cur, m.gives(out)
	}
	for i := m.count - 2; i >= 0 && i > m.count-2-len(m.spans)+1; i-- {
		s, after := &m.spans[i%len(m.spans)], &m.spans[(i+1)%len(m.spans)]
		if s.Layer != cur.Layer {
			return 0, nil, false
		}
		if in >= s.In {
			out = in - s.In + s.Out
			return out, s, out < after.Out && m.gives(out)
		}
	}
	return 0, nil, false
}

// gives notes that a number goes out. It is false for one that is too far behind.
func (m *Map) gives(out int64) bool {
	m.sent = max(m.sent, out)
	return out > m.sent-maxFree
}

// Back finds which incoming packet went out, or was to go out, under the 16-bit number out.
func (m *Map) Back(out uint16) (in int64, span *Span, ok bool) {
	if m.count == 0 {
		return 0, nil, false
	}
	last := m.next - 1
	full := last + int64(int16(out-uint16(last)))
	if full > last {
		return 0, nil, false
	}
	for i := m.count - 1; i >= 0 && i > m.count-1-len(m.spans); i-- {
		if s := &m.spans[i%len(m.spans)]; full >= s.Out {
			return full - s.Out + s.In, s, true
		}
	}
	return 0, nil, false
}

// Next is the outgoing number that has not been used yet.
func (m *Map) Next() int64 { return m.next }

// Late says whether in comes after a higher number of the layer in force.
func (m *Map) Late(in int64) bool { return in <= m.high }
