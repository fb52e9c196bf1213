package calls

import (
	"encoding/json"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// testToken is a token that lets identity into room.
func testToken(t testing.TB, room, identity string, change ...func(*Claims)) string {
	t.Helper()
	yes := true
	c := Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: identity}, Video: Grant{Room: room, RoomJoin: true, CanUpdateOwnMetadata: &yes}}
	for _, f := range change {
		f(&c)
	}
	key := tokens{key: testKey, secret: []byte(testSecret), now: time.Now}
	token, err := key.sign(c, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// testClient is a participant on plain Pion with two peer connections, who hands every message on.
type testClient struct {
	t      *testing.T
	saying sync.Mutex
	ws     *websocket.Conn
	said   chan *signal.Response // what the focus said, but for negotiation
	joined *signal.Joined
	pub    *webrtc.PeerConnection
	sub    *webrtc.PeerConnection
	media  chan *webrtc.TrackRemote
	answer chan string

	mute    atomic.Bool         // answers no offer
	through func(string) string // changes what the focus says of where it is; nil: nothing
}

func dialSocket(t *testing.T, base, path string, query url.Values) *websocket.Conn {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.Dial(base+path+"?"+query.Encode(), nil)
	if err != nil {
		t.Fatalf("dial %s: %v (%v)", path, err, resp)
	}
	t.Cleanup(func() { ws.Close() })
	return ws
}

func readResponse(ws *websocket.Conn) (*signal.Response, error) {
	_, frame, err := ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	var res signal.Response
	return &res, signal.DecodeBody(frame, false, &res)
}

// join enters room over UDP, or over TCP alone.
func join(t *testing.T, base, room, identity string, networks ...webrtc.NetworkType) *testClient {
	t.Helper()
	return joinAs(t, base, room, identity, joining{networks: networks})
}

// joinWith is join with peer connections configured by what the focus has said.
func joinWith(t *testing.T, base, room, identity string, configure func(*testClient) webrtc.Configuration, networks ...webrtc.NetworkType) *testClient {
	t.Helper()
	return joinAs(t, base, room, identity, joining{configure: configure, networks: networks})
}

// joining is how a client comes.
type joining struct {
	configure func(*testClient) webrtc.Configuration
	networks  []webrtc.NetworkType
	codecs    *webrtc.MediaEngine // nil: Pion's own
	anew      bool                // as livekit-client comes back by itself
	mute      bool                // subscribes to nothing
	single    bool                // one connection for both directions
	sdk       string              // the kind of client that it says it is
	hidden    bool                // the others are not to know
	steady    bool                // its pictures are not to stop for its line: where a test leaves tracks unread, that looks like a bad one
}

func joinAs(t *testing.T, base, room, identity string, how joining) *testClient {
	t.Helper()
	networks, media := how.networks, how.codecs
	c := &testClient{t: t, said: make(chan *signal.Response, 256), media: make(chan *webrtc.TrackRemote, 16), answer: make(chan string, 8)}
	query := url.Values{
		"access_token": {testToken(t, room, identity, func(c *Claims) { c.Again, c.Video.Hidden = how.anew, how.hidden })},
		"protocol":     {"16"}, "auto_subscribe": {"1"}, "subscriber_allow_pause": {"1"},
	}
	if how.anew {
		query.Set("sdk", "js")
	}
	if how.sdk != "" {
		query.Set("sdk", how.sdk)
	}
	if how.mute {
		query.Set("auto_subscribe", "0")
	}
	if how.steady {
		query.Set("subscriber_allow_pause", "0")
	}
	path := "/rtc"
	if how.single {
		path = "/rtc/v1"
	}
	c.ws = dialSocket(t, base, path, query)
	first, err := readResponse(c.ws)
	if err != nil || first.GetJoin() == nil {
		t.Fatalf("first message: got %v, %v, want join", first, err)
	}
	c.joined = first.GetJoin()
	if len(networks) == 0 {
		networks = []webrtc.NetworkType{webrtc.NetworkTypeUDP4}
	}
	var settings webrtc.SettingEngine
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetNetworkTypes(networks)
	if media == nil {
		media = &webrtc.MediaEngine{}
		if err := media.RegisterDefaultCodecs(); err != nil {
			t.Fatal(err)
		}
	}
	registry := &interceptor.Registry{}
	if err := webrtc.RegisterDefaultInterceptors(media, registry); err != nil {
		t.Fatal(err)
	}
	api := webrtc.NewAPI(webrtc.WithSettingEngine(settings), webrtc.WithMediaEngine(media), webrtc.WithInterceptorRegistry(registry))
	targets := map[signal.Target]**webrtc.PeerConnection{signal.Target_PUBLISHER: &c.pub, signal.Target_SUBSCRIBER: &c.sub}
	if how.single {
		delete(targets, signal.Target_SUBSCRIBER)
	}
	for target, pc := range targets {
		var configuration webrtc.Configuration
		if how.configure != nil {
			configuration = how.configure(c)
		}
		if *pc, err = api.NewPeerConnection(configuration); err != nil {
			t.Fatal(err)
		}
		made := *pc
		t.Cleanup(func() { made.Close() })
		made.OnICECandidate(func(candidate *webrtc.ICECandidate) {
			if candidate != nil {
				init, _ := json.Marshal(candidate.ToJSON())
				c.say(&signal.Request{Message: &signal.Request_Trickle{Trickle: &signal.Trickle{CandidateInit: string(init), Target: target}}})
			}
		})
	}
	if how.single {
		c.sub = c.pub
	}
	c.sub.OnTrack(func(remote *webrtc.TrackRemote, _ *webrtc.RTPReceiver) { c.media <- remote })
	go c.listen()
	return c
}

func (c *testClient) say(req *signal.Request) {
	frame, err := signal.EncodeBody(req, false)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.saying.Lock()
	defer c.saying.Unlock()
	_ = c.ws.WriteMessage(websocket.BinaryMessage, frame) // a closed socket shows in what the test waits for
}

// listen negotiates, and hands everything else to the test.
func (c *testClient) listen() {
	defer close(c.said)
	for {
		res, err := readResponse(c.ws)
		if err != nil {
			return
		}
		switch m := res.Message.(type) {
		case *signal.Response_Offer:
			c.onOffer(m.Offer)
		case *signal.Response_Answer:
			c.answer <- c.way(m.Answer.Sdp)
		case *signal.Response_Trickle:
			var init webrtc.ICECandidateInit
			if err := json.Unmarshal([]byte(m.Trickle.CandidateInit), &init); err != nil {
				c.t.Errorf("candidate: %v", err)
			}
			init.Candidate = c.way(init.Candidate)
			pc := map[signal.Target]*webrtc.PeerConnection{signal.Target_PUBLISHER: c.pub, signal.Target_SUBSCRIBER: c.sub}[m.Trickle.Target]
			for pc.RemoteDescription() == nil {
				time.Sleep(time.Millisecond) // Pion's answer is being set by the test's goroutine
			}
			_ = pc.AddICECandidate(init)
		default:
			c.said <- res
		}
	}
}

func (c *testClient) way(said string) string {
	if c.through == nil {
		return said
	}
	return c.through(said)
}

// onOffer answers. What fails here shows as media that do not come; at a session's end it may well fail.
func (c *testClient) onOffer(offer *signal.SessionDescription) {
	if c.mute.Load() {
		return
	}
	if c.sub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: c.way(offer.Sdp)}) != nil {
		return
	}
	answer, err := c.sub.CreateAnswer(nil)
	if err != nil || c.sub.SetLocalDescription(answer) != nil {
		return
	}
	c.say(&signal.Request{Message: &signal.Request_Answer{Answer: &signal.SessionDescription{Type: "answer", Sdp: answer.SDP, Id: offer.Id}}})
}

// wait gives the first message for which want is true.
func (c *testClient) wait(what string, want func(*signal.Response) bool) *signal.Response {
	c.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case res, ok := <-c.said:
			if !ok {
				c.t.Fatalf("the socket closed while waiting for %s", what)
			}
			if want(res) {
				return res
			}
		case <-timeout:
			c.t.Fatalf("no %s within %v", what, patience)
		}
	}
}

// reads takes what comes for a sender, or Pion's interceptors stand still.
func reads(sender *webrtc.RTPSender) {
	for {
		if _, _, err := sender.ReadRTCP(); err != nil {
			return
		}
	}
}

// publish announces and negotiates one video and one audio track, and sends until the test ends. Each payload ends with
// the name of its sender and its number.
func (c *testClient) publish(name string) {
	c.t.Helper()
	for _, kind := range []signal.TrackType{signal.TrackType_VIDEO, signal.TrackType_AUDIO} {
		mime, payload := webrtc.MimeTypeVP8, []byte{0x90, 0x80, 0x01, 0, 0, 0, 0, 0, 0}
		clock, step, pause := uint32(90000), uint32(3000), 33*time.Millisecond
		if kind == signal.TrackType_AUDIO {
			mime, payload, clock, step, pause = webrtc.MimeTypeOpus, []byte{0xfc}, 48000, 960, 20*time.Millisecond
		}
		cid := fmt.Sprintf("%s-%v", name, kind)
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: mime, ClockRate: clock, Channels: uint16(2 * kindIndex(kind == signal.TrackType_AUDIO))}, cid, name)
		if err != nil {
			c.t.Fatal(err)
		}
		c.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: cid, Name: cid, Type: kind}}})
		c.wait("track_published", func(res *signal.Response) bool { return res.GetTrackPublished().GetCid() == cid })
		transceiver, err := c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		if err != nil {
			c.t.Fatal(err)
		}
		go reads(transceiver.Sender())
		go send(c.t, track, append(payload, name...), step, pause)
	}
	c.offer()
}

// offer negotiates what c publishes.
func (c *testClient) offer() {
	c.t.Helper()
	offer, err := c.pub.CreateOffer(nil)
	if err == nil {
		err = c.pub.SetLocalDescription(offer)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.say(&signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: offer.SDP, Id: 1}}})
	select {
	case answer := <-c.answer:
		if err := c.pub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}); err != nil {
			c.t.Fatal(err)
		}
	case <-time.After(patience):
		c.t.Fatal("no answer to the publisher's offer")
	}
}

// send writes packets until the test ends: for video each is a key frame.
func send(t *testing.T, track *webrtc.TrackLocalStaticRTP, payload []byte, step uint32, pause time.Duration) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	var p rtp.Packet
	p.Version, p.Marker, p.Payload = 2, true, payload
	for {
		select {
		case <-t.Context().Done():
			return
		case <-tick.C:
			p.SequenceNumber++
			p.Timestamp += step
			if track.WriteRTP(&p) != nil {
				return
			}
		}
	}
}

// hears waits for both tracks of from, and checks that their packets come in order. They are read from then on: what is not read
// counts as lost with Pion, and the focus would take the line for a bad one.
func (c *testClient) hears(from string) {
	c.t.Helper()
	checked := make(chan error, 2)
	for range 2 {
		select {
		case remote := <-c.media:
			if remote.Kind() == webrtc.RTPCodecTypeVideo {
				if err := c.sub.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(remote.SSRC())}}); err != nil {
					c.t.Errorf("key frame request: %v", err)
				}
			}
			go func() {
				checked <- inOrder(remote, from)
				for {
					if _, _, err := remote.ReadRTP(); err != nil {
						return
					}
				}
			}()
		case <-time.After(patience):
			c.t.Fatalf("no track within %v", patience)
		}
	}
	for range 2 {
		if err := <-checked; err != nil {
			c.t.Fatal(err)
		}
	}
}

// inOrder reads some packets of a track, and says what is wrong with them.
func inOrder(remote *webrtc.TrackRemote, from string) error {
	if err := remote.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	defer remote.SetReadDeadline(time.Time{})
	last := uint16(0)
	for i := range 20 {
		p, _, err := remote.ReadRTP()
		if err != nil {
			return fmt.Errorf("%v of %s, packet %d: %w", remote.Kind(), from, i, err)
		}
		if got := string(p.Payload[len(p.Payload)-len(from):]); got != from {
			return fmt.Errorf("%v packet %d: got one of %q, want of %q", remote.Kind(), i, got, from)
		}
		if i > 0 && p.SequenceNumber != last+1 {
			return fmt.Errorf("%v packet %d: got number %d after %d", remote.Kind(), i, p.SequenceNumber, last)
		}
		last = p.SequenceNumber
	}
	return nil
}
