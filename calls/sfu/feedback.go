package sfu

import (
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"
)

// ReadFeedback takes the subscriber's RTCP until the sender is stopped: NACKs go to the Downlink, key frame
// requests to the layer in use.
func (d *DownTrack) ReadFeedback(sender *webrtc.RTPSender) {
	buf, scratch := make([]byte, receiveMTU), []byte(nil)
	for {
		n, _, err := sender.Read(buf)
		if err != nil {
			return
		}
		packets, err := rtcp.Unmarshal(buf[:n])
		if err != nil {
			continue // one bad packet of a subscriber harms nobody
		}
		for _, p := range packets {
			if _, nack := p.(*rtcp.TransportLayerNack); nack && scratch == nil {
				scratch = make([]byte, receiveMTU+2) // most subscribers never need it
			}
			d.feedback(p, scratch)
		}
	}
}

// feedback takes one RTCP packet; scratch is where repairs are made.
func (d *DownTrack) feedback(p rtcp.Packet, scratch []byte) {
	switch p := p.(type) {
	case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
		d.counts.keyAsks.Add(1)
		d.AskKeyFrame()
	case *rtcp.TransportLayerNack:
		d.counts.nacks.Add(uint64(len(p.Nacks)))
		for _, pair := range p.Nacks {
			d.repair(pair.PacketID, uint16(pair.LostPackets), scratch)
		}
	case *rtcp.ReceiverReport:
		b := d.binding.Load()
		for i := range p.Reports {
			if r := &p.Reports[i]; b != nil && r.SSRC == b.ssrc {
				d.counts.loss.Store(uint32(r.FractionLost) * 100 / 256)
				if codec := d.up.Codec(); codec != nil && codec.ClockRate > 0 {
					d.counts.jitter.Store(int64(r.Jitter) * int64(time.Second) / int64(codec.ClockRate))
				}
				d.noteRoundTrip(r, time.Now())
			}
		}
	}
}

func (d *DownTrack) noteRoundTrip(r *rtcp.ReceptionReport, now time.Time) {
	sent := d.sentReport.Load()
	if sent == nil || sent.middle != r.LastSenderReport {
		return
	}
	held := time.Duration(r.Delay) * time.Second / 65536
	if rtt := now.Sub(sent.at) - held; rtt > 0 && rtt < 10*time.Second {
		d.counts.rtt.Store(rtt.Microseconds())
	}
}

// RoundTrip is the time to the subscriber and back, 0 if not known yet.
func (d *DownTrack) RoundTrip() time.Duration {
	return time.Duration(d.counts.rtt.Load()) * time.Microsecond
}

// Loss is the share of packets, in percent, that the subscriber missed between its last two reports.
func (d *DownTrack) Loss() int { return int(d.counts.loss.Load()) }
