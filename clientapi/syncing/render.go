package syncing

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"sync"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/roomserver/view"
	"chancery/storage"
)

// entry is an event that is rendered once for all who see it.
type entry struct {
	id       id.EventID
	number   int64
	position storage.Position
	size     int // bytes that it holds, about

	mu       sync.Mutex
	event    *storage.Event
	outdated bool // its row changed: read it again
	done     bool
	// live: it came while the memory watched. related: others relate to it, and are bundled with it for each viewer.
	// gap: history was missing before it when it came.
	live, related, gap bool
	// open: everybody may see it who is joined now; openKnown: that is known.
	open, openKnown bool
	// first tells of a membership event whether the user was never in the room before; 0 is not known yet.
	first int8
	// head is the rendered object without unsigned and without its closing brace, extra what unsigned holds for everybody, but for age.
	head, extra []byte
	// verdicts of push rules by class, for those whom the event does not concern.
	verdicts map[string]*rules.Verdict
	// judged is what push rules ask of it, read once for all whom they are asked for.
	judged *rules.Event
}

func newEntry(e *storage.Event) *entry {
	return &entry{id: e.ID, number: e.Number, position: e.Position, event: e, size: 3*len(e.JSON) + 700}
}

func (x *entry) outdate() {
	x.mu.Lock()
	x.outdated = true
	x.mu.Unlock()
}

// enliven notes that it came while the memory watched, and whether history is missing before it.
func (x *entry) enliven(gap bool) {
	x.mu.Lock()
	x.live, x.gap = true, gap
	x.mu.Unlock()
}

func (x *entry) afterGap() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.gap
}

// relate notes that another event relates to it.
func (x *entry) relate() {
	x.mu.Lock()
	x.related = true
	x.mu.Unlock()
}

// shared tells whether it looks the same to all who may see it, but for their own membership and transaction.
func (x *entry) shared() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.live && !x.related
}

// row gives the event as stored.
func (x *entry) row() *storage.Event {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.event
}

// reread fetches the row again if it has changed. x.mu is held.
func (x *entry) reread(ctx context.Context, s *Syncing) error {
	if !x.outdated {
		return nil
	}
	e, err := s.store.Events.ByID(ctx, x.id)
	if err != nil {
		return err
	}
	if e != nil {
		x.event = e
	}
	x.outdated, x.done, x.verdicts, x.judged = false, false, nil, nil
	return nil
}

// asked gives what push rules ask of the event, which is e. x.mu is held.
func (x *entry) asked(e *storage.Event) *rules.Event {
	if x.judged == nil {
		x.judged = &rules.Event{Type: e.Type, Sender: e.Sender, RoomID: e.RoomID, EventID: e.ID, StateKey: e.StateKey, JSON: e.JSON}
		x.judged.Read()
	}
	return x.judged
}

// now gives the event as it is stored now.
func (x *entry) now(ctx context.Context, s *Syncing) (*storage.Event, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.reread(ctx, s)
	return x.event, err
}

// render makes sure that head and extra are there and up to date, and gives them.
func (x *entry) render(ctx context.Context, s *Syncing) (head, extra []byte, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done && !x.outdated {
		return x.head, x.extra, nil
	}
	if err := x.reread(ctx, s); err != nil {
		return nil, nil, err
	}
	raw, err := s.view.Render(ctx, view.Viewer{}, form, []*storage.Event{x.event})
	if err != nil {
		return nil, nil, err
	}
	x.head, x.extra = split(raw[0])
	x.done = true
	return x.head, x.extra, nil
}

// form is how events stand in a sync.
var form = view.Form{WithoutRoomID: true}

// renderAll renders what is not rendered yet, in one go.
func (s *Syncing) renderAll(ctx context.Context, entries []*entry) error {
	var undone []*entry
	var events []*storage.Event
	for _, x := range entries {
		x.mu.Lock()
		if !x.done && !x.outdated {
			undone, events = append(undone, x), append(events, x.event)
		}
		x.mu.Unlock()
	}
	if len(undone) < 2 {
		return nil // show does it
	}
	raw, err := s.view.Render(ctx, view.Viewer{}, form, events)
	if err != nil {
		return err
	}
	for i, x := range undone {
		head, extra := split(raw[i])
		x.mu.Lock()
		if !x.done && !x.outdated {
			x.head, x.extra, x.done = head, extra, true
		}
		x.mu.Unlock()
	}
	return nil
}

// split parts a rendered event from its unsigned.
func split(raw []byte) (head, extra []byte) {
	head = make([]byte, 0, len(raw))
	head = append(head, '{')
	gjson.ParseBytes(raw).ForEach(func(key, value gjson.Result) bool {
		if key.Str != "unsigned" {
			head = member(head, key.Raw, value.Raw)
			return true
		}
		value.ForEach(func(key, value gjson.Result) bool {
			if key.Str != "age" && key.Str != "membership" && key.Str != "transaction_id" && key.Str != view.StickyFor {
				extra = append(extra, ',')
				extra = append(append(append(extra, key.Raw...), ':'), value.Raw...)
			}
			return true
		})
		return true
	})
	return head, extra
}

// member adds "key":value to an object that is being written.
func member(object []byte, key, value string) []byte {
	if object[len(object)-1] != '{' {
		object = append(object, ',')
	}
	return append(append(append(object, key...), ':'), value...)
}

// look is how one viewer sees events.
type look struct {
	user   id.UserID
	device id.DeviceID
	filter *Filter
	now    int64 // ms since 1970
}

// render gives events as the viewer alone sees them, with what is bundled.
func (l *look) render(ctx context.Context, s *Syncing, events []*storage.Event) ([]json.RawMessage, error) {
	if len(events) == 0 {
		return nil, nil
	}
	if l.filter.EventFormat == "federation" {
		rendered := make([]json.RawMessage, len(events))
		for i, e := range events {
			var err error
			if rendered[i], err = s.view.Federation(ctx, e); err != nil {
				return nil, err
			}
		}
		return rendered, nil
	}
	rendered, err := s.view.Render(ctx, view.Viewer{User: l.user, Device: l.device}, form, events)
	for i := range rendered {
		rendered[i] = l.filter.fields(rendered[i])
	}
	return rendered, err
}

// show appends an entry as the viewer sees it. membership is the viewer's at the event, empty where it is not told.
func (l *look) show(ctx context.Context, s *Syncing, b []byte, x *entry, membership string) ([]byte, error) {
	if l.filter.EventFormat == "federation" {
		raw, err := s.view.Federation(ctx, x.row())
		return append(b, raw...), err
	}
	head, extra, err := x.render(ctx, s)
	if err != nil {
		return b, err
	}
	start := len(b)
	e := x.row()
	b = append(b, head...)
	b = append(b, `,"unsigned":{"age":`...)
	b = strconv.AppendInt(b, max(0, l.now-e.Timestamp), 10)
	if membership != "" {
		b = append(append(append(b, `,"membership":"`...), membership...), '"')
	}
	switch {
	case e.TransactionID == "" || e.Sender != l.user:
	case e.Path == view.DelayedPath:
		b = appendText(append(b, `,"`+view.DelayID+`":`...), e.TransactionID)
	case e.DeviceID == l.device:
		b = appendText(append(b, `,"transaction_id":`...), e.TransactionID)
	}
	if e.StickyUntil > l.now && e.RedactedBy == "" {
		b = strconv.AppendInt(append(b, `,"`+view.StickyFor+`":`...), e.StickyUntil-l.now, 10)
	}
	b = append(append(b, extra...), '}', '}')
	if len(l.filter.EventFields) > 0 {
		kept := l.filter.fields(bytes.Clone(b[start:]))
		b = append(b[:start], kept...)
	}
	return b, nil
}

// rendered keeps entries at hand, by number and by ID: two halves, the older of which is dropped when the newer is full.
type rendered struct {
	mu       sync.Mutex
	limit    int
	bytes    int
	young    map[int64]*entry
	old      map[int64]*entry
	youngIDs map[id.EventID]*entry
	oldIDs   map[id.EventID]*entry
}

func newRendered(limit int) *rendered {
	return &rendered{limit: limit / 2, young: map[int64]*entry{}, youngIDs: map[id.EventID]*entry{}}
}

// hold gives the entry of an event, an older one if there is one.
func (c *rendered) hold(e *storage.Event) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.find(e.Number); x != nil {
		// An outlier that became news has a position now.
		if x.position == e.Position {
			return x
		}
	}
	x := newEntry(e)
	c.put(x)
	return x
}

func (c *rendered) find(number int64) *entry {
	if x := c.young[number]; x != nil {
		return x
	}
	if x := c.old[number]; x != nil {
		c.put(x)
		return x
	}
	return nil
}

func (c *rendered) put(x *entry) {
	c.bytes += x.size
	if c.bytes > c.limit {
		c.old, c.oldIDs = c.young, c.youngIDs
		c.young, c.youngIDs = map[int64]*entry{}, map[id.EventID]*entry{}
		c.bytes = x.size
	}
	c.young[x.number], c.youngIDs[x.id] = x, x
}

// relate notes that another event relates to this one.
func (c *rendered) relate(event id.EventID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, half := range []map[id.EventID]*entry{c.youngIDs, c.oldIDs} {
		if x := half[event]; x != nil {
			x.relate()
		}
	}
}

// drop forgets an event whose row has changed.
func (c *rendered) drop(event id.EventID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, half := range []struct {
		ids     map[id.EventID]*entry
		numbers map[int64]*entry
	}{{c.youngIDs, c.young}, {c.oldIDs, c.old}} {
		if x := half.ids[event]; x != nil {
			x.outdate()
			delete(half.ids, event)
			delete(half.numbers, x.number)
		}
	}
}

// byNumbers gives the entries of events, reading those that are not at hand.
func (s *Syncing) byNumbers(ctx context.Context, numbers []int64) (map[int64]*entry, error) {
	found := make(map[int64]*entry, len(numbers))
	var missing []int64
	s.rendered.mu.Lock()
	for _, n := range numbers {
		if x := s.rendered.find(n); x != nil {
			found[n] = x
		} else {
			missing = append(missing, n)
		}
	}
	s.rendered.mu.Unlock()
	if len(missing) == 0 {
		return found, nil
	}
	events, err := s.store.Events.ByNumbers(ctx, missing)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		found[e.Number] = s.rendered.hold(e)
	}
	return found, nil
}
