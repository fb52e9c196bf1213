package calls

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// A client that crashed without having handed its leave over has left behind the word that it is in the call, and so has one whose user was
// kicked out of the room: the room then takes nothing of it any more.

// closeAfter is how long after somebody's last session in a call what it left behind is looked for.
const closeAfter = 20 * time.Second

// departed has what p left behind looked after.
func (f *Focus) departed(p *Participant) {
	if f.leaves == nil {
		return
	}
	f.leaves.leftCall(p)
	f.closes(p)
}

// closes takes back, for a user of ours who has been gone for a while, the word that a device is in the call.
func (f *Focus) closes(p *Participant) {
	if p.user == "" || f.guestServer(p.user) != "" {
		return
	}
	d := leftBehind{p.matrixRoom, p.user, p.device, math.MaxInt64}
	f.live.Go(func() {
		wait := time.NewTimer(f.closeAfter)
		defer wait.Stop()
		select {
		case <-f.ending:
			return
		case <-wait.C:
		}
		ctx, cancel := context.WithTimeout(f.ctx, actTime)
		defer cancel()
		if err := f.closeMembership(ctx, d); err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Stringer("user_id", d.user).Msg("What was left of a call was not closed")
		}
	})
}

// comesBack takes back what a user of ours had said of calls before the room took it in again: nobody could, from the kick until then.
func (f *Focus) comesBack(member *storage.StateChange) {
	user := id.UserID(member.Key.StateKey)
	if user.Homeserver() != f.house.name || member.Event == 0 || member.Old == 0 {
		return
	}
	f.live.Go(func() {
		ctx, cancel := context.WithTimeout(f.ctx, actTime+f.closeAfter)
		defer cancel()
		devices, err := f.house.cameBack(ctx, member)
		if err == nil && len(devices) > 0 {
			wait := time.NewTimer(f.closeAfter) // it may be in the call again
			defer wait.Stop()
			select {
			case <-f.ending:
				return
			case <-wait.C:
			}
		}
		for _, device := range devices {
			err = errors.Join(err, f.closeMembership(ctx, leftBehind{member.RoomID, user, device, member.Event}))
		}
		if err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Stringer("user_id", user).Msg("What was left of a call before a kick was not closed")
		}
	})
}

// cameBack gives the devices with which a user was in calls of a room, the last times, if the room has just taken the user in again.
func (h *house) cameBack(ctx context.Context, member *storage.StateChange) (devices []id.DeviceID, err error) {
	both, err := h.store.Events.ByNumbers(ctx, []int64{member.Event, member.Old})
	if err != nil {
		return nil, wrap(err, "read members")
	}
	for _, e := range both {
		joined := gjson.GetBytes(e.JSON, "content.membership").Str == string(event.MembershipJoin)
		if joined != (e.Number == member.Event) {
			return nil, nil // another name, or gone
		}
	}
	newest, err := h.store.CallRecords.Find(ctx, storage.CallSearch{RoomID: member.RoomID, UserID: id.UserID(member.Key.StateKey), Limit: maxSessions})
	if err != nil {
		return nil, wrap(err, "read call records")
	}
	for _, r := range newest {
		if !slices.Contains(devices, r.DeviceID) {
			devices = append(devices, r.DeviceID)
		}
	}
	return devices, nil
}

// leftBehind is what a device may have left behind in a room: a word that is older than the event of this number.
type leftBehind struct {
	room   id.RoomID
	user   id.UserID
	device id.DeviceID
	before int64
}

// closeMembership sends the leave that waits, if the device has one, and otherwise empties the state that names it. Who says that its
// media are at another focus has only stopped watching here, and is in the call.
func (f *Focus) closeMembership(ctx context.Context, d leftBehind) error {
	room := d.room
	back, err := f.house.deviceInside(ctx, room, d.user, d.device)
	if err != nil || back {
		return err
	}
	waiting, err := f.house.store.DelayedEvents.ByUser(ctx, d.user, false, 100)
	if err != nil {
		return err
	}
	for _, e := range waiting {
		if e.RoomID != room || e.DeviceID != d.device {
			continue
		}
		membership, err := f.said(ctx, e)
		if err != nil {
			return err
		}
		if here, err := f.names(ctx, membership); err != nil {
			return err
		} else if here && membership.Number < d.before {
			closed.WithLabelValues("sent").Inc()
			return f.house.delayed(ctx, f.house.name, e.ID, bus.DelayedSend)
		}
	}
	for _, key := range memberKeys(d.user, d.device) {
		e, err := f.house.store.State.Current(ctx, room, storage.Key{Type: callMember, StateKey: key})
		if err != nil {
			return err
		}
		if e == nil || e.Sender != d.user || e.Number >= d.before {
			continue
		}
		if here, err := f.names(ctx, e); err != nil {
			return err
		} else if !here {
			continue
		}
		closed.WithLabelValues("emptied").Inc()
		_, err = bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, f.house.bus, bus.RoomDo(room), bus.RoomQuestion{Propose: &bus.Proposal{
			Sender: d.user, Type: callMember, StateKey: &key, Content: json.RawMessage(`{}`),
		}})
		return err
	}
	return nil
}

// memberKeys are the state keys under which a device may say that it is in a call.
func memberKeys(user id.UserID, device id.DeviceID) []string {
	name := string(user) + "_" + string(device)
	return []string{"_" + name + "_m.call", name + "_m.call", "_" + name, name}
}

// said gives the membership that a waiting leave would end, or nil.
func (f *Focus) said(ctx context.Context, leave *storage.DelayedEvent) (*storage.Event, error) {
	switch {
	case leave.Type == rtcMember:
		return f.sticky(ctx, leave)
	case leave.Type != callMember || leave.StateKey == nil:
		return nil, nil
	}
	e, err := f.house.store.State.Current(ctx, leave.RoomID, storage.Key{Type: callMember, StateKey: *leave.StateKey})
	if e == nil || e.Sender != leave.UserID {
		return nil, err
	}
	return e, nil
}

// sticky gives the newest membership of the newer kind that has the leave's key.
func (f *Focus) sticky(ctx context.Context, leave *storage.DelayedEvent) (newest *storage.Event, err error) {
	key := gjson.GetBytes(leave.Content, stickyKey).String()
	head, now := f.house.store.Head(), time.Now().UnixMilli()
	for from := storage.Position(0); ; {
		events, err := f.house.store.Events.Sticky(ctx, leave.RoomID, from, head, now, eventsAtOnce)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if e.Type == rtcMember && e.Sender == leave.UserID && gjson.GetBytes(contentOf(e), stickyKey).String() == key {
				newest = e
			}
		}
		if len(events) < eventsAtOnce {
			return newest, nil
		}
		from = events[len(events)-1].Position
	}
}

// eventsAtOnce is how many events of a room are read at once.
const eventsAtOnce = 200

const (
	stickyKey = "msc4354_sticky_key"
	serviceOf = "livekit_service_url"
)

// names says whether a membership's media are at this focus.
func (f *Focus) names(ctx context.Context, e *storage.Event) (bool, error) {
	if e == nil {
		return false, nil
	}
	content := contentOf(e)
	if e.Type == rtcMember {
		for _, published := range gjson.GetBytes(content, "transports.published").Array() {
			if f.serves(published.Get(serviceOf).String()) {
				return true, nil
			}
		}
		return false, nil
	}
	focus := preferredFocus(content)
	if focus != "" && gjson.GetBytes(content, "focus_active.focus_selection").String() == "oldest_membership" {
		var err error
		if focus, err = f.oldestFocus(ctx, e.RoomID); err != nil {
			return false, err
		}
	}
	return f.serves(focus), nil
}

// serves says whether a service is this focus, as the homeserver tells its clients.
func (f *Focus) serves(service string) bool { return service != "" && service == f.config.Told }

func preferredFocus(content []byte) string {
	return gjson.GetBytes(content, "foci_preferred.0."+serviceOf).String()
}

// oldestFocus is the focus of whoever has been in the call for longest: older clients all meet there.
func (f *Focus) oldestFocus(ctx context.Context, roomID id.RoomID) (focus string, err error) {
	room, err := f.house.store.Rooms.ByID(ctx, roomID)
	if err != nil || room == nil {
		return "", err
	}
	numbers, err := f.house.store.State.OfType(ctx, room.State, callMember)
	if err != nil {
		return "", err
	}
	oldest, now := int64(math.MaxInt64), time.Now().UnixMilli()
	for some := range slices.Chunk(slices.Collect(maps.Values(numbers)), eventsAtOnce) { // a room may have had very many callers
		members, err := f.house.store.Events.ByNumbers(ctx, some)
		if err != nil {
			return "", err
		}
		for _, e := range members {
			content := contentOf(e)
			since := cmp.Or(gjson.GetBytes(content, "created_ts").Int(), e.Timestamp)
			if lasts := gjson.GetBytes(content, "expires").Int(); lasts > 0 && since+lasts < now {
				continue
			}
			if at := preferredFocus(content); at != "" && since < oldest {
				focus, oldest = at, since
			}
		}
	}
	return focus, nil
}

// deviceInside says whether the device is in a call of the room, at whichever focus.
func (h *house) deviceInside(ctx context.Context, room id.RoomID, user id.UserID, device id.DeviceID) (bool, error) {
	newest, err := h.store.CallRecords.Find(ctx, storage.CallSearch{RoomID: room, UserID: user, Limit: 50})
	if err != nil {
		return false, wrap(err, "read call records")
	}
	for _, r := range newest {
		if r.Ended == 0 && r.DeviceID == device {
			return true, nil
		}
	}
	return false, nil
}
