package packet

import (
	"testing"

	"pgregory.net/rapid"
)

func TestMapDropAndLate(t *testing.T) {
	var m Map
	m.Begin(Span{In: 100})
	base := m.Next()
	want := func(in, out int64) {
		t.Helper()
		got, _, ok := m.Forward(in)
		if !ok || got-base != out {
			t.Errorf("forward %d: got %d, %v, want %d", in, got-base, ok, out)
		}
	}
	gone := func(in int64) {
		t.Helper()
		if got, _, ok := m.Forward(in); ok {
			t.Errorf("forward %d: got %d, want nothing", in, got-base)
		}
	}
	want(100, 0)
	want(102, 2) // 101 is late
	m.Drop(103, Shift{Picture: 9})
	m.Drop(104, Shift{Picture: 9})
	want(105, 3)
	want(101, 1)
	gone(103)
	gone(104)
	m.Drop(107, Shift{}) // 106 is missing and keeps its number
	want(108, 5)
	want(106, 4)
	for out, in := range map[int64]int64{0: 100, 1: 101, 2: 102, 3: 105, 4: 106, 5: 108} {
		got, span, ok := m.Back(uint16(base + out))
		if !ok || got != in {
			t.Errorf("back %d: got %d, %v, want %d", out, got, ok, in)
		}
		if ok && out == 3 && span.VP8.Picture != 9 {
			t.Errorf("back %d: got picture shift %d, want 9", out, span.VP8.Picture)
		}
	}
	if _, _, ok := m.Back(uint16(base + 6)); ok {
		t.Error("a number that never went out was found")
	}
}

func TestMapBeginsInTheLowerHalf(t *testing.T) {
	for _, in := range []int64{1 << 16, 1<<16 + 32767, 1<<16 + 32768, 1<<17 - 1} {
		var m Map
		m.Begin(Span{In: in})
		if out, _, ok := m.Forward(in); !ok || uint16(out) >= 1<<15 {
			t.Errorf("first number %d: got %d, %v, want less than %d", in, uint16(out), ok, 1<<15)
		}
	}
}

func TestMapSwitchesLayers(t *testing.T) {
	m := Map{next: 1<<17 - 6, sent: 1<<17 - 7} // where the outgoing numbers begin anew
	m.Begin(Span{Layer: 0, In: 65530})
	first := m.Next()
	for in := int64(65530); in < 65540; in++ {
		m.Forward(in)
	}
	m.Begin(Span{Layer: 2, In: 7, Timestamp: 55})
	out, span, ok := m.Forward(7)
	if !ok || out != first+10 || span.Timestamp != 55 {
		t.Errorf("first of the new layer: got %d, want %d", out-first, 10)
	}
	if _, _, ok := m.Forward(5); ok {
		t.Error("a packet from before the switch was let through")
	}
	if in, span, ok := m.Back(uint16(first + 9)); !ok || in != 65539 || span.Layer != 0 {
		t.Errorf("back over the switch: got %d of layer %d, %v", in, span.Layer, ok)
	}
}

// Whatever is lost, late or dropped, what goes out is dense, in order of coming in, and can be found again.
func TestMapProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m Map
		in := int64(rapid.IntRange(0, 70000).Draw(t, "start"))
		m.Begin(Span{In: in})
		next := m.Next()
		var late []int64 // lost for now, with the number that they must get
		lateOut := map[int64]int64{}
		for range rapid.IntRange(1, 60).Draw(t, "packets") {
			switch rapid.SampledFrom([]string{"send", "send", "drop", "lose", "late"}).Draw(t, "what") {
			case "send":
				out, _, ok := m.Forward(in)
				if !ok || out != next {
					t.Fatalf("forward %d: got %d, %v, want %d", in, out, ok, next)
				}
				if back, _, ok := m.Back(uint16(out)); !ok || back != in {
					t.Fatalf("back %d: got %d, %v, want %d", out, back, ok, in)
				}
				next++
				in++
			case "drop":
				m.Drop(in, Shift{})
				in++
			case "lose":
				late = append(late, in)
				lateOut[in] = next
				next++
				in++
			case "late":
				if len(late) == 0 || m.Late(late[0]) == false {
					continue
				}
				out, _, ok := m.Forward(late[0])
				if !ok || out != lateOut[late[0]] {
					t.Fatalf("late %d: got %d, %v, want %d", late[0], out, ok, lateOut[late[0]])
				}
				late = late[1:]
			}
		}
	})
}

func TestMapFollows(t *testing.T) {
	var m Map
	m.Begin(Span{In: 10})
	for in := int64(10); in < 15; in++ {
		m.Forward(in)
	}
	f := m.Follow()
	f.Begin(Span{In: 500})
	if out, _, ok := f.Forward(500); !ok || out != m.Next() {
		t.Errorf("got %d, %v, want %d", out, ok, m.Next())
	}
	if _, _, ok := f.Back(uint16(m.Next() - 1)); ok {
		t.Error("the number of a packet of before was found")
	}
}

// However large the holes of a publisher are, and however many: a number goes out once, and lies near those that went out before.
func TestMapClosesLargeHoles(t *testing.T) {
	forward := func(m *Map, in int64) { m.Forward(in) }
	drop := func(m *Map, in int64) { m.Drop(in, Shift{}) }
	skip := func(m *Map, in int64) { m.Skip(in) }
	cut := func(m *Map, in int64) { m.Cut(in) }
	for _, c := range []struct {
		name   string
		what   func(*Map, int64)
		ahead  int64
		rounds int
	}{
		{"two packets left out", drop, 32767, 2},
		{"many left out after small holes", drop, 3000, 100},
		{"left out with what is missing", skip, 32767, 9},
		{"runs", cut, 32767, 9},
		{"packets", forward, 32767, 9},
		{"packets after small holes", forward, 4000, 100},
	} {
		var m Map
		m.Begin(Span{In: 70_000, Timestamp: 5})
		in, high := int64(70_000), m.Next()-1
		came := map[int64]bool{}
		pass := func(in int64) {
			out, span, ok := m.Forward(in)
			if !ok {
				return
			}
			if far := max(out-high, high-out); came[out] || far > maxFree || span.Timestamp != 5 {
				t.Errorf("%s: got number %d (again: %v) after %d, of %+v", c.name, out, came[out], high, *span)
			}
			if back, _, ok := m.Back(uint16(out)); !ok || back != in {
				t.Errorf("%s: back %d: got %d, %v, want %d", c.name, out, back, ok, in)
			}
			came[out], high = true, max(high, out)
		}
		pass(in)
		for range c.rounds {
			in += c.ahead
			c.what(&m, in)
			if out, _, ok := m.Forward(in); ok {
				came[out], high = true, max(high, out)
			}
		}
		for i := range int64(5) {
			pass(in + 1 + i)
			pass(in - c.ahead/2 + i) // late
		}
		if len(came) < 5 {
			t.Errorf("%s: got %d packets, want those that came in order", c.name, len(came))
		}
	}
}

func TestMapSpend(t *testing.T) {
	var m Map
	first := m.Spend(1<<31 + 5)
	if uint16(first) != 5 {
		t.Errorf("first number: got %d, want 5", uint16(first))
	}
	second := m.Spend(9)
	m.Begin(Span{In: 100})
	out, _, ok := m.Forward(100)
	if second != first+1 || !ok || out != second+1 {
		t.Errorf("got %d, then %d and %v, want them to follow %d", second, out, ok, first)
	}
	if in, _, ok := m.Back(uint16(second)); ok {
		t.Errorf("number %d was found as %d, and is of no layer", second, in)
	}
}
