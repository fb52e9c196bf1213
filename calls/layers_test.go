package calls

import (
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// rawLayer is a layer whose packets are made here.
type rawLayer struct {
	*webrtc.TrackLocalStaticRTP
	agreed chan webrtc.TrackLocalContext
	bound  webrtc.TrackLocalContext
}

func (a *rawLayer) Bind(ctx webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	a.agreed <- ctx
	return a.TrackLocalStaticRTP.Bind(ctx)
}

// write sends a key frame as the layer rid of section mid.
func (a *rawLayer) write(mid, rid string, seq uint16) error {
	h := rtp.Header{Version: 2, Marker: true, PayloadType: uint8(a.bound.CodecParameters()[0].PayloadType), SSRC: uint32(a.bound.SSRC()), SequenceNumber: seq, Timestamp: uint32(seq) * 3000}
	for _, ext := range a.bound.HeaderExtensions() {
		for uri, value := range map[string]string{sdp.SDESMidURI: mid, sdp.SDESRTPStreamIDURI: rid} {
			if ext.URI == uri {
				if err := h.SetExtension(uint8(ext.ID), []byte(value)); err != nil {
					return err
				}
			}
		}
	}
	_, err := a.bound.WriteStream().WriteRTP(&h, pictures[webrtc.MimeTypeVP8])
	return err
}

// TestLayersOfTooManyNames: of a client that sends four layers three are taken.
func TestLayersOfTooManyNames(t *testing.T) {
	f, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	ann.announces(&signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO})
	rids := []string{"q", "h", "f", "x"}
	var layers []*rawLayer
	for _, rid := range rids {
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, "camera", "stream", webrtc.WithRTPStreamID(rid))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, &rawLayer{TrackLocalStaticRTP: track, agreed: make(chan webrtc.TrackLocalContext, 4)})
	}
	tr, err := ann.pub.AddTransceiverFromTrack(layers[0], webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	for _, l := range layers[1:] {
		if err == nil {
			err = tr.Sender().AddEncoding(l)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	go reads(tr.Sender())
	ann.offer()
	for _, l := range layers {
		select {
		case l.bound = <-l.agreed:
		case <-time.After(patience):
			t.Fatal("nothing was agreed upon")
		}
	}

	p, seq := participantOf(f, "ann"), uint16(0)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for n := (sfu.UpNumbers{}); n.Layers[0].Packets < 50 || n.Layers[1].Packets < 50 || n.Layers[2].Packets < 50; {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("got %+v, want three layers", n.Layers)
		}
		seq++
		for i, l := range layers {
			if err := l.write(tr.Mid(), rids[i], seq); err != nil {
				t.Fatal(err)
			}
		}
		within(t, p, func() {
			for _, track := range p.published {
				for up := range track.ups() {
					n = up.Numbers()
				}
			}
		})
		if n.Layers[2].SSRC == uint32(layers[3].bound.SSRC()) {
			t.Fatal("the fourth layer came in the place of the third")
		}
	}
}
