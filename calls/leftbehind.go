package calls

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// A client that crashed without having handed its leave over has left behind the word that it is in the call.

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
	d, room := goodbye{call: p.room.name, identity: p.identity, user: p.user, device: p.device}, p.matrixRoom
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
		if err := f.closeMembership(ctx, room, d); err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Stringer("user_id", d.user).Msg("What was left of a call was not closed")
		}
	})
}

// closeMembership sends the leave that waits, if the device has one, and otherwise empties the state that names it.
func (f *Focus) closeMembership(ctx context.Context, room id.RoomID, d goodbye) error {
	back, err := f.house.deviceInside(ctx, room, d.user, d.device)
	if err != nil || back {
		return err
	}
	waiting, err := f.house.store.DelayedEvents.ByUser(ctx, d.user, false, 100)
	if err != nil {
		return err
	}
	for _, e := range waiting {
		if e.RoomID == room && e.DeviceID == d.device && (e.Type == callMember || e.Type == rtcMember) {
			closed.WithLabelValues("sent").Inc()
			return f.house.delayed(ctx, f.house.name, e.ID, bus.DelayedSend)
		}
	}
	for _, key := range memberKeys(d.user, d.device) {
		e, err := f.house.store.State.Current(ctx, room, storage.Key{Type: callMember, StateKey: key})
		if err != nil {
			return err
		}
		if e == nil || e.Sender != d.user || !f.names(contentOf(e)) {
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

// names says whether a membership's media are at this focus.
func (f *Focus) names(content []byte) bool {
	var m struct {
		Foci []struct {
			URL string `json:"livekit_service_url"`
		} `json:"foci_preferred"`
	}
	if json.Unmarshal(content, &m) != nil || len(m.Foci) == 0 {
		return false
	}
	return f.config.URL == "" || m.Foci[0].URL == f.config.URL
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
