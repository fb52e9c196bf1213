package rest

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// Kind names a family of buckets.
type Kind string

const (
	LimitLogin    Kind = "login"    // login attempts, by address
	LimitFailed   Kind = "failed"   // failed passwords and registration tokens, by account
	LimitRegister Kind = "register" // registrations and what asks for their sake, by address
	LimitMessage  Kind = "message"  // events sent, by user
	LimitJoin     Kind = "join"     // joins and knocks, by user
	LimitInvite   Kind = "invite"   // invites, by user
	LimitCreate   Kind = "create"   // rooms created, by user
	LimitMedia    Kind = "media"    // uploads, by user
	LimitPreview  Kind = "preview"  // previews of links, by user
	LimitCall     Kind = "call"     // call tokens, by user; what is done with a delayed event, by event
	// LimitFailedAddress counts what LimitFailed counts, by address: many people may share one.
	LimitFailedAddress Kind = "failed_address"
	// LimitFailedTotal counts them all together: a flood from many addresses against many accounts.
	LimitFailedTotal Kind = "failed_total"
	LimitMail        Kind = "mail"    // e-mails that strangers have sent to an address, by that address
	LimitGeneral     Kind = "general" // other requests that cost something, by user or address
)

// Rate is how fast a bucket fills, and how much it holds.
type Rate struct {
	PerSecond float64 `yaml:"per_second"`
	Burst     int     `yaml:"burst"`
}

// LimitsConfig are the rate limits of the client API.
type LimitsConfig struct {
	// Enabled turns rate limits on. Default true; turn it off for tests and closed laboratories only.
	Enabled bool `yaml:"enabled"`
	// Rates are the buckets by kind; a kind that is missing has no limit.
	Rates map[Kind]Rate `yaml:"rates"`
}

// DefaultLimits are the limits of a server whose operator said nothing.
func DefaultLimits() LimitsConfig {
	return LimitsConfig{Enabled: true, Rates: map[Kind]Rate{
		LimitLogin:         {PerSecond: 0.5, Burst: 10},
		LimitFailed:        {PerSecond: 0.17, Burst: 3},
		LimitFailedAddress: {PerSecond: 1, Burst: 20},
		LimitFailedTotal:   {PerSecond: 20, Burst: 1000},
		LimitMail:          {PerSecond: 0.003, Burst: 5},
		LimitRegister:      {PerSecond: 0.2, Burst: 10},
		LimitMessage:       {PerSecond: 5, Burst: 50},
		LimitJoin:          {PerSecond: 0.5, Burst: 20},
		LimitInvite:        {PerSecond: 0.5, Burst: 30},
		LimitCreate:        {PerSecond: 0.2, Burst: 10},
		LimitMedia:         {PerSecond: 2, Burst: 50},
		LimitPreview:       {PerSecond: 1, Burst: 30},
		LimitCall:          {PerSecond: 2, Burst: 40},
		LimitGeneral:       {PerSecond: 10, Burst: 100},
	}}
}

// Validate refuses kinds that do not exist and rates that never let anything through.
func (c LimitsConfig) Validate() error {
	known := DefaultLimits().Rates
	for kind, rate := range c.Rates {
		if _, ok := known[kind]; !ok {
			return fmt.Errorf("limits: no such kind: %q", kind)
		}
		if !(rate.PerSecond > 0) || math.IsInf(rate.PerSecond, 0) || rate.Burst < 1 {
			return fmt.Errorf("limits: %s needs per_second above 0 and a burst of at least 1", kind)
		}
	}
	return nil
}

// maxBuckets bounds the memory of a flood from many addresses: above it, full buckets are forgotten, and then any.
const maxBuckets = 100_000

// Limits are token buckets by kind and key. They live in this process's memory.
type Limits struct {
	cfg LimitsConfig
	now func() time.Time

	mu      sync.Mutex
	buckets map[bucketKey]bucket
}

type bucketKey struct {
	kind Kind
	key  string
}

type bucket struct {
	tokens float64
	at     time.Time
}

// NewLimits makes the buckets. now is the clock; nil is the real one.
func NewLimits(cfg LimitsConfig, now func() time.Time) *Limits {
	if now == nil {
		now = time.Now
	}
	return &Limits{cfg: cfg, now: now, buckets: make(map[bucketKey]bucket)}
}

// Take counts one, or returns the M_LIMIT_EXCEEDED that says when to come again.
func (l *Limits) Take(kind Kind, key string) error {
	return l.spend(kind, key, 1)
}

// TakeAs is Take with a rate of the key's own in place of the kind's. One that holds nothing is no limit at all.
func (l *Limits) TakeAs(kind Kind, key string, own Rate) error {
	if own.Burst <= 0 && own.PerSecond <= 0 {
		return nil
	}
	return l.spendAt(kind, key, 1, own)
}

// Return gives back what Take took: for attempts of which only the failed ones count.
func (l *Limits) Return(kind Kind, key string) {
	if l == nil || !l.cfg.Enabled {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.buckets[bucketKey{kind, key}]; ok {
		b.tokens = min(b.tokens+1, float64(l.cfg.Rates[kind].Burst))
		l.buckets[bucketKey{kind, key}] = b
	}
}

// Full says, without counting, whether one more would be refused: for failed attempts, which count only afterwards.
func (l *Limits) Full(kind Kind, key string) error {
	return l.spend(kind, key, 0)
}

func (l *Limits) spend(kind Kind, key string, cost float64) error {
	if l == nil || !l.cfg.Enabled {
		return nil
	}
	rate, ok := l.cfg.Rates[kind]
	if !ok {
		return nil
	}
	return l.spendAt(kind, key, cost, rate)
}

func (l *Limits) spendAt(kind Kind, key string, cost float64, rate Rate) error {
	if l == nil || !l.cfg.Enabled {
		return nil
	}
	rate = Rate{PerSecond: max(rate.PerSecond, 1e-3), Burst: max(rate.Burst, 1)}
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	k := bucketKey{kind, key}
	b, known := l.buckets[k]
	if !known {
		b = bucket{tokens: float64(rate.Burst), at: now}
		l.makeRoom(now)
	}
	// A clock that went back refills nothing, and takes nothing away.
	if elapsed := now.Sub(b.at).Seconds(); elapsed > 0 {
		b.tokens = min(float64(rate.Burst), b.tokens+elapsed*rate.PerSecond)
	}
	b.at = now
	if b.tokens < 1 {
		l.buckets[k] = b
		limited.WithLabelValues(string(kind)).Inc()
		return LimitExceeded(time.Duration((1 - b.tokens) / rate.PerSecond * float64(time.Second)))
	}
	b.tokens -= cost
	l.buckets[k] = b
	return nil
}

// makeRoom drops buckets that have filled up again, and if none has, an arbitrary tenth. The caller holds mu.
func (l *Limits) makeRoom(now time.Time) {
	if len(l.buckets) < maxBuckets {
		return
	}
	for k, b := range l.buckets {
		rate := l.cfg.Rates[k.kind]
		if b.tokens+now.Sub(b.at).Seconds()*rate.PerSecond >= float64(rate.Burst) {
			delete(l.buckets, k)
		}
	}
	for k := range l.buckets {
		if len(l.buckets) < maxBuckets*9/10 {
			return
		}
		delete(l.buckets, k)
	}
}
