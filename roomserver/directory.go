package roomserver

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// changeAlias adds or removes an alias of this room.
func (r *room) changeAlias(ctx context.Context, c bus.AliasChange) error {
	if err := r.quiet(ctx); err != nil {
		return err
	}
	if !r.exists {
		return refuse(404, mautrix.MNotFound, "There is no such room")
	}
	if !c.Remove {
		if r.members[c.By] != event.MembershipJoin && !c.Anyway {
			return refuse(403, mautrix.MForbidden, "You are not in this room")
		}
		taken, err := r.s.store.Rooms.ByAlias(ctx, c.Alias)
		if err != nil {
			return err
		}
		if taken != "" {
			return refuse(409, mautrix.MUnknown, fmt.Sprintf("The alias %s is taken", c.Alias))
		}
		r.turn.rows.AliasAdded = &storage.Alias{Alias: c.Alias, RoomID: r.id, Creator: c.By}
		return r.written()
	}
	aliases, err := r.s.store.Rooms.Aliases(ctx, r.id)
	if err != nil {
		return err
	}
	for _, a := range aliases {
		if a.Alias != c.Alias {
			continue
		}
		if a.Creator != c.By && !c.Anyway {
			if err := r.mayNameRoom(ctx, c.By); err != nil {
				return err
			}
		}
		r.turn.rows.AliasRemoved = c.Alias
		if c.To != "" {
			r.turn.rows.AliasAdded = &storage.Alias{Alias: c.Alias, RoomID: c.To, Creator: a.Creator}
		}
		return r.written()
	}
	return refuse(404, mautrix.MNotFound, "There is no such alias")
}

// mayNameRoom asks for the level that m.room.canonical_alias takes.
func (r *room) mayNameRoom(ctx context.Context, user id.UserID) error {
	levels, err := r.levels(ctx)
	if err != nil {
		return err
	}
	if r.members[user] != event.MembershipJoin || levels.User(user) < levels.Event("m.room.canonical_alias", true) {
		return refuse(403, mautrix.MForbidden, "You may not change this room's addresses")
	}
	return nil
}

// publish lists the room in the directory, or takes it out.
func (r *room) publish(ctx context.Context, p bus.Publish) error {
	if !r.exists {
		return refuse(404, mautrix.MNotFound, "There is no such room")
	}
	if err := r.mayNameRoom(ctx, p.By); err != nil {
		return err
	}
	r.head.Listed = p.Listed
	head := r.head
	r.turn.rows.Head = &head
	return nil
}

// forgetUser makes a room that the user has left vanish from the user's lists.
func (r *room) forgetUser(ctx context.Context, f bus.Forget) error {
	if m := r.members[f.User]; m == event.MembershipJoin || m == event.MembershipInvite {
		return refuse(400, mautrix.MUnknown, "You have not left this room")
	}
	stands, err := r.s.store.Memberships.Of(ctx, r.id, f.User)
	if err != nil {
		return err
	}
	if stands == nil {
		return refuse(404, mautrix.MNotFound, "You were never in this room")
	}
	if stands.Membership == event.MembershipInvite || stands.Membership == event.MembershipJoin {
		return refuse(400, mautrix.MUnknown, "You have not left this room")
	}
	r.turn.rows.Forgotten = f.User
	return nil
}
