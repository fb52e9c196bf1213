//go:build !race

package roomserver

const slow = 1
