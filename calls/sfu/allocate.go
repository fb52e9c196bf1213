package sfu

// step is one way to send a track.
type step struct {
	grant
	bps int
}

const (
	maxSteps = MaxLayers + 3
	allTID   = 3 // every temporal layer
)

// demand is what a video track would like of a subscriber's line.
type demand struct {
	track    *DownTrack
	steps    [maxSteps]step // rising
	n        int            // how many; the last is what is wished for
	priority int
	now      int // the step that it has, -1: paused
	got      int // the step that it gets, -1: paused
}

func (d *demand) rate(i int) int {
	if i < 0 {
		return 0
	}
	return d.steps[i].bps
}

const upgradeShare = 0.93 // of the budget may be used to go up: a line that is full to the brim makes layers flutter

// allocate shares the budget out over the tracks: first everybody gets the least, the more important ones before the
// others; then those of one importance rise by one step in turn, the more important ones first. Where the budget does not
// even do for the least step, the track pauses; a client that knows no pause gets its least step all the same. floor is the budget
// for the least steps: more than the rest while a queue drains, since a picture that stops needs a key frame to go on.
func allocate(budget, floor int, tracks []*demand, mayPause bool) {
	for _, d := range tracks {
		d.got = -1
	}
	left := floor
	top := 0
	for _, d := range tracks {
		top = max(top, d.priority)
	}
	for p := top; p >= 0; p-- {
		for _, d := range tracks {
			if d.priority != p || d.n == 0 {
				continue
			}
			share := float64(left)
			if d.now < 0 {
				share *= upgradeShare
			}
			need := float64(d.steps[0].bps)
			if need <= share || !mayPause {
				d.got = 0
				left -= d.steps[0].bps
			}
		}
	}
	left -= floor - budget
	for p := top; p >= 0; p-- {
		left = raise(left, budget, tracks, p, true)
		left = raise(left, budget, tracks, p, false)
	}
}

// raise lifts the tracks of one importance by turns: first back to what they have, then beyond, which needs some room.
func raise(left, budget int, tracks []*demand, priority int, keep bool) int {
	spare := 0
	if !keep {
		spare = budget - int(float64(budget)*upgradeShare)
	}
	for rose := true; rose; {
		rose = false
		for _, d := range tracks {
			if d.priority != priority || d.got < 0 || d.got+1 >= d.n || keep && d.got >= d.now {
				continue
			}
			if more := d.rate(d.got+1) - d.rate(d.got); more <= left-spare {
				d.got++
				left -= more
				rose = true
			}
		}
	}
	return left
}

// missingRate is the least rate, beside what is sent, that would let some track rise; 0 if none waits.
func missingRate(tracks []*demand) int {
	least := 0
	for _, d := range tracks {
		if d.got+1 >= d.n {
			continue
		}
		if more := d.rate(d.got+1) - d.rate(d.got); least == 0 || more < least {
			least = more
		}
	}
	return least
}
