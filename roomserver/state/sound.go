//go:build !broken_resolution

package state

// broken is set by the build tag of that name, which makes every resolution depend on the order in which its states are given.
// It is there to show that the test in which three servers must agree can fail.
const broken = false
