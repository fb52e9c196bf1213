package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/roomserver/state"
	"chancery/storage"
	"chancery/storage/bus"
)

// adopt takes a room into use that a user of ours has joined through another server: its state was fetched as
// outliers and an unattached snapshot. All of it is authorised, and then one small commit makes the room live.
// A room that we are in already resolves the fetched state with its own.
func (r *room) adopt(ctx context.Context, a bus.Adopt) (bus.Outcome, error) {
	if r.exists && r.head.Joined {
		outcomes, err := r.receive(ctx, bus.Received{Origin: a.Resident, PDUs: []json.RawMessage{a.Event}, Snapshot: a.Snapshot})
		if err != nil {
			return bus.Outcome{}, err
		}
		return outcomes[0], nil
	}
	if err := r.quiet(ctx); err != nil {
		return bus.Outcome{}, err
	}
	if err := r.barred(ctx, id.UserID(gjson.GetBytes(a.Event, "state_key").Str), event.MembershipJoin); err != nil {
		return bus.Outcome{}, err
	}
	if !pdu.Known(a.Version) {
		return bus.Outcome{}, refuse(400, mautrix.MIncompatibleRoomVersion, "Unknown room version")
	}
	r.version, r.resolver = a.Version, state.NewResolver(a.Version, source{r})
	r.head = storage.Room{ID: r.id, Version: a.Version, Listed: r.head.Listed}
	// What follows holds only if it is written; otherwise the room reads itself anew.
	outcome, err := r.settleIn(ctx, a)
	if err != nil || outcome.Verdict != bus.Accepted {
		r.turn = &turn{}
		r.forget()
	}
	return outcome, err
}

// fetched is the whole of a state that federation has written down.
func (r *room) fetched(ctx context.Context, chain int64) (storage.Snapshot, error) {
	top, err := r.s.store.State.Top(ctx, chain)
	if err == nil && top.Sequence == 0 {
		err = fmt.Errorf("the fetched state %d holds nothing", chain)
	}
	return top, err
}

func (r *room) settleIn(ctx context.Context, a bus.Adopt) (bus.Outcome, error) {
	top, err := r.fetched(ctx, a.Snapshot)
	if err != nil {
		return bus.Outcome{}, err
	}
	refs, err := r.s.store.State.Refs(ctx, top)
	if err != nil {
		return bus.Outcome{}, err
	}
	r.head.State = top
	if err := r.authoriseState(ctx, refs); err != nil {
		return bus.Outcome{}, err
	}
	ev, outcome, err := r.arrive(ctx, a.Event, true)
	if err != nil {
		return outcome, err
	}
	if ev == nil && outcome.Verdict != bus.Accepted {
		return outcome, nil
	}
	if ev == nil {
		return outcome, fmt.Errorf("join event %s was taken in before", outcome.EventID)
	}
	if err := errors.Join(r.checkAuthEvents(ev), r.check(ctx, ev.ev, nil)); err != nil {
		return outcome, forbidden(err)
	}
	if err := r.populate(ctx); err != nil {
		return outcome, err
	}
	r.exists = true
	r.head.Depth = ev.row.Depth
	r.turn.rows.Attach = append(r.turn.rows.Attach, a.Snapshot)
	r.turn.rows.ServersBefore = r.servers()
	ev.row.DeviceID, ev.row.TransactionID = a.Device, a.TransactionID
	r.head.Extremities = nil
	for _, p := range ev.parents { // of a room that we were in before
		ev.missing = append(ev.missing, p.row.ID)
	}
	ev.parents = nil
	if err := r.acceptAtHead(ctx, ev, true); err != nil {
		return outcome, err
	}
	head := r.head
	r.turn.rows.Head = &head
	return outcome, r.written()
}

// authoriseState judges every event of a fetched state; what the rules reject is taken out of it, and so is what cannot be
// judged: one signature of a server that is long gone must not keep us out of a room.
func (r *room) authoriseState(ctx context.Context, refs map[pdu.Key]storage.Ref) error {
	numbers := make([]int64, 0, len(refs))
	for _, ref := range refs {
		numbers = append(numbers, ref.Number)
	}
	rows, err := r.s.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return err
	}
	r.current = make(map[pdu.Key]ref, len(refs))
	chain := make(map[id.EventID]*held, len(rows))
	var ids []id.EventID
	for _, row := range rows {
		h, err := r.hold(row)
		if err != nil {
			return err
		}
		if row.Standing == storage.Outlier {
			chain[row.ID] = h
			ids = append(ids, eventIDs(h.ev.AuthEventIDs())...)
		}
	}
	// Auth events outside the state are judged with it.
	if err := r.authChain(ctx, ids, chain); err != nil {
		return err
	}
	holes := map[id.EventID]bool{}
	if err := r.judgeAll(ctx, chain, holes); err != nil {
		return err
	}
	if len(holes) > 0 {
		zerolog.Ctx(ctx).Warn().Int("events", len(holes)).Msg("Events of a joined room lack auth events and are left out of its state")
	}
	for _, row := range rows {
		if h := chain[row.ID]; h != nil {
			row = h.row
		}
		if row.StateKey == nil || row.RoomID != r.id {
			return refuse(502, mautrix.MUnknown, "The other server's state of the room holds what is no state of it")
		}
		key := pdu.Key{Type: row.Type, StateKey: *row.StateKey}
		r.current[key] = ref{row.Number, row.ID}
		if row.Standing == storage.Rejected || holes[row.ID] {
			// Not news to anybody: the room was not ours before.
			r.head.State.Sequence++
			r.turn.rows.Entries = append(r.turn.rows.Entries, storage.Entry{Chain: r.head.State.Chain, Sequence: r.head.State.Sequence, Key: key})
			delete(r.current, key)
		}
	}
	return r.checkVersion(ctx)
}

// checkVersion makes sure that the room is of the version that the other server said: everything was read by its rules.
func (r *room) checkVersion(ctx context.Context) error {
	create, err := r.content(ctx, createKey)
	if err != nil {
		return err
	}
	if !create.Exists() {
		return refuse(502, mautrix.MUnknown, "The other server's state of the room has no create event")
	}
	version := id.RoomV1
	if v := create.Get("room_version"); v.Exists() {
		version = id.RoomVersion(v.Str)
	}
	if version != r.version {
		return refuse(502, mautrix.MUnknown, "The other server was wrong about the room's version")
	}
	return nil
}

// authChain adds the outliers that the events name, and those that these name. What is missing stays so.
func (r *room) authChain(ctx context.Context, ids []id.EventID, chain map[id.EventID]*held) error {
	wanted := ids
	for len(wanted) > 0 {
		slices.Sort(wanted)
		wanted = slices.DeleteFunc(slices.Compact(wanted), func(event id.EventID) bool { return chain[event] != nil })
		found, err := r.get(ctx, wanted)
		if err != nil {
			return err
		}
		var next []id.EventID
		for _, event := range wanted {
			h := found[event]
			if h == nil || !r.unjudged(h) {
				continue
			}
			chain[event] = h
			next = append(next, eventIDs(h.ev.AuthEventIDs())...)
		}
		if len(chain) > 4*maxJudged {
			return fmt.Errorf("auth chain of more than %d events", 4*maxJudged)
		}
		wanted = next
	}
	return nil
}

// populate writes who is where by the adopted state: in slices, which say nothing until the room is ours.
func (r *room) populate(ctx context.Context) error {
	r.members, r.joined = map[id.UserID]event.Membership{}, map[string]int{}
	const slice = 300
	var rows []*storage.Membership
	write := func() error {
		if len(rows) == 0 {
			return nil
		}
		part := &storage.RoomRows{Line: r.line, Room: r.id, Memberships: rows}
		rows = nil
		return r.s.writer.WriteAndWait(part)
	}
	keys := slices.SortedFunc(maps.Keys(r.current), func(a, b pdu.Key) int { return cmp(a, b) })
	var ids []id.EventID
	for _, key := range keys {
		if key.Type == event.StateMember.Type {
			ids = append(ids, r.current[key].id)
		}
	}
	for part := range slices.Chunk(ids, slice) {
		found, err := r.get(ctx, part)
		if err != nil {
			return err
		}
		for _, at := range part {
			h := found[at]
			if h == nil {
				return fmt.Errorf("state event %s is missing", at)
			}
			user := id.UserID(*h.ev.StateKey())
			m := event.Membership(gjson.GetBytes(h.ev.Content(), "membership").Str)
			r.members[user] = m
			if m == event.MembershipJoin {
				r.joined[user.Homeserver()]++
			}
			rows = append(rows, &storage.Membership{RoomID: r.id, UserID: user, Membership: m, EventID: at, Event: h.row.Number, Sender: h.row.Sender,
				// Ours hear of what became of them while we were away.
				News: user.Homeserver() == r.s.signer.ServerName})
		}
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

// takeSnapshot takes a fetched state into use as the state before an event: its outliers are judged, the rejected are left out.
func (r *room) takeSnapshot(ctx context.Context, chain int64) (moment, error) {
	if err := r.quiet(ctx); err != nil {
		return moment{}, err
	}
	top, err := r.fetched(ctx, chain)
	if err != nil {
		return moment{}, err
	}
	diff, err := r.differs(ctx, top)
	if err != nil {
		return moment{}, err
	}
	var ids []id.EventID
	for _, event := range diff {
		if event != "" {
			ids = append(ids, event)
		}
	}
	if err := r.judge(ctx, ids); err != nil {
		return moment{}, err
	}
	found, err := r.get(ctx, ids)
	if err != nil {
		return moment{}, err
	}
	without := state.Diff{}
	for key, event := range diff {
		if h := found[event]; h != nil && h.row.Standing == storage.Rejected {
			without[key] = ""
			if diff[key] = ""; r.current[key].id == "" {
				delete(diff, key)
			}
		}
	}
	at, err := r.lengthen(ctx, top, without)
	r.turn.rows.Attach = append(r.turn.rows.Attach, chain)
	return moment{at: at, diff: diff, fresh: true}, err
}
