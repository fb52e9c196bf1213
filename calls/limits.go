package calls

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"maunium.net/go/mautrix/id"
)

// doorLimit bounds how often one identity may come in: each time it takes its own place from itself.
type doorLimit struct {
	mu    sync.Mutex
	known map[string]*rate.Limiter
}

const (
	joinEvery = 500 * time.Millisecond
	joinBurst = 30
)

// allow counts a join or resume.
func (l *doorLimit) allow(identity string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil || len(l.known) >= maxRemembered {
		l.known = map[string]*rate.Limiter{}
	}
	found := l.known[identity]
	if found == nil {
		found = rate.NewLimiter(rate.Every(joinEvery), joinBurst)
		l.known[identity] = found
	}
	return found.Allow()
}

// tokenLimits bounds how often tokens are asked for: by each user, and in vain from each address.
type tokenLimits struct {
	mu       sync.Mutex
	users    map[string]*rate.Limiter
	failures map[string]*rate.Limiter
}

const (
	userEvery    = 2 * time.Second // a user's tokens in the long run; one for each focus of a call, and again at reconnects
	userBurst    = 60
	failureEvery = 2 * time.Second
	failureBurst = 60
	// maxRemembered bounds each map; a full one is forgotten as a whole.
	maxRemembered = 20_000
)

func newTokenLimits() *tokenLimits {
	return &tokenLimits{users: map[string]*rate.Limiter{}, failures: map[string]*rate.Limiter{}}
}

func (l *tokenLimits) limiter(in map[string]*rate.Limiter, key string, every time.Duration, burst int) *rate.Limiter {
	found := in[key]
	if found == nil {
		if len(in) >= maxRemembered {
			clear(in)
		}
		found = rate.NewLimiter(rate.Every(every), burst)
		in[key] = found
	}
	return found
}

// mayAsk counts a user's request; false means that there were too many.
func (l *tokenLimits) mayAsk(user id.UserID) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limiter(l.users, string(user), userEvery, userBurst).Allow()
}

// failed counts a request that proved nothing.
func (l *tokenLimits) failed(address string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limiter(l.failures, address, failureEvery, failureBurst).Allow()
}

// mayFail says whether an address may try once more.
func (l *tokenLimits) mayFail(address string) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.failures[address]
	return known == nil || known.Tokens() >= 1
}
