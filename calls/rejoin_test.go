package calls

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// TestWhoJoinsAnewIsNotToldTooEarly: a client of the kind that forgets what it hears in the first seconds after it has joined anew
// hears of newcomers when these are over; of who leaves, and all that others do, it is told at once.
func TestWhoJoinsAnewIsNotToldTooEarly(t *testing.T) {
	_, base := newTestFocus(t)
	enter := func(identity, sdk string, again bool) (*websocket.Conn, *signal.Joined) {
		token := testToken(t, "room", identity, func(c *Claims) { c.Again = again })
		ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {token}, "sdk": {sdk}, "auto_subscribe": {"1"}})
		first, err := readResponse(ws)
		if err != nil || first.GetJoin() == nil {
			t.Fatalf("%s: got %v, %v, want join", identity, first, err)
		}
		return ws, first.GetJoin()
	}
	hears := func(ws *websocket.Conn, identity string, state signal.Participant_State) time.Time {
		t.Helper()
		return toldOf(t, ws, identity, state)
	}
	for _, c := range []struct {
		name, sdk string
		again     bool
		resumed   bool // it tried to resume before
		late      bool
	}{
		{"livekit-client, anew", "js", true, false, true},
		{"livekit-client, anew after a resume", "js", true, true, false},
		{"livekit-client, for the first time", "js", false, false, false},
		{"another client, anew", "go", true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.resumed {
				sentAwayAtResume(t, base, "ann "+c.name)
			}
			there, _ := enter("there "+c.name, "js", false)
			ann, joined := enter("ann "+c.name, c.sdk, c.again)
			begun := time.Now()
			if n := len(joined.OtherParticipants); n == 0 {
				t.Errorf("the welcome tells of %d others, want those who were there", n)
			}
			frame, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Ping{Ping: 7}}, false)
			if err == nil {
				err = ann.WriteMessage(websocket.BinaryMessage, frame)
			}
			if err != nil {
				t.Fatal(err)
			}
			enter("bob "+c.name, "js", false)
			if leave, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Leave{Leave: &signal.Leave{}}}, false); err != nil || there.WriteMessage(websocket.BinaryMessage, leave) != nil {
				t.Fatal("leave not said")
			}
			if c.late {
				if took := hears(ann, "there "+c.name, signal.Participant_DISCONNECTED).Sub(begun); took > deafFor/2 {
					t.Errorf("told of who left after %v, want at once", took)
				}
			}
			took := hears(ann, "bob "+c.name, signal.Participant_JOINED).Sub(begun)
			if (took >= deafFor) != c.late || took > deafMost+time.Second {
				t.Errorf("told of a newcomer after %v, want that to be late: %v", took, c.late)
			}
		})
	}
}

// toldOf says when ws was told of identity with that state, for the first time.
func toldOf(t *testing.T, ws *websocket.Conn, identity string, state signal.Participant_State) time.Time {
	t.Helper()
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	for {
		res, err := readResponse(ws)
		if err != nil {
			t.Fatalf("not told of %s: %v", identity, err)
		}
		if mentions(res, identity, state) {
			return time.Now()
		}
	}
}

// TestTheHomeLearnsOfAResume: the client was sent away by the focus that it reached, which relays its join to the call's home.
func TestTheHomeLearnsOfAResume(t *testing.T) {
	foci, bases := newTestFoci(t)
	if err := foci[0].Drain(time.Hour, false); err != nil {
		t.Fatal(err)
	}
	token, err := foci[0].tokens.sign(Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: "ann"}, Video: Grant{Room: "room", RoomJoin: true}, Again: true}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	query := url.Values{"access_token": {token}, "sdk": {"js"}, "reconnect": {"1"}, "sid": {"PA_gone"}}
	if first, err := readResponse(dialSocket(t, bases[0], "/rtc", query)); err != nil || first.GetLeave().GetAction() != signal.Leave_RECONNECT {
		t.Fatalf("a resume of an unknown session: got %v, %v, want to be sent away to join anew", first, err)
	}
	query.Del("reconnect")
	ann := dialSocket(t, bases[0], "/rtc", query)
	if first, err := readResponse(ann); err != nil || first.GetJoin() == nil {
		t.Fatalf("got %v, %v, want join", first, err)
	}
	if len(foci[1].liveRooms()) != 1 {
		t.Fatal("the call is not on the other focus")
	}
	begun := time.Now()
	join(t, bases[1], "room", "bob")
	if took := toldOf(t, ann, "bob", signal.Participant_JOINED).Sub(begun); took >= deafFor {
		t.Errorf("told of a newcomer after %v, want at once", took)
	}
}

// TestWhoComesBackAfterAStopIsSentAwayOnce: all who were there come back at once. In its first attempt a client would be deaf for the others;
// in its second it hears them.
func TestWhoComesBackAfterAStopIsSentAwayOnce(t *testing.T) {
	_, base := newTestFocus(t)
	for _, c := range []struct {
		name, sdk string
		away      time.Duration // ago; 0: it was not
		sentAway  bool
	}{
		{"just now", "js", time.Millisecond, true},
		{"by another's clock, which is ahead", "js", -time.Second, true},
		{"long ago: it comes for another reason", "js", allAtOnce + time.Second, false},
		{"it was not sent away", "js", 0, false},
		{"another client, which is never deaf", "go", time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			token := testToken(t, "room "+c.name, "ann", func(claims *Claims) {
				if claims.Again = true; c.away != 0 {
					claims.SentAway = time.Now().Add(-c.away).UnixMilli()
				}
			})
			query := url.Values{"access_token": {token}, "sdk": {c.sdk}, "auto_subscribe": {"1"}}
			ann := dialSocket(t, base, "/rtc", query)
			first, err := readResponse(ann)
			if away := first.GetLeave().GetAction() == signal.Leave_RECONNECT; err != nil || away != c.sentAway {
				t.Fatalf("got %v, %v, want it sent away: %v", first, err, c.sentAway)
			}
			if !c.sentAway {
				return
			}
			ann = dialSocket(t, base, "/rtc", query)
			if first, err = readResponse(ann); err != nil || first.GetJoin() == nil {
				t.Fatalf("at the second attempt got %v, %v, want join", first, err)
			}
			begun := time.Now()
			join(t, base, "room "+c.name, "bob")
			if took := toldOf(t, ann, "bob", signal.Participant_JOINED).Sub(begun); took >= deafFor {
				t.Errorf("told of a newcomer after %v, want at once", took)
			}
		})
	}
}

// sentAwayAtResume tries to resume a session that the focus does not know.
func sentAwayAtResume(t *testing.T, base, identity string) {
	t.Helper()
	ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {testToken(t, "room", identity)}, "reconnect": {"1"}, "sid": {"PA_gone"}})
	if first, err := readResponse(ws); err != nil || first.GetLeave().GetAction() != signal.Leave_RECONNECT {
		t.Fatalf("a resume of an unknown session: got %v, %v, want to be sent away to join anew", first, err)
	}
}

// TestWhoJoinsAnewHearsOfItsTracksWhenItIsConnected: livekit-client says that it is back when it knows that its tracks are taken, if both its
// connections stand by then.
func TestWhoJoinsAnewHearsOfItsTracksWhenItIsConnected(t *testing.T) {
	_, base := newTestFocus(t)
	ann := joinAs(t, base, "room", "ann", joining{anew: true})
	if !ann.joined.FastPublish {
		t.Error("got no wish that the publisher's connection is begun at once")
	}
	ann.say(&signal.Request{Message: &signal.Request_AddTrack{AddTrack: &signal.AddTrack{Cid: "voice", Type: signal.TrackType_AUDIO}}})
	if _, err := ann.pub.AddTransceiverFromKind(webrtc.RTPCodecTypeAudio, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}); err != nil {
		t.Fatal(err)
	}
	ann.offer()
	ann.wait("track_published", func(res *signal.Response) bool { return res.GetTrackPublished().GetCid() == "voice" })
	for name, pc := range map[string]*webrtc.PeerConnection{"publisher's": ann.pub, "subscriber's": ann.sub} {
		if s := pc.ConnectionState(); s != webrtc.PeerConnectionStateConnected {
			t.Errorf("track_published came when the %s connection was %v, want it connected", name, s)
		}
	}
}

// TestResumeBeforeTheFirstAnswer: the socket is lost while an offer of the focus has no answer. The session goes on: the offer comes once
// more, and after its answer one with new ICE credentials.
func TestResumeBeforeTheFirstAnswer(t *testing.T) {
	_, base := newTestFocus(t)
	offered := func(ws *websocket.Conn) *signal.SessionDescription {
		t.Helper()
		_ = ws.SetReadDeadline(time.Now().Add(patience))
		for {
			res, err := readResponse(ws)
			if err != nil || res.GetLeave() != nil {
				t.Fatalf("got %v, %v, want an offer", res, err)
			}
			if offer := res.GetOffer(); offer != nil {
				return offer
			}
		}
	}
	query := url.Values{"access_token": {testToken(t, "room", "ann")}}
	ws := dialSocket(t, base, "/rtc", query)
	first, err := readResponse(ws)
	if err != nil || first.GetJoin() == nil {
		t.Fatalf("got %v, %v, want join", first, err)
	}
	lost := offered(ws)
	ws.Close()
	query.Set("reconnect", "1")
	query.Set("sid", first.GetJoin().Participant.Sid)
	ws = dialSocket(t, base, "/rtc", query)
	again := offered(ws)
	if again.Id <= lost.Id {
		t.Errorf("got offer %d after %d, want a later one", again.Id, lost.Id)
	}
	pc, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: again.Sdp}); err != nil {
		t.Fatal(err)
	}
	answer, err := pc.CreateAnswer(nil)
	if err == nil {
		err = pc.SetLocalDescription(answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	frame, err := signal.EncodeBody(&signal.Request{Message: &signal.Request_Answer{Answer: &signal.SessionDescription{Type: "answer", Sdp: answer.SDP, Id: again.Id}}}, false)
	if err == nil {
		err = ws.WriteMessage(websocket.BinaryMessage, frame)
	}
	if err != nil {
		t.Fatal(err)
	}
	if fresh := offered(ws); ufrag(fresh.Sdp) == ufrag(again.Sdp) || ufrag(fresh.Sdp) == "" {
		t.Errorf("the offer after the answer has ICE credentials %q, before %q, want new ones", ufrag(fresh.Sdp), ufrag(again.Sdp))
	}
}

func ufrag(sdp string) string {
	_, after, _ := strings.Cut(sdp, "a=ice-ufrag:")
	value, _, _ := strings.Cut(after, "\r\n")
	return value
}

// Who was sent away by a focus that stopped, and comes to one that began later, after such a client first tries, has found the door shut.
func TestTriedBefore(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name  string
		away  time.Duration // ago; 0: it was not
		began time.Duration // ago
		line  time.Duration // there and back; 0: not known
		tried bool
	}{
		{"long ago", 3 * time.Second, time.Second, 0, true},
		{"just now: it may be the first attempt", time.Second, 500 * time.Millisecond, 0, false},
		{"just now, on a fast line", time.Second, 500 * time.Millisecond, time.Millisecond, true},
		{"just now, on a slow line", time.Second, 500 * time.Millisecond, 200 * time.Millisecond, false},
		{"just now, on a line that takes minutes", 3 * time.Second, 500 * time.Millisecond, time.Minute, true},
		{"at once", 640 * time.Millisecond, 500 * time.Millisecond, time.Millisecond, false},
		{"long ago, by another process, while this one ran", 3 * time.Second, time.Hour, time.Millisecond, false},
		{"it was not sent away", 0, time.Second, time.Millisecond, false},
	} {
		claims := &Claims{Again: true}
		if c.away != 0 {
			claims.SentAway, claims.FirstTry = now.Add(-c.away).UnixMilli(), firstTryOf(c.line).Milliseconds()
		}
		if got := (&Focus{began: now.Add(-c.began)}).triedBefore(claims, now); got != c.tried {
			t.Errorf("%s: got %v, want %v", c.name, got, c.tried)
		}
	}
	if old := (&Claims{SentAway: now.Add(-time.Second).UnixMilli()}); (&Focus{began: now.Add(-time.Millisecond)}).triedBefore(old, now) {
		t.Error("a token that does not say when its bearer tries is taken for one on a fast line")
	}
}
