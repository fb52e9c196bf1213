package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/interceptor"
	"github.com/pion/logging"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// caller is one client of a call on plain Pion with two peer connections, without a browser: it sends sound, perhaps a
// picture, and counts what it hears.
type caller struct {
	ctx    context.Context // of its sending; ends with it
	cancel context.CancelFunc
	writes sync.Mutex
	ws     *websocket.Conn
	udp    []net.PacketConn // one for each peer connection
	pub    *webrtc.PeerConnection
	sub    *webrtc.PeerConnection
	others int // who was there before
	sid    string
	// encrypted: what it sends is said to be.
	encrypted bool

	published chan string // the track that the focus has taken, by the name that we gave it
	answers   chan string
	heard     atomic.Int64 // packets
	offers    atomic.Int64 // of the focus
	answered  atomic.Int64 // of these
	tracks    atomic.Int64 // of which packets came
	gone      chan struct{}
	because   *signal.Leave // written before gone is closed; none where the socket was lost

	mu      sync.Mutex
	brought map[string]int // bytes of RTP, by who sent them
	waiting map[signal.Target][]webrtc.ICECandidateInit
}

// callPatience bounds each step into a call.
const callPatience = 15 * time.Second

// enter comes into the call that the token opens.
func enter(ctx context.Context, socket, token string) (c *caller, err error) {
	query := url.Values{"access_token": {token}, "protocol": {"16"}, "auto_subscribe": {"1"}}
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, socket+"/rtc?"+query.Encode(), nil)
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("enter: %w (%s)", err, resp.Status)
		}
		return nil, fmt.Errorf("enter: %w", err)
	}
	c = &caller{
		ws: ws, published: make(chan string, 4), answers: make(chan string, 4), gone: make(chan struct{}),
		waiting: map[signal.Target][]webrtc.ICECandidateInit{}, brought: map[string]int{},
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := c.connect(); err != nil {
		c.drop()
		return nil, err
	}
	go c.listen()
	go c.ping()
	return c, nil
}

// connect reads the welcome and makes the two peer connections.
func (c *caller) connect() error {
	first, err := c.read(time.Now().Add(callPatience))
	if err != nil {
		return fmt.Errorf("first message: %w", err)
	}
	if first.GetJoin() == nil {
		return fmt.Errorf("the first message is no welcome but %v", first)
	}
	c.others, c.sid = len(first.GetJoin().OtherParticipants), first.GetJoin().Participant.GetSid()
	for target, made := range map[signal.Target]**webrtc.PeerConnection{signal.Target_PUBLISHER: &c.pub, signal.Target_SUBSCRIBER: &c.sub} {
		if *made, err = c.peerConnection(target); err != nil {
			return err
		}
	}
	c.sub.OnTrack(func(remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
		c.tracks.Add(1)
		go func() { // reads, or Pion does not learn when the focus sent what: its reports then tell no round trip
			for {
				if _, _, err := receiver.ReadRTCP(); err != nil {
					return
				}
			}
		}()
		sender, _, _ := strings.Cut(remote.StreamID(), "|")
		for {
			packet, _, err := remote.ReadRTP()
			if err != nil {
				return
			}
			c.heard.Add(1)
			c.mu.Lock()
			c.brought[sender] += packet.MarshalSize()
			c.mu.Unlock()
		}
	})
	return nil
}

// peerConnection makes one on a socket of its own, which can be closed under it.
func (c *caller) peerConnection(target signal.Target) (*webrtc.PeerConnection, error) {
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.udp = append(c.udp, udp)
	var settings webrtc.SettingEngine
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	settings.LoggerFactory = quietPion{}
	settings.SetICEUDPMux(webrtc.NewICEUDPMux(quietPion{}.NewLogger(""), udp))
	media, registry := &webrtc.MediaEngine{}, &interceptor.Registry{}
	quiet := webrtc.WithInterceptorLoggerFactory(quietPion{})
	if err := errors.Join(media.RegisterDefaultCodecs(), webrtc.RegisterDefaultInterceptorsWithOptions(media, registry, quiet)); err != nil {
		return nil, err
	}
	api := webrtc.NewAPI(webrtc.WithSettingEngine(settings), webrtc.WithMediaEngine(media), webrtc.WithInterceptorRegistry(registry))
	pc, err := api.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return nil, err
	}
	pc.OnICECandidate(func(candidate *webrtc.ICECandidate) {
		if candidate == nil {
			return
		}
		if init, err := json.Marshal(candidate.ToJSON()); err == nil {
			c.say(&signal.Request{Message: &signal.Request_Trickle{Trickle: &signal.Trickle{CandidateInit: string(init), Target: target}}})
		}
	})
	return pc, nil
}

// quietPion keeps Pion from printing that a socket was closed, as it shall be.
type quietPion struct{}

func (quietPion) NewLogger(string) logging.LeveledLogger {
	return logging.NewDefaultLeveledLoggerForScope("", logging.LogLevelDisabled, io.Discard)
}

func (c *caller) read(deadline time.Time) (*signal.Response, error) {
	if err := c.ws.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	_, frame, err := c.ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	var res signal.Response
	return &res, signal.DecodeBody(frame, false, &res)
}

// say sends a request; a socket that is lost shows in gone.
func (c *caller) say(req *signal.Request) {
	frame, err := signal.EncodeBody(req, false)
	if err != nil {
		return
	}
	c.writes.Lock()
	defer c.writes.Unlock()
	_ = c.ws.WriteMessage(websocket.BinaryMessage, frame)
}

func (c *caller) ping() {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-c.gone:
			return
		case now := <-tick.C:
			c.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: now.UnixMilli()}}})
		}
	}
}

// listen negotiates until the socket ends.
func (c *caller) listen() {
	defer close(c.gone)
	for {
		res, err := c.read(time.Now().Add(20 * time.Second))
		if err != nil {
			return
		}
		switch m := res.Message.(type) {
		case *signal.Response_Offer:
			c.answer(m.Offer)
		case *signal.Response_Answer:
			c.answers <- m.Answer.Sdp
		case *signal.Response_Trickle:
			c.candidate(m.Trickle)
		case *signal.Response_TrackPublished:
			c.published <- m.TrackPublished.Cid
		case *signal.Response_Leave:
			c.because = m.Leave
			return
		}
	}
}

// candidate hands a candidate to its peer connection, or keeps it until that knows the other side.
func (c *caller) candidate(m *signal.Trickle) {
	var init webrtc.ICECandidateInit
	if json.Unmarshal([]byte(m.CandidateInit), &init) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	pc := c.peer(m.Target)
	if pc.RemoteDescription() == nil {
		c.waiting[m.Target] = append(c.waiting[m.Target], init)
		return
	}
	_ = pc.AddICECandidate(init) // one that does not fit leaves the others
}

func (c *caller) peer(target signal.Target) *webrtc.PeerConnection {
	if target == signal.Target_SUBSCRIBER {
		return c.sub
	}
	return c.pub
}

// learn sets what the other side describes, and the candidates that came before.
func (c *caller) learn(target signal.Target, kind webrtc.SDPType, sdp string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pc := c.peer(target)
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: kind, SDP: sdp}); err != nil {
		return err
	}
	for _, init := range c.waiting[target] {
		_ = pc.AddICECandidate(init) // as above
	}
	delete(c.waiting, target)
	return nil
}

// answer takes an offer of the focus. What fails shows as media that do not come; at a session's end it may well fail.
func (c *caller) answer(offer *signal.SessionDescription) {
	c.offers.Add(1)
	if c.learn(signal.Target_SUBSCRIBER, webrtc.SDPTypeOffer, offer.Sdp) != nil {
		return
	}
	answer, err := c.sub.CreateAnswer(nil)
	if err != nil || c.sub.SetLocalDescription(answer) != nil {
		return
	}
	c.say(&signal.Request{Message: &signal.Request_Answer{Answer: &signal.SessionDescription{Type: "answer", Sdp: answer.SDP, Id: offer.Id}}})
	c.answered.Add(1)
}

// standing says how far the caller has come on the way to hearing others.
func (c *caller) standing() string {
	return fmt.Sprintf("its connection is %v (ICE %v), %d of %d offers are answered, of %d tracks something came",
		c.sub.ConnectionState(), c.sub.ICEConnectionState(), c.answered.Load(), c.offers.Load(), c.tracks.Load())
}

// publish announces the tracks, negotiates, and sends until the caller leaves.
func (c *caller) publish(name string, picture bool) error {
	var tracks []func()
	for _, kind := range []signal.TrackType{signal.TrackType_AUDIO, signal.TrackType_VIDEO} {
		if kind == signal.TrackType_VIDEO && !picture {
			break
		}
		send, err := c.add(name, kind)
		if err != nil {
			return err
		}
		tracks = append(tracks, send)
	}
	offer, err := c.pub.CreateOffer(nil)
	if err != nil {
		return err
	}
	if err := c.pub.SetLocalDescription(offer); err != nil {
		return err
	}
	c.say(&signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: offer.SDP, Id: 1}}})
	sdp, err := await(c, c.answers, "answer to the offer")
	if err != nil {
		return err
	}
	if err := c.learn(signal.Target_PUBLISHER, webrtc.SDPTypeAnswer, sdp); err != nil {
		return err
	}
	for _, send := range tracks {
		go send()
	}
	return nil
}

// add announces one track; what it gives sends it.
func (c *caller) add(name string, kind signal.TrackType) (send func(), err error) {
	cid := fmt.Sprintf("%s-%v", name, kind)
	capability := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	request := &signal.AddTrack{Cid: cid, Name: cid, Type: kind, Source: signal.TrackSource_MICROPHONE}
	if c.encrypted {
		request.Encryption = 1 // GCM
	}
	step, pause, payload := uint32(960), 20*time.Millisecond, func(int) []byte { return silence }
	if kind == signal.TrackType_VIDEO {
		capability = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}
		request.Source, request.Width, request.Height = signal.TrackSource_CAMERA, pictureWidth, pictureHeight
		step, pause, payload = 9000, 100*time.Millisecond, picture
	}
	track, err := webrtc.NewTrackLocalStaticRTP(capability, cid, name)
	if err != nil {
		return nil, err
	}
	c.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: request}})
	if _, err := await(c, c.published, "word that the track is taken"); err != nil {
		return nil, err
	}
	transceiver, err := c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	if err != nil {
		return nil, err
	}
	go func() { // reads, or Pion's interceptors stand still
		for {
			if _, _, err := transceiver.Sender().ReadRTCP(); err != nil {
				return
			}
		}
	}()
	return func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		p := rtp.Packet{Header: rtp.Header{Version: 2, Marker: true}}
		for n := 0; ; n++ {
			select {
			case <-c.ctx.Done():
				return
			case <-tick.C:
			}
			p.SequenceNumber++
			p.Timestamp += step
			p.Payload = payload(n)
			if track.WriteRTP(&p) != nil {
				return
			}
		}
	}, nil
}

// await takes what the focus should say.
func await[T any](c *caller, from chan T, what string) (value T, err error) {
	patience := time.NewTimer(callPatience)
	defer patience.Stop()
	select {
	case value = <-from:
		return value, nil
	case <-c.gone:
		return value, fmt.Errorf("no %s: the session ended (%v)", what, c.because)
	case <-patience.C:
		return value, fmt.Errorf("no %s within %v", what, callPatience)
	}
}

// hears waits until packets of others come. Its looks are counted, not the time: where this process hardly gets a processor, neither
// do the callers in it, each of which has a handshake to get through.
func (c *caller) hears(within time.Duration) bool {
	const look = 20 * time.Millisecond
	before := c.heard.Load()
	for range within / look {
		if c.heard.Load() > before+10 {
			return true
		}
		select {
		case <-c.gone:
			return true // nothing can be said of one who is out
		case <-time.After(look): // between two looks at a counter
		}
	}
	return false
}

// bytesOf is how much has come of what this participant sends.
func (c *caller) bytesOf(sid string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.brought[sid]
}

// out says whether the session has ended, and with which word of the focus.
func (c *caller) out() (because *signal.Leave, ended bool) {
	select {
	case <-c.gone:
		return c.because, true
	default:
		return nil, false
	}
}

// asksForPictures has every sender of a picture begin anew, as a browser does that lost something.
func (c *caller) asksForPictures() {
	for _, receiver := range c.sub.GetReceivers() {
		if track := receiver.Track(); track != nil && track.Kind() == webrtc.RTPCodecTypeVideo {
			_ = c.sub.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(track.SSRC())}}) // it asks again
		}
	}
}

// leave goes with a word.
func (c *caller) leave() {
	c.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{Reason: signal.DisconnectReason_CLIENT_INITIATED}}})
	c.drop()
}

// vanish goes without a word, as a machine that loses its power: nothing that says so leaves it.
func (c *caller) vanish() {
	for _, udp := range c.udp {
		udp.Close()
	}
	c.ws.NetConn().Close()
	c.drop()
}

// drop frees everything.
func (c *caller) drop() {
	c.cancel()
	c.ws.Close()
	for _, pc := range []*webrtc.PeerConnection{c.pub, c.sub} {
		if pc != nil {
			pc.Close()
		}
	}
	for _, udp := range c.udp {
		udp.Close()
	}
}

// silence is an Opus frame without sound.
var silence = []byte{0xf8, 0xff, 0xfe}

// pictures are two VP8 key frames of one colour each, small, but such that a browser shows them.
var pictures = [][]byte{
	fromHex("5003009d012a4000240000470885858899848802820275aa03f8020708d567998f37d200fefe631b7fe7a66bcc1fe4e7ff3b06c4bb5e0000"),
	fromHex("5003009d012a40002400004708858588998488028201d807f00410422a5e6107ef9d1000fef0a5d7ffff0e53e1ca7c394ff8729ffff7ed2f7da5efb4bfd5820e21fc00"),
}

const pictureWidth, pictureHeight = 64, 36

func fromHex(text string) []byte {
	raw, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return raw
}

// picture is the payload of the n-th: the descriptor with its number, and the frame.
func picture(n int) []byte {
	return append([]byte{0x90, 0x80, 0x80 | byte(n>>8), byte(n)}, pictures[n/5%len(pictures)]...)
}
