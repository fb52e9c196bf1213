//go:build race

package federation_test

// slow is by how much the race detector stretches times.
const slow = 10
