package roomserver

import (
	"bytes"
	"context"
	"errors"
	"sort"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

var (
	createKey    = pdu.Key{Type: event.StateCreate.Type}
	levelsKey    = pdu.Key{Type: event.StatePowerLevels.Type}
	joinRulesKey = pdu.Key{Type: event.StateJoinRules.Type}
)

// propose makes an event of what a local user wishes, and writes it.
func (r *room) propose(ctx context.Context, p bus.Proposal) (bus.Outcome, error) {
	txn := transaction{p.Sender, p.Device, p.Path, p.TransactionID}
	if p.TransactionID != "" {
		event, err := r.already(ctx, txn)
		if err != nil || event != "" {
			return bus.Outcome{EventID: event, Verdict: bus.Accepted, Already: true}, err
		}
	}
	if !r.exists || !r.head.Joined || p.Sender.Homeserver() != r.s.signer.ServerName {
		return bus.Outcome{}, r.unknown(p.Sender)
	}
	if same, err := r.alreadySo(ctx, p); err != nil || same != "" {
		return bus.Outcome{EventID: same, Verdict: bus.Accepted, Already: true}, err
	}
	if p.Type == event.StateMember.Type && p.StateKey != nil {
		is := event.Membership(gjson.GetBytes(p.Content, "membership").Str)
		if err := r.barred(ctx, id.UserID(*p.StateKey), is); err != nil {
			return bus.Outcome{}, err
		}
	}
	ev, err := r.build(ctx, &p)
	if err != nil {
		return bus.Outcome{}, err
	}
	if err := r.permitted(ctx, ev, p.Sender); err != nil {
		return bus.Outcome{}, err
	}
	if ev, err = r.approved(ctx, ev); err != nil {
		return bus.Outcome{}, err
	}
	row, err := r.stored(ctx, ev)
	if err != nil {
		return bus.Outcome{}, err
	}
	row.DeviceID, row.Path, row.TransactionID = p.Device, p.Path, p.TransactionID
	h := &held{ev, row}
	if err := r.redacts(ctx, h, true); err != nil {
		return bus.Outcome{}, err
	}
	r.append(h)
	if p.TransactionID != "" {
		r.sent.put(txn, row.ID)
	}
	verdicts.WithLabelValues(string(bus.Accepted)).Inc()
	return bus.Outcome{EventID: row.ID, Verdict: bus.Accepted}, nil
}

// append writes an event that stands upon all extremities and the current state.
func (r *room) append(h *held) {
	h.row.Standing = storage.Accepted
	h.row.Before = r.head.State
	if key, ok := pdu.KeyOf(h.ev); ok {
		r.advance(key, h)
	}
	h.row.After = r.head.State
	r.extend(h)
	r.write(h, true)
}

// unknown refuses what concerns a room that we are not in: whether there is such a room is nobody's business.
func (r *room) unknown(sender id.UserID) error {
	if r.members[sender] == event.MembershipBan {
		return refuse(403, mautrix.MForbidden, "You are banned from this room")
	}
	return refuse(403, mautrix.MForbidden, "You are not in this room, or there is no such room")
}

// already gives the event that the transaction made before, stored or in flight; empty if none. One that is not in memory is taken
// to be new: if it is not, the database refuses it, and the question is put again.
func (r *room) already(ctx context.Context, txn transaction) (id.EventID, error) {
	if event := r.sent.get(txn); event != "" || !r.again.now {
		return event, nil
	}
	e, err := r.s.store.Events.ByTransaction(ctx, r.id, txn.sender, txn.device, txn.path, txn.txn)
	if err != nil || e == nil {
		return "", err
	}
	return e.ID, nil
}

// alreadySo gives the event by which the sender made the state what it is asked to be; empty if it is not so.
func (r *room) alreadySo(ctx context.Context, p bus.Proposal) (id.EventID, error) {
	if p.StateKey == nil || p.Always {
		return "", nil
	}
	at, ok := r.current[pdu.Key{Type: p.Type, StateKey: *p.StateKey}]
	if !ok {
		return "", nil
	}
	found, err := r.get(ctx, []id.EventID{at.id})
	if err != nil || found[at.id] == nil {
		return "", err
	}
	h := found[at.id]
	if h.row.Sender != p.Sender || h.row.RedactedBy != "" {
		return "", nil
	}
	wanted, err := pdu.Canonical(p.Content)
	if err != nil {
		return "", nil // build says what is wrong with it
	}
	is, err := pdu.Canonical(h.ev.Content())
	if err != nil || !bytes.Equal(is, wanted) {
		return "", nil
	}
	return at.id, nil
}

// build makes the signed event of a proposal, on the extremities and the current state.
func (r *room) build(ctx context.Context, p *bus.Proposal) (gomatrixserverlib.PDU, error) {
	draft, err := r.outline(ctx, p)
	if err != nil {
		return nil, err
	}
	ev, err := pdu.Build(r.version, draft, r.s.signer)
	return ev, badEvent(err)
}

// outline gives a proposal its parents, auth events and depth.
func (r *room) outline(ctx context.Context, p *bus.Proposal) (pdu.Draft, error) {
	if err := r.authoriser(ctx, p); err != nil {
		return pdu.Draft{}, err
	}
	at := r.s.now()
	if p.Timestamp != 0 {
		at = time.UnixMilli(p.Timestamp)
	}
	draft := pdu.Draft{
		Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, RoomID: r.id, Content: p.Content, Redacts: p.Redacts,
		PrevEvents: r.parents(), Depth: r.head.Depth + 1, Timestamp: at, Sticky: p.Sticky,
	}
	for _, key := range auth.Needed(r.version, p.Type, p.StateKey, p.Sender, p.Content) {
		if at, ok := r.current[key]; ok {
			draft.AuthEvents = append(draft.AuthEvents, at.id)
		}
	}
	if r.version == id.RoomV1 || r.version == id.RoomV2 {
		if err := r.hashes(ctx, &draft); err != nil {
			return draft, err
		}
	}
	return draft, nil
}

// parents are the extremities, at most twenty: beyond that the deepest.
func (r *room) parents() []id.EventID {
	x := append([]id.EventID(nil), r.head.Extremities...)
	if len(x) > pdu.MaxPrevEvents {
		depth := func(e id.EventID) int64 {
			if h := r.events.get(e); h != nil {
				return h.row.Depth
			}
			return 0
		}
		sort.SliceStable(x, func(i, j int) bool { return depth(x[i]) > depth(x[j]) })
		x = x[:pdu.MaxPrevEvents]
	}
	return x
}

// hashes puts in the reference hashes that the first two room versions want.
func (r *room) hashes(ctx context.Context, draft *pdu.Draft) error {
	draft.Hashes = map[id.EventID][]byte{}
	found, err := r.get(ctx, append(append([]id.EventID(nil), draft.PrevEvents...), draft.AuthEvents...))
	if err != nil {
		return err
	}
	for event, h := range found {
		if draft.Hashes[event], err = pdu.ReferenceHash(h.ev); err != nil {
			return err
		}
	}
	return nil
}

// badEvent tells a client what is wrong with its event.
func badEvent(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pdu.ErrTooLarge):
		return refuse(413, mautrix.MTooLarge, "The event is too large")
	case errors.Is(err, pdu.ErrBadJSON), errors.Is(err, pdu.ErrMalformed):
		return refuse(400, mautrix.MBadJSON, err.Error())
	}
	return err
}

// permitted judges a local event by the current state, as it would a stranger's.
func (r *room) permitted(ctx context.Context, ev gomatrixserverlib.PDU, sender id.UserID) error {
	state := &now{ctx: ctx, r: r}
	err := auth.Check(r.version, ev, state)
	if state.err != nil {
		return state.err
	}
	return forbidden(err)
}

// forbidden tells a client by which rule it may not.
func forbidden(err error) error {
	var rule *pdu.AuthError
	if !errors.As(err, &rule) {
		return err
	}
	refusal := refuse(403, mautrix.MForbidden, rule.Reason)
	refusal.Rule = rule.Rule
	return refusal
}

// draft builds and authorises, and stores nothing: for make_join and its kin, and for invites that await their co-signature.
func (r *room) draft(ctx context.Context, p bus.Proposal) (bus.Outcome, error) {
	if !r.exists || !r.head.Joined {
		return bus.Outcome{}, refuse(404, mautrix.MNotFound, "We are not in this room")
	}
	if !p.Unsigned {
		ev, err := r.build(ctx, &p)
		if err != nil {
			return bus.Outcome{}, err
		}
		if err := r.permitted(ctx, ev, p.Sender); err != nil {
			return bus.Outcome{}, err
		}
		// Only invites are drafted to be sent; other drafts ask whether something would be allowed.
		if p.Type == event.StateMember.Type {
			if ev, err = r.approved(ctx, ev); err != nil {
				return bus.Outcome{}, err
			}
		}
		return bus.Outcome{EventID: id.EventID(ev.EventID()), Verdict: bus.Accepted, Event: ev.JSON(), Version: r.version}, nil
	}
	outline, err := r.outline(ctx, &p)
	if err != nil {
		return bus.Outcome{}, err
	}
	// The rules read a whole event: this one is signed by us for their eyes alone.
	ev, err := pdu.Build(r.version, outline, r.s.signer)
	if err != nil {
		return bus.Outcome{}, badEvent(err)
	}
	if err := r.permitted(ctx, ev, p.Sender); err != nil {
		return bus.Outcome{}, err
	}
	template, err := pdu.Template(r.version, outline)
	return bus.Outcome{Verdict: bus.Accepted, Event: template, Version: r.version}, badEvent(err)
}

// authoriser names, in a join that the room's restriction must let in, the member of ours who lets in; and takes
// out what a client put there. Who is invited or joined needs none.
// Spec: client-server-api/#restricted-rooms
func (r *room) authoriser(ctx context.Context, p *bus.Proposal) error {
	if p.Type != event.StateMember.Type || p.StateKey == nil {
		return nil
	}
	const field = "join_authorised_via_users_server"
	var err error
	if gjson.GetBytes(p.Content, field).Exists() {
		if p.Content, err = sjson.DeleteBytes(p.Content, field); err != nil {
			return refuse(400, mautrix.MBadJSON, "Malformed content")
		}
	}
	user := id.UserID(*p.StateKey)
	if gjson.GetBytes(p.Content, "membership").Str != "join" || user != p.Sender {
		return nil
	}
	if m := r.members[user]; m == event.MembershipJoin || m == event.MembershipInvite || m == event.MembershipBan {
		return nil
	}
	rules, err := r.content(ctx, joinRulesKey)
	if err != nil {
		return err
	}
	rule := rules.Get("join_rule").Str
	if (rule != "restricted" || !r.version.RestrictedJoins()) && (rule != "knock_restricted" || !r.version.KnockRestricted()) {
		return nil
	}
	if err := r.allowed(ctx, user, rules.Get("allow")); err != nil {
		return err
	}
	via, err := r.mightiest(ctx, (*auth.Levels).Invite)
	if err != nil {
		return err
	}
	if via == "" {
		return refuse(400, mautrix.RespError{ErrCode: "M_UNABLE_TO_GRANT_JOIN"}, "Nobody on this server may let others in")
	}
	p.Content, err = sjson.SetBytes(p.Content, field, via)
	return err
}

// allowed tells whether the user is in one of the rooms that open this one.
func (r *room) allowed(ctx context.Context, user id.UserID, allow gjson.Result) error {
	unknown := false
	for _, condition := range allow.Array() {
		if condition.Get("type").Str != "m.room_membership" {
			continue
		}
		other := id.RoomID(condition.Get("room_id").Str)
		there, err := r.s.store.Rooms.ByID(ctx, other)
		if err != nil {
			return err
		}
		if there == nil || !there.Joined {
			unknown = true
			continue
		}
		joined, err := r.s.store.Memberships.Joined(ctx, other, user)
		if err != nil || joined {
			return err
		}
	}
	if unknown && user.Homeserver() != r.s.signer.ServerName {
		return refuse(400, mautrix.RespError{ErrCode: "M_UNABLE_TO_AUTHORISE_JOIN"}, "This server cannot tell whether you may join")
	}
	return refuse(403, mautrix.MForbidden, "You are in none of the rooms that open this one")
}

// mightiest gives the joined member of ours with the highest level, if that suffices for what needs it; empty otherwise.
func (r *room) mightiest(ctx context.Context, needs func(*auth.Levels) auth.Level) (id.UserID, error) {
	levels, err := r.levels(ctx)
	if err != nil {
		return "", err
	}
	var best id.UserID
	for user, membership := range r.members {
		if membership != event.MembershipJoin || user.Homeserver() != r.s.signer.ServerName || levels.User(user) < needs(levels) {
			continue
		}
		if best == "" || levels.User(user) > levels.User(best) || (levels.User(user) == levels.User(best) && user < best) {
			best = user
		}
	}
	return best, nil
}

// levels are the current power levels.
func (r *room) levels(ctx context.Context) (*auth.Levels, error) {
	state := &now{ctx: ctx, r: r}
	levels, err := auth.ParsePowerLevels(r.version, state.Event(createKey), state.Event(levelsKey))
	return levels, errors.Join(err, state.err)
}

// content gives the content under the key in the current state; not existing where there is none.
func (r *room) content(ctx context.Context, key pdu.Key) (gjson.Result, error) {
	state := &now{ctx: ctx, r: r}
	ev := state.Event(key)
	if ev == nil {
		return gjson.Result{}, state.err
	}
	return gjson.ParseBytes(ev.Content()), nil
}
