package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// patience is how long a transaction waits for its room to answer, and again for missing events; after that they are set aside,
// and fetched, behind its back.
const patience = 10 * time.Second

// takePDUs takes the PDUs of a transaction in: per room in their order, rooms side by side. An error says that some could be
// neither judged nor set aside, for a reason of ours.
func (r *Receiver) takePDUs(ctx context.Context, origin string, raws []json.RawMessage) (map[id.EventID]result, error) {
	rooms := make(map[id.RoomID][]json.RawMessage)
	for _, raw := range raws {
		room := id.RoomID(gjson.GetBytes(raw, "room_id").Str)
		rooms[room] = append(rooms[room], raw)
	}
	results := make(map[id.EventID]result, len(raws))
	var mu sync.Mutex
	var failed error
	var wait sync.WaitGroup
	for room, raws := range rooms {
		wait.Go(func() {
			part, err := r.takeRoom(ctx, origin, room, raws)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			for event, res := range part {
				results[event] = res
			}
		})
	}
	wait.Wait()
	return results, failed
}

// takeRoom takes PDUs of one room in.
func (r *Receiver) takeRoom(ctx context.Context, origin string, room id.RoomID, raws []json.RawMessage) (map[id.EventID]result, error) {
	results := make(map[id.EventID]result, len(raws))
	r.entered(ctx, room)
	version, err := r.roomVersion(ctx, room)
	if err == nil && version == "" {
		err = errUnknownRoom
	}
	if err == nil {
		err = r.checkACL(ctx, room, origin)
	}
	if err != nil && !errors.Is(err, errUnknownRoom) && !errors.Is(err, errACL) {
		return nil, err
	}
	if err != nil {
		for _, raw := range raws {
			if eventID := anyEventID(version, raw); eventID != "" {
				results[eventID] = result{err.Error()}
			}
		}
		receivedPDUs.WithLabelValues("refused").Add(float64(len(raws)))
		r.tallies.dropped(origin, len(raws), err.Error())
		return results, nil
	}
	// Steps 1 to 3: the event is valid, its signatures and its hash are right.
	events, errs := r.ring.Believe(ctx, version, room, raws)
	var good []gomatrixserverlib.PDU
	for i, ev := range events {
		if errs[i] != nil {
			receivedPDUs.WithLabelValues("dropped").Inc()
			r.tallies.dropped(origin, 1, kindOf(errs[i]))
			zerolog.Ctx(ctx).Debug().Err(errs[i]).Str("origin", origin).Stringer("room_id", room).Msg("PDU dropped")
			if eventID := anyEventID(version, raws[i]); eventID != "" {
				results[eventID] = result{errs[i].Error()}
			}
			continue
		}
		good = append(good, ev)
	}
	// Step 7 needs the network; what comes of it is told to the room.
	if err := r.vet(ctx, room, good); err != nil {
		return nil, err
	}
	// Steps 4 to 6 are the room's.
	if missing := r.offer(ctx, origin, version, room, good, results); len(missing) > 0 {
		return results, r.setAside(ctx, origin, room, missing, results)
	}
	return results, nil
}

var (
	errUnknownRoom = errors.New("unknown room")
	errACL         = errors.New("server is banned from the room by its ACL")
)

// roomVersion gives the version of a room that we are in, or that one of our users is invited to; empty for others.
func (r *Receiver) roomVersion(ctx context.Context, room id.RoomID) (id.RoomVersion, error) {
	version, err := r.view.Version(ctx, room)
	if err != nil || version != "" {
		return version, err
	}
	memberships, err := r.store.Memberships.ByRoom(ctx, room, event.MembershipInvite, event.MembershipKnock)
	if err != nil {
		return "", err
	}
	for _, m := range memberships {
		for _, raw := range m.Stripped {
			if gjson.GetBytes(raw, "type").Str != "m.room.create" {
				continue
			}
			version := id.RoomVersion(gjson.GetBytes(raw, "content.room_version").Str)
			if version == "" {
				version = id.RoomV1
			}
			if pdu.Known(version) {
				return version, nil
			}
		}
	}
	return "", nil
}

func (r *Receiver) checkACL(ctx context.Context, room id.RoomID, server string) error {
	acl, err := r.view.ACL(ctx, room)
	if err == nil && !acl.Allows(server) {
		err = errACL
	}
	return err
}

// anyEventID names a PDU that is no good, as well as that can be done; empty if it cannot.
func anyEventID(version id.RoomVersion, raw json.RawMessage) id.EventID {
	if version == "" {
		version = id.RoomV11 // most likely; an answer about an unknown room is read by nobody but a log
	}
	eventID, err := pdu.EventID(version, raw)
	if err != nil {
		return ""
	}
	return eventID
}

// runBytes is how many bytes of PDUs go into one question to a room.
const runBytes = 3 * bus.MaxQuestion / 4

// offer hands events to their room, in runs that the bus carries, and notes the verdicts. It gives those that have to wait: their
// parents or auth events are missing, or the room does not answer.
func (r *Receiver) offer(ctx context.Context, origin string, version id.RoomVersion, room id.RoomID, events []gomatrixserverlib.PDU, results map[id.EventID]result) []gomatrixserverlib.PDU {
	var waiting []gomatrixserverlib.PDU
	for len(events) > 0 {
		n, size := 0, 0
		for n < len(events) && (n == 0 || size+len(events[n].JSON()) <= runBytes) {
			size += len(events[n].JSON())
			n++
		}
		run := events[:n]
		outcomes, err := r.receive(ctx, origin, version, room, run, 0)
		if err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Stringer("room_id", room).Str("origin", origin).Int("pdus", len(events)).Msg("The room does not take PDUs in; they wait")
			receivedPDUs.WithLabelValues("failed").Add(float64(len(events)))
			return append(waiting, events...)
		}
		events = events[n:]
		for i, ev := range run {
			eventID := id.EventID(ev.EventID())
			receivedPDUs.WithLabelValues(string(outcomes[i].Verdict)).Inc()
			switch outcomes[i].Verdict {
			case bus.Missing:
				waiting = append(waiting, ev)
			case bus.Rejected:
				results[eventID] = result{"rejected: " + outcomes[i].Reason}
			default:
				results[eventID] = result{}
			}
		}
	}
	return waiting
}

// receive asks the room to take events in; snapshot is the chain of the state before the first, if that was fetched. An error
// says that the room did not judge them, within the patience of a transaction.
func (r *Receiver) receive(ctx context.Context, origin string, version id.RoomVersion, room id.RoomID, events []gomatrixserverlib.PDU, snapshot int64) ([]bus.Outcome, error) {
	q := &bus.Received{Origin: origin, Version: version, Snapshot: snapshot}
	for _, ev := range events {
		q.PDUs = append(q.PDUs, ev.JSON())
	}
	var err error
	if q.Unapproved, err = r.unapproved(ctx, room, events); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, r.bus, bus.RoomDo(room), bus.RoomQuestion{Receive: q})
	if err != nil {
		return nil, err
	}
	if len(answer.Outcomes) != len(events) {
		return nil, fmt.Errorf("the room judged %d of %d events", len(answer.Outcomes), len(events))
	}
	r.tallies.judged(origin, answer.Outcomes)
	return answer.Outcomes, nil
}

// kindOf says in a word or two what was wrong with an event, without naming the event.
func kindOf(err error) string {
	switch {
	case errors.Is(err, remote.ErrOtherRoom):
		return "belongs to another room"
	case errors.Is(err, pdu.ErrTooLarge):
		return "too large"
	case strings.HasPrefix(err.Error(), "verify "):
		return "signature not good"
	}
	return "malformed"
}

// setAside keeps events until their parents have been fetched, or their room answers, and waits a while for that. An error says
// that they could not even be kept.
func (r *Receiver) setAside(ctx context.Context, origin string, room id.RoomID, events []gomatrixserverlib.PDU, results map[id.EventID]result) error {
	aside := make([]storage.Aside, len(events))
	for i, ev := range events {
		aside[i] = storage.Aside{EventID: id.EventID(ev.EventID()), RoomID: room, Origin: origin, JSON: ev.JSON()}
	}
	if err := r.store.Received.SetAside(ctx, aside); err != nil {
		return fmt.Errorf("set PDUs of %s aside: %w", room, err)
	}
	for _, a := range aside {
		results[a.EventID] = result{}
	}
	done := r.gaps.fill(room)
	select {
	case <-done:
	case <-time.After(patience):
	case <-ctx.Done():
	}
	return nil
}
