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
	known map[string]leaver // by identity
}

type leaver struct {
	at     time.Time
	reason string
}

func (l *leavers) note(identity, reason string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[string]leaver{}
	}
	maps.DeleteFunc(l.known, func(_ string, known leaver) bool { return now.Sub(known.at) > insideFor })
	l.known[identity] = leaver{now, reason}
}

// since says whether somebody has left for good since then. If that is still to come, the clock was set back meanwhile, and nobody knows.
func (l *leavers) since(identity string, then, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, ok := l.known[identity]
	return ok && (known.at.After(then) || then.After(now.Add(tokenSkew))) && forGood(known.reason, now.Sub(known.at))
}

// startsOver is how long after a client's own farewell it may come back: livekit-client takes its leave too where its media are lost
// and it begins anew, and comes back at once. (2.23.0: RTCEngine.restartConnection)
const startsOver = 10 * time.Second

// forGood says whether a session that ended some time ago did because somebody wished it, and not because something failed. Reasons
// are named as in call records.
func forGood(reason string, ago time.Duration) bool {
	switch reason {
	case signal.DisconnectReason_CLIENT_INITIATED.String():
		return ago > startsOver
	case signal.DisconnectReason_PARTICIPANT_REMOVED.String(), signal.DisconnectReason_ROOM_DELETED.String():
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
			c.Again = !forGood(r.Reason, time.Since(time.UnixMilli(r.Ended)))
			break
		}
	}
	return nil
}
