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

// count is what a user has not read in a room. Guarded by Syncing.mu; its maps are replaced, never changed.
type count struct {
	ready bool
	// upTo is the position up to which it was counted.
	upTo    storage.Position
	threads map[string]unread
	// read is up to where the user has read, by thread; "" is for all threads.
	read map[string]storage.Place
	// stale are the threads that must be counted again, since a receipt moved; "" stands for all.
	stale map[string]bool
	// version rises with each reason to count again: what was counted meanwhile does not hold.
	version int
}

// again notes that the thread must be counted again. mu is held.
func (c *count) again(thread string) {
	stale := maps.Clone(c.stale)
	if stale == nil {
		stale = map[string]bool{}
	}
	stale[thread] = true
	c.stale, c.version = stale, c.version+1
}

// takeReceipt notes how far the user has read. mu is held.
func (c *count) takeReceipt(r *storage.Receipt) {
	if r.Place == 0 || r.Place <= c.read[r.Thread] {
		return
	}
	c.read = raised(c.read, r.Thread, r.Place)
	c.again(r.Thread)
}

// raised gives the places with one of them raised.
func raised(read map[string]storage.Place, thread string, to storage.Place) map[string]storage.Place {
	read = maps.Clone(read)
	if read == nil {
		read = map[string]storage.Place{}
	}
	read[thread] = max(read[thread], to)
	return read
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

// unread gives what the user has not read in the room, by thread: what was counted before and what came since, with the
// threads counted again whose receipts moved.
func (a *answer) unread(ctx context.Context, p *roomPlan) (map[string]unread, error) {
	a.s.mu.Lock()
	known := *a.u.count(p.id)
	a.s.mu.Unlock()
	c := known
	if c.ready && c.stale == nil && c.upTo >= a.to {
		return c.threads, nil
	}
	j, err := a.judge(ctx, p)
	if err != nil {
		return nil, err
	}
	var rest *walk
	switch {
	case c.ready && !c.stale[""] && (c.upTo == a.to || c.upTo < a.to && p.live && p.eventsFrom <= c.upTo):
		err = j.goOn(ctx, &c, within(p.events, c.upTo, a.to, entryPosition))
	default:
		c.upTo = a.to
		if err = a.readSoFar(ctx, p, &c); err == nil {
			c.threads, c.stale = nil, map[string]bool{"": true}
		}
	}
	if err == nil && c.stale != nil {
		rest, err = a.countAgain(ctx, p, j, &c)
	}
	if err != nil {
		return nil, err
	}
	c.ready, c.stale, c.upTo = true, nil, a.to
	a.s.mu.Lock()
	now := a.u.count(p.id)
	if now.version == known.version && now.upTo == known.upTo {
		*now = c
	}
	a.s.mu.Unlock()
	if rest != nil {
		a.s.countLater(&later{user: a.u, room: p.id, version: c.version, walk: rest})
	}
	return c.threads, nil
}

// goOn adds what came after what was counted.
func (j *judge) goOn(ctx context.Context, c *count, news []*entry) error {
	c.threads = maps.Clone(c.threads)
	if c.threads == nil {
		c.threads = map[string]unread{}
	}
	for _, x := range news {
		e, err := x.now(ctx, j.s)
		if err != nil {
			return err
		}
		if e.Sender == j.person.ID { // who speaks has read
			thread := threadOf(e)
			delete(c.threads, thread)
			c.read = raised(c.read, thread, e.Place)
			c.version++
			continue
		}
		if err := j.add(ctx, c.threads, x, e); err != nil {
			return err
		}
	}
	return nil
}

// readSoFar reads from the tables up to where the user has read: by receipts, and by coming in.
func (a *answer) readSoFar(ctx context.Context, p *roomPlan, c *count) error {
	receipts, err := a.ownReceipts(ctx, p)
	if err != nil {
		return err
	}
	read := maps.Clone(c.read)
	if read == nil {
		read = map[string]storage.Place{}
	}
	for _, r := range receipts {
		read[r.Thread] = max(read[r.Thread], r.Place)
	}
	found, err := a.s.byNumbers(ctx, []int64{p.stay.event})
	if err != nil {
		return err
	}
	if own := found[p.stay.event]; own != nil {
		read[""] = max(read[""], own.row().Place)
	}
	c.read = read
	return nil
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

// add counts another's event that the user has not read.
func (j *judge) add(ctx context.Context, threads map[string]unread, x *entry, e *storage.Event) error {
	thread := threadOf(e)
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
	class := j.set.Class()
	x.mu.Lock()
	known := x.verdicts[class]
	asked := x.asked(e).Anew(j.members, func() bool { return j.power(ctx, e.Sender) })
	x.mu.Unlock()
	personal := asked.Concerns(j.person)
	if known != nil && !personal {
		return *known
	}
	v := j.set.Judge(asked, j.person)
	if !personal {
		x.mu.Lock()
		if x.verdicts == nil {
			x.verdicts = map[string]*rules.Verdict{}
		}
		x.verdicts[class] = &v
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
	set = rules.Unchanged(u.id)
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
		c.again("")
	}
}
