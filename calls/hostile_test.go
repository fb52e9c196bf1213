package calls

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// Where each rule on the focus is tried (those on calls in general too, whose tests stand elsewhere):
//
//	C1   cmd/chancery TestCallTokens, TestHomeserverTokens; TestTokensAskedInVain, cmd/chancery TestMadeUpTokensHarmNobodyElse (rate)
//	C2   cmd/chancery TestCallTokens, TestCallsEndWithMembership (the old token), TestDelegationProbe
//	C3   cmd/chancery TestCallTokens (another's claim, another server's name, a server that is none), TestHomeserverTokens
//	C4   TestDoor (unsigned, forged, altered, expired), TestTokenNeverAdministers, FuzzBodies
//	C5   TestIdentityIsItsOwners, TestIdentities, TestSameIdentityTwice, TestAResumeNeedsTheSession
//	C6   cmd/chancery TestCallsEndWithMembership, TestCallsEndWithStanding, TestCallsEndWithOurLastUser, TestSeveralFoci (on another
//	     process); TestTokensAreRefreshed
//	C7   TestIdentities (the hash), TestDoor (a room opened without a token of ours)
//	C8   cmd/chancery TestServiceIsNotForParticipants; TestServiceHasItsOwnKeys
//	C9   cmd/chancery TestDelegatedLeave (addresses of callers), TestLeaveOfAnotherServersUser; remote.TestClientBaseIsFoundByName (redirects,
//	     private ranges); TestWebhooks (the configuration's address alone)
//	C10  TestAGreatCall (bounds), TestWorkIsEarned, TestWorkIsOwedAtTheDoor, TestMessagesCountOnEverySocket, TestOneMessageWaits; TestFloodsEndTheirSenderOnly, TestFramesThatAreNotTaken, TestNobodyFillsAnothersInbox, TestChangesAreGathered, TestNonsenseEndsItsSenderOnly, TestParseSections, TestDescriptionsBeforeTheTransport,
//	     TestHiddenLines; signal.TestConnRefusesGiantFrames, TestConnClosesSlowClient, TestParseJoin; FuzzSections, FuzzParseSections, FuzzOffer,
//	     FuzzTrickle, FuzzRequests; signal.FuzzParseJoin, FuzzParseRequest
//	C11  sfu.TestBadPacketsAreLeftOut, TestAStormOfKeyFrameRequests, TestAStormOfNacks, TestFeedbackThatLies, TestUnknownStreams, TestStreamsThatNobodyOwns,
//	     TestTooManyStreamsAtOnce, TestAFloodIsCutOff, TestTransportNumbersThatJump, TestChoose (whose wish a layer is), FuzzReceive, FuzzIncomingRTCP, FuzzRepair, and the fuzz targets of packet; TestParticipantKeepsItsBudget
//	C12  TestTheFingerprintMustMatch, TestStrangersCostNothing, TestAFloodBeforeTheHandshake, sfu.TestStrangersByTCPAreBounded, TestStrangersByTCPDoNotStay, TestHandshakesAreBounded,
//	     TestNobodyHangsUpWithoutTheKeys; the version of pion/dtls: TestDTLSIsNewEnough
//	C13  TestDataPacketsAreBounded, TestChannelsAreBounded, TestAFurtherChannelTellsNothingAgain, TestADataFloodWaitsOrIsDropped, TestASlowHearerIsDroppedFirst, signal.TestDataPacketsHaveTheirShape; FuzzData,
//	     signal.FuzzParseData
//	C14  turn.TestReachesNothingElse, TestCredentials, TestClassify, TestHostileConnections, TestFloodsAreNotAnswered, FuzzClassify, FuzzConnection,
//	     FuzzUsername; TestCredentialsAreTheUsers, TestCandidatesMakeUsSendNothing, TestHiddenLines
//	C15  TestDoor (full), TestOneUserTakesSomePlaces, TestTracksAreBounded, TestJoinsAreCounted, TestCallKeepsItsBudget,
//	     TestParticipantKeepsItsBudget, TestTheConfigurationBoundsEachCall; cmd/chancery TestRestrictedServers (guests), TestGuestsDoNotStart,
//	     TestCallTokens (slots), TestCallsObeyTheRoom (capped); turn.TestAllocationsAreBounded, TestBandwidthIsBounded,
//	     TestConnectionsAreBounded; sfu.TestBudget
//	C16  cmd/chancery TestC16FrameKeysAreNeitherSeenNorLogged; sfu.TestEncryptedFramesAreUntouched
//	C17  cmd/chancery TestMembershipIsAClaim

// TestWhatTriesTheRules: each test that is named above is there. A package that is named holds until the next semicolon or rule.
func TestWhatTriesTheRules(t *testing.T) {
	raw, err := os.ReadFile("hostile_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(raw), "// Where each rule")
	said, _, _ := strings.Cut(after, "\n\n")
	folders := map[string]string{"": ".", "cmd/chancery ": "../cmd/chancery", "remote.": "../federation/remote", "sfu.": "sfu", "signal.": "signal", "turn.": "turn"}
	there := map[string]string{} // the source of the tests of a folder
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: got %d files, %v, want tests", folder, len(files), err)
		}
		for _, name := range files {
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			there[folder] += string(source)
		}
	}
	of, named := "", 0
	for _, word := range namedTests.FindAllStringSubmatch(said, -1) {
		if word[0] == ";" || word[2] == "" {
			of = ""
			continue
		}
		if word[1] != "" {
			of = word[1]
		}
		named++
		if !strings.Contains(there[folders[of]], "\nfunc "+word[2]+"(") {
			t.Errorf("%s%s is named, and is not in %s", of, word[2], folders[of])
		}
	}
	if named < 50 {
		t.Errorf("got %d names, want all", named)
	}
}

// namedTests finds a rule, an end of what a package holds for, or a test with its package.
var namedTests = regexp.MustCompile(`;|\tC\d+ |(cmd/chancery |\w+\.)?\b((?:Test|Fuzz)[A-Z]\w+)`)

func trickle(candidate string) *signal.Request {
	return &signal.Request{Message: &signal.Request_Trickle{Trickle: &signal.Trickle{CandidateInit: candidate}}}
}

func offerOf(sdp string) *signal.Request {
	return &signal.Request{Message: &signal.Request_Offer{Offer: &signal.SessionDescription{Type: "offer", Sdp: sdp, Id: 1}}}
}

const sdpHead = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"

// TestFloodsEndTheirSenderOnly: each bound of the signalling closes who oversteps it; the room lives.
func TestFloodsEndTheirSenderOnly(t *testing.T) {
	for _, c := range []struct {
		name  string
		flood func(ann *testClient)
	}{
		{"candidates", func(ann *testClient) {
			for i := range maxCandidates + 50 {
				ann.say(trickle(fmt.Sprintf(`{"candidate":"candidate:1 1 udp 1 192.0.2.1 %d typ host"}`, 1000+i)))
			}
		}},
		{"a giant candidate", func(ann *testClient) { ann.say(trickle(strings.Repeat("x", maxCandidate+1))) }},
		{"candidates in an offer", func(ann *testClient) {
			ann.say(offerOf(sdpHead + strings.Repeat("a=candidate:1 1 udp 1 192.0.2.1 1000 typ host\r\n", 2*maxCandidates+1)))
		}},
		{"messages", func(ann *testClient) {
			ann.saying.Lock()
			defer ann.saying.Unlock()
			for ann.ws.WriteMessage(websocket.BinaryMessage, []byte{0x2a, 0}) == nil { // mute of nothing, which has no answer: until the door is shut
			}
		}},
		{"names", func(ann *testClient) {
			ann.floods(&signal.Request{Message: &signal.Request_UpdateMetadata{UpdateMetadata: &signal.UpdateMetadata{Metadata: strings.Repeat("x", maxMetadata/2)}}})
		}},
		{"settings", func(ann *testClient) {
			ann.floods(settingOf(&signal.TrackSetting{TrackSids: slices.Repeat([]string{"TR_x"}, 500), Disabled: true}))
		}},
		{"permissions", func(ann *testClient) {
			ann.floods(&signal.Request{Message: &signal.Request_SubscriptionPermission{SubscriptionPermission: &signal.SubscriptionPermission{
				TrackPermissions: []*signal.TrackPermission{{ParticipantIdentity: "bob", TrackSids: make([]string, maxWishes-1)}},
			}}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, base := newTestFocus(t, func(c *Config) { c.Grace = 5 * time.Second })
			ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
			go c.flood(ann)
			bob.wait("ann's going", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_DISCONNECTED) })
			bob.say(&signal.Request{Message: &signal.Request_PingReq{PingReq: &signal.Ping{Timestamp: 7}}})
			bob.wait("a pong", func(res *signal.Response) bool { return res.GetPongResp().GetLastPingTimestamp() == 7 })
		})
	}
}

// floods says the same until the door is shut.
func (c *testClient) floods(req *signal.Request) {
	raw, err := signal.Encode(req)
	if err != nil {
		c.t.Error(err)
	}
	c.saying.Lock()
	defer c.saying.Unlock()
	for c.ws.WriteMessage(websocket.BinaryMessage, raw) == nil {
	}
}

// TestWorkIsEarned: whose messages were much work waits with the next one; in the long run they get a quarter of a processor.
func TestWorkIsEarned(t *testing.T) {
	p := &Participant{done: make(chan struct{}), allotted: newAllotment()}
	begun := time.Now()
	if !p.rest(workAtOnce) || time.Since(begun) > workAtOnce/2 {
		t.Errorf("waited %v after the first work, want no wait", time.Since(begun))
	}
	begun = time.Now()
	p.rest(20 * time.Millisecond)
	if took := time.Since(begun); took < 50*time.Millisecond || took > longestRest {
		t.Errorf("waited %v after 20 ms of work, want some 80 ms", took)
	}
	close(p.done)
	if p.rest(workAtOnce) {
		t.Error("went on though the participant has ended")
	}
}

// TestWorkIsOwedAtTheDoor: who has had more than its due comes in when it is earned, and nobody else waits for that. Coming in is work too.
func TestWorkIsOwedAtTheDoor(t *testing.T) {
	f, base := newTestFocus(t)
	anns := f.door.of("room", "ann")
	anns.work.SetLimit(1)                                         // earns nothing while the test runs
	within(t, join(t, base, "room", "ann").session(f), func() {}) // it has come in
	if left := time.Duration(anns.work.Tokens()); left > workAtOnce-10*time.Microsecond || left < workAtOnce-joinCosts-time.Second {
		t.Errorf("after a join: got %v of work left, want a little less than %v", left, workAtOnce)
	}
	anns.charge(workAtOnce)
	if !f.door.allow("room", "ann") {
		t.Error("kept out though it owes little")
	}
	anns.charge(workAtOnce)
	for _, c := range []struct {
		call, who string
		want      bool
	}{{"room", "ann", false}, {"room", "bob", true}, {"another", "ann", true}} {
		if got := f.door.allow(c.call, c.who); got != c.want {
			t.Errorf("%s in %s: let in %v, want %v", c.who, c.call, got, c.want)
		}
	}
}

// TestMessagesCountOnEverySocket: neither a resume nor a new session gives a client more messages than it has left, and what comes on a socket
// that another has replaced is not handled.
func TestMessagesCountOnEverySocket(t *testing.T) {
	f, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	p := ann.session(f)
	var first *signal.Conn
	within(t, p, func() { first = p.conn })
	left := p.allotted.messages
	left.SetLimit(0.001)
	left.AllowN(time.Now(), int(left.Tokens())-50)
	query := url.Values{"access_token": {testToken(t, "room", "ann")}}
	sentAway := func(what string, ws *websocket.Conn) {
		t.Helper()
		ping, err := signal.Encode(&signal.Request{Message: &signal.Request_Ping{Ping: 7}})
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			_ = ws.WriteMessage(websocket.BinaryMessage, ping) // a closed socket shows below
		}
		_ = ws.SetReadDeadline(time.Now().Add(patience))
		for {
			res, err := readResponse(ws)
			if err != nil {
				t.Fatalf("%s: got %v, want to be sent away", what, err)
			}
			if leave := res.GetLeave(); leave != nil {
				if leave.Reason != signal.DisconnectReason_JOIN_FAILURE {
					t.Errorf("%s: got %v, want it sent away for its messages", what, leave)
				}
				return
			}
		}
	}
	resume := url.Values{"access_token": query["access_token"], "reconnect": {"1"}, "sid": {p.sid}}
	again := dialSocket(t, base, "/rtc", resume)
	if res, err := readResponse(again); err != nil || res.GetReconnect() == nil {
		t.Fatalf("got %v, %v, want reconnect first", res, err)
	}
	if _, alive := p.serve(first, &signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}}); alive || p.ended() {
		t.Errorf("a replaced socket: read on %v, its leave taken %v, want neither", alive, p.ended())
	}
	sentAway("on a second socket", again)
	sentAway("in a second session", dialSocket(t, base, "/rtc", query))
}

// TestOneMessageWaits: of a client whose messages cannot be handled just now one is held, however many it sends.
func TestOneMessageWaits(t *testing.T) {
	f, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	p := f.liveRooms()[0].find("ann")
	gate, busy := make(chan struct{}), make(chan struct{})
	p.do(func() { close(busy); <-gate })
	<-busy
	const sent = 500
	most := 0
	go func() {
		for range sent {
			ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 7}})
		}
	}()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		most = max(most, len(p.inbox))
	}
	if most > 50 { // others have something for it too
		t.Errorf("got %d messages waiting, want one of the client", most)
	}
	close(gate)
	for range sent {
		ann.wait("a pong", func(res *signal.Response) bool { return res.GetPong() != 0 })
	}
}

// TestCandidatesMakeUsSendNothing: wherever a client says that it is, the focus sends nothing there.
func TestCandidatesMakeUsSendNothing(t *testing.T) {
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	lines := []string{
		fmt.Sprintf("candidate:1 1 udp 2130706431 127.0.0.1 %d typ host", udp.LocalAddr().(*net.UDPAddr).Port),
		fmt.Sprintf("candidate:2 1 udp 1694498815 127.0.0.1 %d typ srflx raddr 0.0.0.0 rport 0", udp.LocalAddr().(*net.UDPAddr).Port),
		fmt.Sprintf("candidate:3 1 tcp 1518280447 127.0.0.1 %d typ host tcptype passive", tcp.Addr().(*net.TCPAddr).Port),
	}
	_, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	// The candidates come by trickle for both connections, and in the answer to the focus's offer and in an offer.
	for _, line := range lines {
		for _, target := range []signal.Target{signal.Target_PUBLISHER, signal.Target_SUBSCRIBER} {
			req := trickle(`{"candidate":"` + line + `","sdpMid":"0","sdpMLineIndex":0}`)
			req.GetTrickle().Target = target
			ann.say(req)
		}
	}
	if _, err := ann.pub.CreateDataChannel("x", nil); err != nil {
		t.Fatal(err)
	}
	offer, err := ann.pub.CreateOffer(nil)
	if err != nil {
		t.Fatal(err)
	}
	ann.say(offerOf(offer.SDP + "a=" + strings.Join(lines, "\r\na=") + "\r\n"))
	select {
	case <-ann.answer:
	case <-time.After(patience):
		t.Fatal("no answer to the offer")
	}
	// What hides them ends its sender.
	for name, hide := range disguises {
		cat := join(t, base, "room", "cat")
		cat.say(offerOf(hide(offer.SDP, "a="+lines[0])))
		cat.wait("the end of one who hides a candidate "+name, func(res *signal.Response) bool { return res.GetLeave() != nil })
	}
	// Checks of the agent come at least each 200 ms. Two seconds of silence are silence.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_, _ = udp.SetReadDeadline(deadline), tcp.SetDeadline(deadline)
	buf := make([]byte, 2048)
	if n, from, err := udp.ReadFromUDP(buf); err == nil {
		t.Errorf("the focus sent %d bytes from %v to a client's candidate", n, from)
	}
	if conn, err := tcp.Accept(); err == nil {
		conn.Close()
		t.Error("the focus connected to a client's candidate")
	}
}

var fingerprints = regexp.MustCompile(`(a=fingerprint:sha-256 )\S+`)

// TestTheFingerprintMustMatch: whoever cannot prove the certificate of its own offer gets no transport, and its session ends.
func TestTheFingerprintMustMatch(t *testing.T) {
	_, base := newTestFocus(t, func(c *Config) { c.Grace = 5 * time.Second })
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	states := make(chan webrtc.PeerConnectionState, 16)
	ann.pub.OnConnectionStateChange(func(s webrtc.PeerConnectionState) { states <- s })
	if _, err := ann.pub.CreateDataChannel(reliableLabel, nil); err != nil {
		t.Fatal(err)
	}
	offer, err := ann.pub.CreateOffer(nil)
	if err == nil {
		err = ann.pub.SetLocalDescription(offer)
	}
	if err != nil {
		t.Fatal(err)
	}
	false256 := strings.TrimSuffix(strings.Repeat("AB:", 32), ":")
	if !fingerprints.MatchString(offer.SDP) {
		t.Fatal("the offer has no fingerprint to falsify")
	}
	ann.say(offerOf(fingerprints.ReplaceAllString(offer.SDP, "${1}"+false256)))
	answer := <-ann.answer
	if err := ann.pub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}); err != nil {
		t.Fatal(err)
	}
	bob.wait("ann's going", func(res *signal.Response) bool { return mentions(res, "ann", signal.Participant_DISCONNECTED) })
	for {
		select {
		case s := <-states:
			if s == webrtc.PeerConnectionStateConnected {
				t.Error("a transport with a false fingerprint was connected")
			}
			continue
		default:
		}
		break
	}
}

// TestAResumeNeedsTheSession: resumes with a stranger's sid, or another's, take no session.
func TestAResumeNeedsTheSession(t *testing.T) {
	_, base := newTestFocus(t)
	ann := join(t, base, "room", "ann")
	for _, c := range []struct{ name, identity, sid string }{
		{"another's session", "bob", ann.joined.Participant.Sid},
		{"an old session", "ann", "PA_long_gone"},
	} {
		ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {testToken(t, "room", c.identity)}, "reconnect": {"1"}, "sid": {c.sid}})
		res, err := readResponse(ws)
		if err != nil || res.GetLeave().GetReason() != signal.DisconnectReason_STATE_MISMATCH {
			t.Errorf("%s: got %v, %v, want leave for state mismatch", c.name, res, err)
		}
	}
	ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 3}})
	ann.wait("a pong", func(res *signal.Response) bool { return res.GetPong() != 0 })
}

// TestTracksAreBounded: whoever announces tracks without end gets as many as the configuration says; the call goes on.
func TestTracksAreBounded(t *testing.T) {
	_, base := newTestFocus(t, func(c *Config) { c.MaxTracks = 3 })
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	for i := range 10 {
		ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: fmt.Sprintf("c%d", i), Type: signal.TrackType_AUDIO}}})
	}
	ann.say(&signal.Request{Message: &signal.Request_Ping{Ping: 3}})
	published := 0
	ann.wait("a pong", func(res *signal.Response) bool {
		if res.GetTrackPublished() != nil {
			published++
		}
		return res.GetPong() != 0
	})
	if published != 3 {
		t.Errorf("got %d tracks, want 3", published)
	}
	bob.publish("bob")
	ann.hears("bob")
}

// TestDTLSIsNewEnough: older ones of Pion have been broken (CVE-2026-26014), and so have its interceptors (GHSA-f26w-gh5m-qq77).
func TestDTLSIsNewEnough(t *testing.T) {
	info, ok := debug.ReadBuildInfo()
	if !ok || len(info.Deps) == 0 {
		t.Skip("built without module information")
	}
	least := map[string]string{"github.com/pion/dtls/v3": "v3.1.1", "github.com/pion/interceptor": "v0.1.39"}
	for _, dep := range info.Deps {
		if want := least[dep.Path]; want != "" {
			if delete(least, dep.Path); semver(t, dep.Version) < semver(t, want) {
				t.Errorf("%s: got %s, want at least %s", dep.Path, dep.Version, want)
			}
		}
	}
	if len(least) > 0 {
		t.Errorf("not in the program: %v", least)
	}
}

// semver is a version as a number that grows with it.
func semver(t *testing.T, version string) (n int) {
	t.Helper()
	var major, minor, patch int
	if _, err := fmt.Sscanf(version, "v%d.%d.%d", &major, &minor, &patch); err != nil {
		t.Fatalf("%s: %v", version, err)
	}
	return major*1_000_000 + minor*1000 + patch
}

// TestSecondCodecsThatAreNone: whatever a client announces beside what it may, it is told why not, and the call lives.
func TestSecondCodecsThatAreNone(t *testing.T) {
	_, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	video, audio := signal.TrackType_VIDEO, signal.TrackType_AUDIO
	camera := ann.announces(&signal.AddTrack{Cid: "camera", Type: video, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp9", Cid: "camera"}, {Codec: "vp8"}}})
	plain := ann.announces(&signal.AddTrack{Cid: "plain", Type: video, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp8", Cid: "plain"}}})
	voice := ann.announces(&signal.AddTrack{Cid: "voice", Type: audio})
	bobs := bob.announces(&signal.AddTrack{Cid: "bob", Type: video, SimulcastCodecs: []*signal.SimulcastCodec{{Codec: "vp9", Cid: "bob"}, {Codec: "vp8"}}})
	codec := func(name, cid string) []*signal.SimulcastCodec {
		return []*signal.SimulcastCodec{{Codec: name, Cid: cid}}
	}
	var thousands []*signal.SimulcastCodec
	for i := range 3000 {
		thousands = append(thousands, &signal.SimulcastCodec{Codec: "vp8", Cid: fmt.Sprint(i)})
	}
	giant := strings.Repeat("x", maxTrackNames)
	for _, c := range []struct {
		name string
		req  *signal.AddTrack
		want signal.RequestResponse_Reason
	}{
		{"thousands of codecs", &signal.AddTrack{Cid: "a", Type: video, SimulcastCodecs: thousands}, signal.RequestResponse_LIMIT_EXCEEDED},
		{"a giant name", &signal.AddTrack{Cid: "b" + giant, Type: video}, signal.RequestResponse_LIMIT_EXCEEDED},
		{"a codec with a giant name", &signal.AddTrack{Cid: "c", Type: video, SimulcastCodecs: codec("vp8", giant)}, signal.RequestResponse_LIMIT_EXCEEDED},
		{"a giant codec", &signal.AddTrack{Cid: "d", Type: video, SimulcastCodecs: codec(giant, "d")}, signal.RequestResponse_LIMIT_EXCEEDED},
		{"another's track", &signal.AddTrack{Cid: "e", Sid: bobs.Sid, Type: video, SimulcastCodecs: codec("vp8", "e")}, signal.RequestResponse_NOT_FOUND},
		{"no track", &signal.AddTrack{Cid: "f", Sid: "TR_none", Type: video, SimulcastCodecs: codec("vp8", "f")}, signal.RequestResponse_NOT_FOUND},
		{"a track of another kind", &signal.AddTrack{Cid: "g", Sid: voice.Sid, Type: video, SimulcastCodecs: codec("vp8", "g")}, signal.RequestResponse_UNSUPPORTED_TYPE},
		{"a codec that was not announced", &signal.AddTrack{Cid: "h", Sid: camera.Sid, Type: video, SimulcastCodecs: codec("h264", "h")}, signal.RequestResponse_UNSUPPORTED_TYPE},
		{"the first codec again", &signal.AddTrack{Cid: "i", Sid: camera.Sid, Type: video, SimulcastCodecs: codec("vp9", "i")}, signal.RequestResponse_UNSUPPORTED_TYPE},
		{"no codec", &signal.AddTrack{Cid: "j", Sid: camera.Sid, Type: video}, signal.RequestResponse_UNSUPPORTED_TYPE},
		{"a track with one codec", &signal.AddTrack{Cid: "k", Sid: plain.Sid, Type: video, SimulcastCodecs: codec("vp8", "k")}, signal.RequestResponse_UNSUPPORTED_TYPE},
		{"a name that another track has", &signal.AddTrack{Cid: "plain", Sid: camera.Sid, Type: video, SimulcastCodecs: codec("vp8", "plain")}, signal.RequestResponse_NOT_ALLOWED},
		{"no name", &signal.AddTrack{Sid: camera.Sid, Type: video, SimulcastCodecs: codec("vp8", "")}, signal.RequestResponse_NOT_ALLOWED},
	} {
		ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: c.req}})
		got := ann.wait(c.name, func(res *signal.Response) bool {
			return res.GetRequestResponse() != nil || res.GetTrackPublished() != nil
		})
		refusal := got.GetRequestResponse()
		if refusal.GetReason() != c.want || refusal.GetMessage() == "" || refusal.GetAddTrack() == nil || len(refusal.GetAddTrack().Cid) > maxTrackNames {
			t.Errorf("%s: got %.300v, want %v and why", c.name, got, c.want)
		}
	}
	for i := 0; ; i++ {
		ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: fmt.Sprint("more ", i), Type: audio}}})
		res := ann.wait("an answer", func(res *signal.Response) bool {
			return res.GetRequestResponse() != nil || res.GetTrackPublished() != nil
		})
		if r := res.GetRequestResponse(); r != nil {
			if r.Reason != signal.RequestResponse_LIMIT_EXCEEDED {
				t.Errorf("too many tracks: got %v, want the limit exceeded", r)
			}
			break
		}
		if i > 200 {
			t.Fatal("got more than 200 tracks announced, want a limit")
		}
	}
	bob.sends(webrtc.MimeTypeVP9, "bob")
	ann.shows(ann.track(), "vp9")
}
