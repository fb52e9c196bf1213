package storage

import (
	"context"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"
)

// KeysLeft is what a device still has to give out. Shared: read only.
type KeysLeft struct {
	// OneTime counts the one-time keys by algorithm; signed_curve25519 is always there.
	OneTime map[string]int
	// Fallback lists the algorithms whose fallback key was not given out; never nil.
	Fallback []string
}

// keysLeft remembers what devices have left: each sync tells it, and it seldom changes.
type keysLeft struct {
	mu      sync.Mutex
	changes uint64 // counts what was dropped: what was read before must not be remembered after
	known   map[deviceName]knownLeft
}

type knownLeft struct {
	left *KeysLeft
	read time.Time
}

// The bounds of keysLeft: how many devices, and for how long where another process may give keys out.
const (
	maxKeysLeft = 50_000
	keysLeftAge = time.Second
)

// Left gives what the device has left.
func (k *Keys) Left(ctx context.Context, user id.UserID, device id.DeviceID) (*KeysLeft, error) {
	name := deviceName{user, device}
	k.left.mu.Lock()
	known, ok := k.left.known[name]
	changes := k.left.changes
	k.left.mu.Unlock()
	alone := k.s.bus == nil || k.s.bus.Embedded()
	if ok && (alone || time.Since(known.read) < keysLeftAge) {
		return known.left, nil
	}
	counts, err := k.OneTimeCounts(ctx, user, device)
	if err != nil {
		return nil, err
	}
	if _, ok := counts["signed_curve25519"]; !ok {
		counts["signed_curve25519"] = 0
	}
	unused, err := k.UnusedFallback(ctx, user, device)
	if err != nil {
		return nil, err
	}
	if unused == nil {
		unused = []string{}
	}
	left := &KeysLeft{OneTime: counts, Fallback: unused}
	k.left.mu.Lock()
	defer k.left.mu.Unlock()
	if k.left.changes == changes {
		if k.left.known == nil || len(k.left.known) >= maxKeysLeft {
			k.left.known = map[deviceName]knownLeft{}
		}
		k.left.known[name] = knownLeft{left, time.Now()}
	}
	return left, nil
}

// forgetLeft drops, once the transaction is on disk, what is remembered of a device.
func (k *Keys) forgetLeft(ctx context.Context, user id.UserID, device id.DeviceID) {
	k.s.After(ctx, func() {
		k.left.mu.Lock()
		defer k.left.mu.Unlock()
		k.left.changes++
		delete(k.left.known, deviceName{user, device})
	})
}
