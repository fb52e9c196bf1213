package calls

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"chancery/calls/signal"
	"chancery/storage"
)

// leavers remembers who has left a call for good, while tokens say that they are in it: to a locked call they do not come back.
type leavers struct {
	mu    sync.Mutex
	known map[string]time.Time // by identity
}

func (l *leavers) note(identity string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[string]time.Time{}
	}
	maps.DeleteFunc(l.known, func(_ string, at time.Time) bool { return now.Sub(at) > insideFor })
	l.known[identity] = now
}

// since says whether somebody has left since then.
func (l *leavers) since(identity string, then time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[identity].After(then)
}

// forGood says whether a session ended because somebody wished it, and not because something failed. Reasons are named as in call records.
func forGood(reason string) bool {
	switch reason {
	case signal.DisconnectReason_CLIENT_INITIATED.String(), signal.DisconnectReason_PARTICIPANT_REMOVED.String(), signal.DisconnectReason_ROOM_DELETED.String():
		return true
	}
	return false
}

// recall takes the word that the bearer is in the call out of its token, if the records say that it has left for good: its focus
// may be no more, and the call another one.
func (h *house) recall(ctx context.Context, c *Claims) error {
	if h == nil || c.Matrix == nil {
		return nil
	}
	const most = 20
	newest, err := h.store.CallRecords.Find(ctx, storage.CallSearch{RoomID: c.Matrix.Room, UserID: c.Matrix.User, Limit: most})
	if err != nil {
		return fmt.Errorf("read call records: %w", err)
	}
	for _, r := range newest {
		if r.Call == c.Video.Room && r.DeviceID == c.Matrix.Device {
			c.Again = !forGood(r.Reason)
			break
		}
	}
	return nil
}
