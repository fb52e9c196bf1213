package sfu

import "testing"

func TestBudget(t *testing.T) {
	b := NewBudget(8 * 1000)
	for _, c := range []struct {
		name  string
		ms    int64
		size  int
		video bool
		want  bool
	}{
		{"fits", 0, 900, true, true},
		{"a picture too many", 10, 200, true, false},
		{"a voice still fits", 20, 200, false, true},
		{"a voice too many", 30, 200, false, false},
		{"the next second", 1000, 900, true, true},
	} {
		if got := b.spend(c.ms, c.size, c.video); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if b.Refused() != 2 {
		t.Errorf("refused %d packets, want 2", b.Refused())
	}
	own := NewOwnBudget(8_000_000)
	few := NewOwnBudget(800_000)
	count := func(b *Budget, ms int64, video bool) (n int) {
		for range 10_000 {
			if b.spend(ms, 12, video) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		name  string
		b     *Budget
		ms    int64
		video bool
		want  int
	}{
		{"small packets of pictures", own, 0, true, 2000},
		{"of a voice, beyond those", own, 10, false, 500},
		{"in the next second", own, 1000, false, 2500},
		{"where few bits are allowed", few, 0, true, 1000},
		{"where any number is", NewOwnBudget(0), 0, true, 10_000},
		{"of a call", NewBudget(8_000_000), 0, true, 10_000},
	} {
		if got := count(c.b, c.ms, c.video); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
	b.SetLimit(0)
	var none *Budget
	if !b.spend(1000, 1<<30, true) || !none.spend(0, 1<<30, true) {
		t.Error("no limit, and still refused")
	}
	if n := testing.AllocsPerRun(100, func() { b.spend(1, 1, true); own.spend(1, 1, true) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
