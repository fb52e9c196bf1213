package sfu

// Wish is what a subscriber asks of a video track.
type Wish struct {
	Disabled      bool
	Quality       int // 0 low, 1 medium, 2 high; counts if no size is given
	Width, Height uint32
	FPS           uint32 // 0 means all
}

// Best is the wish for everything there is.
var Best = Wish{Quality: MaxLayers - 1}

// paused is the target of a subscriber that wants nothing.
const paused = -1

// tolerance lets a layer serve a view that is a few pixels larger.
const tolerance = 0.95

// choose picks the layer for a wish: the one that suits, no higher than limit, or else the nearest below that sends, or
// the nearest above.
func choose(w Wish, limit int, sizes [MaxLayers]Size, alive [MaxLayers]bool) int {
	if w.Disabled || limit < 0 {
		return paused
	}
	want := min(suits(w, sizes), limit)
	for i := want; i >= 0; i-- {
		if alive[i] {
			return i
		}
	}
	for i := want + 1; i < MaxLayers; i++ {
		if alive[i] {
			return i
		}
	}
	return 0
}

// suits is the smallest layer that fills the view, whether or not it sends at the moment.
func suits(w Wish, sizes [MaxLayers]Size) int {
	top := 0
	for i, s := range sizes {
		if s.Height > 0 {
			top = i
		}
	}
	if w.Width == 0 || w.Height == 0 || sizes[top].Height == 0 {
		if sizes[top].Height == 0 {
			top = MaxLayers - 1
		}
		return max(0, min(w.Quality, top))
	}
	for i := range top {
		if s := sizes[i]; s.Height > 0 && s.fills(w) {
			return i
		}
	}
	return top
}

// fills says whether a picture suffices for a view, by the picture's shorter side: a view that is not of its shape is filled, and cuts off
// of the longer one.
func (s Size) fills(w Wish) bool {
	if s.Width < s.Height {
		return float64(s.Width) >= float64(w.Width)*tolerance
	}
	return float64(s.Height) >= float64(w.Height)*tolerance
}

// temporal is the highest temporal layer for a frame rate: encoders halve the rate from layer to layer.
func temporal(fps uint32) int32 {
	switch {
	case fps == 0 || fps > 20:
		return 3
	case fps > 10:
		return 1
	}
	return 0
}
