package roomserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/roomserver/state"
	"chancery/storage"
	"chancery/storage/bus"
)

// create makes a room with all its first events in one commit, or nothing.
func (s *Server) create(ctx context.Context, c bus.Create) (bus.Created, error) {
	if !pdu.Known(c.Version) {
		return bus.Created{}, refuse(400, mautrix.MUnsupportedRoomVersion, "Unknown room version")
	}
	if c.Replaces != "" {
		begun, err := s.store.Upgrades.Of(ctx, c.Replaces)
		if err != nil {
			return bus.Created{}, err
		}
		if begun != nil {
			return bus.Created{RoomID: begun.New}, nil
		}
	}
	first, err := s.createEvent(c)
	if err != nil {
		return bus.Created{}, err
	}
	r := s.newRoom(pdu.RoomIDOf(first.ev))
	if err := r.wake(ctx); err != nil {
		return bus.Created{}, err
	}
	if r.exists {
		return bus.Created{}, errors.New("room ID given out twice")
	}
	chain, err := s.store.Numbers(ctx, 2)
	if err != nil {
		return bus.Created{}, err
	}
	r.turn = &turn{}
	r.exists, r.version, r.resolver = true, c.Version, state.NewResolver(c.Version, source{r})
	r.head = storage.Room{ID: r.id, Version: c.Version, State: storage.Snapshot{Chain: chain}, Joined: true, Listed: c.Listed}
	r.turn.rows.Chains = []storage.Chain{{Chain: chain, RoomID: r.id}}
	first.row = Row(first.ev, chain+1)
	first.row.RoomID = r.id
	if err := auth.Check(c.Version, first.ev, auth.Events{}); err != nil {
		return bus.Created{}, badRoom(err)
	}
	r.append(first)
	for _, p := range c.Events {
		p.Always = true
		if _, err := r.propose(ctx, p); err != nil {
			return bus.Created{}, badRoom(fmt.Errorf("%s: %w", p.Type, err))
		}
	}
	if c.Alias != "" {
		taken, err := s.store.Rooms.ByAlias(ctx, c.Alias)
		if err != nil {
			return bus.Created{}, err
		}
		if taken != "" {
			return bus.Created{}, refuse(400, mautrix.MRoomInUse, "The alias is taken")
		}
		r.turn.rows.AliasAdded = &storage.Alias{Alias: c.Alias, RoomID: r.id, Creator: c.Sender}
	}
	if c.Replaces != "" {
		r.turn.rows.Upgrade = &storage.Upgrade{Old: c.Replaces, New: r.id, By: c.Sender}
	}
	head := r.head
	r.turn.rows.Line, r.turn.rows.Room, r.turn.rows.Head = r.line, r.id, &head
	if err := s.writer.WriteAndWait(&r.turn.rows); err != nil {
		if begun, _ := s.store.Upgrades.Of(ctx, c.Replaces); c.Replaces != "" && begun != nil { // meanwhile
			return bus.Created{RoomID: begun.New}, nil
		}
		if taken, _ := s.store.Rooms.ByAlias(ctx, c.Alias); c.Alias != "" && taken != "" { // meanwhile
			return bus.Created{}, refuse(400, mautrix.MRoomInUse, "The alias is taken")
		}
		return bus.Created{}, fmt.Errorf("write room: %w", err)
	}
	return bus.Created{RoomID: r.id}, nil
}

// badRoom tells a client that its first events make no room.
func badRoom(err error) error {
	var refusal *bus.Refusal
	if errors.As(err, &refusal) && refusal.Status != 403 {
		return err
	}
	var rule *pdu.AuthError
	if refusal != nil || errors.As(err, &rule) {
		return refuse(400, mautrix.RespError{ErrCode: "M_INVALID_ROOM_STATE"}, err.Error())
	}
	return err
}

// createEvent builds m.room.create.
// Spec: client-server-api/#mroomcreate
func (s *Server) createEvent(c bus.Create) (*held, error) {
	content := c.Content
	if len(content) == 0 {
		content = []byte("{}")
	}
	content, err := sjson.SetBytes(content, "room_version", c.Version)
	if err != nil {
		return nil, refuse(400, mautrix.MBadJSON, "Malformed creation content")
	}
	if c.Version.CreatorInContent() {
		content, err = sjson.SetBytes(content, "creator", c.Sender)
	} else {
		content, err = sjson.DeleteBytes(content, "creator")
	}
	if err != nil {
		return nil, refuse(400, mautrix.MBadJSON, "Malformed creation content")
	}
	key := ""
	draft := pdu.Draft{Type: event.StateCreate.Type, StateKey: &key, Sender: c.Sender, Content: content, Depth: 1, Timestamp: s.now()}
	if !c.Version.RoomIDIsCreateEventID() {
		draft.RoomID = id.RoomID("!" + strings.ToLower(rand.Text()[:18]) + ":" + s.signer.ServerName)
	}
	ev, err := pdu.Build(c.Version, draft, s.signer)
	if err != nil {
		return nil, badEvent(err)
	}
	return &held{ev: ev}, nil
}
