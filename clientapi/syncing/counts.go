package syncing

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/storage"
)

// mainThread is the thread of what belongs to none.
const mainThread = "main"

// maxUnread bounds how far back unread events are counted where nothing of the count is at hand.
const maxUnread = 1000

// count is what a user has not read in a room. Guarded by Syncing.mu; what threads holds is replaced, never changed.
type count struct {
	ready    bool
	outdated bool // a receipt or the rules changed: count anew
	upTo     storage.Position
	threads  map[string]unread
}

type unread struct{ notify, highlight int }

// threadOf gives the thread to which an event belongs.
func threadOf(e *storage.Event) string {
	if e.RelType == "m.thread" && e.RelatesTo != "" {
		return string(e.RelatesTo)
	}
	return mainThread
}

// appendCounts writes ,"unread_notifications":{...} and, where asked for, the threads' own.
// Spec: client-server-api/#receiving-notifications
func (a *answer) appendCounts(ctx context.Context, b []byte, p *roomPlan) ([]byte, error) {
	threads, err := a.unread(ctx, p)
	if err != nil {
		return nil, err
	}
	total := threads[mainThread]
	apart := a.q.filter.Room.Timeline.UnreadThreadNotifications
	if !apart {
		total = unread{}
		for _, n := range threads {
			total.notify += n.notify
			total.highlight += n.highlight
		}
	}
	b = append(b, `,"unread_notifications":`...)
	b = appendUnread(b, total)
	if !apart || len(threads) == 0 || len(threads) == 1 && threads[mainThread] != (unread{}) {
		return b, nil
	}
	b = append(b, `,"unread_thread_notifications":{`...)
	first := true
	for _, root := range slices.Sorted(maps.Keys(threads)) {
		if root == mainThread {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendText(b, root), ':')
		b = appendUnread(b, threads[root])
	}
	return append(b, '}'), nil
}

func appendUnread(b []byte, n unread) []byte {
	b = appendInt(b, `{"highlight_count":`, n.highlight)
	b = appendInt(b, `,"notification_count":`, n.notify)
	return append(b, '}')
}

// unread gives what the user has not read in the room, by thread: what was counted before and what came since, or all of it anew.
func (a *answer) unread(ctx context.Context, p *roomPlan) (map[string]unread, error) {
	a.s.mu.Lock()
	c := *a.u.count(p.id)
	a.s.mu.Unlock()
	j, err := a.judge(ctx, p)
	if err != nil {
		return nil, err
	}
	threads := c.threads
	switch {
	case c.ready && !c.outdated && c.upTo >= a.to:
		return threads, nil
	case c.ready && !c.outdated && p.live && p.eventsFrom <= c.upTo:
		threads = maps.Clone(threads)
		for _, x := range within(p.events, c.upTo, a.to, entryPosition) {
			if err := j.add(ctx, threads, x); err != nil {
				return nil, err
			}
		}
	default:
		if threads, err = a.countAnew(ctx, p, j); err != nil {
			return nil, err
		}
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	// A receipt that came meanwhile has outdated it again; that one wins.
	if now := a.u.count(p.id); now.upTo == c.upTo && (!now.outdated || c.outdated) {
		*now = count{ready: true, upTo: a.to, threads: threads, outdated: a.newerReceipt(p)}
	}
	return threads, nil
}

// newerReceipt tells whether the user's own receipt has moved beyond this answer. mu is held.
func (a *answer) newerReceipt(p *roomPlan) bool {
	r := a.s.rooms[p.id]
	if r == nil {
		return false
	}
	for _, receipt := range within(r.receipts, a.to, 1<<62, receiptPosition) {
		if receipt.UserID == a.u.id {
			return true
		}
	}
	return false
}

// countAnew walks back from the newest event to what the user has read.
func (a *answer) countAnew(ctx context.Context, p *roomPlan, j *judge) (map[string]unread, error) {
	receipts, err := a.s.store.Receipts.Of(ctx, p.id, a.u.id)
	if err != nil {
		return nil, err
	}
	read := map[string]storage.Place{} // by thread; "" for all of them
	for _, r := range receipts {
		read[r.Thread] = max(read[r.Thread], r.Place)
	}
	found, err := a.s.byNumbers(ctx, []int64{p.stay.event})
	if err != nil {
		return nil, err
	}
	if own := found[p.stay.event]; own != nil {
		read[""] = max(read[""], own.row().Place)
	}
	threads := map[string]unread{}
	page := a.to.End()
	for seen := 0; seen < maxUnread; {
		events, err := a.s.store.Events.Backwards(ctx, p.id, page, 100)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if e.Place <= read[""] {
				return threads, nil
			}
			page = e.PageOf()
			thread := threadOf(e)
			if e.Position == 0 || e.Place <= read[thread] {
				continue
			}
			if e.Sender == a.u.id {
				read[thread] = e.Place // who speaks has read
				continue
			}
			if err := j.add(ctx, threads, a.s.rendered.hold(e)); err != nil {
				return nil, err
			}
		}
		seen += len(events)
		if len(events) < 100 {
			break
		}
	}
	return threads, nil
}

// judge judges a room's events for one user.
type judge struct {
	s      *Syncing
	room   id.RoomID
	set    *rules.Set
	person rules.Person
	// members and power are asked of the room as it is now.
	members func() int
	power   func(ctx context.Context, sender id.UserID) bool
	ignored map[id.UserID]bool
}

func (a *answer) judge(ctx context.Context, p *roomPlan) (*judge, error) {
	set, err := a.s.rulesOf(ctx, a.u)
	if err != nil {
		return nil, err
	}
	threads, err := a.s.threadsOf(ctx, a.u)
	if err != nil {
		return nil, err
	}
	j := &judge{s: a.s, room: p.id, set: set, person: rules.Person{ID: a.u.id, Subscribed: threads.In(p.id)}, ignored: a.ignored}
	found, err := a.s.byNumbers(ctx, []int64{p.stay.event})
	if err != nil {
		return nil, err
	}
	if own := found[p.stay.event]; own != nil {
		j.person.DisplayName = gjson.GetBytes(own.row().JSON, "content.displayname").Str
	}
	j.members = func() int {
		sum, err := a.summary(ctx, p)
		if err != nil {
			return 0
		}
		return sum.joined
	}
	j.power = func(ctx context.Context, sender id.UserID) bool { return a.s.view.MayNotifyRoom(ctx, p.id, sender) }
	return j, nil
}

// add counts one event that came after what was counted.
func (j *judge) add(ctx context.Context, threads map[string]unread, x *entry) error {
	e := x.row()
	thread := threadOf(e)
	if e.Sender == j.person.ID {
		delete(threads, thread) // who speaks has read
		return nil
	}
	if e.RedactedBy != "" || j.ignored[e.Sender] {
		return nil
	}
	v := j.verdict(ctx, x, e)
	n := threads[thread]
	if v.Notify {
		n.notify++
	}
	if v.Notify && v.Highlight {
		n.highlight++
	}
	if n != (unread{}) {
		threads[thread] = n
	}
	return nil
}

// verdict judges an event once for all whose rules are alike, unless it concerns the person.
func (j *judge) verdict(ctx context.Context, x *entry, e *storage.Event) rules.Verdict {
	asked := &rules.Event{
		Type: e.Type, Sender: e.Sender, RoomID: e.RoomID, EventID: e.ID, StateKey: e.StateKey, JSON: e.JSON,
		Members: j.members, SenderMayNotify: func() bool { return j.power(ctx, e.Sender) },
	}
	class := j.set.Class()
	x.mu.Lock()
	known, ok := x.verdicts[class]
	x.mu.Unlock()
	personal := asked.Concerns(j.person)
	if ok && !personal {
		return known
	}
	v := j.set.Judge(asked, j.person)
	if !personal {
		x.mu.Lock()
		if x.verdicts == nil {
			x.verdicts = map[string]rules.Verdict{}
		}
		x.verdicts[class] = v
		x.mu.Unlock()
	}
	return v
}

// rulesOf gives the user's push rules.
func (s *Syncing) rulesOf(ctx context.Context, u *user) (*rules.Set, error) {
	s.mu.RLock()
	set := u.rules
	s.mu.RUnlock()
	if set != nil {
		return set, nil
	}
	stored, err := s.store.AccountData.ByType(ctx, u.id, "", rules.Type)
	if err != nil {
		return nil, err
	}
	set = rules.Default(u.id)
	if stored != nil && !stored.Deleted {
		if own, err := rules.Parse(u.id, stored.Content); err == nil {
			set = own
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.rules == nil {
		u.rules = set
	}
	return u.rules, nil
}

// threadsOf gives the threads that the user follows.
func (s *Syncing) threadsOf(ctx context.Context, u *user) (storage.Followed, error) {
	s.mu.RLock()
	known := u.threads
	s.mu.RUnlock()
	if known != nil {
		return *known, nil
	}
	head := s.store.Head()
	threads, err := s.store.ThreadSubscriptions.Followed(ctx, u.id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// What came meanwhile may be missing here.
	if storage.Position(s.applied.Load()) <= head {
		u.threads = &threads
	}
	return threads, nil
}

// takeRules takes in rules that changed: what is counted is counted anew. mu is held.
func (u *user) takeRules(content json.RawMessage) {
	u.rules = nil
	if own, err := rules.Parse(u.id, content); err == nil {
		u.rules = own
	}
	for _, c := range u.counts {
		c.outdated = true
	}
}
