package calls

import (
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// camera publishes one video track as a browser does: three layers of VP8, each with three temporal layers, and key frames when
// they are asked for. The last byte of each payload is the layer.
type camera struct {
	sender *webrtc.RTPSender
	layers [3]cameraLayer
	frames atomic.Int64 // shot, of each layer
	voice  atomic.Int64 // packets
}

type cameraLayer struct {
	track *webrtc.TrackLocalStaticRTP
	kbps  int

	mu   sync.Mutex
	want bool // a key frame
}

const (
	cameraRate   = 15 // frames a second
	cameraPacket = 1000
)

// film publishes a camera, and a voice of 50 packets a second, until the test ends.
func (c *testClient) film() *camera {
	c.t.Helper()
	cam := &camera{}
	vp8 := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}
	announced := &signal.AddTrack{Cid: "camera", Type: signal.TrackType_VIDEO, Source: signal.TrackSource_CAMERA, Width: 1280, Height: 720}
	for i, rid := range []string{"q", "h", "f"} {
		track, err := webrtc.NewTrackLocalStaticRTP(vp8, "camera", "stream", webrtc.WithRTPStreamID(rid))
		if err != nil {
			c.t.Fatal(err)
		}
		cam.layers[i].track, cam.layers[i].kbps, cam.layers[i].want = track, []int{110, 350, 1300}[i], true
		announced.Layers = append(announced.Layers, &signal.VideoLayer{
			Quality: signal.VideoQuality(i), Width: 320 << i, Height: 180 << i, Rid: rid,
		})
	}
	transceiver, err := c.pub.AddTransceiverFromTrack(cam.layers[0].track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		c.t.Fatal(err)
	}
	cam.sender = transceiver.Sender()
	for i := 1; i < len(cam.layers); i++ {
		if err := cam.sender.AddEncoding(cam.layers[i].track); err != nil {
			c.t.Fatal(err)
		}
	}
	voice, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "voice", "stream")
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.pub.AddTransceiverFromTrack(voice, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly}); err != nil {
		c.t.Fatal(err)
	}
	for _, req := range []*signal.AddTrack{announced, {Cid: "voice", Type: signal.TrackType_AUDIO, Source: signal.TrackSource_MICROPHONE}} {
		c.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: req}})
		c.wait("track_published", func(res *signal.Response) bool { return res.GetTrackPublished().GetCid() == req.Cid })
	}
	c.offer()
	for i, rid := range []string{"q", "h", "f"} {
		go cam.hear(rid, &cam.layers[i])
		go cam.shoot(c.t, i, rid)
	}
	go cam.speak(c.t, voice)
	return cam
}

func (cam *camera) speak(t *testing.T, track *webrtc.TrackLocalStaticRTP) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	p := rtp.Packet{Header: rtp.Header{Version: 2, Marker: true}, Payload: make([]byte, 90)}
	for {
		select {
		case <-t.Context().Done():
			return
		case <-tick.C:
			p.SequenceNumber++
			p.Timestamp += 960
			cam.voice.Add(1)
			if track.WriteRTP(&p) != nil {
				return
			}
		}
	}
}

// hear takes what is asked of a layer.
func (cam *camera) hear(rid string, l *cameraLayer) {
	for {
		packets, _, err := cam.sender.ReadSimulcastRTCP(rid)
		if err != nil {
			return
		}
		for _, p := range packets {
			if _, ok := p.(*rtcp.PictureLossIndication); ok {
				l.mu.Lock()
				l.want = true
				l.mu.Unlock()
			}
		}
	}
}

// shoot sends a layer's frames.
func (cam *camera) shoot(t *testing.T, index int, rid string) {
	l := &cam.layers[index]
	var mid, ridID uint8
	for _, ext := range cam.sender.GetParameters().HeaderExtensions {
		switch ext.URI {
		case sdp.SDESMidURI:
			mid = uint8(ext.ID)
		case sdp.SDESRTPStreamIDURI:
			ridID = uint8(ext.ID)
		}
	}
	tick := time.NewTicker(time.Second / cameraRate)
	defer tick.Stop()
	var seq, picture uint16
	var tl0, key uint8
	var timestamp uint32
	var shares = [3]int{40, 20, 20} // of the bits, for a frame of each temporal layer: two of the last in four
	for n := 0; ; n++ {
		select {
		case <-t.Context().Done():
			return
		case <-tick.C:
		}
		tid := []byte{0, 2, 1, 2}[n%4]
		bytes := l.kbps * 1000 / 8 * 4 / cameraRate * shares[tid] / 100
		l.mu.Lock()
		isKey := l.want && tid == 0
		if isKey {
			l.want = false
			key++
			bytes *= 3
		}
		l.mu.Unlock()
		if timestamp += 90000 / cameraRate; index == 0 {
			cam.frames.Add(1)
		}
		picture++
		if tid == 0 {
			tl0++
		}
		for at := 0; at < bytes; at += cameraPacket {
			first := byte(0x80)
			if at == 0 {
				first |= 0x10
			}
			if tid == 2 {
				first |= 0x20
			}
			payload := make([]byte, 6+min(cameraPacket, bytes-at)+2)
			copy(payload, []byte{first, 0xf0, 0x80 | byte(picture>>8)&0x7f, byte(picture), tl0, tid<<6 | 0x20 | key&0x1f})
			if !isKey {
				payload[6] = 1
			}
			payload[len(payload)-1] = byte(index)
			seq++
			p := rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, Timestamp: timestamp, Marker: at+cameraPacket >= bytes}, Payload: payload}
			if p.SetExtension(mid, []byte("0")) != nil || p.SetExtension(ridID, []byte(rid)) != nil || l.track.WriteRTP(&p) != nil {
				return
			}
		}
	}
}

// screening counts what a subscriber gets of a camera and a voice.
type screening struct {
	mu     sync.Mutex
	layer  int // of the newest frame
	frames int // whose packets have all come
	voice  int
	paused bool
}

func (s *screening) read() (layer, frames, voice int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layer, s.frames, s.voice
}

// forget lets the next frame say which layer comes.
func (s *screening) forget() {
	s.mu.Lock()
	s.layer = -1
	s.mu.Unlock()
}

// screen lets c watch, and ask for key frames until it has the first.
func (c *testClient) screen() *screening {
	s := &screening{layer: -1}
	go func() {
		for {
			select {
			case <-c.t.Context().Done():
				return
			case remote := <-c.media:
				go s.watch(remote)
			case res, ok := <-c.said:
				if !ok {
					return
				}
				for _, state := range res.GetStreamStateUpdate().GetStreamStates() {
					s.mu.Lock()
					s.paused = state.State == signal.StreamState_STREAM_PAUSED
					s.mu.Unlock()
				}
			}
		}
	}()
	return s
}

func (s *screening) watch(remote *webrtc.TrackRemote) {
	var last uint16
	whole := false
	for {
		p, _, err := remote.ReadRTP()
		if err != nil {
			return
		}
		s.mu.Lock()
		switch {
		case remote.Kind() == webrtc.RTPCodecTypeAudio:
			s.voice++
		case len(p.Payload) < 8: // padding
		default:
			begins := p.Payload[0]&0x10 != 0
			whole = begins || whole && p.SequenceNumber == last+1
			if last = p.SequenceNumber; p.Marker && whole {
				s.frames++
				s.layer = int(p.Payload[len(p.Payload)-1])
			}
		}
		s.mu.Unlock()
	}
}

// until waits for a layer, and says how long it took.
func (s *screening) until(t *testing.T, layer int, most time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	for time.Since(begun) < most {
		if got, _, _ := s.read(); got == layer {
			return time.Since(begun)
		}
		time.Sleep(20 * time.Millisecond) // what comes is counted, not told
	}
	got, _, _ := s.read()
	t.Fatalf("got layer %d after %v, want %d", got, most, layer)
	return most
}

// over gives the shares of the frames and of the voice's packets that come, for a while.
func (s *screening) over(cam *camera, length time.Duration) (frames, voice float64) {
	_, f, v := s.read()
	shot, spoken := cam.frames.Load(), cam.voice.Load()
	time.Sleep(length) // the measure is a rate
	_, f2, v2 := s.read()
	return float64(f2-f) / float64(cam.frames.Load()-shot), float64(v2-v) / float64(cam.voice.Load()-spoken)
}

// leastVoice is the share of its packets that must come: three in a hundred may be concealed.
const leastVoice = 0.97

// TestLines plays the whole of the controller, over real sockets and a line that is made worse: what it believes of the line
// shows in which layers come, and when.
func TestLines(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of its lines")
	}
	f, url := newTestFocus(t)
	media, door := mediaAddress(t, f), strings.TrimPrefix(url, "ws://")
	for _, c := range []struct {
		name string
		down way
		act  func(t *testing.T, cam *camera, s *screening, r *relay)
	}{
		{"250 kbit/s, and the limit lifted", way{Kbps: 250}, func(t *testing.T, cam *camera, s *screening, r *relay) {
			down := s.until(t, 0, 5*time.Second)
			time.Sleep(2 * time.Second) // it settles
			var frames, voice float64
			for range 4 { // on a busy machine a line seems narrower now and then
				if frames, voice = s.over(cam, 4*time.Second); frames >= 0.67 && voice >= leastVoice {
					break
				}
			}
			if frames < 0.67 {
				t.Errorf("got %.2f of the frames, want at least two thirds: 10 of 15 a second", frames)
			}
			if voice < leastVoice {
				t.Errorf("got %.3f of the voice, want at least %.2f", voice, leastVoice)
			}
			r.down.Store(&way{})
			t.Logf("down after %v, %.2f of the frames, up after %v", down, frames, s.until(t, 2, 8*time.Second))
		}},
		{"100 kbit/s", way{Kbps: 100}, func(t *testing.T, cam *camera, s *screening, r *relay) {
			for end := time.Now().Add(8 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				s.mu.Lock()
				paused := s.paused
				s.mu.Unlock()
				if paused {
					break
				}
				if time.Now().After(end) {
					t.Fatal("the client was not told of a pause")
				}
			}
			time.Sleep(2 * time.Second) // it settles
			frames, voice := s.over(cam, 5*time.Second)
			if voice < leastVoice || frames > 0.1 {
				t.Errorf("got %.3f of the voice and %.2f of the frames, want at least %.2f, and no picture", voice, frames, leastVoice)
			}
			r.down.Store(&way{})
			s.forget()
			t.Logf("%.3f of the voice, up after %v", voice, s.until(t, 2, 12*time.Second))
		}},
		{"five percent lost", way{Loss: 0.05}, steadyPicture},
		{"80 ms with a swing of 40", way{Delay: 80, Swing: 40}, steadyPicture},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ann := join(t, url, c.name, "ann")
			cam := ann.film()
			r := newRelay(t, media, door)
			if c.down.Kbps == 0 {
				r.down.Store(&c.down) // a way is as long from the beginning
			}
			_, from, _ := net.SplitHostPort(media)
			bob := joinWith(t, url, c.name, "bob", func(b *testClient) webrtc.Configuration {
				b.through = strings.NewReplacer("127.0.0.1 "+from+" ", "127.0.0.1 "+strconv.Itoa(r.port())+" ").Replace
				return webrtc.Configuration{}
			})
			s := bob.screen()
			s.until(t, 2, patience)
			r.down.Store(&c.down)
			c.act(t, cam, s, r)
		})
	}
}

// steadyPicture: the line is bad and yet wide, so the best layer goes on.
func steadyPicture(t *testing.T, _ *camera, s *screening, _ *relay) {
	const length = 10 * time.Second
	low, looks := 0, 0
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		looks++
		if layer, _, _ := s.read(); layer != 2 {
			low++
		}
	}
	if low*20 > looks {
		t.Errorf("got a lower layer at %d of %d looks, want at most one in twenty", low, looks)
	}
}
