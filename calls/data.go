package calls

import (
	"slices"
	"sync"

	"github.com/pion/webrtc/v4"
	"golang.org/x/time/rate"

	"chancery/calls/signal"
)

// dataPort is a participant's end of the data channels. It is used by Pion's goroutines as well as by p's own:
// data pass from one participant to another without passing through a room.
type dataPort struct {
	mu       sync.Mutex
	reliable *webrtc.DataChannel
	lossy    *webrtc.DataChannel
	last     uint32 // newest reliable sequence that came from the client
	limit    *rate.Limiter
}

const (
	reliableLabel  = "_reliable"
	lossyLabel     = "_lossy"
	maxData        = 64 << 10
	packetCost     = 256     // bytes that a packet counts beside its own
	dataPerSecond  = 1 << 20 // bytes that one client may send
	dataBurst      = 4 << 20
	lossyBuffer    = 64 << 10 // beyond it a lossy packet is dropped
	reliableBuffer = 8 << 20  // beyond it the receiver has fallen behind for good
)

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
	p.data.mu.Lock()
	p.data.reliable, p.data.lossy = reliable, lossy
	p.data.mu.Unlock()
	return nil
}

// onDataChannel takes a channel that the client made. With one connection we send on it too.
func (p *Participant) onDataChannel(_ *transport, c *webrtc.DataChannel) {
	p.data.mu.Lock()
	if p.data.limit == nil {
		p.data.limit = rate.NewLimiter(dataPerSecond, dataBurst)
	}
	if p.single {
		switch c.Label() {
		case reliableLabel:
			p.data.reliable = c
		case lossyLabel:
			p.data.lossy = c
		}
	}
	p.data.mu.Unlock()
	kind, ok := map[string]signal.DataPacket_Kind{reliableLabel: signal.DataPacket_RELIABLE, lossyLabel: signal.DataPacket_LOSSY}[c.Label()]
	if !ok || !p.info.Permission.CanPublishData {
		return
	}
	c.OnMessage(func(m webrtc.DataChannelMessage) { p.forwardData(kind, m.Data) })
}

// forwardData signs a packet with its sender and passes it on, in Pion's goroutine: the order of each sender is kept.
func (p *Participant) forwardData(kind signal.DataPacket_Kind, raw []byte) {
	if len(raw) > maxData {
		return
	}
	p.data.mu.Lock()
	within := p.data.limit.AllowN(p.room.focus.tokens.now(), len(raw)+packetCost)
	p.data.mu.Unlock()
	if !within {
		return
	}
	packet, err := signal.ParseData(raw)
	if err != nil {
		p.log.Debug().Err(err).Msg("Data packet not understood")
		return
	}
	if kind == signal.DataPacket_RELIABLE {
		p.data.noteReliable(packet.Sequence)
	}
	names, sids := packet.DestinationIdentities, []string(nil)
	packet.Kind, packet.ParticipantSid, packet.ParticipantIdentity = kind, p.sid, p.identity
	if u := packet.User; u != nil {
		names, sids = append(names, u.DestinationIdentities...), u.DestinationSids
		u.ParticipantSid, u.ParticipantIdentity = p.sid, p.identity
	}
	out, err := signal.EncodeData(packet)
	if err != nil {
		return
	}
	for _, to := range *p.room.everyone.Load() {
		all := len(names) == 0 && len(sids) == 0
		if to != p && (all || slices.Contains(names, to.identity) || slices.Contains(sids, to.sid)) {
			to.data.send(kind, out)
		}
	}
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

// send queues a packet to the client. What a slow client cannot take is dropped.
func (d *dataPort) send(kind signal.DataPacket_Kind, raw []byte) {
	d.mu.Lock()
	c, limit := d.reliable, uint64(reliableBuffer)
	if kind == signal.DataPacket_LOSSY {
		c, limit = d.lossy, lossyBuffer
	}
	d.mu.Unlock()
	if c == nil || c.ReadyState() != webrtc.DataChannelStateOpen || c.BufferedAmount() > limit {
		return
	}
	_ = c.Send(raw) // a channel that just closed: its participant is leaving
}
