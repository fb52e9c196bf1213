package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// slideWork is a room of which there may be something to tell.
type slideWork struct {
	*candidate
	want  *slideWant
	old   *slideRoom // what the client knows of it; nil if nothing
	since storage.Position
	plan  *roomPlan
	ra    *answer // what it shares with a sync of this room alone

	fresh, expanded bool
	timeline        *timeline
	known           *slideRoom // old, where it turned out that the client holds all there is
	body            []byte     // what is told; nil if nothing
	next            *slideRoom
}

// makeRooms makes the rooms' parts of the answer, some side by side.
func (a *slideAnswer) makeRooms(ctx context.Context) error {
	if len(a.works) == 0 {
		return nil
	}
	a.planWorks()
	var ask []*candidate
	for _, w := range a.works {
		if w.joined() || (w.gone() && w.old == nil) {
			ask = append(ask, w.candidate)
		}
	}
	if err := a.readFacts(ctx, ask); err != nil {
		return err
	}
	if len(a.works) == 1 {
		return a.makeRoom(ctx, a.works[0])
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(roomsAtOnce)
	for _, w := range a.works {
		group.Go(func() error { return a.makeRoom(inner, w) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return nil
}

// planWorks copies from the memory, at one moment, what the rooms need of it.
func (a *slideAnswer) planWorks() {
	filters := map[int]*Filter{}
	a.s.mu.RLock()
	defer a.s.mu.RUnlock()
	for _, w := range a.works {
		if w.plan == nil {
			w.plan = a.s.planRoom(a.u, w.id, w.stay, false)
		}
		f := filters[w.want.limit]
		if f == nil {
			f = slideFilterOf(w.want.limit)
			filters[w.want.limit] = f
		}
		w.ra = &answer{s: a.s, u: a.u, q: &question{by: a.q.by, filter: f, since: a.q.since}, since: w.since, to: a.to, mark: a.mark, ignored: a.ignored, look: a.look}
		w.ra.look.filter = f
	}
}

func (a *slideAnswer) makeRoom(ctx context.Context, w *slideWork) (err error) {
	switch {
	case w.joined():
		err = a.joinedRoom(ctx, w)
	case w.gone():
		err = a.goneRoom(ctx, w)
	default:
		err = a.offeredRoom(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("slide %s: %w", w.id, err)
	}
	return nil
}

// joinedRoom tells of a room in which the user is.
func (a *slideAnswer) joinedRoom(ctx context.Context, w *slideWork) error {
	var err error
	w.fresh = w.old == nil || w.old.membership != event.MembershipJoin
	if !w.fresh {
		if w.fresh, err = w.ra.newlyJoined(ctx, w.plan); err != nil {
			return err
		}
	}
	if err := a.slideTimeline(ctx, w); err != nil {
		return err
	}
	changed, err := a.stateToTell(ctx, w)
	if err != nil {
		return err
	}
	dm := a.notes.direct[w.id]
	w.next = &slideRoom{upTo: a.to, held: w.held(), state: w.want.state, membership: event.MembershipJoin, dm: dm}
	counted := w.plan.counted || w.fresh || len(w.timeline.entries) > 0
	if !counted {
		if counted, err = a.ownReceiptMoved(ctx, w); err != nil {
			return err
		}
	}
	if !counted && !w.timeline.limited && !changed.any() && w.old.dm == dm {
		return nil
	}
	b := a.begin(w)
	if w.fresh {
		b = append(b, `,"initial":true`...)
	}
	if b, err = a.appendName(ctx, b, w, changed); err != nil {
		return err
	}
	if dm || (w.old != nil && w.old.dm != dm) {
		b = append(b, `,"is_dm":`...)
		b = appendBool(b, dm)
	}
	if b, err = a.appendSlideState(ctx, b, w, changed); err != nil {
		return err
	}
	if b, err = a.appendSlideTimeline(ctx, b, w); err != nil {
		return err
	}
	if w.fresh || changed.members {
		sum, err := w.ra.summary(ctx, w.plan)
		if err != nil {
			return err
		}
		b = appendInt(b, `,"joined_count":`, sum.joined)
		b = appendInt(b, `,"invited_count":`, sum.invited)
	}
	if a.ask.shape == unstableShape {
		threads, err := w.ra.unread(ctx, w.plan)
		if err != nil {
			return err
		}
		total := unread{}
		for _, n := range threads {
			total.notify += n.notify
			total.highlight += n.highlight
		}
		b = appendInt(b, `,"notification_count":`, total.notify)
		b = appendInt(b, `,"highlight_count":`, total.highlight)
	}
	w.body = append(b, '}')
	return nil
}

// begin writes what every room has.
func (a *slideAnswer) begin(w *slideWork) []byte {
	b := make([]byte, 0, 1024)
	b = append(b, `{"bump_stamp":`...)
	b = appendNumber(b, int64(w.bump()))
	if a.ask.shape == mergedShape {
		b = append(append(append(b, `,"membership":"`...), w.stay.membership...), '"')
		if len(w.want.lists) > 0 {
			b = append(b, `,"lists":[`...)
			for i, name := range w.want.lists {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendText(b, name)
			}
			b = append(b, ']')
		}
	}
	return b
}

// held is how many of the newest events the client holds after this answer, at least. A timeline that was cut short, by a
// gap or by what the user may see, is all that can be had: it counts as what was asked for.
func (w *slideWork) held() int {
	switch n := len(w.timeline.entries); {
	case w.fresh || w.expanded:
		if !w.timeline.limited {
			return wholeTimeline
		}
		return max(n, w.want.limit)
	case w.timeline.limited:
		return max(n, w.want.limit)
	default:
		known := w.old
		if w.known != nil {
			known = w.known
		}
		return min(known.held+n, wholeTimeline)
	}
}

// slideTimeline reads what is to be shown: the news, or the newest events where the client knows too few of them.
func (a *slideAnswer) slideTimeline(ctx context.Context, w *slideWork) (err error) {
	w.expanded = !w.fresh && w.want.limit > w.old.held
	if !w.fresh && !w.expanded {
		if w.timeline, err = w.ra.timeline(ctx, w.plan, w.since, a.to); err != nil {
			return err
		}
		return nil
	}
	if w.timeline = w.latestAtHand(ctx, a.to); w.timeline == nil {
		w.timeline, err = w.ra.timeline(ctx, w.plan, 0, a.to)
	}
	if err == nil && w.expanded {
		// Where nothing older came to light, it is news like any other.
		w.expanded = slices.ContainsFunc(w.timeline.entries, func(x *entry) bool { return x.position <= w.since })
		if !w.expanded {
			all := *w.old
			all.held = w.want.limit
			if !w.timeline.limited {
				all.held = wholeTimeline
			}
			w.known = &all
			w.timeline, err = w.ra.timeline(ctx, w.plan, w.since, a.to)
		}
	}
	return err
}

// latestAtHand takes the newest events from the ring, where it holds more than enough; nil where it does not.
func (w *slideWork) latestAtHand(ctx context.Context, to storage.Position) *timeline {
	limit := w.want.limit
	if !w.plan.live {
		return nil
	}
	entries := within(w.plan.events, 0, to, entryPosition)
	if len(entries) <= limit {
		return nil
	}
	t := &timeline{}
	for i := len(entries) - 1; i >= 0 && len(t.entries) <= limit; i-- {
		x := entries[i]
		if !w.plan.stay.seesAll(x.position) || x.afterGap() {
			return nil
		}
		if w.ra.lets(x.row()) {
			t.entries = append(t.entries, x)
		}
	}
	if len(t.entries) <= limit {
		return nil
	}
	slices.Reverse(t.entries)
	t.prev = to.End()
	t.cut(limit, to)
	return t
}

// ownReceiptMoved tells whether the user has read on, and with it the counts changed.
func (a *slideAnswer) ownReceiptMoved(ctx context.Context, w *slideWork) (bool, error) {
	receipts, err := w.ra.receipts(ctx, w.plan, w.since)
	return slices.ContainsFunc(receipts, func(r *storage.Receipt) bool { return r.UserID == a.u.id }), err
}

// appendSlideTimeline writes the timeline and what belongs to it.
func (a *slideAnswer) appendSlideTimeline(ctx context.Context, b []byte, w *slideWork) ([]byte, error) {
	t := w.timeline
	if !w.fresh && len(t.entries) == 0 && !t.limited {
		return b, nil
	}
	b = append(b, `,"timeline":[`...)
	b, err := w.ra.appendShown(ctx, b, t.entries, w.stay)
	if err != nil {
		return nil, err
	}
	b = append(b, ']')
	live := 0
	if a.q.since != nil {
		for _, x := range t.entries {
			if x.position > a.since {
				live++
			}
		}
	}
	b = appendInt(b, `,"num_live":`, live)
	if t.limited || (w.expanded && a.ask.shape == unstableShape) {
		// matrix-js-sdk 43 looks for what it has already only where limited says so.
		b = append(b, `,"limited":true`...)
	} else if a.ask.shape == unstableShape {
		b = append(b, `,"limited":false`...)
	}
	if w.fresh || w.expanded || t.limited {
		b = appendText(append(b, `,"prev_batch":`...), t.prev.String())
	}
	if w.expanded {
		if a.ask.shape == unstableShape {
			b = append(b, `,"unstable_expanded_timeline":true`...)
		} else {
			b = append(b, `,"expanded_timeline":true`...)
		}
	}
	return b, nil
}

// offeredRoom tells of a room to which the user is invited, or on which they knocked.
func (a *slideAnswer) offeredRoom(ctx context.Context, w *slideWork) error {
	list, err := w.ra.offer(ctx, w.plan)
	if err != nil {
		return err
	}
	w.fresh, w.timeline = true, &timeline{}
	dm := a.notes.direct[w.id]
	w.next = &slideRoom{upTo: a.to, state: w.want.state, membership: w.stay.membership, dm: dm}
	b := append(a.begin(w), `,"initial":true`...)
	if dm {
		b = append(b, `,"is_dm":true`...)
	}
	if a.ask.shape == unstableShape {
		b = append(b, `,"invite_state":[`...)
	} else {
		b = append(b, `,"stripped_state":[`...)
	}
	w.body = append(appendRaw(b, list), `]}`...)
	return nil
}

// goneRoom tells once of a room that the user has left, or out of which they were thrown: up to then, and no further.
func (a *slideAnswer) goneRoom(ctx context.Context, w *slideWork) error {
	w.timeline = &timeline{}
	w.next = &slideRoom{upTo: a.to, state: w.want.state, membership: w.stay.membership, held: wholeTimeline}
	found, err := a.s.byNumbers(ctx, []int64{w.stay.event})
	if err != nil {
		return err
	}
	leave := found[w.stay.event]
	if leave == nil {
		w.body = append(a.begin(w), `,"required_state":[],"timeline":[]}`...)
		return nil
	}
	row := leave.row()
	before, err := w.ra.membershipBefore(ctx, row)
	if err != nil {
		return err
	}
	w.fresh = w.old == nil || was(w.old.membership)
	changed := &slideState{numbers: map[pdu.Key]int64{}}
	if before == string(event.MembershipJoin) {
		left := w.stay.position
		if row.Position != 0 {
			left = row.Position
		}
		if err := a.stateUntil(ctx, w, changed, leave, left); err != nil {
			return err
		}
		from := w.since
		if w.fresh {
			from = 0
		}
		if w.timeline, err = w.ra.timeline(ctx, w.plan, from, left); err != nil {
			return err
		}
	}
	w.timeline.mustHold(leave, w.ra.q.filter)
	changed.numbers[pdu.Key{Type: memberType, StateKey: string(a.u.id)}] = leave.number
	b := a.begin(w)
	if w.fresh {
		b = append(b, `,"initial":true`...)
		if w.facts != nil && before == string(event.MembershipJoin) {
			b = w.facts.append(b)
		}
	}
	if b, err = a.appendSlideState(ctx, b, w, changed); err != nil {
		return err
	}
	if b, err = a.appendSlideTimeline(ctx, b, w); err != nil {
		return err
	}
	w.body = append(b, '}')
	return nil
}

// appendName writes what of the room's name, picture and heroes is to be told.
func (a *slideAnswer) appendName(ctx context.Context, b []byte, w *slideWork, changed *slideState) ([]byte, error) {
	f := w.facts
	if w.fresh {
		b = f.append(b)
	} else {
		if _, ok := changed.all[pdu.Key{Type: "m.room.name"}]; ok {
			b = appendOrNull(append(b, `,"name":`...), f.name)
		}
		if _, ok := changed.all[pdu.Key{Type: "m.room.avatar"}]; ok {
			b = appendOrNull(append(b, `,"avatar":`...), f.avatar)
		}
	}
	_, renamed := changed.all[pdu.Key{Type: "m.room.name"}]
	if f.name != "" || !(w.fresh || renamed || changed.members) {
		return b, nil
	}
	return a.appendHeroes(ctx, b, w)
}

// append writes the name and the picture, where there are any.
func (f *facts) append(b []byte) []byte {
	if f.name != "" {
		b = appendText(append(b, `,"name":`...), f.name)
	}
	if f.avatar != "" {
		b = appendText(append(b, `,"avatar":`...), f.avatar)
	}
	return b
}

// hero is a member by whom a room without a name may be called.
type hero struct {
	UserID      id.UserID `json:"user_id"`
	DisplayName string    `json:"displayname,omitempty"`
	AvatarURL   string    `json:"avatar_url,omitempty"`
}

func (a *slideAnswer) appendHeroes(ctx context.Context, b []byte, w *slideWork) ([]byte, error) {
	users := w.ra.heroes(ctx, w.plan)
	at, err := w.ra.current(ctx, w.plan)
	if err != nil {
		return nil, err
	}
	asked := make([]storage.Lookup, len(users))
	for i, user := range users {
		asked[i] = storage.Lookup{At: at, Key: pdu.Key{Type: memberType, StateKey: string(user)}}
	}
	numbers, err := a.s.store.State.Lookups(ctx, asked)
	if err != nil {
		return nil, err
	}
	found, err := a.s.byNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	heroes := make([]hero, len(users))
	for i, user := range users {
		heroes[i].UserID = user
		if x := found[numbers[i]]; x != nil {
			content := gjson.GetBytes(x.row().JSON, "content")
			heroes[i].DisplayName, heroes[i].AvatarURL = content.Get("displayname").Str, content.Get("avatar_url").Str
		}
	}
	raw, err := json.Marshal(heroes)
	return append(append(b, `,"heroes":`...), raw...), err
}

// appendOrNull writes a text, or null where there is none.
func appendOrNull(b []byte, text string) []byte {
	if text == "" {
		return append(b, `null`...)
	}
	return appendText(b, text)
}

func appendBool(b []byte, yes bool) []byte {
	if yes {
		return append(b, `true`...)
	}
	return append(b, `false`...)
}
