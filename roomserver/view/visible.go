package view

import (
	"context"
	"math"
	"slices"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

var (
	typeMember     = event.StateMember.Type
	typeVisibility = event.StateHistoryVisibility.Type
	keyVisibility  = pdu.Key{Type: typeVisibility}
)

func keyMember(user id.UserID) pdu.Key { return pdu.Key{Type: typeMember, StateKey: string(user)} }

// Visible gives those of the events, in their order, that the user may see.
// Events that are not part of a room's history (outliers, rejected and
// soft-failed ones) nobody may see. What an erased user said comes as a pruned
// copy to those who were not in the room then.
// Spec: client-server-api/#room-history-visibility
func (r *Reader) Visible(ctx context.Context, user id.UserID, events []*storage.Event) ([]*storage.Event, error) {
	key := keyMember(user)
	asked := make([]storage.Lookup, 0, 2*len(events))
	for _, e := range events {
		if shown(e) {
			asked = append(asked, storage.Lookup{At: e.Before, Key: keyVisibility}, storage.Lookup{At: e.Before, Key: key})
		}
	}
	state, err := r.stateAt(ctx, asked)
	if err != nil {
		return nil, err
	}
	sticks, err := r.stickTo(ctx, user, events)
	if err != nil {
		return nil, err
	}
	gone, err := r.forgotten(ctx)
	if err != nil {
		return nil, err
	}
	untils := map[id.RoomID]storage.Place{}
	visible := make([]*storage.Event, 0, len(events))
	for _, e := range events {
		if !shown(e) {
			continue
		}
		at := moment{
			settings:    state.around(e, keyVisibility),
			memberships: state.around(e, key),
		}
		verdict := at.verdict()
		if verdict == ifJoinedLater {
			until, ok := untils[e.RoomID]
			if !ok {
				if until, err = r.joinedUntil(ctx, e.RoomID, user); err != nil {
					return nil, err
				}
				untils[e.RoomID] = until
			}
			if e.Place < until {
				verdict = allowed
			}
		}
		if verdict != allowed && !sticks[e.ID] {
			continue
		}
		if gone.touches(e) && !slices.Contains(at.memberships, "join") {
			if e, err = r.pruned(ctx, e); err != nil {
				return nil, err
			}
		}
		visible = append(visible, e)
	}
	return visible, nil
}

// Open gives, by number, those of the events that everybody may see who is joined now, whenever they came.
// Spec: client-server-api/#room-history-visibility
func (r *Reader) Open(ctx context.Context, events []*storage.Event) (map[int64]bool, error) {
	asked := make([]storage.Lookup, len(events))
	for i, e := range events {
		asked[i] = storage.Lookup{At: e.Before, Key: keyVisibility}
	}
	state, err := r.stateAt(ctx, asked)
	if err != nil {
		return nil, err
	}
	gone, err := r.forgotten(ctx)
	if err != nil {
		return nil, err
	}
	open := make(map[int64]bool, len(events))
	for _, e := range events {
		for _, setting := range state.around(e, keyVisibility) {
			if shown(e) && !gone.touches(e) && rule(setting, "") >= ifJoinedLater {
				open[e.Number] = true
			}
		}
	}
	return open, nil
}

// stickTo gives those of the events that the user may see because they are sticky: whoever is joined may, whatever the history
// visibility says.
// Spec: MSC4354
func (r *Reader) stickTo(ctx context.Context, user id.UserID, events []*storage.Event) (map[id.EventID]bool, error) {
	var (
		sticks map[id.EventID]bool
		joined map[id.RoomID]bool
	)
	now := r.now().UnixMilli()
	for _, e := range events {
		if e.StickyUntil <= now || e.RedactedBy != "" {
			continue
		}
		in, asked := joined[e.RoomID]
		if !asked {
			var err error
			if in, err = r.store.Memberships.Joined(ctx, e.RoomID, user); err != nil {
				return nil, err
			}
			if joined == nil {
				sticks, joined = map[id.EventID]bool{}, map[id.RoomID]bool{}
			}
			joined[e.RoomID] = in
		}
		if in {
			sticks[e.ID] = true
		}
	}
	return sticks, nil
}

func shown(e *storage.Event) bool { return e.Standing == storage.Accepted && e.Place != 0 }

// stateSaid is what the state at some events says.
type stateSaid struct {
	numbers map[storage.Lookup]int64
	said    map[int64]string
}

func (r *Reader) stateAt(ctx context.Context, asked []storage.Lookup) (s stateSaid, err error) {
	if s.numbers, err = r.lookups(ctx, asked); err != nil {
		return s, err
	}
	numbers := make([]int64, 0, len(s.numbers))
	for _, n := range s.numbers {
		numbers = append(numbers, n)
	}
	s.said, err = r.sayings(ctx, numbers)
	return s, err
}

// at is what the state says; empty if it says nothing.
func (s stateSaid) at(at storage.Snapshot, key pdu.Key) string {
	return s.said[s.numbers[storage.Lookup{At: at, Key: key}]]
}

// around is what the state says before the event and, where the event itself
// sets the key, after it: either may make the event visible.
func (s stateSaid) around(e *storage.Event, key pdu.Key) []string {
	around := append(make([]string, 0, 2), s.at(e.Before, key))
	if e.Type == key.Type && e.StateKey != nil && *e.StateKey == key.StateKey {
		around = append(around, saying(e))
	}
	return around
}

// moment is the state at an event: the history visibility, and the membership of one who would see it.
type moment struct {
	settings, memberships []string
}

type verdict int

const (
	denied verdict = iota
	ifJoinedLater
	allowed
)

// verdict applies the rules, numbered as in the specification.
func (m moment) verdict() verdict {
	best := denied
	for _, setting := range m.settings {
		for _, membership := range m.memberships {
			best = max(best, rule(setting, membership))
		}
	}
	return best
}

func rule(setting, membership string) verdict {
	switch {
	// 1. If the history_visibility was set to world_readable, allow.
	case setting == "world_readable":
		return allowed
	// 2. If the user's membership was join, allow.
	case membership == "join":
		return allowed
	// 4. If the user's membership was invite, and the history_visibility was set to invited, allow.
	case setting == "invited" && membership == "invite":
		return allowed
	// 5. Otherwise, deny.
	case setting == "invited" || setting == "joined":
		return denied
	// 3. If history_visibility was set to shared, and the user joined the room
	// at any point after the event was sent, allow. What is not set or not
	// understood counts as shared.
	default:
		return ifJoinedLater
	}
}

// joinedUntil gives the place before which every event was followed by a time in
// which the user was joined.
func (r *Reader) joinedUntil(ctx context.Context, room id.RoomID, user id.UserID) (storage.Place, error) {
	const never = storage.Place(math.MinInt64)
	now, err := r.store.Memberships.Of(ctx, room, user)
	if err != nil || now == nil {
		return never, err
	}
	if now.Membership == event.MembershipJoin {
		return storage.Place(math.MaxInt64), nil
	}
	// Back from membership to membership, to the one that ended the last time of being joined.
	number, key := now.Event, keyMember(user)
	const steps = 100
	for range steps {
		events, err := r.store.Events.ByNumbers(ctx, []int64{number})
		if err != nil || len(events) == 0 || events[0].Place == 0 {
			return never, err
		}
		before := storage.Lookup{At: events[0].Before, Key: key}
		state, err := r.stateAt(ctx, []storage.Lookup{before})
		if err != nil {
			return never, err
		}
		if number = state.numbers[before]; number == 0 {
			return never, nil
		}
		if state.said[number] == "join" {
			return events[0].Place, nil
		}
	}
	return never, nil
}
