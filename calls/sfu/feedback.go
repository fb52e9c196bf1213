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
	case *rtcp.ReceiverEstimatedMaximumBitrate:
		d.link.told(float64(p.Bitrate))
	case *rtcp.ReceiverReport:
		d.noteReception(p.Reports)
	case *rtcp.SenderReport: // of one who publishes too
		d.noteReception(p.Reports)
	}
}

func (d *DownTrack) noteReception(reports []rtcp.ReceptionReport) {
	b := d.binding.Load()
	for i := range reports {
		if r := &reports[i]; b != nil && r.SSRC == b.ssrc {
			d.counts.loss.Store(uint32(r.FractionLost) * 100 / 256)
			if codec := d.up.Codec(); codec != nil && codec.ClockRate > 0 {
				d.counts.jitter.Store(int64(r.Jitter) * int64(time.Second) / int64(codec.ClockRate))
			}
			d.noteRoundTrip(r, time.Now())
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

// sentReport is the newest sender report, by which a receiver report tells the round trip.
type sentReport struct {
	middle uint32 // of its NTP time
	at     time.Time
}

// senderReport tells the subscriber where the track's timestamps stand on the publisher's clock, as all of
// that publisher's tracks do: lips and voice stay together.
func (d *DownTrack) senderReport(now time.Time) *rtcp.SenderReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, span := d.binding.Load(), d.numbers.Current()
	if b == nil || span == nil || d.current.Load() == paused || d.counts.packets.Load() == 0 {
		return nil
	}
	l := d.streams[span.Layer]
	report := l.report.Load()
	if report == nil {
		return nil
	}
	since := max(now.Sub(report.arrived), 0) // it may have come a moment after now
	ntp := report.ntp + uint64(since/time.Second)<<32 + uint64(since%time.Second)<<32/uint64(time.Second)
	d.sentReport.Store(&sentReport{middle: uint32(ntp >> 16), at: now})
	return &rtcp.SenderReport{
		SSRC:        b.ssrc,
		NTPTime:     ntp,
		RTPTime:     report.rtp + span.Timestamp + uint32(int64(since)*int64(l.clock)/int64(time.Second)),
		PacketCount: uint32(d.counts.packets.Load()),
		OctetCount:  uint32(d.counts.bytes.Load()),
	}
}
