package sfu

import (
	"time"

	"github.com/pion/rtcp"
)

// feedback takes one RTCP packet for the track's stream ssrc; scratch is where repairs are made.
func (d *DownTrack) feedback(p rtcp.Packet, ssrc uint32, scratch []byte) {
	switch p := p.(type) {
	case *rtcp.PictureLossIndication:
		d.counts.keyAsks.Add(1)
		d.AskKeyFrame()
	case *rtcp.FullIntraRequest:
		for _, fir := range p.FIR {
			if fir.SSRC == ssrc {
				d.counts.keyAsks.Add(1)
				d.AskKeyFrame()
				return
			}
		}
	case *rtcp.TransportLayerNack:
		d.counts.nacks.Add(uint64(len(p.Nacks)))
		d.link.suspect()
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
