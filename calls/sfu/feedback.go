package sfu

import (
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"
)

// ReadFeedback takes the subscriber's RTCP until the sender is stopped: NACKs go to the Downlink, key frame
// requests to the layer in use.
func (d *DownTrack) ReadFeedback(sender *webrtc.RTPSender) {
	buf := make([]byte, receiveMTU)
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
			d.feedback(p)
		}
	}
}

func (d *DownTrack) feedback(p rtcp.Packet) {
	switch p := p.(type) {
	case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
		d.AskKeyFrame()
	case *rtcp.TransportLayerNack:
		for _, pair := range p.Nacks {
			d.link.push(item{what: doRepair, track: d, seq: int64(pair.PacketID) | int64(pair.LostPackets)<<16})
		}
	case *rtcp.ReceiverReport:
		b := d.binding.Load()
		for i := range p.Reports {
			if r := &p.Reports[i]; b != nil && r.SSRC == b.ssrc {
				d.lossPct.Store(uint32(r.FractionLost) * 100 / 256)
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
		d.rtt.Store(rtt.Microseconds())
	}
}

// RoundTrip is the time to the subscriber and back, 0 if not known yet.
func (d *DownTrack) RoundTrip() time.Duration { return time.Duration(d.rtt.Load()) * time.Microsecond }

// Loss is the share of packets, in percent, that the subscriber missed between its last two reports.
func (d *DownTrack) Loss() int { return int(d.lossPct.Load()) }
