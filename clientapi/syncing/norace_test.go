//go:build !race

package syncing

// raced: the race detector is on, and makes everything slow.
const raced = false
