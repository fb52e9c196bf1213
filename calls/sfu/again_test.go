package sfu

import (
	"testing"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

// A repair under the number of what was lost is that packet to the last byte, whatever has changed since: another one under the same
// number would have the same key stream.
func TestARepairWithoutItsOwnStreamIsTheSamePacket(t *testing.T) {
	voices := func(copies bool) func(t *testing.T) (*DownTrack, *written, func(int), func()) {
		return func(t *testing.T) (*DownTrack, *written, func(int), func()) {
			v := newVoice(t, true)
			d, out := v.with, v.red
			if !copies {
				d.link.scant.Store(true)
			}
			return d, out, func(n int) { v.send(t, n, min(n, 1)) }, func() { d.link.scant.Store(copies) }
		}
	}
	for _, c := range []struct {
		name  string
		begin func(t *testing.T) (d *DownTrack, out *written, send func(int), change func())
	}{
		{"a voice with copies, when the line gets narrow", voices(true)},
		{"a bare voice, when the line gets wide", voices(false)},
		{"a voice with copies, when the subscriber takes them no more", func(t *testing.T) (*DownTrack, *written, func(int), func()) {
			d, out, send, _ := voices(true)(t)
			return d, out, send, func() { d.TakeRED(0) }
		}},
		{"a picture", func(t *testing.T) (*DownTrack, *written, func(int), func()) {
			s, v := newStage(t, 1), &stream{seq: 65533}
			b := *s.down.binding.Load()
			b.rtx, b.rtxSSRC = 0, 0
			s.down.binding.Store(&b)
			return s.down, s.out, func(n int) { s.feed(t, 0, v.frame(n == 0, 0, 1)...) }, func() { s.down.SetWish(Wish{Quality: 2, FPS: 5}) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, out, send, change := c.begin(t)
			b := *d.binding.Load()
			b.numbers, b.sent = d.extension(3), make([]sending, d.cached())
			d.binding.Store(&b)
			d.link.suspect() // every packet is numbered
			for n := range 8 {
				send(n)
			}
			sent := append([]rtp.Packet(nil), out.packets...)
			if len(sent) != 8 || len(sent[3].GetExtension(3)) != 2 {
				t.Fatalf("got %d packets, the fourth with %+v, want 8 with numbers", len(sent), sent[3].Header)
			}
			change()
			repairs := func() []rtp.Packet {
				before, buf := len(out.packets), make([]byte, receiveMTU+2)
				d.feedback(&rtcp.TransportLayerNack{Nacks: []rtcp.NackPair{{PacketID: sent[2].SequenceNumber, LostPackets: 1<<0 | 1<<2}}}, 7, buf)
				return out.packets[before:]
			}
			again := repairs()
			if len(again) != 3 {
				t.Fatalf("got %d packets again, want 3", len(again))
			}
			for i, want := range []rtp.Packet{sent[2], sent[3], sent[5]} {
				a, err1 := want.Marshal()
				b, err2 := again[i].Marshal()
				if err1 != nil || err2 != nil || string(a) != string(b) {
					t.Errorf("packet %d: got %x, want %x as before (%v, %v)", i, b, a, err1, err2)
				}
			}
			other := b
			other.payload, other.sent = 55, make([]sending, d.cached())
			d.binding.Store(&other)
			d.repaired = nil
			if got := repairs(); len(got) != 0 {
				t.Errorf("got %d repairs of what went out before something else was agreed, want none", len(got))
			}
		})
	}
}

// When a packet comes that was sent twice tells nothing of the line: nobody knows which of the two it was.
func TestWhatWasSentAgainTellsNoDelay(t *testing.T) {
	for _, again := range []bool{false, true} {
		e := &estimate{}
		e.note(9, 100, 0, false)
		if again {
			e.resent(9)
		}
		r := feedbackRound{least: noDelay}
		e.arrival(9, false, 0, &r)
		e.arrival(9, true, 300_000, &r)
		if told := r.least != noDelay; told == again || r.lost != 1 {
			t.Errorf("sent again %v: got a delay %v, and %d lost, want %v and 1", again, told, r.lost, !again)
		}
	}
}
