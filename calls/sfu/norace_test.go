//go:build !race

package sfu

const poolsEmpty = 0
