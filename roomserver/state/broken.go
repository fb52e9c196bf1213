//go:build broken_resolution

package state

const broken = true
