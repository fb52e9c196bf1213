package packet

import (
	"bytes"
	"testing"
)

func TestParseRED(t *testing.T) {
	for _, c := range []struct {
		name  string
		in    []byte
		ok    bool
		older []string // what the older blocks hold
		back  []uint16
		last  string
	}{
		{"one copy", []byte{0x80 | 111, 960 >> 6, (960 << 2) & 0xff, 2, 111, 'a', 'b', 'c', 'd'}, true, []string{"ab"}, []uint16{960}, "cd"},
		{"two copies", []byte{0x80 | 111, 1920 >> 6, (1920 << 2) & 0xff, 1, 0x80 | 111, 960 >> 6, (960 << 2) & 0xff, 1, 111, 'a', 'b', 'c'}, true, []string{"a", "b"}, []uint16{1920, 960}, "c"},
		{"none", []byte{111, 'a'}, true, nil, nil, "a"},
		{"the longest way back", []byte{0x80 | 111, 0xff, 0xfc, 0, 111, 'a'}, true, []string{""}, []uint16{0x3fff}, "a"},
		{"nothing new", []byte{0x80 | 111, 0, 0, 1, 111, 'a'}, true, []string{"a"}, []uint16{0}, ""},
		{"nothing", nil, false, nil, nil, ""},
		{"a header cut off", []byte{0x80 | 111, 0, 0}, false, nil, nil, ""},
		{"no last header", []byte{0x80 | 111, 0, 0, 0}, false, nil, nil, ""},
		{"a copy longer than the payload", []byte{0x80 | 111, 0, 3, 0xff, 111, 'a'}, false, nil, nil, ""},
		{"headers without end", bytes.Repeat([]byte{0x80 | 111, 0, 0, 0}, MaxREDBlocks+1), false, nil, nil, ""},
		{"as many as there may be", append(bytes.Repeat([]byte{0x80 | 111, 0, 0, 0}, MaxREDBlocks), 111, 'a'), true, make([]string, MaxREDBlocks), make([]uint16, MaxREDBlocks), "a"},
	} {
		var r RED
		if ok := ParseRED(c.in, &r); ok != c.ok {
			t.Errorf("%s: got %v, want %v", c.name, ok, c.ok)
			continue
		}
		if !c.ok {
			continue
		}
		if r.N != len(c.older) || string(c.in[r.Newest:]) != c.last || r.Payload != 111 {
			t.Errorf("%s: got %d older and %q of type %d, want %d and %q", c.name, r.N, c.in[r.Newest:], r.Payload, len(c.older), c.last)
			continue
		}
		for i, want := range c.older {
			b := r.Older[i]
			if got := string(c.in[b.Start:b.End]); got != want || b.Back != c.back[i] || b.Payload != 111 {
				t.Errorf("%s, block %d: got %q, %d back, want %q, %d back", c.name, i, got, b.Back, want, c.back[i])
			}
		}
	}
}

func TestSetREDPayload(t *testing.T) {
	b := []byte{0x80 | 111, 15, 0, 2, 111, 'a', 'b', 'c'}
	SetREDPayload(b, 109)
	if want := []byte{0x80 | 109, 15, 0, 2, 109, 'a', 'b', 'c'}; !bytes.Equal(b, want) {
		t.Errorf("got %v, want %v", b, want)
	}
}

func FuzzRED(f *testing.F) {
	f.Add([]byte{0x80 | 111, 15, 0, 2, 111, 'a', 'b', 'c'})
	f.Add(bytes.Repeat([]byte{0x80}, 64))
	f.Add([]byte{63})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		var r, again RED
		ok := ParseRED(b, &r)
		SetREDPayload(b, 99)
		if len(b) != len(before) {
			t.Fatalf("got %d bytes after the change, want %d", len(b), len(before))
		}
		if !ok {
			return
		}
		end := r.Newest
		for i := r.N - 1; i >= 0; i-- {
			if blk := r.Older[i]; blk.End != end || blk.Start > blk.End || blk.Start < 1 {
				t.Errorf("block %d of %d lies at %d to %d, want it to end at %d", i, r.N, blk.Start, blk.End, end)
			} else {
				end = blk.Start
			}
		}
		if !bytes.Equal(b[end:], before[end:]) {
			t.Error("what the blocks hold was changed")
		}
		if !ParseRED(b, &again) || again.N != r.N || again.Newest != r.Newest || again.Payload != 99 {
			t.Errorf("after the change: got %+v, want %+v with type 99", again, r)
		}
	})
}
