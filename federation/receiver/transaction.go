package receiver

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// The most that one transaction may hold.
// Spec: server-server-api/#transactions
const (
	maxPDUs = 50
	maxEDUs = 100
)

// maxTransactionID bounds the name that another server gives a transaction.
const maxTransactionID = 255

var (
	receivedPDUs = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_federation_received_pdus_total", Help: "Events received in transactions, by what became of them.",
	}, []string{"verdict"})
	receivedEDUs = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_federation_received_edus_total", Help: "Ephemeral messages received in transactions, by type and whether they were taken.",
	}, []string{"type", "taken"})
)

// transaction is the body of PUT /send.
type transaction struct {
	PDUs []json.RawMessage `json:"pdus"`
	EDUs []edu             `json:"edus"`
}

// edu is one ephemeral message.
type edu struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// result is the verdict on one PDU: empty is well.
type result struct {
	Error string `json:"error,omitempty"`
}

// Transaction takes in a transaction of the origin, whose signature was checked, and gives the answer's body. The same
// transaction again gets the same answer. One transaction of an origin is at work at a time; others wait.
// Spec: server-server-api/#put_matrixfederationv1sendtxnid
func (r *Receiver) Transaction(ctx context.Context, origin, name string, body []byte) (json.RawMessage, error) {
	var t transaction
	if err := json.Unmarshal(body, &t); err != nil {
		return nil, mautrix.MBadJSON.WithMessage("The body is not a transaction")
	}
	if len(t.PDUs) > maxPDUs || len(t.EDUs) > maxEDUs {
		return nil, mautrix.MBadJSON.WithMessage("At most %d PDUs and %d EDUs", maxPDUs, maxEDUs)
	}
	if name == "" || len(name) > maxTransactionID {
		return nil, mautrix.MInvalidParam.WithMessage("Malformed transaction ID")
	}
	r.tallies.heard(origin, r.now())
	o, done, err := r.origins.enter(ctx, origin)
	if err != nil {
		return nil, err
	}
	began := r.now()
	defer func() { r.origins.worked(o, len(t.PDUs)+len(t.EDUs), r.now(), r.now().Sub(began)); done() }()
	if answer, ok := o.answers[name]; ok {
		return answer, nil
	}
	if answer, err := r.store.Received.Answer(ctx, origin, name); err != nil || answer != nil {
		return answer, err
	}
	// The origin may go away while we work; what has begun is ended.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	// What is in our hands and cannot be kept is not answered: the origin sends it again.
	results, err := r.takePDUs(work, origin, t.PDUs)
	if err != nil {
		return nil, fmt.Errorf("take PDUs of %s: %w", origin, err)
	}
	if err := r.takeEDUs(work, origin, t.EDUs); err != nil {
		return nil, fmt.Errorf("take EDUs of %s: %w", origin, err)
	}
	answer, err := json.Marshal(struct {
		PDUs map[id.EventID]result `json:"pdus"`
	}{results})
	if err != nil {
		return nil, fmt.Errorf("answer transaction: %w", err)
	}
	o.remember(name, answer)
	// The answer need not wait for its own memory: should that be lost, PDUs and messages come to what they came to already.
	go func() {
		if err := r.store.Received.Answered(context.WithoutCancel(work), origin, name, answer); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Str("origin", origin).Msg("Answer to transaction not remembered")
		}
	}()
	return answer, nil
}

// origins lets one transaction of each origin work at a time, and remembers its latest answers.
type origins struct {
	mu    sync.Mutex
	known map[string]*origin
	// latest are the last two origins that came.
	latest [2]visit
}

type visit struct {
	origin string
	at     time.Time
}

type origin struct {
	turn    chan struct{} // holds one token: who has it works
	waiting int           // guarded by origins.mu
	// notBefore is when the next transaction may begin while others are served, items what may come before that. Both belong to
	// who has the turn.
	notBefore time.Time
	items     float64
	counted   time.Time
	// answers belongs to who has the turn.
	answers map[string]json.RawMessage
	order   []string
}

// keptAnswers are kept in memory for each origin, since a repeat comes soon or never.
const (
	keptAnswers = 16
	maxOrigins  = 2000
)

func newOrigins() *origins { return &origins{known: make(map[string]*origin)} }

func (all *origins) enter(ctx context.Context, name string) (*origin, func(), error) {
	all.mu.Lock()
	o := all.known[name]
	if o == nil {
		all.shrink()
		o = &origin{turn: make(chan struct{}, 1), answers: make(map[string]json.RawMessage)}
		all.known[name] = o
	}
	o.waiting++
	all.mu.Unlock()
	leave := func() {
		all.mu.Lock()
		defer all.mu.Unlock()
		o.waiting--
	}
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, nil, ctx.Err()
	}
	done := func() { <-o.turn; leave() }
	if err := all.pace(ctx, name, o); err != nil {
		done()
		return nil, nil, err
	}
	return o, done, nil
}

// What one origin may take of our time while others are served. Alone it may take all.
const (
	itemsPerSecond = 300
	itemsAtOnce    = 100
	largeItems     = 5 // a transaction with more is followed by a pause of pauseFactor times its work
	pauseFactor    = 2
	longestHold    = 500 * time.Millisecond // of that: the work may have been waiting for somebody
	longestPace    = 5 * time.Second
	othersFor      = 5 * time.Second
)

// pace holds the origin's transaction back for as long as it has to let others go first.
func (all *origins) pace(ctx context.Context, name string, o *origin) error {
	now := time.Now()
	all.mu.Lock()
	if all.latest[0].origin != name {
		all.latest[1] = all.latest[0]
	}
	all.latest[0] = visit{name, now}
	others := now.Sub(all.latest[1].at) < othersFor
	all.mu.Unlock()
	wait := min(o.notBefore.Sub(now), longestPace)
	if !others || wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// worked notes what a transaction held and took. It is called by who has the turn.
func (all *origins) worked(o *origin, items int, now time.Time, took time.Duration) {
	o.items = min(itemsAtOnce, o.items+now.Sub(o.counted).Seconds()*itemsPerSecond) - float64(items)
	o.counted, o.notBefore = now, now
	if o.items < 0 {
		o.notBefore = now.Add(time.Duration(-o.items / itemsPerSecond * float64(time.Second)))
	}
	if pause := now.Add(min(pauseFactor*took, longestPause)); items > largeItems && pause.After(o.notBefore) {
		o.notBefore = pause
	}
}

// shrink is called with the lock held.
func (all *origins) shrink() {
	if len(all.known) < maxOrigins {
		return
	}
	for name, o := range all.known {
		if o.waiting == 0 {
			delete(all.known, name)
		}
	}
}

func (o *origin) remember(name string, answer json.RawMessage) {
	if len(o.order) >= keptAnswers {
		delete(o.answers, o.order[0])
		o.order = o.order[1:]
	}
	o.answers[name] = answer
	o.order = append(o.order, name)
}
