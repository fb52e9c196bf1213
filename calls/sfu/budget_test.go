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
	b.SetLimit(0)
	var none *Budget
	if !b.spend(1000, 1<<30, true) || !none.spend(0, 1<<30, true) {
		t.Error("no limit, and still refused")
	}
	if n := testing.AllocsPerRun(100, func() { b.spend(1, 1, true) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
