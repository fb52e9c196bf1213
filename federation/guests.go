package federation

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"
	"maunium.net/go/mautrix"

	"chancery/storage/bus"
)

var turnedAway = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "chancery_federation_turned_away_total",
	Help: "Requests of other servers that were told to come again later, by why.",
}, []string{"why"})

// What one peer may cost before it is known who it is. Reading a body and checking its signature is paid from a purse of the
// address and the name that it claims, so that who claims another's name takes nothing from that other's address.
const (
	purse     = 512 << 10 // bytes of bodies being read and checked at once; a larger body takes it all
	smallest  = 64 << 10  // what the smallest body takes
	maxPurses = 20_000
	// bodyTime is how long a body may take to come.
	bodyTime = 30 * time.Second
	// maxQueue is how many requests may wait for the purse.
	maxQueue = 64
)

// guests sees to it that one peer cannot take the room of all: it counts what each has under way, and how often it asks.
type guests struct {
	most  int
	rate  float64
	burst float64
	now   func() time.Time

	mu     sync.Mutex
	known  map[string]*guest
	purses map[string]*claim
}

// guest is an origin whose signature was good.
type guest struct {
	busy   int
	tokens float64
	at     time.Time
}

// claim is what an address asks in a name.
type claim struct {
	purse   *semaphore.Weighted
	waiting int // guarded by guests.mu
}

func newGuests(cfg Config) *guests {
	return &guests{
		most: cfg.RequestsPerOrigin, rate: cfg.Rate.PerSecond, burst: max(cfg.Rate.Burst, 1), now: time.Now,
		known: make(map[string]*guest), purses: make(map[string]*claim),
	}
}

// limited is the answer to who asks too much.
func limited(why string, after time.Duration) error {
	turnedAway.WithLabelValues(why).Inc()
	refusal := mautrix.MLimitExceeded.WithMessage("Too many requests")
	refusal.StatusCode = http.StatusTooManyRequests
	refusal.ExtraData = map[string]any{"retry_after_ms": max(after.Milliseconds(), 1)}
	return refusal
}

// refill gives the guest its tokens of the time since it was last here. It is called with the lock held.
func (g *guests) refill(name string) *guest {
	now := g.now()
	v := g.known[name]
	if v == nil {
		g.shrink(now)
		v = &guest{tokens: g.burst, at: now}
		g.known[name] = v
	}
	v.tokens = min(g.burst, v.tokens+max(0, now.Sub(v.at).Seconds())*g.rate)
	v.at = now
	return v
}

// shrink forgets those who have nothing under way and all their tokens. It is called with the lock held.
func (g *guests) shrink(now time.Time) {
	if len(g.known) < maxPurses {
		return
	}
	for name, v := range g.known {
		if v.busy == 0 && v.tokens+now.Sub(v.at).Seconds()*g.rate >= g.burst {
			delete(g.known, name)
		}
	}
}

// welcome says whether a request in that name would be served, before anything is read of it. It costs the name nothing.
func (g *guests) welcome(origin string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.known[origin]
	if v == nil {
		return nil
	}
	v = g.refill(origin)
	return g.refuse(v)
}

// refuse is called with the lock held.
func (g *guests) refuse(v *guest) error {
	if g.most > 0 && v.busy >= g.most {
		return limited("at once", time.Second)
	}
	if g.rate > 0 && v.tokens < 1 {
		return limited("rate", time.Duration((1-v.tokens)/g.rate*float64(time.Second)))
	}
	return nil
}

// enter lets a request of the origin in, whose signature was good.
func (g *guests) enter(origin string) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.refill(origin)
	if err := g.refuse(v); err != nil {
		return nil, err
	}
	v.busy++
	v.tokens--
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		v.busy--
	}, nil
}

// pay waits until a body of that size may be read and checked.
func (g *guests) pay(ctx context.Context, r *http.Request, origin string, limit int64) (done func(), err error) {
	size := r.ContentLength
	if size < 0 {
		size = limit
	}
	price := min(max(size, smallest), purse)
	c, err := g.claim(r.RemoteAddr, origin)
	if err != nil {
		return nil, err
	}
	if err := c.purse.Acquire(ctx, price); err != nil {
		g.unclaim(c)
		return nil, err
	}
	return func() { c.purse.Release(price); g.unclaim(c) }, nil
}

func (g *guests) claim(address, origin string) (*claim, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key := host + " " + origin
	c := g.purses[key]
	if c == nil {
		if len(g.purses) >= maxPurses {
			for k, old := range g.purses {
				if old.waiting == 0 {
					delete(g.purses, k)
				}
			}
		}
		c = &claim{purse: semaphore.NewWeighted(purse)}
		g.purses[key] = c
	}
	if c.waiting >= maxQueue {
		return nil, limited("unread", time.Second)
	}
	c.waiting++
	return c, nil
}

func (g *guests) unclaim(c *claim) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.waiting--
}

// visits remembers who spoke to us in the last second.
type visits struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// heard tells the sender that a server has just spoken to us, once a second at most.
func (f *Federation) heard(server string) {
	f.visits.mu.Lock()
	now := time.Now()
	due := now.Sub(f.visits.last[server]) >= time.Second
	if due {
		if f.visits.last == nil || len(f.visits.last) >= maxPurses {
			f.visits.last = make(map[string]time.Time)
		}
		f.visits.last[server] = now
	}
	f.visits.mu.Unlock()
	if due {
		_ = bus.Tell(f.bus, bus.Alive(server), server) // nobody need listen
	}
}

// retryAfter sets the header that goes with a refusal's retry_after_ms.
func retryAfter(w http.ResponseWriter, refusal mautrix.RespError) {
	if ms, ok := refusal.ExtraData["retry_after_ms"].(int64); ok {
		w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
}
