package calls

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/sdp/v3"

	"chancery/calls/signal"
)

// chromiumOffer is the beginning of a call as Chromium describes it, shortened to one section of each kind.
const chromiumOffer = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n" +
	"m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:EsAw\r\na=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y\r\na=ice-options:trickle\r\n" +
	"a=fingerprint:sha-256 49:66:12:17:0D:1C:91:AE:57:4C:C6:36:DD:D5:97:D2:7D:62:C9:9A:7F:B9:A3:F4:70:03:E7:43:91:73:23:5E\r\na=setup:actpass\r\na=mid:0\r\n" +
	"a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=sendonly\r\na=msid:stream 5a1b\r\na=rtcp-mux\r\n" +
	"a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 minptime=10;useinbandfec=1\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=ssrc:1 cname:x\r\n" +
	"m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:EsAw\r\na=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y\r\n" +
	"a=fingerprint:sha-256 49:66:12:17:0D:1C:91:AE:57:4C:C6:36:DD:D5:97:D2:7D:62:C9:9A:7F:B9:A3:F4:70:03:E7:43:91:73:23:5E\r\na=setup:actpass\r\na=mid:1\r\n" +
	"a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\na=sendonly\r\na=msid:stream 77aa\r\na=rtcp-mux\r\na=rtcp-rsize\r\n" +
	"a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rid:q send\r\na=rid:h send\r\na=simulcast:send q;h\r\n" +
	"a=candidate:1 1 udp 2122194687 192.0.2.2 52743 typ host generation 0\r\n" +
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:EsAw\r\na=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y\r\n" +
	"a=fingerprint:sha-256 49:66:12:17:0D:1C:91:AE:57:4C:C6:36:DD:D5:97:D2:7D:62:C9:9A:7F:B9:A3:F4:70:03:E7:43:91:73:23:5E\r\na=setup:actpass\r\na=mid:2\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n"

func FuzzSections(f *testing.F) {
	f.Add(chromiumOffer)
	f.Add(sdpHead + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n")
	for _, hide := range disguises {
		f.Add(hide(chromiumOffer, "a=candidate:1 1 udp 2122194687 192.0.2.2 52743 typ host"))
	}
	f.Fuzz(func(t *testing.T, offer string) {
		kept, err := withoutCandidates(offer)
		if err != nil {
			return
		}
		all, err := parseSections(kept, 0)
		if err != nil {
			return
		}
		if len(all) > maxSections {
			t.Errorf("got %d sections, want at most %d", len(all), maxSections)
		}
		var desc sdp.SessionDescription // as whoever gets the description reads it
		if err := desc.UnmarshalString(kept); err != nil {
			t.Fatal(err)
		}
		media := 0
		for line := range strings.Lines(kept) {
			if strings.HasPrefix(line, "m=") {
				media++
			}
		}
		if len(desc.MediaDescriptions) != media {
			t.Errorf("got %d sections, want the %d that are lines", len(desc.MediaDescriptions), media)
		}
		attributes := desc.Attributes
		for _, m := range desc.MediaDescriptions {
			attributes = append(attributes, m.Attributes...)
		}
		for _, a := range attributes {
			if a.IsICECandidate() {
				t.Errorf("a candidate stayed: %q", a)
			}
		}
	})
}

// fuzzed is a participant whose messages are foreign bytes; a new one when those have ended it.
type fuzzed struct {
	focus *Focus
	base  string
	n     int
	ws    *websocket.Conn
	p     *Participant
}

func newFuzzed(f *testing.F) *fuzzed {
	focus, base := newTestFocus(f, func(c *Config) { c.EmptyTimeout = time.Hour })
	return &fuzzed{focus: focus, base: base}
}

func (z *fuzzed) participant(t *testing.T) *Participant {
	if z.p != nil {
		select {
		case <-z.p.done:
			z.ws.Close()
		default:
			return z.p
		}
	}
	z.n++
	name := fmt.Sprintf("fuzzed-%d", z.n)
	ws, _, err := websocket.DefaultDialer.Dial(z.base+"/rtc/v1?"+url.Values{"access_token": {testToken(t, "room", name)}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				return
			}
		}
	}()
	for end := time.Now().Add(patience); ; {
		if rooms := z.focus.liveRooms(); len(rooms) > 0 {
			if p := rooms[0].find(name); p != nil {
				z.ws, z.p = ws, p
				return p
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not come in within %v", name, patience)
		}
		time.Sleep(time.Millisecond)
	}
}

// handle does what the client would have done, and fails on a fault that the session would have survived.
func (z *fuzzed) handle(t *testing.T, req *signal.Request) {
	p := z.participant(t)
	fault := make(chan any, 1)
	if !p.do(func() {
		defer func() { fault <- recover() }()
		p.handle(req)
	}) {
		return
	}
	select {
	case what := <-fault:
		if what != nil {
			t.Fatalf("handling %v: %v", req, what)
		}
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("handling %v took more than %v", req, patience)
	}
}

// FuzzRequests lets a participant handle whatever parses as a message.
func FuzzRequests(f *testing.F) {
	for _, req := range []*signal.Request{
		offerOf(chromiumOffer),
		trickle(`{"candidate":"candidate:1 1 udp 1 192.0.2.1 1000 typ host"}`),
		{Message: &signal.Request_Answer{Answer: &signal.SessionDescription{Type: "answer", Sdp: chromiumOffer, Id: 1}}},
		{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: "5a1b", Type: signal.TrackType_AUDIO}}},
		{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: "77aa", Type: signal.TrackType_VIDEO, Layers: []*signal.VideoLayer{{Width: 1}}, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp8", Cid: "77aa"}}}}},
		{Message: &signal.Request_Subscription{Subscription: &signal.UpdateSubscription{TrackSids: []string{"TR_x"}, Subscribe: true}}},
		{Message: &signal.Request_SubscriptionPermission{}},
		{Message: &signal.Request_SubscriptionPermission{SubscriptionPermission: &signal.SubscriptionPermission{TrackPermissions: []*signal.TrackPermission{
			{ParticipantIdentity: "ann", AllTracks: true}, {ParticipantSid: "PA_x", TrackSids: []string{"TR_x", "TR_x"}}, {},
		}}}},
		{Message: &signal.Request_TrackSetting{TrackSetting: &signal.TrackSetting{TrackSids: []string{"TR_x", "TR_x"}, Width: 1, Height: 2, Priority: 9, Quality: signal.VideoQuality_OFF}}},
		{Message: &signal.Request_Mute{Mute: &signal.Mute{Sid: "TR_x", Muted: true}}},
		{Message: &signal.Request_UpdateAudioTrack{UpdateAudioTrack: &signal.UpdateAudioTrack{TrackSid: "TR_x"}}},
		{Message: &signal.Request_UpdateVideoTrack{UpdateVideoTrack: &signal.UpdateVideoTrack{TrackSid: "TR_x", Width: 1}}},
		{Message: &signal.Request_Simulate{Simulate: &signal.Simulate{Scenario: &signal.Simulate_SubscriberBandwidth{SubscriberBandwidth: -1}}}},
		{Message: &signal.Request_SyncState{SyncState: &signal.SyncState{Subscription: &signal.UpdateSubscription{}, DatachannelReceiveStates: []*signal.DataChannelReceiveState{{PublisherSid: "PA_x"}}}}},
		{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Attributes: map[string]string{"a": ""}}}},
		{Message: &signal.Request_Simulate{Simulate: &signal.Simulate{Scenario: &signal.Simulate_SpeakerUpdate{SpeakerUpdate: 3}}}},
		{Message: &signal.Request_Leave{}},
	} {
		raw, err := signal.EncodeBody(req, false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	z := newFuzzed(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if req, err := signal.ParseRequest(raw); err == nil {
			z.handle(t, req)
		}
	})
}

// FuzzOffer lets a whole peer connection answer an offer.
func FuzzOffer(f *testing.F) {
	f.Add(chromiumOffer)
	f.Add(strings.ReplaceAll(chromiumOffer, "a=sendonly", "a=recvonly"))
	z := newFuzzed(f)
	f.Fuzz(func(t *testing.T, offer string) { z.handle(t, offerOf(offer)) })
}

func FuzzTrickle(f *testing.F) {
	f.Add(`{"candidate":"candidate:1 1 udp 1 192.0.2.1 1000 typ host","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":"x"}`)
	f.Add(`{"candidate":""}`)
	z := newFuzzed(f)
	f.Fuzz(func(t *testing.T, candidate string) { z.handle(t, trickle(candidate)) })
}

// FuzzData passes foreign packets on among three.
func FuzzData(f *testing.F) {
	for _, p := range []*signal.DataPacket{
		{Sequence: 1, User: &signal.UserPacket{Payload: []byte("x")}},
		{DestinationIdentities: []string{"fuzzed-1"}, User: &signal.UserPacket{DestinationSids: []string{"PA_x"}}},
	} {
		raw, err := signal.EncodeData(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, true)
		f.Add(raw, false)
	}
	room := &Room{}
	var all []*Participant
	for i := range 3 {
		p := &Participant{room: room, sid: fmt.Sprint("PA_", i), identity: fmt.Sprint("fuzzed-", i), data: newDataPort(), done: make(chan struct{})}
		all = append(all, p)
	}
	room.everyone.Store(&all)
	f.Fuzz(func(t *testing.T, raw []byte, reliable bool) {
		kind := signal.DataPacket_LOSSY
		if reliable {
			kind = signal.DataPacket_RELIABLE
		}
		all[0].data.in.SetBurst(1 << 30)
		all[0].data.out.SetBurst(1 << 30)
		all[0].forwardData(kind, raw)
		for _, w := range room.words.list {
			p, err := signal.ParseData(w.raw)
			if err != nil || p.ParticipantSid != "PA_0" || p.ParticipantIdentity != "fuzzed-0" {
				t.Fatalf("got %v, %v, want a packet signed by its sender", p, err)
			}
		}
		room.words = words{}
	})
}
