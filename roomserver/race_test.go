//go:build race

package roomserver

// slow is by how much the race detector stretches times.
const slow = 10
