package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// ErrOtherRoom is what a PDU gives that another server gave for one room and that belongs to another.
var ErrOtherRoom = errors.New("remote: the event belongs to another room")

// Believe reads PDUs that another server gave for a room, and checks their form, hashes (what fails comes back redacted) and
// signatures. Both results have the length and order of raws: a PDU, or the reason why there is none.
// Spec: server-server-api/#checks-performed-on-receipt-of-a-pdu (steps 1 to 3)
func (r *Ring) Believe(ctx context.Context, version id.RoomVersion, room id.RoomID, raws []json.RawMessage) ([]gomatrixserverlib.PDU, []error) {
	events, errs := make([]gomatrixserverlib.PDU, len(raws)), make([]error, len(raws))
	var parsed []gomatrixserverlib.PDU
	var at []int
	for i, raw := range raws {
		ev, err := pdu.Parse(version, raw)
		if err == nil && pdu.RoomIDOf(ev) != room {
			err = ErrOtherRoom
		}
		if err != nil {
			errs[i] = err
			continue
		}
		parsed, at = append(parsed, ev), append(at, i)
	}
	for n, err := range pdu.Verify(ctx, parsed, r) {
		if errs[at[n]] = err; err == nil {
			events[at[n]] = parsed[n]
		}
	}
	return events, errs
}

// outlierSlice is how many outliers are written at once: few enough that others' writes go on.
const outlierSlice = 200

// StoreOutliers keeps believed events that belong to nobody yet, and gives their numbers. Nil entries are passed over.
func StoreOutliers(ctx context.Context, store *storage.Store, events []gomatrixserverlib.PDU) (map[id.EventID]int64, error) {
	rows := make([]*storage.Event, 0, len(events))
	for _, ev := range events {
		if ev != nil {
			rows = append(rows, outlier(ev))
		}
	}
	for from := 0; from < len(rows); from += outlierSlice {
		if err := store.Events.AddOutliers(ctx, rows[from:min(from+outlierSlice, len(rows))]); err != nil {
			return nil, fmt.Errorf("store fetched events: %w", err)
		}
	}
	numbers := make(map[id.EventID]int64, len(rows))
	for _, row := range rows {
		numbers[row.ID] = row.Number
	}
	return numbers, nil
}

func outlier(ev gomatrixserverlib.PDU) *storage.Event {
	row := &storage.Event{
		ID: id.EventID(ev.EventID()), RoomID: pdu.RoomIDOf(ev), Standing: storage.Outlier,
		Type: ev.Type(), StateKey: ev.StateKey(), Sender: pdu.Sender(ev), Depth: ev.Depth(), Timestamp: int64(ev.OriginServerTS()), JSON: ev.JSON(),
	}
	if relation := gjson.GetBytes(ev.Content(), `m\.relates_to`); relation.IsObject() {
		row.RelatesTo, row.RelType = id.EventID(relation.Get("event_id").Str), relation.Get("rel_type").Str
	}
	return row
}
