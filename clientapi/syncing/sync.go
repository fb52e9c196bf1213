package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// pause is how long an answer is held to take more with it, counted from the device's last one: none when it is quiet.
const pause = 20 * time.Millisecond

// question is what a client asks of a sync.
type question struct {
	by     rest.Requester
	filter *Filter
	// since is nil for an initial sync.
	since     *storage.Token
	fullState bool
	// stateAfter: the state at the end of the timeline is asked for, under the stable or the older name.
	stateAfter, unstable bool
	wait                 time.Duration
}

// Sync handles GET /_matrix/client/v3/sync.
// Spec: client-server-api/#get_matrixclientv3sync
func (s *Syncing) Sync(r *rest.Request) (any, error) {
	q, err := s.question(r)
	if err != nil {
		return nil, err
	}
	if err := s.setPresence(r, r.Query("set_presence")); err != nil {
		return nil, err
	}
	r.Settle()
	body, err := s.wait(r.Context(), q)
	if err != nil {
		return nil, err
	}
	return body, nil
}

func (s *Syncing) question(r *rest.Request) (*question, error) {
	q := &question{by: r.By}
	var err error
	if q.filter, err = s.filter(r.Context(), r.By.User, r.Query("filter")); err != nil {
		return nil, err
	}
	if text := r.Query("since"); text != "" {
		token, err := storage.ParseToken(text)
		if err != nil {
			return nil, mautrix.MInvalidParam.WithMessage("since is no token of this server")
		}
		// Another database's token, or one from a future that a restored backup forgot: the client begins anew.
		if s.store.Valid(token) {
			q.since = &token
		}
	}
	if q.fullState, err = r.Bool("full_state"); err != nil {
		return nil, err
	}
	if q.stateAfter, err = r.Bool("use_state_after"); err != nil {
		return nil, err
	}
	if q.unstable, err = r.Bool("org.matrix.msc4222.use_state_after"); err != nil {
		return nil, err
	}
	ms, err := r.Int("timeout", 0, 0, int(s.cfg.MaxWait.Milliseconds()))
	if err != nil {
		return nil, err
	}
	if q.since != nil && !q.fullState {
		q.wait = time.Duration(ms) * time.Millisecond
	}
	return q, nil
}

// begin takes in what a sync says by being asked: its user is there, and got what came before its token.
//
//go:noinline
func (s *Syncing) begin(ctx context.Context, q *question) (*user, error) {
	u, err := s.enter(ctx, q.by.User)
	if err != nil {
		return nil, err
	}
	reach := s.store.Head()
	if q.since != nil {
		reach = max(reach, q.since.Position)
		err = s.acknowledge(ctx, u, q)
	} else {
		s.sent.reset(q.connection())
	}
	if err == nil {
		err = s.reachSoon(ctx, reach)
	}
	if err != nil {
		s.leave(u)
		return nil, err
	}
	return u, nil
}

// count counts an answer.
//
//go:noinline
func (q *question) count(empty bool) { answers.WithLabelValues(kindOf(q, empty)).Inc() }

// wait answers at once, or as soon as there is something to tell, or when the client's patience ends. Its stack is kept small, for
// thousands stand in it: what takes more is done in functions of its own.
func (s *Syncing) wait(ctx context.Context, q *question) (json.RawMessage, error) {
	u, err := s.begin(ctx, q)
	if err != nil {
		return nil, err
	}
	defer s.leave(u)
	w := &waiter{device: q.by.Device, woken: make(chan struct{}, 1), ended: make(chan struct{}), surplus: make(chan struct{})}
	w.express.Store(true)
	var enough <-chan time.Time
	if q.wait > 0 {
		timer := time.NewTimer(patienceUntil(q.wait, s.now(), q.by.Until))
		defer timer.Stop()
		enough = timer.C
		s.mu.Lock()
		u.wait(w)
		over := u.over
		s.mu.Unlock()
		waiting.Inc()
		defer func() {
			s.mu.Lock()
			delete(u.waiters, w)
			s.mu.Unlock()
			waiting.Dec()
		}()
		if over { // since the door let it in
			return nil, rest.ErrExpired
		}
	}
	for last := q.wait == 0; ; {
		body, empty, err := json.RawMessage(nil), true, error(nil)
		// Nothing new costs a look into the memory; an answer that says so is made when the client's patience ends.
		if still := s.quiet(u, q); !still {
			body, empty, err = s.answerSoon(ctx, u, q, w.express.Swap(false))
		} else if last {
			body, err = s.unchanged(ctx, u, q)
		}
		if err != nil {
			return nil, err
		}
		if !empty || last {
			q.count(empty)
			return body, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.ended:
			return nil, w.why
		case <-w.surplus:
			last = true
		case <-enough:
			if expired(s.now(), q.by.Until) {
				return nil, rest.ErrExpired
			}
			last = true
		case <-w.woken:
			s.hold(ctx, u, q)
		}
	}
}

// quiet tells from memory that nothing has happened since the client's token that an answer could tell.
func (s *Syncing) quiet(u *user, q *question) bool {
	since := q.since
	if since == nil || q.fullState || since.Process != s.process {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if since.Position < u.from || since.Position < u.latest || since.Ephemeral < u.marked {
		return false
	}
	if q.by.Device == "" {
		return true
	}
	d := u.devices[q.by.Device]
	return d != nil && d.fetched > 0 && d.newest <= max(since.ToDevice, d.deleted)
}

// unchanged is the answer that tells nothing but how far it reaches.
func (s *Syncing) unchanged(ctx context.Context, u *user, q *question) (json.RawMessage, error) {
	s.mu.RLock()
	token := storage.Token{Incarnation: s.store.Incarnation(), Position: max(storage.Position(s.applied.Load()), q.since.Position), Ephemeral: s.mark, Process: s.process}
	s.mu.RUnlock()
	if !s.quiet(u, q) { // just now something came: it is told the next time
		token.Position, token.Ephemeral = q.since.Position, q.since.Ephemeral
	}
	token.ToDevice = max(token.Position, q.since.ToDevice)
	keys, err := s.keyCounts(ctx, q.by)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 256+len(keys))
	b = appendText(append(b, `{"next_batch":`...), token.String())
	return append(append(b, keys...), '}'), nil
}

// patience bounds what an answer may take to be made: a database that hangs must not keep requests for ever.
const patience = time.Minute

func (s *Syncing) reachSoon(ctx context.Context, to storage.Position) error {
	if s.applied.Load() >= int64(to) {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	return s.reach(ctx, to)
}

// answerSoon makes the answer when its turn has come: those from memory do not wait for those that are read from the tables, of
// which few are made at once.
//
//go:noinline
func (s *Syncing) answerSoon(ctx context.Context, u *user, q *question, express bool) (body json.RawMessage, empty bool, err error) {
	s.mu.RLock()
	covered := q.since != nil && !q.fullState && q.since.Position >= u.from
	s.mu.RUnlock()
	turns := s.quick
	if !covered {
		turns = s.slow
	}
	if err := turns.enter(ctx, express); err != nil {
		return nil, false, err
	}
	defer turns.leave()
	apart(func() {
		ctx, stop := context.WithTimeout(ctx, patience)
		defer stop()
		body, empty, err = s.answer(ctx, u, q)
	})
	return body, empty, err
}

// apart runs fn on a stack of its own, and waits for its end: the stack of a request, which grows with the deepest call, is kept for as
// long as the client is connected, and there are thousands. A panic of fn is the caller's.
//
//go:noinline
func apart(fn func()) {
	ended := make(chan any, 1)
	go func() {
		defer func() {
			p := recover()
			if p != nil {
				p = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
			ended <- p
		}()
		fn()
	}()
	if p := <-ended; p != nil {
		panic(p)
	}
}

func kindOf(q *question, empty bool) string {
	switch {
	case q.since == nil:
		return "initial"
	case empty:
		return "empty"
	}
	return "incremental"
}

// hold waits a moment for more, if the device was answered just now.
//
//go:noinline
func (s *Syncing) hold(ctx context.Context, u *user, q *question) {
	s.mu.RLock()
	left := time.Duration(0)
	if d := u.devices[q.by.Device]; d != nil {
		left = pause - s.now().Sub(d.answered)
	}
	s.mu.RUnlock()
	if left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (q *question) connection() connection {
	return connection{q.by.User, q.by.Device, q.filter.text}
}

// sincePosition is the position up to which the client knows everything; 0 for an initial sync.
func (q *question) sincePosition() storage.Position {
	if q.since == nil {
		return 0
	}
	return q.since.Position
}

// stateName is the name under which the state is given.
func (q *question) stateName() string {
	switch {
	case q.stateAfter:
		return "state_after"
	case q.unstable:
		return "org.matrix.msc4222.state_after"
	}
	return "state"
}

// after tells whether the state at the end of the timeline is asked for.
func (q *question) after() bool { return q.stateAfter || q.unstable }

// appendText appends a JSON string.
func appendText(b []byte, text string) []byte {
	plain := strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r > '~' }) < 0
	if plain {
		return append(append(append(b, '"'), text...), '"')
	}
	raw, err := json.Marshal(text)
	if err != nil { // a string always marshals
		return append(b, '"', '"')
	}
	return append(b, raw...)
}

// rawJSON is an answer that is written already.
func rawJSON(b []byte) json.RawMessage { return b }
