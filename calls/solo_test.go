package calls

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// solo is a client with one connection that negotiates as a browser does and has no media: what it is to get shows in the answers.
type solo struct {
	t      *testing.T
	base   string
	query  url.Values
	ws     *websocket.Conn
	joined *signal.Joined
	sid    string
	kinds  []string // of its sections, all of which take
	asked  bool     // since its newest offer
	offers uint32
}

func joinSolo(t *testing.T, base, identity string, again bool) *solo {
	t.Helper()
	s := &solo{t: t, base: base, kinds: strings.Fields("audio audio audio video video video")}
	s.query = url.Values{"access_token": {testToken(t, "room", identity, func(c *Claims) { c.Again = again })}, "auto_subscribe": {"1"}}
	if again {
		s.query.Set("sdk", "js")
	}
	s.ws = dialSocket(t, base, "/rtc/v1", s.query)
	s.joined = s.next("join", func(res *signal.Response) bool { return res.GetJoin() != nil }).GetJoin()
	s.sid = s.joined.Participant.Sid
	return s
}

// resume comes back with another socket.
func (s *solo) resume() {
	s.t.Helper()
	s.query.Set("reconnect", "1")
	s.query.Set("sid", s.sid)
	s.ws = dialSocket(s.t, s.base, "/rtc/v1", s.query)
	if first, err := readResponse(s.ws); err != nil || first.GetReconnect() == nil {
		s.t.Fatalf("got %v, %v, want reconnect first", first, err)
	}
}

func (s *solo) say(req *signal.Request) {
	s.t.Helper()
	frame, err := signal.EncodeBody(req, false)
	if err == nil {
		err = s.ws.WriteMessage(websocket.BinaryMessage, frame)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// next gives the first message for which want is true. Sections that it is asked for on the way are added.
func (s *solo) next(what string, want func(*signal.Response) bool) *signal.Response {
	s.t.Helper()
	_ = s.ws.SetReadDeadline(time.Now().Add(patience))
	for {
		res, err := readResponse(s.ws)
		if err != nil || res.GetLeave() != nil {
			s.t.Fatalf("got %.200v, %v, want %s", res, err, what)
		}
		if ask := res.GetMediaSectionsRequirement(); ask != nil {
			s.kinds = append(s.kinds, slices.Repeat([]string{"audio"}, int(ask.NumAudios))...)
			s.kinds = append(s.kinds, slices.Repeat([]string{"video"}, int(ask.NumVideos))...)
			s.asked = true
		}
		if want(res) {
			return res
		}
	}
}

// grows waits to be asked for an offer, and gives how many more sections that is to have.
func (s *solo) grows() (audios, videos int) {
	s.t.Helper()
	ask := s.next("to be asked for an offer", func(res *signal.Response) bool { return res.GetMediaSectionsRequirement() != nil }).GetMediaSectionsRequirement()
	return int(ask.NumAudios), int(ask.NumVideos)
}

// negotiate offers, and gives which track is on which section.
func (s *solo) negotiate() map[string]string {
	s.t.Helper()
	s.offers++
	s.asked = false
	s.say(&signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: offerTaking(s.kinds), Id: s.offers}}})
	return s.next("an answer", func(res *signal.Response) bool { return res.GetAnswer().GetId() == s.offers }).GetAnswer().MidToTrackId
}

// gets negotiates, as often as it is asked, until it gets so many tracks.
func (s *solo) gets(tracks int) {
	s.t.Helper()
	got := s.negotiate()
	for len(got) < tracks {
		if !s.asked {
			s.grows()
		}
		got = s.negotiate()
	}
	sids := map[string]bool{}
	for sid := range maps.Values(got) {
		sids[sid] = true
	}
	if len(got) != tracks || len(sids) != tracks {
		s.t.Errorf("got %d sections with %d tracks, want %d", len(got), len(sids), tracks)
	}
}

// offerTaking is an offer with these sections as Chromium makes them, with all formats that it knows.
func offerTaking(kinds []string) string {
	var out, mids strings.Builder
	for i := range len(kinds) + 1 {
		mids.WriteString(" " + strconv.Itoa(i))
	}
	out.WriteString("v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE" + mids.String() + "\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n")
	audio, video := takingAudio(), takingVideo()
	for i, kind := range kinds {
		section := audio
		if kind == "video" {
			section = video
		}
		fmt.Fprintf(&out, section, i)
	}
	out.WriteString("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n" + offeredKeys + offeredPrint +
		fmt.Sprintf("a=mid:%d\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n", len(kinds)))
	return out.String()
}

const offeredPrint = "a=fingerprint:sha-256 49:66:12:17:0D:1C:91:AE:57:4C:C6:36:DD:D5:97:D2:7D:62:C9:9A:7F:B9:A3:F4:70:03:E7:43:91:73:23:5E\r\n"

func takingAudio() string {
	return "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\n" + offeredKeys + offeredPrint + "a=mid:%d\r\na=recvonly\r\na=rtcp-rsize\r\n" +
		"a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n" +
		"a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 minptime=10;useinbandfec=1\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n" +
		"a=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:13 CN/8000\r\na=rtpmap:110 telephone-event/48000\r\na=rtpmap:126 telephone-event/8000\r\n"
}

func takingVideo() string {
	var formats, lines strings.Builder
	payload := 0
	add := func(codec, parameters string) {
		formats.WriteString(" " + strconv.Itoa(payload))
		fmt.Fprintf(&lines, "a=rtpmap:%d %s/90000\r\n", payload, codec)
		if parameters != "" {
			fmt.Fprintf(&lines, "a=fmtp:%d %s\r\n", payload, parameters)
		}
		payload++
	}
	for i, codec := range strings.Fields("VP8 VP9 VP9 VP9 H264 H264 H264 H264 H264 H264 H264 H264 AV1 AV1 H265 H265") {
		payload = 35 + 2*i // as if there were no room above
		for _, feedback := range []string{"goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"} {
			fmt.Fprintf(&lines, "a=rtcp-fb:%d %s\r\n", payload, feedback)
		}
		parameters := ""
		switch codec {
		case "VP9":
			parameters = fmt.Sprint("profile-id=", i-1)
		case "H264":
			parameters = fmt.Sprintf("level-asymmetry-allowed=1;packetization-mode=%d;profile-level-id=%s", i%2, []string{"42001f", "42e01f", "4d001f", "64001f"}[i/2%4])
		case "AV1":
			parameters = fmt.Sprintf("level-idx=5;profile=%d;tier=0", i%2)
		case "H265":
			parameters = "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST"
		}
		add(codec, parameters)
		add("rtx", fmt.Sprintf("apt=%d", payload-1))
	}
	payload = 120
	for _, codec := range []string{"red", "ulpfec", "flexfec-03"} {
		add(codec, "")
	}
	return "m=video 9 UDP/TLS/RTP/SAVPF" + formats.String() + "\r\n" + offeredKeys + offeredPrint + "a=mid:%d\r\na=recvonly\r\na=rtcp-rsize\r\n" +
		"a=extmap:14 urn:ietf:params:rtp-hdrext:toffset\r\na=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\r\n" +
		"a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n" +
		"a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\na=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id\r\n" + lines.String()
}

// publishMany publishes so many tracks of each kind with one offer, and sends a little of each.
func (c *testClient) publishMany(audios, videos int) {
	c.t.Helper()
	begun := len(c.pub.GetTransceivers())
	for i := range audios + videos {
		kind, mime, payload := signal.TrackType_AUDIO, webrtc.MimeTypeOpus, []byte{0xfc}
		if i >= audios {
			kind, mime, payload = signal.TrackType_VIDEO, webrtc.MimeTypeVP8, []byte{0x90, 0x80, 0x01, 0, 0, 0, 0, 0, 0}
		}
		cid := fmt.Sprintf("%s-%d-%v", c.joined.Participant.Sid, begun+i, kind)
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: mime}, cid, "stream")
		if err != nil {
			c.t.Fatal(err)
		}
		c.announces(&signal.AddTrack{Cid: cid, Type: kind})
		transceiver, err := c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		if err != nil {
			c.t.Fatal(err)
		}
		go reads(transceiver.Sender())
		go send(c.t, track, payload, 960, 200*time.Millisecond)
	}
	c.offer()
}

// sees waits until c has been told of so many tracks of another.
func (c *testClient) sees(identity string, tracks int) {
	c.t.Helper()
	c.wait(fmt.Sprintf("%d tracks of %s", tracks, identity), func(res *signal.Response) bool {
		for _, p := range res.GetUpdate().GetParticipants() {
			if p.Identity == identity && len(p.Tracks) >= tracks {
				return true
			}
		}
		return false
	})
}

// TestSectionsAskedForOnALostSocket: what the focus asked for while the signalling was lost is asked for again, once, and comes.
func TestSectionsAskedForOnALostSocket(t *testing.T) {
	_, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	ann.publishMany(3, 0)
	ann.sees("ann", 3)
	bob := joinSolo(t, base, "bob", false)
	bob.gets(3)
	ann.publishMany(2, 0)
	for more := 0; more < 2; { // heard by the socket, and lost with it
		audios, _ := bob.grows()
		more += audios
	}
	bob.kinds = bob.kinds[:6]
	bob.ws.Close()
	bob.resume()
	if audios, videos := bob.grows(); audios != 2 || videos != 0 {
		t.Errorf("after the resume: asked for %d audio and %d video sections, want 2 and 0", audios, videos)
	}
	bob.gets(5)
	// All is agreed: nothing more is asked for.
	bob.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
	bob.next("a pong", func(res *signal.Response) bool {
		if ask := res.GetMediaSectionsRequirement(); ask != nil {
			t.Errorf("asked for %v though everything has its section", ask)
		}
		return res.GetPongResp() != nil
	})
}

// TestACallThatFillsOneByOne: the more sections there are, the more are asked for at once, so that few descriptions bring new ones; in a small
// call none is asked for that nothing waits for.
func TestACallThatFillsOneByOne(t *testing.T) {
	_, base := newTestFocus(t, func(c *Config) { c.MaxTracks, c.Grace = 64, time.Minute })
	ann, bob := join(t, base, "room", "ann"), joinSolo(t, base, "bob", false)
	bob.negotiate()
	begun, asks := len(bob.kinds), 0
	for tracks := 1; tracks <= 32; tracks++ {
		had := len(bob.kinds)
		ann.publishMany(1, 0)
		bob.gets(tracks)
		if len(bob.kinds) > had {
			asks++
		}
		if free := len(bob.kinds) - (begun - 3) - tracks; free > 3 && free >= tracks/spare+1 {
			t.Errorf("%d tracks: got %d free sections, want %d at most", tracks, free, tracks/spare)
		}
	}
	if asks > 14 {
		t.Errorf("asked for sections %d times, want 14 at most", asks)
	}
}

// TestAnOfferThatCrossesTheQuestion: an offer without the sections that were asked for brings no further questions; the next one has them.
func TestAnOfferThatCrossesTheQuestion(t *testing.T) {
	_, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), joinSolo(t, base, "bob", false)
	bob.negotiate()
	ann.publishMany(4, 0)
	for more := 0; more < 1; {
		audios, _ := bob.grows()
		more += audios
	}
	have := bob.kinds
	bob.kinds = have[:6]
	bob.negotiate()
	bob.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
	bob.next("a pong", func(res *signal.Response) bool {
		if ask := res.GetMediaSectionsRequirement(); ask != nil {
			t.Errorf("asked for %v again, which can bring nothing new", ask)
		}
		return res.GetPongResp() != nil
	})
	bob.kinds = have
	bob.gets(4)
}

// TestWhatWaitsComesAfterTheResume: a client that has joined anew and is kept waiting for its tracks' answers resumes meanwhile: they come on
// the new socket, after its first word.
func TestWhatWaitsComesAfterTheResume(t *testing.T) {
	_, base := newTestFocus(t)
	ann := joinSolo(t, base, "ann", true)
	ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: "voice", Type: signal.TrackType_AUDIO}}})
	ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 7}})
	ann.next("a pong", func(res *signal.Response) bool {
		if res.GetTrackPublished() != nil {
			t.Fatal("told of its track before its connection stands")
		}
		return res.GetPong() != 0
	})
	ann.ws.Close()
	ann.resume()
	ann.next("track_published", func(res *signal.Response) bool { return res.GetTrackPublished().GetCid() == "voice" })
}

// TestAGreatCall: of two hundred who all publish a voice and a camera a client with one connection gets everything, and who has no reason to
// says no such offer.
func TestAGreatCall(t *testing.T) {
	const publishers, each = 8, 25
	_, base := newTestFocus(t, func(c *Config) { c.MaxTracks, c.Grace = 2*each, time.Minute })
	bob := joinSolo(t, base, "bob", false)
	bob.negotiate()
	for i := range publishers {
		name := fmt.Sprint("publisher ", i)
		c := joinAs(t, base, "room", name, joining{mute: true})
		c.publishMany(each, each)
		c.sees(name, 2*each)
	}
	bob.gets(publishers * each * 2)
	t.Logf("the last offer was %d KiB", len(offerTaking(bob.kinds))>>10)
	bob.ws.Close()
	bob.resume() // which says the newest offer and the answer once more
	bob.say(&signal.Request{Message: &signal.Request_SyncState{SyncState: &signal.SyncState{
		Offer: &signal.SessionDescription{Sdp: offerTaking(bob.kinds)}, Answer: &signal.SessionDescription{Sdp: offerTaking(bob.kinds[:200])},
	}}})
	if got := bob.negotiate(); len(got) != publishers*each*2 {
		t.Errorf("after a resume: got %d tracks, want all", len(got))
	}
	_, elsewhere := newTestFocus(t)
	alone := joinSolo(t, elsewhere, "alone", false)
	alone.say(&signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: offerTaking(bob.kinds[:150])}}})
	_ = alone.ws.SetReadDeadline(time.Now().Add(patience))
	for {
		res, err := readResponse(alone.ws)
		if err != nil || res.GetAnswer() != nil {
			t.Fatalf("got %.200v, %v, want who is alone sent away for an offer with 150 sections of a browser", res, err)
		}
		if res.GetLeave() != nil {
			break
		}
	}
}

// TestMoreThanOneClientCanGet: tracks beyond the bound wait, without a word, until others have gone; with one connection and with two.
func TestMoreThanOneClientCanGet(t *testing.T) {
	f, base := newTestFocus(t, func(c *Config) { c.Grace = time.Minute })
	f.mostSent = 8
	bob, cat := joinSolo(t, base, "bob", false), join(t, base, "room", "cat")
	bob.negotiate()
	ann, dan := joinAs(t, base, "room", "ann", joining{mute: true}), joinAs(t, base, "room", "dan", joining{mute: true})
	ann.publishMany(8, 0)
	ann.sees("ann", 8)
	bob.gets(5) // three of its sections are for pictures
	for range 8 {
		cat.track()
	}
	dan.publishMany(1, 0)
	cat.sees("dan", 1)
	bob.next("dan's track", func(res *signal.Response) bool {
		return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(p *signal.Participant) bool { return p.Identity == "dan" && len(p.Tracks) == 1 })
	})
	bob.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
	bob.next("a pong", func(res *signal.Response) bool {
		if ask := res.GetMediaSectionsRequirement(); ask != nil {
			t.Errorf("asked for %v, which can bring nothing", ask)
		}
		return res.GetPongResp() != nil
	})
	cat.say(&signal.Request{Message: &signal.Request_Ping{Ping: 7}})
	cat.wait("a pong", func(res *signal.Response) bool { return res.GetPong() != 0 })
	if got := strings.Count(cat.sub.RemoteDescription().SDP, "m=audio"); got != 8 {
		t.Errorf("cat was offered %d sections, want no more than 8", got)
	}
	ann.say(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}})
	bob.next("ann's leave", func(res *signal.Response) bool {
		return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(p *signal.Participant) bool {
			return p.Identity == "ann" && p.State == signal.Participant_DISCONNECTED
		})
	})
	bob.gets(1)
	cat.track()
}

// TestVoicesKeepTheirPlace: where a client cannot get everything it gets voices, also such as come after more pictures than there is room for.
func TestVoicesKeepTheirPlace(t *testing.T) {
	f, base := newTestFocus(t, func(c *Config) { c.MaxTracks, c.Grace = 80, time.Minute })
	f.mostSent = 32 // four of them are for voices alone
	bob, cat := joinSolo(t, base, "bob", false), joinAs(t, base, "room", "cat", joining{steady: true})
	bob.negotiate()
	ann, dan := joinAs(t, base, "room", "ann", joining{mute: true}), joinAs(t, base, "room", "dan", joining{mute: true})
	ann.publishMany(0, 40)
	ann.sees("ann", 40)
	bob.gets(28)
	for range 28 {
		cat.track()
	}
	dan.publishMany(4, 0)
	bob.gets(32)
	for range 4 {
		if remote := cat.track(); remote.Kind() != webrtc.RTPCodecTypeAudio {
			t.Errorf("got a %v after 28 pictures, want a voice", remote.Kind())
		}
	}
	dan.publishMany(32, 0)
	dan.sees("dan", 36)
	eve := joinAs(t, base, "room", "eve", joining{steady: true})
	for range 32 {
		if remote := eve.track(); remote.Kind() != webrtc.RTPCodecTypeAudio {
			t.Errorf("got a %v, want voices first", remote.Kind())
		}
	}
}
