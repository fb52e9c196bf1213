package sfu

// describe says what the track would like of the line, step by step. It is false if it wants nothing.
func (d *DownTrack) describe(out *demand) bool {
	d.wishing.Lock()
	wish, have, priority := d.wish, d.grant, d.priority
	d.wishing.Unlock()
	*out = demand{track: d, priority: priority, now: -1}
	if wish.Disabled || d.binding.Load() == nil || d.unsupported.Load() {
		return false
	}
	sizes, alive := d.up.pictures(), d.up.Alive()
	want := suits(wish, sizes)
	least, most := -1, -1
	for i, there := range alive {
		if there && least < 0 {
			least = i
		}
		if there && (i <= want || most < 0) {
			most = i
		}
	}
	if least < 0 {
		return false
	}
	for i := least; i <= most; i++ {
		if alive[i] {
			out.addLayer(d.up, i, sizes[i], i == least, temporal(wish.FPS))
		}
	}
	for i := range out.n {
		if s := out.steps[i]; have.layer > s.layer || have.layer == s.layer && have.level() >= s.level() {
			out.now = i
		}
	}
	return out.n > 0
}

// addLayer adds the steps of a layer: the least one by its temporal layers, and without every other frame to which none
// refers; the others as a whole.
func (d *demand) addLayer(up *UpTrack, layer int, size Size, least bool, tid int32) {
	l := up.source(layer)
	if l == nil {
		return
	}
	bps := l.bits(layer)
	if bps == 0 {
		bps = typicalRate(size)
	}
	if least {
		for t := range min(tid, 2) {
			share := l.share(layer, int(t))
			if share > 0 && share <= 90 && (d.n == 0 || share > d.steps[d.n-1].bps*100/bps+10) {
				d.add(step{grant: grant{layer: layer, tid: t}, bps: bps * share / 100})
			}
		}
		if spare := int(l.rates.spare.Load()); tid >= allTID && spare >= 15 {
			d.add(step{grant: grant{layer: layer, tid: allTID, thin: true}, bps: bps * (200 - spare) / 200})
		}
	}
	d.add(step{grant: grant{layer: layer, tid: allTID}, bps: bps})
}

// add keeps the steps rising, also where a higher layer is quieter for a moment.
func (d *demand) add(s step) {
	if d.n == maxSteps {
		return
	}
	if d.n > 0 {
		s.bps = max(s.bps, d.steps[d.n-1].bps+1)
	}
	d.steps[d.n] = s
	d.n++
}

// typicalRate guesses what a layer takes that has not been measured yet. A publisher may announce any size.
func typicalRate(s Size) int {
	if s.Height == 0 {
		return 500_000
	}
	return max(80_000, int(min(uint64(s.Width)*uint64(s.Height), mostPixels))*2)
}

const mostPixels = 4_000_000

// setGrant bounds what may be chosen. Where less is left than is being sent, the higher layer stops at once: to wait for
// the lower one's key frame would fill the line further.
func (d *DownTrack) setGrant(g grant) {
	d.wishing.Lock()
	before := d.grant
	d.grant = g
	d.wishing.Unlock()
	if before == g {
		return
	}
	if current := d.current.Load(); g.layer < before.layer && int32(g.layer) < current && !d.stepsDown() {
		d.mu.Lock()
		if d.current.Load() > int32(g.layer) {
			d.current.Store(paused)
		}
		d.mu.Unlock()
	}
	d.retarget()
}
