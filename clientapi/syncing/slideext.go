package syncing

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/view"
	"chancery/storage"
)

// appendExtensions writes what is asked for beside rooms; news: there was something in it.
func (a *slideAnswer) appendExtensions(ctx context.Context, b []byte) (out []byte, news bool, err error) {
	x := &a.ask.ext
	first := true
	for _, e := range []struct {
		asked *slideExtension
		name  string
		write func(context.Context, []byte, *slideExtension) ([]byte, bool, error)
	}{
		{x.e2ee, "e2ee", a.appendE2EE},
		{x.toDevice, "to_device", a.appendToDevice},
		{x.accountData, "account_data", a.appendSlideAccountData},
		{x.receipts, "receipts", a.appendReceipts},
		{x.typing, "typing", a.appendTyping},
		{x.threads, x.threadsName, a.appendThreads},
		{x.sticky, x.stickyName, a.appendSticky},
	} {
		if e.asked == nil {
			continue
		}
		start := len(b)
		if !first {
			b = append(b, ',')
		}
		b = append(appendText(b, e.name), ':')
		body := len(b)
		var some bool
		if b, some, err = e.write(ctx, b, e.asked); err != nil {
			return nil, false, err
		}
		news = news || some
		if len(b) == body { // nothing to say
			b = b[:start]
			continue
		}
		first = false
	}
	return b, news, nil
}

// appendE2EE writes whose devices changed, and which keys the device has left: always all of it.
// Spec: MSC3884
func (a *slideAnswer) appendE2EE(ctx context.Context, b []byte, _ *slideExtension) ([]byte, bool, error) {
	if err := a.deviceLists(ctx); err != nil {
		return nil, false, err
	}
	if a.q.since == nil {
		a.changed, a.left = nil, nil
	}
	b = appendUsers(append(b, `{"device_lists":{"changed":`...), a.changed)
	b = append(appendUsers(append(b, `,"left":`...), a.left), '}')
	keys, err := a.s.keyCounts(ctx, a.q.by)
	if err != nil {
		return nil, false, err
	}
	return append(append(b, keys...), '}'), len(a.changed)+len(a.left) > 0, nil
}

func appendUsers(b []byte, users []id.UserID) []byte {
	b = append(b, '[')
	for i, user := range users {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, string(user))
	}
	return append(b, ']')
}

// slideToken is where an extension with a token of its own goes on: it outlives connections, but not the database.
func (s *Syncing) slideToken(at storage.Position) string {
	return s.store.Incarnation() + "_" + strconv.FormatInt(int64(at), 10)
}

// slideSince reads such a token; what is not one, or another database's, stands for the beginning.
func (s *Syncing) slideSince(text string) storage.Position {
	incarnation, number, _ := strings.Cut(text, "_")
	at, err := strconv.ParseInt(number, 10, 64)
	if incarnation != s.store.Incarnation() || err != nil || at < 0 {
		return 0
	}
	return storage.Position(at)
}

// acknowledgeSlide deletes the to-device messages that the client has got: it came back with their token.
func (s *Syncing) acknowledgeSlide(ctx context.Context, u *user, ask *slideAsk) error {
	if ask.ext.toDevice == nil || ask.ext.toDevice.Since == "" {
		return nil
	}
	return s.acknowledge(ctx, u, &question{by: ask.by, since: &storage.Token{ToDevice: min(s.slideSince(ask.ext.toDevice.Since), s.store.Head())}})
}

// appendToDevice writes the device's next messages, and always the token to come back with.
// Spec: MSC3885
func (a *slideAnswer) appendToDevice(ctx context.Context, b []byte, asked *slideExtension) ([]byte, bool, error) {
	since := a.s.slideSince(asked.Since)
	ta := &answer{s: a.s, u: a.u, to: a.to, toDevice: a.toDevice, q: &question{by: a.q.by, since: &storage.Token{ToDevice: since}}}
	messages, next, err := ta.messages(ctx)
	if err != nil {
		return nil, false, err
	}
	if n := asked.limit(maxToDevice); len(messages) > n {
		messages = messages[:n]
		next = messages[n-1].Position
	}
	b = appendText(append(b, `{"next_batch":`...), a.s.slideToken(next))
	b = append(b, `,"events":[`...)
	for i, m := range messages {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, m.JSON...)
	}
	return append(b, `]}`...), len(messages) > 0, nil
}

// anew tells whether the connection did not have the extension before.
func (a *slideAnswer) anew(had func(*slideExtensions) bool) bool {
	return a.x.base == nil || (a.x.base.ext != nil && !had(a.x.base.ext))
}

// appendSlideAccountData writes the user's notes: the global ones, and those of rooms that the client knows.
// Spec: MSC3959
func (a *slideAnswer) appendSlideAccountData(ctx context.Context, b []byte, asked *slideExtension) ([]byte, bool, error) {
	anew := a.anew(func(x *slideExtensions) bool { return x.accountData != nil })
	noted := &answer{s: a.s, u: a.u, q: &question{by: a.q.by, filter: a.q.filter, since: a.q.since}, since: a.since, to: a.to, covered: a.covered, account: a.account}
	if anew {
		noted.q.since, noted.since, noted.covered = nil, 0, false
	}
	if err := noted.roomAccountData(ctx); err != nil {
		return nil, false, err
	}
	global, err := noted.globalAccountData(ctx)
	if err != nil {
		return nil, false, err
	}
	rooms, err := a.roomNotes(ctx, asked, noted, anew)
	if err != nil || len(global)+len(rooms) == 0 {
		return b, false, err
	}
	b = append(append(append(b, `{"global":[`...), global...), `],"rooms":{`...)
	return append(append(b, rooms...), `}}`...), true, nil
}

// roomNotes writes the rooms' own account data: all of it for rooms that are new to the client, of others what changed.
func (a *slideAnswer) roomNotes(ctx context.Context, asked *slideExtension, noted *answer, anew bool) ([]byte, error) {
	from := map[id.RoomID]storage.Position{} // where it is not the connection's
	whole := anew
	for _, w := range a.works {
		switch {
		case w.fresh && w.joined():
			from[w.id], whole = 0, true
		case w.since < a.since:
			from[w.id], whole = w.since, true
		}
	}
	all := noted.account
	if whole && !anew {
		var err error
		if all, err = a.s.store.AccountData.Between(ctx, a.u.id, 0, a.to); err != nil {
			return nil, err
		}
	}
	byRoom := map[id.RoomID][]*storage.AccountData{}
	for _, d := range all {
		want := a.wants[d.RoomID]
		if d.RoomID == "" || want == nil || !asked.covers(want, d.RoomID) {
			continue
		}
		since, own := from[d.RoomID]
		switch {
		case anew:
			since = 0
		case !own:
			since = a.since
		}
		if d.Position > since && !(d.Deleted && since == 0) {
			byRoom[d.RoomID] = append(byRoom[d.RoomID], d)
		}
	}
	var b []byte
	for room, list := range byRoom {
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, string(room)), `:[`...)
		for i, d := range list {
			b = appendNote(b, i, d.Type, d.Content)
		}
		b = append(b, ']')
	}
	return b, nil
}

// appendReceipts writes who has read how far: in a room that is new to the client, at the events that it is shown, and the
// user's own; in others what changed.
// Spec: MSC3960
func (a *slideAnswer) appendReceipts(ctx context.Context, b []byte, asked *slideExtension) ([]byte, bool, error) {
	n := 0
	for _, w := range a.works {
		if !w.joined() || a.wants[w.id] == nil || !asked.covers(w.want, w.id) {
			continue
		}
		receipts, err := a.receiptsIn(ctx, w)
		if err != nil {
			return nil, false, err
		}
		if len(receipts) == 0 {
			continue
		}
		content, err := receiptContent(receipts)
		if err != nil {
			return nil, false, err
		}
		if n++; n == 1 {
			b = append(b, `{"rooms":{`...)
		} else {
			b = append(b, ',')
		}
		b = append(appendText(b, string(w.id)), `:{"type":"m.receipt","content":`...)
		b = append(append(b, content...), '}')
	}
	if n > 0 {
		b = append(b, `}}`...)
	}
	return b, n > 0, nil
}

func (a *slideAnswer) receiptsIn(ctx context.Context, w *slideWork) ([]*storage.Receipt, error) {
	since := w.since
	if w.fresh || w.expanded {
		since = 0
	}
	receipts, err := w.ra.receipts(ctx, w.plan, since)
	if err != nil || since > 0 {
		return receipts, err
	}
	shown := map[id.EventID]bool{}
	for _, x := range w.timeline.entries {
		shown[x.id] = true
	}
	return slices.DeleteFunc(slices.Clone(receipts), func(r *storage.Receipt) bool {
		return r.UserID != a.u.id && !shown[r.EventID] && !(w.expanded && r.Position > w.since)
	}), nil
}

// appendTyping writes who types.
// Spec: MSC3961
func (a *slideAnswer) appendTyping(_ context.Context, b []byte, asked *slideExtension) ([]byte, bool, error) {
	typing := map[id.RoomID][]id.UserID{}
	for _, p := range a.rooms {
		if p.typed && p.stay.membership == event.MembershipJoin {
			typing[p.id] = p.typing
		}
	}
	a.s.mu.RLock()
	for _, w := range a.works {
		if w.fresh && w.joined() && a.s.typing[w.id].busy() {
			typing[w.id] = a.s.typing[w.id].list()
		}
	}
	a.s.mu.RUnlock()
	n := 0
	for room, users := range typing {
		want := a.wants[room]
		if want == nil || !asked.covers(want, room) {
			continue
		}
		if n++; n == 1 {
			b = append(b, `{"rooms":{`...)
		} else {
			b = append(b, ',')
		}
		users = slices.DeleteFunc(slices.Clone(users), func(user id.UserID) bool { return a.ignored[user] })
		b = append(appendText(b, string(room)), `:{"type":"m.typing","content":{"user_ids":`...)
		b = append(appendUsers(b, users), `}}`...)
	}
	if n > 0 {
		b = append(b, `}}`...)
	}
	return b, n > 0, nil
}

// maxThreadChanges bounds the subscriptions of one answer.
const maxThreadChanges = 100

type threadChange struct {
	Automatic *bool            `json:"automatic,omitempty"`
	BumpStamp storage.Position `json:"bump_stamp"`
}

type threadChanges map[id.RoomID]map[id.EventID]threadChange

func (c *threadChanges) add(t *storage.ThreadSubscription) {
	if *c == nil {
		*c = threadChanges{}
	}
	if (*c)[t.RoomID] == nil {
		(*c)[t.RoomID] = map[id.EventID]threadChange{}
	}
	change := threadChange{BumpStamp: t.Position}
	if t.Subscribed {
		change.Automatic = &t.Automatic
	}
	(*c)[t.RoomID][t.Root] = change
}

// appendThreads writes which threads the user follows, or no longer.
// Spec: MSC4308
func (a *slideAnswer) appendThreads(ctx context.Context, b []byte, asked *slideExtension) ([]byte, bool, error) {
	since := a.since
	if a.anew(func(x *slideExtensions) bool { return x.threads != nil }) {
		since = 0
	}
	a.s.mu.RLock()
	nothing := since >= a.u.from && a.u.threadsAt <= since
	a.s.mu.RUnlock()
	if nothing {
		return b, false, nil
	}
	limit := asked.limit(maxThreadChanges)
	list, err := a.s.store.ThreadSubscriptions.Between(ctx, a.u.id, since, a.to, limit+1)
	if err != nil || len(list) == 0 {
		return b, false, err
	}
	var told struct {
		Subscribed   threadChanges `json:"subscribed,omitempty"`
		Unsubscribed threadChanges `json:"unsubscribed,omitempty"`
		PrevBatch    string        `json:"prev_batch,omitempty"`
	}
	if len(list) > limit {
		told.PrevBatch = storage.ThreadToken(list[limit].Position)
		list = list[:limit]
	}
	for _, t := range list {
		if t.Subscribed {
			told.Subscribed.add(t)
		} else {
			told.Unsubscribed.add(t)
		}
	}
	raw, err := json.Marshal(told)
	return append(b, raw...), true, err
}

// maxStickySent bounds the sticky events of one answer.
const maxStickySent = 100

// appendSticky writes events that are still sticky and that the timelines do not show, the oldest first.
// Spec: MSC4480
func (a *slideAnswer) appendSticky(ctx context.Context, b []byte, asked *slideExtension) ([]byte, bool, error) {
	since := min(a.s.slideSince(asked.Since), a.to)
	if asked.Since == "" && a.x.base != nil && a.x.base.unstuck {
		since = a.since // up to there, there was nothing
	}
	a.unstuck = asked.Since == ""
	events, err := a.stickyEvents(ctx, since, asked.limit(maxStickySent))
	if err != nil || events == nil {
		return b, false, err
	}
	next := a.to
	shown := map[id.EventID]bool{}
	for _, w := range a.works {
		for _, x := range w.timeline.entriesOf() {
			shown[x.id] = true
		}
	}
	if n := asked.limit(maxStickySent); len(events) > n {
		events = events[:n]
		next = max(since, events[n-1].Position)
	}
	events = slices.DeleteFunc(events, func(e *storage.Event) bool { return shown[e.ID] || a.ignored[e.Sender] })
	if len(events) == 0 && len(shown) == 0 {
		return b, false, nil
	}
	rendered, err := a.s.view.Render(ctx, view.Viewer{User: a.u.id, Device: a.q.by.Device}, form, events)
	if err != nil {
		return nil, false, err
	}
	byRoom := map[id.RoomID][]json.RawMessage{}
	for i, e := range events {
		byRoom[e.RoomID] = append(byRoom[e.RoomID], rendered[i])
	}
	a.unstuck = false
	b = appendText(append(b, `{"next_batch":`...), a.s.slideToken(next))
	b = append(b, `,"rooms":{`...)
	n := 0
	for room, list := range byRoom {
		if n++; n > 1 {
			b = append(b, ',')
		}
		b = appendRaw(append(appendText(b, string(room)), `:{"events":[`...), list)
		b = append(b, `]}`...)
	}
	return append(b, `}}`...), len(events) > 0, nil
}

func (t *timeline) entriesOf() []*entry {
	if t == nil {
		return nil
	}
	return t.entries
}

// stickyEvents gives the sticky events of the user's rooms that became news after since, and all of rooms that the user
// joined after it; one more than the limit tells that there are more.
func (a *slideAnswer) stickyEvents(ctx context.Context, since storage.Position, limit int) ([]*storage.Event, error) {
	var touched, joined []id.RoomID
	a.s.mu.RLock()
	for room, st := range a.u.stays {
		switch {
		case st.membership != event.MembershipJoin || !a.matched(room):
		case st.exact && st.since > since && st.since <= a.to:
			joined = append(joined, room)
		case a.u.touched[room] > since || since < a.u.from:
			if r := a.s.rooms[room]; r == nil || r.eventsFrom > since || slices.ContainsFunc(within(r.events, since, a.to, entryPosition), (*entry).sticky) {
				touched = append(touched, room)
			}
		}
	}
	a.s.mu.RUnlock()
	if len(touched)+len(joined) == 0 {
		return nil, nil
	}
	now := a.s.now().UnixMilli()
	var events []*storage.Event
	for _, part := range []struct {
		rooms []id.RoomID
		from  storage.Position
	}{{touched, since}, {joined, 0}} {
		rooms, err := a.s.store.Events.StickyRooms(ctx, part.rooms, part.from, a.to, now)
		if err != nil {
			return nil, err
		}
		for _, room := range rooms {
			list, err := a.s.store.Events.Sticky(ctx, room, part.from, a.to, now, limit+1)
			if err != nil {
				return nil, err
			}
			events = append(events, list...)
		}
	}
	slices.SortFunc(events, func(x, y *storage.Event) int { return int(max(-1, min(1, x.Position-y.Position))) })
	return events, nil
}

// sticky tells whether the event was sticky when it came.
func (x *entry) sticky() bool { return x.row().StickyUntil > 0 }

// matched tells whether the client is interested in the room, whether or not it stands in a window now.
func (a *slideAnswer) matched(room id.RoomID) bool {
	return len(a.ask.lists) > 0 || a.ask.rooms[room] != nil
}
