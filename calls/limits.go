package calls

import (
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// doorLimit bounds how often one identity of a call may come in, each time it takes its own place from itself, and remembers what it has said
// and had done: who comes anew goes on with what is left.
type doorLimit struct {
	mu    sync.Mutex
	known map[string]*allotment // by call and identity
}

// allotment is what one identity of a call may have of the focus, however often it comes.
type allotment struct {
	joins    *rate.Limiter
	messages *rate.Limiter // of signalling
	work     *rate.Limiter // nanoseconds of a processor
}

const (
	joinEvery = 500 * time.Millisecond
	joinBurst = 30
	// mostOwed is how much work an identity may have had beyond its due that is let in; what its messages owe is waited for as they come.
	mostOwed = 2 * time.Second
	// joinCosts is what coming in counts for at most: where many come at once each takes long, through no fault of its own.
	joinCosts = time.Second
)

func newAllotment() *allotment {
	return &allotment{
		joins:    rate.NewLimiter(rate.Every(joinEvery), joinBurst),
		messages: rate.NewLimiter(requestsPerSec, requestsAtOnce),
		work:     rate.NewLimiter(rate.Limit(workPerSec), int(workAtOnce)),
	}
}

// of gives what identity has in the call.
func (l *doorLimit) of(call, identity string) *allotment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil || len(l.known) >= maxRemembered {
		l.known = map[string]*allotment{}
	}
	key := call + " " + identity
	found := l.known[key]
	if found == nil {
		found = newAllotment()
		l.known[key] = found
	}
	return found
}

// allow counts a join or resume.
func (l *doorLimit) allow(call, identity string) bool {
	a := l.of(call, identity)
	return a.work.Tokens() > -float64(mostOwed) && a.joins.Allow()
}

// charge counts work, and says how long to wait until it is earned.
func (a *allotment) charge(took time.Duration) time.Duration {
	now := time.Now()
	return a.work.ReserveN(now, int(min(took, workAtOnce))).DelayFrom(now)
}

// tokenLimits bounds how often tokens are asked for: by each user, and in vain from each address; and how often other servers are
// asked about them at once.
type tokenLimits struct {
	mu       sync.Mutex
	users    map[string]*rate.Limiter
	failures map[string]*rate.Limiter // by address, and the server that was named
	abroad   map[string]*rate.Limiter // by address, whatever other server was named
	underWay map[inquiry]int          // questions to other servers
}

// inquiry is for which address which other server is asked; empty: for any, or any of them.
type inquiry struct{ address, server string }

const (
	userEvery    = 2 * time.Second // a user's tokens in the long run; one for each focus of a call, and again at reconnects
	userBurst    = 60
	failureEvery = 2 * time.Second
	failureBurst = 60
	abroadBurst  = 300
	// maxRemembered bounds each map; a full one is forgotten as a whole.
	maxRemembered = 20_000
)

// How many questions to other servers may be under way. A server that is well answers in milliseconds, so even many people behind one
// address stay far below; one that never answers has each of its own open for openIDPatience.
const (
	underWayPair    = 32 // for one address, to one server
	underWayAddress = 128
	underWayServer  = 64
	underWayAll     = 512
	underWayPause   = time.Second // until there may be room again
)

func newTokenLimits() *tokenLimits {
	return &tokenLimits{
		users: map[string]*rate.Limiter{}, failures: map[string]*rate.Limiter{}, abroad: map[string]*rate.Limiter{}, underWay: map[inquiry]int{},
	}
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

// mayAsk counts a user's request; there were too many if that is refused.
func (l *tokenLimits) mayAsk(user id.UserID) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return take(l.limiter(l.users, string(user), userEvery, userBurst))
}

// failed counts a token that proved nothing; there were too many of them if that is refused. other says that another server was asked.
func (l *tokenLimits) failed(address, server string, other bool) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if other {
		l.limiter(l.abroad, address, failureEvery, abroadBurst).Allow()
	}
	return take(l.limiter(l.failures, address+" "+server, failureEvery, failureBurst))
}

// mayAskOther says, without counting, whether another server may be asked about a token.
func (l *tokenLimits) mayAskOther(address, server string) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, known := range []*rate.Limiter{l.failures[address+" "+server], l.abroad[address]} {
		if known != nil && known.Tokens() < 1 {
			return tooMany(known)
		}
	}
	return nil
}

// askOther counts a question to another server as under way, until done is called once; there are too many if that is refused.
func (l *tokenLimits) askOther(address, server string) (done func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	bounds := map[inquiry]int{
		{address, server}: underWayPair, {address, ""}: underWayAddress, {"", server}: underWayServer, {}: underWayAll,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for a, most := range bounds {
		if l.underWay[a] >= most {
			return nil, tooManyUntil(underWayPause)
		}
	}
	for a := range bounds {
		l.underWay[a]++
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for a := range bounds {
			if l.underWay[a]--; l.underWay[a] == 0 {
				delete(l.underWay, a)
			}
		}
	}, nil
}

// take counts one, or says when to come again.
func take(l *rate.Limiter) error {
	if l.Allow() {
		return nil
	}
	return tooMany(l)
}

// tooMany is the refusal of what comes too soon.
func tooMany(l *rate.Limiter) error {
	return tooManyUntil(time.Duration((1 - l.Tokens()) / float64(l.Limit()) * float64(time.Second)))
}

// tooManyUntil is the refusal of what may come again after a while.
func tooManyUntil(wait time.Duration) error {
	return mautrix.MLimitExceeded.WithMessage("Too many requests").WithStatus(http.StatusTooManyRequests).
		WithExtraData(map[string]any{"retry_after_ms": max(wait.Milliseconds(), 1)})
}
