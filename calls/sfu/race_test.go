//go:build race

package sfu

// poolsEmpty is how many allocations of ten packets are not ours: the race detector empties pools at random.
const poolsEmpty = 5
