package calls

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"
	"golang.org/x/time/rate"

	"chancery/calls/signal"
)

// dataPort is a participant's end of the data channels. It is used by Pion's goroutines as well as by p's own:
// data pass from one participant to another without passing through a room.
type dataPort struct {
	may      atomic.Bool  // the client may send
	hidden   atomic.Bool  // the others do not know of it
	opened   atomic.Int32 // channels that the client has opened since it came, also those that are closed
	mu       sync.Mutex   // also held while a reliable packet is queued, so that what is told again keeps its place
	reliable *webrtc.DataChannel
	lossy    *webrtc.DataChannel
	last     uint32            // newest reliable sequence that came from the client
	early    [][]byte          // reliable packets without a sequence that came before the channel was open, oldest first; see words for the others
	waiting  int               // bytes of early
	behind   map[string]uint32 // senders of whom a reliable packet found no room, by sid, and the packet before it; see catchUp
	in, out  *rate.Limiter
}

const (
	reliableLabel   = "_reliable"
	lossyLabel      = "_lossy"
	maxData         = 64 << 10
	maxChannels     = 16      // that one client opens; each costs a goroutine and a buffer of 64 KiB, and livekit-client has three
	maxDestinations = 1000    // named in one packet
	packetCost      = 256     // bytes that a packet counts beside its own
	nameCost        = 64      // and for each that it names
	dataPerSecond   = 1 << 20 // bytes that one client may send
	dataBurst       = 4 << 20
	fanPerSecond    = 16 << 20 // bytes that may go out for one client's packets
	fanBurst        = 64 << 20
	earlyMost       = 256       // packets without a sequence that wait for a channel to open
	earlyBytes      = 256 << 10 // and how long they are together
	lossyBuffer     = 64 << 10  // beyond it a lossy packet is dropped
	reliableBuffer  = 2 << 20   // beyond it the receiver has fallen behind
	reliableRest    = 512 << 10 // when so little is left of it, the receiver catches up
)

func newDataPort() dataPort {
	return dataPort{in: rate.NewLimiter(dataPerSecond, dataBurst), out: rate.NewLimiter(fanPerSecond, fanBurst)}
}

// openDataChannels makes our channels on the subscriber's connection, in two-connection mode.
func (p *Participant) openDataChannels(t *transport) error {
	ordered, unordered, never := true, false, uint16(0)
	reliable, err := t.pc.CreateDataChannel(reliableLabel, &webrtc.DataChannelInit{Ordered: &ordered})
	if err != nil {
		return err
	}
	lossy, err := t.pc.CreateDataChannel(lossyLabel, &webrtc.DataChannelInit{Ordered: &unordered, MaxRetransmits: &never})
	if err != nil {
		return err
	}
	p.sendsOn(reliable)
	p.sendsOn(lossy)
	return nil
}

// sendsOn has p's packets go out on a channel of ours or its own, as soon as it is open: what is sent before is lost.
func (p *Participant) sendsOn(c *webrtc.DataChannel) {
	c.OnOpen(func() {
		if c.Label() == reliableLabel {
			p.openReliable(c)
			return
		}
		p.data.mu.Lock()
		defer p.data.mu.Unlock()
		p.data.lossy = c
	})
}

// onDataChannel takes a channel that the client made. With one connection we send on it too. It is called in Pion's goroutine, which opens and
// reads the channel when this has returned: what came before there is somebody to hear it would be lost. Who makes too many goes: Pion
// keeps something even of those that are closed.
func (p *Participant) onDataChannel(c *webrtc.DataChannel) {
	if p.data.opened.Add(1) > maxChannels {
		p.end(signal.DisconnectReason_JOIN_FAILURE, signal.Leave_DISCONNECT)
		return
	}
	kind, ok := map[string]signal.DataPacket_Kind{reliableLabel: signal.DataPacket_RELIABLE, lossyLabel: signal.DataPacket_LOSSY}[c.Label()]
	if !ok {
		return
	}
	c.OnMessage(func(m webrtc.DataChannelMessage) { p.guarded(func() { p.forwardData(kind, m.Data) }) })
	if p.single {
		p.sendsOn(c)
	}
}

// forwardData signs a packet with its sender and passes it on, in Pion's goroutine: the order of each sender is kept.
func (p *Participant) forwardData(kind signal.DataPacket_Kind, raw []byte) {
	if !p.data.may.Load() {
		return
	}
	if len(raw) > maxData || !p.mayPass(p.data.in, kind, len(raw)+packetCost) {
		return
	}
	packet, err := signal.ParseData(raw)
	if err != nil {
		p.log.Debug().Err(err).Msg("Data packet not understood")
		return
	}
	names, sids := packet.DestinationIdentities, []string(nil)
	packet.Kind, packet.ParticipantSid, packet.ParticipantIdentity = kind, p.sid, p.identity // clients tell by the sid which packets they have
	if u := packet.User; u != nil {
		names, sids = append(names, u.DestinationIdentities...), u.DestinationSids
		u.ParticipantSid, u.ParticipantIdentity = p.sid, p.identity
	}
	if p.data.hidden.Load() {
		packet.ParticipantIdentity = ""
		if u := packet.User; u != nil {
			u.ParticipantSid, u.ParticipantIdentity = "", ""
		}
	}
	if named := len(names) + len(sids); named > maxDestinations || named > 0 && !p.mayPass(p.data.in, kind, named*nameCost) {
		return
	}
	out, err := signal.EncodeData(packet)
	if err != nil {
		return
	}
	w := word{from: p, seq: packet.Sequence, to: destinationsOf(names, sids), raw: out, at: time.Now()}
	to := p.hearers(&w)
	if !p.mayPass(p.data.out, kind, len(to)*(len(out)+packetCost)) {
		return
	}
	if kind == signal.DataPacket_RELIABLE {
		p.room.words.note(w)
		p.data.noteReliable(packet.Sequence)
	}
	for _, hearer := range to {
		hearer.data.send(kind, &w)
	}
}

// mayPass says whether cost bytes are within the limit. Reliable packets wait for it, and their sender with them: what
// it sends meanwhile fills its own channel's window, and nobody else is the worse for it.
func (p *Participant) mayPass(limit *rate.Limiter, kind signal.DataPacket_Kind, cost int) bool {
	now := time.Now()
	cost = min(cost, limit.Burst())
	if kind == signal.DataPacket_LOSSY {
		return limit.AllowN(now, cost)
	}
	wait := limit.ReserveN(now, cost).DelayFrom(now)
	if wait == 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}

// hearers are those to whom a packet goes.
func (p *Participant) hearers(w *word) (to []*Participant) {
	for _, other := range *p.room.everyone.Load() {
		if w.isFor(other) {
			to = append(to, other)
		}
	}
	return to
}

func (d *dataPort) noteReliable(seq uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = max(d.last, seq)
}

func (d *dataPort) lastReliable() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// send queues a packet to the client. What a slow client cannot take is dropped; of reliable packets all later ones of that sender too, until
// the client catches up: it takes none that is older than one that it has.
func (d *dataPort) send(kind signal.DataPacket_Kind, w *word) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kind == signal.DataPacket_LOSSY {
		queue(d.lossy, w.raw, lossyBuffer)
		return
	}
	d.sendReliable(w)
}

// sendReliable is send for reliable packets; d.mu is held.
func (d *dataPort) sendReliable(w *word) {
	if w.seq == 0 { // nobody can tell what would be missing
		if d.reliable == nil {
			d.keepEarly(w.raw)
		} else {
			queue(d.reliable, w.raw, reliableBuffer)
		}
		return
	}
	if _, waits := d.behind[w.from.sid]; waits || queue(d.reliable, w.raw, reliableBuffer) {
		return
	}
	if d.behind == nil {
		d.behind = map[string]uint32{}
	}
	d.behind[w.from.sid] = w.seq - 1
}

// keepEarly lets a packet wait for the channel, in place of the oldest ones where too much waits; d.mu is held.
func (d *dataPort) keepEarly(raw []byte) {
	d.early = append(d.early, raw)
	d.waiting += len(raw)
	for len(d.early) > earlyMost || d.waiting > earlyBytes {
		d.waiting -= len(d.early[0])
		d.early[0] = nil
		d.early = d.early[1:]
	}
}

// queue is false if too much waits on the channel.
func queue(c *webrtc.DataChannel, raw []byte, limit uint64) bool {
	if c == nil || c.ReadyState() != webrtc.DataChannelStateOpen {
		return true // it is told when the channel opens, or is leaving
	}
	if c.BufferedAmount() > limit {
		return false
	}
	_ = c.Send(raw) // a channel that just closed: its participant is leaving
	return true
}
