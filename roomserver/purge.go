package roomserver

import (
	"context"
	"errors"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// purgeSlice bounds the rows that one question takes away, so that others' writes go on between.
const purgeSlice = 1000

// purge takes a slice away. Whoever asks comes again while there is more; what has been taken away stays away, whatever
// crashes between.
func (r *room) purge(ctx context.Context, p bus.Purge) (bus.Outcome, error) {
	if err := r.quiet(ctx); err != nil {
		return bus.Outcome{}, err
	}
	switch {
	case p.All:
		return r.purgeAll(ctx, p.Force)
	case r.closing:
		return bus.Outcome{}, errClosing
	case !r.exists:
		return bus.Outcome{}, refuse(404, mautrix.MNotFound, "There is no such room")
	case p.Extremities:
		return r.purgeExtremities(ctx)
	case p.Before != 0:
		return r.purgeHistory(ctx, storage.Place(p.Before), p.Local)
	}
	return bus.Outcome{}, errors.New("empty purge")
}

// errClosing answers all other questions to a room that is being removed.
var errClosing = bus.Refuse(404, mautrix.MNotFound.ErrCode, "This room is being removed")

// purgeAll removes the room. First it is closed, in a commit of its own: then nothing is added any more to what is taken away.
func (r *room) purgeAll(ctx context.Context, force bool) (bus.Outcome, error) {
	done := bus.Outcome{Verdict: bus.Accepted, More: true}
	e := &storage.Erasure{Begin: true}
	if r.closing {
		var err error
		if e, err = r.s.store.Rooms.NextErasure(ctx, r.id, purgeSlice); err != nil {
			return done, err
		}
		done.Removed, done.More = len(e.Events), !e.Last
	} else if r.head.Joined && !force {
		return done, refuse(400, mautrix.MUnknown, "Users of this server are still in the room")
	}
	return done, r.erase(e)
}

// erase writes the erasure, and has the room read itself anew: what it remembers may be gone.
func (r *room) erase(e *storage.Erasure) error {
	r.turn.rows.Erasure = e
	err := r.written()
	r.forget()
	return err
}

// purgeHistory takes away what is shown before the place, but for what other events need: the state, all that has ever been
// part of it, and the forward extremities. State events stay unseen, and so do our own users' messages unless local.
func (r *room) purgeHistory(ctx context.Context, before storage.Place, local bool) (bus.Outcome, error) {
	done := bus.Outcome{Verdict: bus.Accepted}
	old, err := r.s.store.Events.OldEvents(ctx, r.id, before, purgeSlice+len(r.head.Extremities))
	if err != nil {
		return done, err
	}
	old = slices.DeleteFunc(old, func(o storage.Old) bool { return slices.Contains(r.head.Extremities, o.ID) })
	done.More = len(old) >= purgeSlice
	e := &storage.Erasure{Before: before}
	for _, o := range old[:min(len(old), purgeSlice)] {
		if o.State || !local && o.Sender.Homeserver() == r.s.signer.ServerName {
			e.Hidden = append(e.Hidden, o.Number)
		} else {
			e.Events = append(e.Events, o.Number)
		}
	}
	done.Removed = len(e.Events)
	r.head.Purged = max(r.head.Purged, before)
	head := r.head
	r.turn.rows.Head = &head
	if err := r.erase(e); err != nil || done.More {
		return done, err
	}
	return done, r.purgeChains(ctx)
}

// purgeChains takes away side branches of the state that nothing names any more.
func (r *room) purgeChains(ctx context.Context) error {
	if err := r.wake(ctx); err != nil {
		return err
	}
	unused, err := r.s.store.State.Unused(ctx, r.id, r.head.State)
	if err != nil || len(unused) == 0 {
		return err
	}
	return r.erase(&storage.Erasure{Chains: unused})
}

// purgeExtremities forgets all forward extremities but the deepest.
func (r *room) purgeExtremities(ctx context.Context) (bus.Outcome, error) {
	done := bus.Outcome{Verdict: bus.Accepted}
	if len(r.head.Extremities) < 2 {
		return done, nil
	}
	found, err := r.get(ctx, r.head.Extremities)
	if err != nil {
		return done, err
	}
	deepest := r.head.Extremities[0]
	for _, x := range r.head.Extremities {
		if found[x].depth() > found[deepest].depth() {
			deepest = x
		}
	}
	done.Removed = len(r.head.Extremities) - 1
	r.head.Extremities = []id.EventID{deepest}
	head := r.head
	r.turn.rows.Head = &head
	return done, r.written()
}

// depth of an event, that of one we do not hold being below all.
func (h *held) depth() int64 {
	if h == nil {
		return -1
	}
	return h.row.Depth
}

// barred refuses to let users of ours into a room that an administrator has blocked. Who is in may go on changing their name.
func (r *room) barred(ctx context.Context, user id.UserID, is event.Membership) error {
	if is != event.MembershipJoin && is != event.MembershipInvite && is != event.MembershipKnock {
		return nil
	}
	if user.Homeserver() != r.s.signer.ServerName || r.members[user] == event.MembershipJoin {
		return nil
	}
	by, err := r.s.store.Rooms.BlockedBy(ctx, r.id)
	if err == nil && by != "" {
		err = refuse(403, mautrix.MForbidden, "This room has been blocked on this server")
	}
	return err
}
