package sfu

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pion/rtp"

	"chancery/calls/packet"
)

// inOrder puts what went out into the order of its numbers, repairs among it.
func (s *stage) inOrder(t *testing.T) []rtp.Packet {
	t.Helper()
	var all []rtp.Packet
	for _, p := range s.out.packets {
		if p.SSRC == 8 { // a repair
			p.SSRC, p.SequenceNumber, p.Payload = 7, uint16(p.Payload[0])<<8|uint16(p.Payload[1]), p.Payload[2:]
		}
		all = append(all, p)
	}
	first := s.out.packets[0].SequenceNumber
	slices.SortFunc(all, func(a, b rtp.Packet) int {
		return int(int16(a.SequenceNumber-first)) - int(int16(b.SequenceNumber-first))
	})
	for i := 1; i < len(all); i++ {
		if a, b := all[i-1].SequenceNumber, all[i].SequenceNumber; b != a+1 {
			t.Errorf("got number %d after %d", b, a)
		}
	}
	return all
}

// whole checks that the pictures follow one another without a hole, and that nothing of temporal layers above most is there. The last two
// bytes of a payload tell most which picture it is.
func whole(t *testing.T, packets []rtp.Packet, most func(picture uint16) uint8) {
	t.Helper()
	var before *rtp.Packet
	for i := range packets {
		p := &packets[i]
		if len(p.Payload) == 0 {
			continue // padding
		}
		v, _ := packet.ParseVP8(p.Payload)
		if want := most(binary.BigEndian.Uint16(p.Payload[len(p.Payload)-2:])); v.Temporal > want {
			t.Errorf("number %d: got a packet of temporal layer %d, want at most %d", p.SequenceNumber, v.Temporal, want)
		}
		if before != nil {
			w, _ := packet.ParseVP8(before.Payload)
			want := uint16(0)
			if v.Start {
				want = 1
			}
			cut := v.Start && p.Payload[v.Size]&1 == 0 // the layer before it may be left in the middle of a picture
			if got := (v.Picture - w.Picture) & 0x7fff; got != want || v.Start != before.Marker && !cut || v.Start == (p.Timestamp == before.Timestamp) {
				t.Errorf("number %d: picture moved by %d, want %d (marker before %v, start %v)", p.SequenceNumber, got, want, before.Marker, v.Start)
			}
		}
		before = p
	}
}

func always(tid uint8) func(uint16) uint8 { return func(uint16) uint8 { return tid } }

// Of a picture that is left out nothing goes out, whichever of its packets comes late, and the pictures go on without a hole.
func TestLatePacketsOfAPictureThatIsLeftOut(t *testing.T) {
	for _, c := range []struct {
		name  string
		order []int // in which the packets of the picture come; from 10 on: after the next picture
		bare  int   // packets of padding that it leaves
	}{
		{"in order", []int{0, 1, 2}, 0},
		{"the first two change places", []int{1, 0, 2}, 1},
		{"the first comes last", []int{1, 2, 0}, 1},
		{"the first is lost, and repaired", []int{1, 2, 10}, 1},
		{"the second is lost, and repaired", []int{0, 2, 11}, 0}, // known to be of the same picture: no number was kept
		{"the last is lost, and repaired", []int{0, 1, 12}, 1},
		{"two are lost", []int{2, 10, 11}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, v := newStage(t, 1), &stream{seq: 65530, picture: 0x7ffe}
			s.down.SetWish(Wish{Quality: 2, FPS: 15})
			s.feed(t, 0, v.frame(true, 0, 1)...)
			for range 3 {
				left, next := v.frame(false, 2, 3), v.frame(false, 1, 2)
				for _, i := range c.order {
					if i == 10 || i == 11 || i == 12 {
						s.feed(t, 0, next...)
						next = nil
					}
					s.feed(t, 0, left[i%10])
				}
				s.feed(t, 0, next...)
				s.feed(t, 0, v.frame(false, 0, 2)...)
			}
			all := s.inOrder(t)
			if got, want := len(all), 1+3*(4+c.bare); got != want {
				t.Errorf("got %d packets, want %d", got, want)
			}
			whole(t, all, always(1))
		})
	}
}

// What was decided of a picture holds for what comes late of it, and for its repairs, whatever the subscriber wishes by then.
func TestAWishDoesNotChangePicturesOfBefore(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after uint32
		goes          bool
	}{
		{"fewer pictures", 30, 8, true},
		{"more", 8, 30, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, v := newStage(t, 1), &stream{seq: 1}
			s.down.SetWish(Wish{Quality: 2, FPS: c.before})
			s.feed(t, 0, v.frame(true, 0, 1)...)
			late := v.frame(false, 2, 3)
			s.feed(t, 0, late[1:]...)
			s.down.SetWish(Wish{Quality: 2, FPS: c.after})
			s.feed(t, 0, v.frame(true, 0, 1)...)
			s.feed(t, 0, late[0])
			p := s.out.packets[len(s.out.packets)-1]
			if p.Padding == c.goes || len(p.Payload) > 0 != c.goes {
				t.Errorf("got %+v with %d bytes, want the packet: %v", p.Header, len(p.Payload), c.goes)
			}
			whole(t, s.inOrder(t), always(2))
			before := len(s.out.packets)
			s.down.repair(p.SequenceNumber, 0, make([]byte, receiveMTU+2))
			if again := s.out.packets[before:]; len(again) != 1 || string(again[0].Payload[2:]) != string(p.Payload) {
				t.Errorf("got %v again, want what went out", again)
			}
		})
	}
}

// A picture of which nothing has come in time goes out late, also of a layer that is left out, if it can be decoded: its picture ID was kept free.
func TestALatePictureOfALayerThatIsLeftOut(t *testing.T) {
	for _, c := range []struct {
		name        string
		fps         uint32
		sync, loose bool
		goes        bool
	}{
		{"refers to the base alone", 8, true, false, true},
		{"refers to what goes out, and nothing to it", 15, false, true, true},
		{"may refer to what does not go out", 8, false, true, false},
		{"others may refer to it", 15, false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, v := newStage(t, 1), &stream{seq: 1}
			s.down.SetWish(Wish{Quality: 2, FPS: c.fps})
			s.feed(t, 0, v.frame(true, 0, 1)...)
			high := v.frame(false, 2, 2)
			for _, p := range high {
				if !c.sync {
					p.Payload[5] &^= 0x20
				}
				if c.loose {
					p.Payload[0] |= 0x20
				}
			}
			s.feed(t, 0, v.frame(false, 0, 1)...)
			s.feed(t, 0, high...)
			all := s.inOrder(t)
			if len(all) != 4 || (len(all[1].Payload) > 0) != c.goes || (len(all[2].Payload) > 0) != c.goes {
				t.Fatalf("got %v, want the late picture: %v", all, c.goes)
			}
			if c.goes {
				whole(t, all, always(2))
			}
		})
	}
}

// late is a packet that comes after so many others.
type late struct {
	packet *rtp.Packet
	layer  int
	after  int
}

// Packets come late, are lost and repaired, of two layers between which wishes change: each number goes out once and none is missing, the
// pictures have no hole, and each goes out whole.
func TestLatePacketsAndTemporalLayers(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 40
	}
	for seed := range seeds {
		s, r := newStage(t, 2), rand.New(rand.NewPCG(seed, 1))
		newStream := func() *stream {
			return &stream{seq: uint16(r.Uint32()), picture: uint16(r.UintN(1 << 15)), tl0: uint8(r.Uint32()), ts: r.Uint32()}
		}
		v := [2]*stream{newStream(), newStream()}
		limit, most := uint8(0), map[uint16]uint8{} // most: what was wished when the picture's first packet came
		var waits []late
		feed := func(layer int, p *rtp.Packet) {
			s.layers[layer].rates.counted = 0
			picture := binary.BigEndian.Uint16(p.Payload[len(p.Payload)-2:])
			if _, seen := most[picture]; !seen {
				most[picture] = limit
			}
			s.feed(t, layer, p)
		}
		wish := func() {
			fps := []uint32{8, 15, 30}[r.IntN(3)]
			limit = uint8(temporal(fps))
			s.down.SetWish(Wish{Quality: r.IntN(2), FPS: fps})
		}
		wish()
		for f := range 120 {
			for l := range v {
				s.layers[l].lastKey.Store(0)
				tid, key := []uint8{0, 2, 1, 2}[f%4], f%20 == 0
				frame := v[l].frame(key, tid, 1+r.IntN(4))
				inTime := r.IntN(len(frame)) // so that every picture is seen in time
				for i, p := range frame {
					binary.BigEndian.PutUint16(p.Payload[len(p.Payload)-2:], uint16(2*f+l))
					if wait := r.IntN(30); i != inTime && !key && r.IntN(4) == 0 {
						waits = append(waits, late{p, l, 1 + wait})
						continue
					}
					feed(l, p)
					for k := range waits {
						if waits[k].after--; waits[k].after == 0 {
							feed(waits[k].layer, waits[k].packet)
						}
					}
					waits = slices.DeleteFunc(waits, func(w late) bool { return w.after == 0 })
				}
			}
			if f%20 != 19 && r.IntN(8) == 0 {
				wish()
			}
			s.askForHoles()
		}
		for _, w := range waits {
			feed(w.layer, w.packet)
		}
		s.askForHoles()
		whole(t, s.inOrder(t), func(picture uint16) uint8 { return most[picture] })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// askForHoles has the subscriber ask for what it has not got, as of a layer that was left before its repair came.
func (s *stage) askForHoles() {
	got := map[uint16]bool{}
	first, last := s.out.packets[0].SequenceNumber, s.out.packets[0].SequenceNumber
	for _, p := range s.out.packets {
		number := p.SequenceNumber
		if p.SSRC == 8 {
			number = uint16(p.Payload[0])<<8 | uint16(p.Payload[1])
		}
		got[number] = true
		if int16(number-last) > 0 {
			last = number
		}
	}
	s.down.repaired = nil // a round trip later
	for n := first; n != last; n++ {
		if !got[n] {
			s.down.repair(n, 0, make([]byte, receiveMTU+2))
		}
	}
}
