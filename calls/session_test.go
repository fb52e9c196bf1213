package calls

import (
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"chancery/calls/signal"
)

// resumes comes back with another socket, in place of one that was lost, and gives it when it has brought the first word.
func (c *testClient) resumes(base string) *websocket.Conn {
	c.t.Helper()
	self := c.joined.Participant
	ws := dialSocket(c.t, base, "/rtc", url.Values{"access_token": {testToken(c.t, "room", self.Identity)}, "reconnect": {"1"}, "sid": {self.Sid}})
	if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if first, err := readResponse(ws); err != nil || first.GetReconnect() == nil {
		c.t.Fatalf("got %v, %v, want reconnect first", first, err)
	}
	return ws
}

// TestAMuteThatWasLostIsToldFirst: whoever resumes and sees its own track muted takes that for a slip of the focus, and unmutes it, unless it
// has heard of the mute.
func TestAMuteThatWasLostIsToldFirst(t *testing.T) {
	for _, c := range []struct {
		name string
		mute func(p *Participant, sid string)
	}{
		{"by a moderator", func(p *Participant, sid string) { p.muteByAdmin(sid) }},
		{"by the room", func(p *Participant, _ string) { v := unbound; v.mute = true; p.obey(v) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, base := newTestFocus(t)
			ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
			voice := ann.announces(&signal.AddTrack{Cid: "voice", Type: signal.TrackType_AUDIO}).Sid
			ann.publish("ann")
			bob.hears("ann")
			p := ann.session(f)
			ann.ws.Close()
			within(t, p, func() { c.mute(p, voice) })
			ws, told := ann.resumes(base), false
			for {
				res, err := readResponse(ws)
				if err != nil {
					t.Fatalf("no update: %v", err)
				}
				if m := res.GetMute(); m.GetSid() == voice && m.Muted {
					told = true
				}
				if mentions(res, "ann", signal.Participant_ACTIVE) {
					break
				}
			}
			if !told {
				t.Error("told of itself before the mute")
			}
		})
	}
}

// until reads what comes on a socket until want is true.
func until(t *testing.T, ws *websocket.Conn, what string, want func(*signal.Response) bool) {
	t.Helper()
	for {
		res, err := readResponse(ws)
		if err != nil {
			t.Fatalf("no %s: %v", what, err)
		}
		if want(res) {
			return
		}
	}
}

// TestAResumeTellsWhatEnded: who fell silent while a client's socket was gone speaks no more for it, nor is a picture still stopped that went on.
func TestAResumeTellsWhatEnded(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	bob.publish("bob")
	ann.hears("bob")
	room, p, sid := theRoom(t, f), ann.session(f), bob.joined.Participant.Sid
	speaks := func(who string, active bool) func(*signal.Response) bool {
		return func(res *signal.Response) bool {
			return slices.ContainsFunc(res.GetSpeakersChanged().GetSpeakers(), func(s *signal.Speaker) bool { return s.Sid == who && s.Active == active })
		}
	}
	pretend := func(until time.Time) {
		t.Helper()
		if !room.ask(func() {
			for _, m := range room.members {
				room.pretend(m.from, until)
			}
		}) {
			t.Fatal("the room is over")
		}
	}
	pauses := func(paused bool) {
		t.Helper()
		within(t, p, func() {
			for track := range p.subs {
				p.tellStream(track, paused)
			}
		})
	}
	streams := func(state signal.StreamState) func(*signal.Response) bool {
		seen := map[string]bool{}
		return func(res *signal.Response) bool {
			for _, s := range res.GetStreamStateUpdate().GetStreamStates() {
				if s.ParticipantSid == sid && s.State == state {
					seen[s.TrackSid] = true
				}
			}
			return len(seen) == 2
		}
	}
	pretend(time.Now().Add(patience))
	ann.wait("bob's voice", speaks(sid, true))
	pauses(true)
	ann.wait("the pause", streams(signal.StreamState_STREAM_PAUSED))
	ann.ws.Close()
	pretend(time.Time{})
	bob.wait("the silence", speaks(sid, false))
	pauses(false)
	ws := ann.resumes(base)
	until(t, ws, "word that both tracks go on", streams(signal.StreamState_STREAM_ACTIVE))
	until(t, ws, "word of the silence", speaks(sid, false))

	ws.Close()
	pretend(time.Now().Add(patience))
	bob.wait("bob's voice", speaks(sid, true))
	pauses(true)
	ws = ann.resumes(base)
	until(t, ws, "word of the pause", streams(signal.StreamState_STREAM_PAUSED))
	until(t, ws, "word that ann herself speaks", speaks(p.sid, true))
}

// TestWhoLeavesWhileSpeakingFallsSilentFirst: clients look a speaker up among those who are there.
func TestWhoLeavesWhileSpeakingFallsSilentFirst(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	room, sid := theRoom(t, f), bob.joined.Participant.Sid
	p := bob.session(f)
	room.do(func() { room.pretend(p, time.Now().Add(patience)) })
	silent := false
	speaks := func(active bool) func(*signal.Response) bool {
		return func(res *signal.Response) bool {
			return slices.ContainsFunc(res.GetSpeakersChanged().GetSpeakers(), func(s *signal.Speaker) bool { return s.Sid == sid && s.Active == active })
		}
	}
	ann.wait("bob's voice", speaks(true))
	p.end(signal.DisconnectReason_PARTICIPANT_REMOVED, signal.Leave_DISCONNECT)
	ann.wait("bob's leaving", func(res *signal.Response) bool {
		silent = silent || speaks(false)(res)
		return mentions(res, "bob", signal.Participant_DISCONNECTED)
	})
	if !silent {
		t.Error("bob has left and speaks still")
	}
	ann.ws.Close() // the socket may have swallowed that
	until(t, ann.resumes(base), "word of bob's silence", speaks(false))
}
