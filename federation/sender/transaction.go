package sender

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage"
)

// The most that one transaction may hold.
// Spec: server-server-api/#transactions
const (
	maxPDUs = 50
	maxEDUs = 100
	// maxBytes keeps a transaction well under what servers take.
	maxBytes = 4 << 20
	// maxCatchUp is how many unsent events of a room are sent in order after a long silence; of more, only the newest.
	maxCatchUp = 1000
	// longSilence is how long the first of them has waited. Of what is younger everything is sent: that destination is slow, not away.
	longSilence = time.Minute
	// sendTime bounds one attempt: the other server may hold a transaction while it fetches what it lacks.
	sendTime = time.Minute
	// maxRefusals is how often a transaction that is refused as malformed is repeated.
	maxRefusals = 3
)

// transaction is what goes to a destination at once. It is repeated unchanged.
type transaction struct {
	id   string
	body json.RawMessage
	pdus []json.RawMessage
	edus []json.RawMessage
	size int
	// outbound are the rows to remove, reached how far lags move, when it is acknowledged.
	outbound []storage.Position
	reached  map[id.RoomID]storage.Position
	// events and ephemera are how many PDUs and EDUs the body holds.
	events, ephemera int
	// stored: it is written down, to be repeated.
	stored bool
}

// full says whether another PDU of that size has no place.
func (t *transaction) full(size int) bool {
	return len(t.pdus) >= maxPDUs || len(t.pdus) > 0 && t.size+size > maxBytes
}

func (t *transaction) addPDU(raw json.RawMessage) {
	t.pdus = append(t.pdus, raw)
	t.size += len(raw)
}

func (t *transaction) addEDU(typ string, content any) error {
	raw, err := json.Marshal(struct {
		Type    string `json:"edu_type"`
		Content any    `json:"content"`
	}{typ, content})
	if err != nil {
		return fmt.Errorf("make %s: %w", typ, err)
	}
	t.edus = append(t.edus, raw)
	t.size += len(raw)
	return nil
}

// gather makes the next transaction, nil if there is nothing to send: what waits in rows first, then rooms that lag, then
// what waits in memory.
func (d *destination) gather(ctx context.Context) (*transaction, error) {
	t := &transaction{reached: make(map[id.RoomID]storage.Position)}
	if err := d.gatherOutbound(ctx, t); err != nil {
		return nil, err
	}
	if err := d.gatherLags(ctx, t); err != nil {
		return nil, err
	}
	d.gatherWaiting(t)
	if err := d.gatherEphemeral(t); err != nil {
		return nil, err
	}
	if len(t.pdus)+len(t.edus) == 0 {
		return nil, nil
	}
	t.id = strconv.FormatInt(d.s.txns.Add(1), 10)
	t.events, t.ephemera = len(t.pdus), len(t.edus)
	t.body = t.marshal(d.s.name)
	t.pdus, t.edus = nil, nil
	return t, nil
}

func (d *destination) gatherOutbound(ctx context.Context, t *transaction) error {
	d.mu.Lock()
	wanted := d.outbound
	d.outbound = false
	d.mu.Unlock()
	if !wanted {
		return nil
	}
	const atOnce = maxEDUs
	rows, err := d.s.store.Outbound.For(ctx, d.name, atOnce)
	if err != nil {
		d.addOutbound()
		return err
	}
	more := len(rows) == atOnce
	for _, row := range rows {
		if row.Type == "" {
			if t.full(len(row.Content)) {
				more = true
				break
			}
			t.addPDU(row.Content)
		} else {
			if t.size > 0 && t.size+len(row.Content) > maxBytes {
				more = true
				break
			}
			if err := t.addEDU(row.Type, row.Content); err != nil {
				return err
			}
		}
		t.outbound = append(t.outbound, row.Position)
	}
	if more {
		d.addOutbound()
	}
	return nil
}

// gatherLags takes events of rooms that lag, as far as there is place.
func (d *destination) gatherLags(ctx context.Context, t *transaction) error {
	d.mu.Lock()
	rooms := make(map[id.RoomID]storage.Position, len(d.lags))
	for room, l := range d.lags {
		rooms[room] = l.from
	}
	d.mu.Unlock()
	for room, from := range rooms {
		if len(t.pdus) >= maxPDUs {
			return nil
		}
		// What is later than this comes by the follower.
		head := storage.Position(d.s.handled.Load())
		events, err := d.lacking(ctx, room, from)
		if err != nil {
			return err
		}
		events = slices.DeleteFunc(events, func(e *storage.Event) bool { return e.Position > head })
		if len(events) == 0 {
			if err := d.endLag(ctx, room, head); err != nil {
				return err
			}
			continue
		}
		for _, e := range events {
			servers, err := d.s.spans.at(ctx, room, e.Position)
			if err != nil {
				return err
			}
			if slices.Contains(servers, d.name) || alsoFor(e) == d.name {
				raw, err := d.s.view.Federation(ctx, e)
				if err != nil {
					return err
				}
				if t.full(len(raw)) {
					break
				}
				t.addPDU(raw)
			}
			t.reached[room] = e.Position + 1
		}
		if len(t.pdus) == 0 && len(t.edus) == 0 { // all of these were from times when it was not in the room
			d.caughtUp(ctx, room, t.reached[room])
			d.mu.Lock()
			d.ring()
			d.mu.Unlock()
		}
	}
	return nil
}

// lacking gives the next of our events that the destination has not had, a transaction's worth; if after a long silence there are too
// many, the newest alone.
func (d *destination) lacking(ctx context.Context, room id.RoomID, from storage.Position) ([]*storage.Event, error) {
	events, err := d.s.store.Events.SentBy(ctx, room, d.s.name, from, false, maxPDUs)
	if err != nil || len(events) < maxPDUs || time.Since(time.UnixMilli(events[0].Timestamp)) < longSilence {
		return events, err
	}
	many, err := d.s.store.Events.SentBy(ctx, room, d.s.name, from, false, maxCatchUp+1)
	if err != nil || len(many) <= maxCatchUp {
		return events, err
	}
	newest, err := d.s.store.Events.SentBy(ctx, room, d.s.name, from, true, 1)
	if err != nil {
		return nil, err
	}
	zerolog.Ctx(ctx).Info().Stringer("room_id", room).Msg("Too much is unsent; the newest event is sent, and the other server asks for the rest")
	return newest, nil
}

// gatherWaiting takes events out of memory, as far as there is place; they are under way until acknowledged.
func (d *destination) gatherWaiting(t *transaction) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for n < len(d.waiting) && !t.full(len(d.waiting[n].json)) {
		t.addPDU(d.waiting[n].json)
		// Should it fail, its room lags from here; when it succeeds after all, the lag moves on.
		t.reached[d.waiting[n].room] = d.waiting[n].position + 1
		n++
	}
	d.flight = append([]pending(nil), d.waiting[:n]...)
	d.waiting = append([]pending(nil), d.waiting[n:]...)
	if len(d.waiting) > 0 {
		d.ring()
	}
}

// receiptContent is m.receipt's: room, type, user.
type receiptContent map[id.RoomID]map[string]map[id.UserID]receiptData

type receiptData struct {
	Data struct {
		Timestamp int64  `json:"ts"`
		Thread    string `json:"thread_id,omitempty"`
	} `json:"data"`
	EventIDs []id.EventID `json:"event_ids"`
}

// gatherEphemeral takes receipts, typing and presence, as far as there is place.
func (d *destination) gatherEphemeral(t *transaction) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// One EDU holds one receipt of a user in a room; further threads go into further EDUs.
	var edus []receiptContent
	for key, r := range d.receipts {
		var data receiptData
		data.Data.Timestamp, data.Data.Thread, data.EventIDs = r.Timestamp, r.Thread, []id.EventID{r.EventID}
		at := slices.IndexFunc(edus, func(c receiptContent) bool { _, taken := c[key.room][storage.ReceiptRead][key.user]; return !taken })
		if at < 0 {
			if len(t.edus)+len(edus) >= maxEDUs {
				break
			}
			edus = append(edus, receiptContent{})
			at = len(edus) - 1
		}
		if edus[at][key.room] == nil {
			edus[at][key.room] = map[string]map[id.UserID]receiptData{storage.ReceiptRead: {}}
		}
		edus[at][key.room][storage.ReceiptRead][key.user] = data
		delete(d.receipts, key)
	}
	for _, content := range edus {
		if err := t.addEDU("m.receipt", content); err != nil {
			return err
		}
	}
	for key, typing := range d.typing {
		if len(t.edus) >= maxEDUs {
			break
		}
		delete(d.typing, key)
		err := t.addEDU("m.typing", struct {
			RoomID id.RoomID `json:"room_id"`
			UserID id.UserID `json:"user_id"`
			Typing bool      `json:"typing"`
		}{typing.RoomID, typing.UserID, typing.Typing})
		if err != nil {
			return err
		}
	}
	if len(d.presence) == 0 || len(t.edus) >= maxEDUs {
		return nil
	}
	type presence struct {
		UserID          id.UserID `json:"user_id"`
		Presence        string    `json:"presence"`
		StatusMessage   string    `json:"status_msg,omitempty"`
		LastActiveAgo   int64     `json:"last_active_ago"`
		CurrentlyActive bool      `json:"currently_active"`
	}
	var push []presence
	for user, p := range d.presence {
		ago := max(0, d.s.now().UnixMilli()-p.LastActive)
		push = append(push, presence{user, p.Presence, p.StatusMessage, ago, p.CurrentlyActive})
		delete(d.presence, user)
	}
	return t.addEDU("m.presence", map[string]any{"push": push})
}

func (t *transaction) marshal(origin string) json.RawMessage {
	var b bytes.Buffer
	b.Grow(t.size + 1024)
	fmt.Fprintf(&b, `{"origin":%q,"origin_server_ts":%d`, origin, time.Now().UnixMilli())
	write := func(name string, items []json.RawMessage) {
		fmt.Fprintf(&b, `,%q:[`, name)
		for i, item := range items {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(item)
		}
		b.WriteByte(']')
	}
	write("pdus", t.pdus)
	if len(t.edus) > 0 {
		write("edus", t.edus)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// put sends the transaction once.
// Spec: server-server-api/#put_matrixfederationv1sendtxnid
func (d *destination) put(ctx context.Context, t *transaction) error {
	var answer struct {
		PDUs map[id.EventID]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	err := d.s.client.Ask(ctx, remote.Request{
		Server: d.name, Method: http.MethodPut, Path: []string{"v1", "send", t.id}, Body: t.body, Timeout: sendTime,
	}, &answer)
	if err != nil {
		return err
	}
	for eventID, verdict := range answer.PDUs {
		if verdict.Error != "" {
			zerolog.Ctx(ctx).Info().Stringer("event_id", eventID).Str("error", verdict.Error).Msg("Event refused by the other server")
		}
	}
	return nil
}

// hopeless says whether the other server will never take the transaction.
func (d *destination) hopeless(err error) bool {
	said, ok := remote.Refused(err)
	if !ok || said.StatusCode != http.StatusBadRequest && said.StatusCode != http.StatusRequestEntityTooLarge {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refusals++
	return d.refusals >= maxRefusals
}
