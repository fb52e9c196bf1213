package sfu

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/pion/rtcp"

	"chancery/calls/packet"
)

// encrypted fills what lies behind the clear bytes of a frame as a frame cryptor would: with what nobody but the sender
// can tell, different in each packet of each layer.
func encrypted(layer int, number uint16) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint16([]byte{byte(layer)}, number))
	return bytes.Repeat(sum[:], 30)
}

// Whatever is switched, dropped or sent again: behind the payload descriptor each packet is, byte for byte, one that the
// publisher sent, and the frames that come are whole.
func TestEncryptedFramesAreUntouched(t *testing.T) {
	s := newStage(t, 3)
	var v [3]stream
	for i := range v {
		v[i] = stream{seq: uint16(i*20000 + 65500), ts: uint32(i) * 1e9, picture: uint16(i * 999)}
	}
	sent := map[string]bool{}
	frame := func(keys bool, tid uint8) {
		for i := range v {
			packets := v[i].frame(keys, tid, 3)
			for _, p := range packets {
				p.Payload = append(p.Payload, encrypted(i, p.SequenceNumber)...)
				sent[string(p.Payload[6:])] = true
			}
			s.feed(t, i, packets...)
		}
	}
	gop := func() {
		frame(true, 0)
		for _, tid := range []uint8{2, 1, 2, 0, 2, 1, 2, 0} {
			frame(false, tid)
		}
	}
	for _, w := range []Wish{{Quality: 0}, {Quality: 2}, {Quality: 1, FPS: 12}, {Quality: 2, FPS: 5}, {Quality: 0}} {
		s.down.SetWish(w)
		gop()
	}
	straight := len(s.out.packets)
	nack := &rtcp.TransportLayerNack{}
	for _, p := range s.out.packets[straight-20:] {
		nack.Nacks = append(nack.Nacks, rtcp.NackPair{PacketID: p.SequenceNumber})
	}
	s.down.feedback(nack, 7, make([]byte, receiveMTU+2))
	again := s.out.packets[straight:]
	if len(again) != 20 {
		t.Errorf("got %d packets again, want 20", len(again))
	}
	for n, p := range s.out.packets {
		payload := p.Payload
		if n >= straight {
			payload = payload[2:] // the repair stream's number
		}
		d, ok := packet.ParseVP8(payload)
		if !ok || !sent[string(payload[d.Size:])] {
			t.Fatalf("packet %d: what came is not what was sent", n)
		}
	}
	s.out.packets = s.out.packets[:straight]
	s.steady(t)
	if straight < 60 {
		t.Errorf("got %d packets, want those of five wishes", straight)
	}
}
