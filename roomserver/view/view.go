// Package view is the reading side of rooms: who may see which event, and how an
// event looks to a client or to another server.
//
// It reads storage and writes nothing. Truths to keep:
//
//   - one function decides on history visibility, for clients and for servers alike; sync, messages, context, search and federation all ask it;
//   - a redacted event is given in its pruned form from the commit of its redaction on, whoever asks;
//   - `unsigned` is made here and never taken from another server;
//   - a page of events costs a few queries, not some for each event;
//   - what is remembered never changes: what a key holds at a snapshot, what an event says.
package view

import (
	"context"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// Viewer is for whom events are rendered. Nobody (the zero Viewer) gets what is the
// same for all: no membership, no transaction ID, and no relations, of which each
// may see others.
type Viewer struct {
	User   id.UserID
	Device id.DeviceID
}

// Reader reads rooms. It is safe for concurrent use.
type Reader struct {
	store    *storage.Store
	now      func() time.Time
	versions sync.Map // id.RoomID to id.RoomVersion: never changes
	acls     sync.Map // id.EventID to *policy.ACL
	held     *memory[storage.Lookup, int64]
	said     *memory[int64, string]
}

// New makes a Reader of the store.
func New(store *storage.Store) *Reader {
	return &Reader{
		store: store,
		now:   time.Now,
		held:  newMemory[storage.Lookup, int64](50_000),
		said:  newMemory[int64, string](50_000),
	}
}

// Version gives a room's version; empty if we know no such room.
func (r *Reader) Version(ctx context.Context, room id.RoomID) (id.RoomVersion, error) {
	if v, ok := r.versions.Load(room); ok {
		return v.(id.RoomVersion), nil
	}
	stored, err := r.store.Rooms.ByID(ctx, room)
	if err != nil || stored == nil {
		return "", err
	}
	r.versions.Store(room, stored.Version)
	return stored.Version, nil
}
