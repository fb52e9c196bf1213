package syncing

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// Slide handles POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync.
// Spec: MSC4186
func (s *Syncing) Slide(r *rest.Request) (any, error) { return s.slide(r, unstableShape) }

// SlideMerged handles POST /_matrix/client/v4/sync.
// Spec: MSC4186
func (s *Syncing) SlideMerged(r *rest.Request) (any, error) { return s.slide(r, mergedShape) }

func (s *Syncing) slide(r *rest.Request, sh shape) (any, error) {
	raw, err := r.Object()
	if err != nil {
		return nil, err
	}
	ask, body, err := parseSlide(raw, sh, r.By)
	if err != nil {
		return nil, err
	}
	presence := body.Presence
	if sh == unstableShape {
		// Clients ship with these in the address.
		if pos := r.Query("pos"); pos != "" {
			ask.pos = pos
		}
		if timeout := r.Query("timeout"); timeout != "" {
			if body.Timeout, err = strconv.ParseInt(timeout, 10, 64); err != nil {
				return nil, mautrix.MInvalidParam.WithMessage("timeout is not a number")
			}
		}
		if presence == "" {
			presence = r.Query("set_presence")
		}
	}
	if ask.pos != "" {
		ask.wait = time.Duration(max(0, min(body.Timeout, s.cfg.MaxWait.Milliseconds()))) * time.Millisecond
	}
	if err := s.setPresence(r, presence); err != nil {
		return nil, err
	}
	answer, err := s.slideWait(r.Context(), ask)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// slideWait answers at once, or as soon as there is something to tell, or when the client's patience ends.
func (s *Syncing) slideWait(ctx context.Context, ask *slideAsk) (json.RawMessage, error) {
	u, err := s.enter(ctx, ask.by.User)
	if err != nil {
		return nil, err
	}
	defer s.leave(u)
	x, turn, done, news, err := s.goOn(ctx, ask)
	if err != nil {
		return nil, superseded(ctx, err)
	}
	defer done()
	if news {
		s.slides.soil([]*slide{x})
	}
	if err := s.acknowledgeSlide(turn, u, ask); err != nil {
		return nil, superseded(ctx, err)
	}
	if err := s.reachSoon(turn, max(s.store.Head(), x.token().Position)); err != nil {
		return nil, superseded(ctx, err)
	}
	body, err := s.slideUntil(turn, u, x, ask)
	return body, superseded(ctx, err)
}

// goOn takes the turn on the request's connection, set to where the client is; news: it has got an answer with something in it.
func (s *Syncing) goOn(ctx context.Context, ask *slideAsk) (x *slide, turn context.Context, done func(), news bool, err error) {
	x, err = s.openSlide(ctx, ask)
	for again := false; err == nil; again = true {
		if turn, done, err = s.takeTurn(ctx, x); err != nil {
			break
		}
		if news, err = x.proceed(ask.pos); err == nil {
			return x, turn, done, news, nil
		}
		done()
		if again || !s.fromElsewhere(ask.pos) {
			break
		}
		// Another process has answered meanwhile: what it wrote down is the best that is known here.
		x, err = s.reopenSlide(ctx, ask)
	}
	return nil, nil, nil, false, err
}

// superseded is the answer to a request whose client has asked anew meanwhile on the same connection, and does not read it.
func superseded(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		return mautrix.RespError{ErrCode: "M_UNKNOWN", Err: "A newer request on this connection took the place of this one", StatusCode: 409}
	}
	return err
}

func (s *Syncing) slideUntil(ctx context.Context, u *user, x *slide, ask *slideAsk) (json.RawMessage, error) {
	q := &question{by: ask.by}
	w := &waiter{device: ask.by.Device, woken: make(chan struct{}, 1), ended: make(chan struct{})}
	var enough <-chan time.Time
	if ask.wait > 0 {
		timer := time.NewTimer(patienceUntil(ask.wait, s.now(), ask.by.Until))
		defer timer.Stop()
		enough = timer.C
		s.mu.Lock()
		u.waiters[w] = struct{}{}
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
	for {
		a, err := s.slideSoon(ctx, u, x, ask)
		if err != nil {
			return nil, err
		}
		if !a.empty || ask.wait == 0 {
			answers.WithLabelValues(a.kind()).Inc()
			return a.give(), nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.ended:
			return nil, w.why
		case <-enough:
			if expired(s.now(), ask.by.Until) {
				return nil, rest.ErrExpired
			}
			answers.WithLabelValues("sliding empty").Inc()
			return a.give(), nil
		case <-w.woken:
		}
		s.hold(ctx, u, q)
	}
}

func (s *Syncing) slideSoon(ctx context.Context, u *user, x *slide, ask *slideAsk) (*slideAnswer, error) {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	return s.answerSlide(ctx, u, x, ask)
}

// slideAnswer is one answer of a sliding sync in the making. What it shares with a sync, it does as a sync from where the
// connection stands.
type slideAnswer struct {
	answer
	ask   *slideAsk
	x     *slide
	notes *notes

	wants  map[id.RoomID]*slideWant
	counts map[string]int
	works  []*slideWork
	told   map[id.RoomID]*slideRoom
	body   []byte
	empty  bool
	// unstuck and more: see slideMark.
	unstuck, more bool
	// children are those of spaces that filters named.
	children map[id.RoomID][]id.RoomID
}

// answerSlide makes the answer up to what the memory holds now. It has the connection's turn.
func (s *Syncing) answerSlide(ctx context.Context, u *user, x *slide, ask *slideAsk) (*slideAnswer, error) {
	a := &slideAnswer{ask: ask, x: x, told: map[id.RoomID]*slideRoom{}}
	a.s, a.u = s, u
	a.q = &question{by: ask.by, filter: slideFilterOf(0)}
	if x.base != nil {
		token := x.base.token
		a.q.since, a.since = &token, token.Position
	}
	a.look = look{user: u.id, device: ask.by.Device, filter: a.q.filter, now: s.now().UnixMilli()}
	touched, err := a.touched(ctx)
	if err != nil {
		return nil, err
	}
	a.plan(touched)
	if a.notes, err = a.readNotes(ctx); err != nil {
		return nil, err
	}
	if a.quiet(touched) {
		a.wants, a.counts = x.base.wants, x.base.counts
	} else if err := a.choose(ctx, touched); err != nil {
		return nil, err
	}
	if err := a.makeRooms(ctx); err != nil {
		return nil, err
	}
	return a, a.write(ctx)
}

// quiet tells whether nothing happened, and nothing else is asked, that might change which rooms are wanted or what is to
// be told of them.
func (a *slideAnswer) quiet(touched map[id.RoomID]bool) bool {
	base := a.x.base
	if base == nil || base.counts == nil || base.more || base.text != a.ask.text || base.notes != a.notes {
		return false
	}
	a.s.mu.RLock()
	defer a.s.mu.RUnlock()
	for _, p := range a.rooms {
		if touched[p.id] || a.u.touched[p.id] > a.since || p.stay.position > a.since || p.counted {
			return false
		}
	}
	return true
}

// maxSlideEvents bounds the rooms that are new to the client in one answer, by the events that it wants of them: the rest follow
// with the next.
const maxSlideEvents = 20_000

// choose finds the rooms that are wanted, and of those the ones of which there may be something to tell.
func (a *slideAnswer) choose(ctx context.Context, touched map[id.RoomID]bool) error {
	all, err := a.candidates(ctx)
	if err != nil {
		return err
	}
	if a.wants, a.counts, err = a.windows(ctx, all); err != nil {
		return err
	}
	plans := make(map[id.RoomID]*roomPlan, len(a.rooms))
	for _, p := range a.rooms {
		plans[p.id] = p
	}
	budget := maxSlideEvents
	for _, c := range all {
		old, want := a.x.rooms[c.id], a.wants[c.id]
		if want == nil {
			// A room that was left is told once more to who knew it, wherever it stands.
			if want = a.farewell(c, old); want == nil {
				continue
			}
		}
		w := &slideWork{candidate: c, want: want, old: old, plan: plans[c.id]}
		if old != nil {
			w.since = a.x.upTo(c.id, old)
		}
		if !a.toDo(w, touched) {
			continue
		}
		if old == nil {
			if budget -= 1 + want.limit; budget < 0 {
				a.more = true
				continue
			}
		}
		a.works = append(a.works, w)
	}
	if a.x.base != nil {
		for room := range a.x.base.wants {
			if old := a.x.rooms[room]; old != nil && a.wants[room] == nil {
				kept := *old
				kept.upTo = a.x.upTo(room, old)
				a.told[room] = &kept
			}
		}
	}
	return nil
}

// farewell is what a client is told of a room that the user left and that stands in no list: as much as of others.
func (a *slideAnswer) farewell(c *candidate, old *slideRoom) *slideWant {
	knows := old != nil && !was(old.membership) || old == nil && c.stay.position > a.x.blind
	if !c.gone() || !knows || len(a.ask.lists)+len(a.ask.rooms) == 0 {
		return nil
	}
	want := &slideWant{limit: a.ask.most(), state: wishesOf(nil)}
	if old != nil {
		want.state = old.state
	}
	return want
}

// was tells whether the membership is of one who is no longer in the room.
func was(m event.Membership) bool { return m == event.MembershipLeave || m == event.MembershipBan }

// toDo tells whether there may be something to tell of a wanted room.
func (a *slideAnswer) toDo(w *slideWork, touched map[id.RoomID]bool) bool {
	old, st := w.old, w.stay
	switch {
	case old == nil || st.position > w.since || old.membership != st.membership:
		return true
	case !w.joined():
		return false
	case w.touched > w.since || touched[w.id] || w.want.limit > old.held || w.want.state.text != old.state.text:
		return true
	case old.dm != a.notes.direct[w.id] || (w.plan != nil && w.plan.counted):
		return true
	}
	// The memory may not reach back to where the room was last wanted.
	return w.since < a.since && w.since < a.u.from
}

// give hands the answer out: from now on the client may go on from it.
func (a *slideAnswer) give() json.RawMessage {
	token := storage.Token{Incarnation: a.s.store.Incarnation(), Position: a.to, Ephemeral: a.mark, Process: a.s.process}
	mark := &slideMark{token: token, text: a.ask.text, parts: a.ask.parts, ext: &a.ask.ext, unstuck: a.unstuck, more: a.more, wants: a.wants, counts: a.counts, changes: a.told, notes: a.notes, sequence: a.sequence(token)}
	mark.pos = storage.SlidingPos{Token: token, Connection: a.x.id, Sequence: mark.sequence, Owner: a.x.key.owner()}.String()
	a.x.answered(mark)
	if !a.empty {
		a.s.mu.Lock()
		a.u.device(a.ask.by.Device).answered = a.s.now()
		a.s.mu.Unlock()
	}
	b := make([]byte, 0, len(a.body)+len(mark.pos)+16)
	b = append(appendText(append(b, `{"pos":`...), mark.pos), a.body...)
	return b
}

// sequence numbers the answer. A question that is repeated, and has the same answer, gets the same pos.
func (a *slideAnswer) sequence(token storage.Token) int64 {
	if next := a.x.next; next != nil && next.token == token && next.text == a.ask.text {
		return next.sequence
	}
	return a.x.last + 1
}

func (a *slideAnswer) kind() string {
	switch {
	case a.x.base == nil:
		return "sliding initial"
	case a.empty:
		return "sliding empty"
	}
	return "sliding incremental"
}

// slideFilterOf is a filter that lets everything through, timelines up to the limit.
func slideFilterOf(limit int) *Filter {
	f := &Filter{}
	f.Room.Timeline.Limit = &limit
	return f
}
