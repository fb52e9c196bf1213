package packet

import (
	"testing"

	"github.com/pion/interceptor/pkg/twcc"
	"github.com/pion/rtcp"
)

// What another implementation writes is read as it was meant.
func TestTransportCC(t *testing.T) {
	r := twcc.NewRecorder(5)
	want := map[uint16]int64{}
	at := int64(1_000_000)
	for i := range 300 {
		seq := uint16(65400 + i)
		at += int64(i%7) * 1250
		if i%11 == 3 || i > 100 && i < 140 {
			continue
		}
		if i%50 == 0 {
			at += 200_000 // a large delta
		}
		r.Record(9, seq, at)
		want[seq] = at
	}
	got, lost := map[uint16]int64{}, 0
	for _, p := range r.BuildFeedbackPacket() {
		raw, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		one, rest, ok := NextRTCP(raw)
		if !ok || len(rest) != 0 || one.Type != TransportFeedback || one.Format != FormatTransportCC {
			t.Fatalf("got type %d format %d, %d bytes left", one.Type, one.Format, len(rest))
		}
		if !ParseTransportCC(one.Body, func(a Arrival) {
			if a.Received {
				got[a.Seq] = a.At
			} else {
				lost++
			}
		}) {
			t.Error("not read to its end")
		}
	}
	for seq, at := range want {
		if d := got[seq] - at; d < -64000 || d > 64000 {
			t.Errorf("packet %d: got %d, want %d", seq, got[seq], at)
		}
	}
	if lost != 300-len(want) || len(got) != len(want) {
		t.Errorf("got %d received and %d lost, want %d and %d", len(got), lost, len(want), 300-len(want))
	}
}

func FuzzTransportCC(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 2, 0, 5, 0, 3, 0, 0, 1, 0, 0x20, 3, 4, 4, 4, 0})
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 2, 0, 5, 0, 9, 0, 0, 1, 0, 0xd5, 0x55, 0x81, 0, 4, 4, 4, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		n, received := 0, 0
		whole := ParseTransportCC(body, func(a Arrival) {
			n++
			if a.Received {
				received++
			}
		})
		if n > maxFeedbackPackets {
			t.Errorf("told of %d packets", n)
		}
		raw := append([]byte{0x80 | FormatTransportCC, TransportFeedback, byte(len(body) / 4 >> 8), byte(len(body) / 4)}, body...)
		var want rtcp.TransportLayerCC
		if len(body)%4 == 0 && want.Unmarshal(raw) == nil && whole && int(want.PacketStatusCount) <= maxFeedbackPackets {
			if n != int(want.PacketStatusCount) || received > len(want.RecvDeltas) {
				t.Errorf("got %d packets, %d received; want %d, %d", n, received, want.PacketStatusCount, len(want.RecvDeltas))
			}
		}
	})
}

func FuzzRTCP(f *testing.F) {
	f.Add([]byte{0x81, 201, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for rest := b; ; {
			p, next, ok := NextRTCP(rest)
			if !ok {
				break
			}
			total += len(p.All)
			rest = next
		}
		if total > len(b) {
			t.Errorf("cut %d bytes out of %d", total, len(b))
		}
	})
}
