package calls

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/storage"
)

// leavers remembers who has left a call for good, while tokens say that they are in it: to a locked call they do not come back.
type leavers struct {
	mu    sync.Mutex
	known map[string]leaver       // by identity
	sent  map[id.UserID]time.Time // who was sent out, whatever else they call themselves
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

// noteSent notes that a user was sent out of the call. A device whose line was lost before that has a token that says it is inside.
func (l *leavers) noteSent(user id.UserID, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sent == nil {
		l.sent = map[id.UserID]time.Time{}
	}
	maps.DeleteFunc(l.sent, func(_ id.UserID, at time.Time) bool { return now.Sub(at) > insideFor })
	l.sent[user] = now
}

// sentSince says whether a user was sent out since then, as since does.
func (l *leavers) sentSince(user id.UserID, then, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.sent[user]
	return ok && (at.After(then) || then.After(now.Add(tokenSkew)))
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
	known := false
	for _, r := range newest {
		ended := time.UnixMilli(r.Ended)
		switch {
		case r.Call != c.Video.Room:
		case r.DeviceID == c.Matrix.Device && !known:
			known, c.Again = true, !forGood(r.Reason, time.Since(ended))
		case r.Reason == signal.DisconnectReason_PARTICIPANT_REMOVED.String() && ended.After(c.given()): // with another device
			known, c.Again = true, false
		}
	}
	return nil
}
