package storage

import (
	"context"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"
)

// erasedAge is how long another process may not know of an erasure.
const erasedAge = 10 * time.Second

// erased remembers whose words are shown to nobody who comes later. They are few. The zero value knows nothing.
type erased struct {
	mu    sync.Mutex
	users map[id.UserID]bool
	at    time.Time
	drops uint64
}

// Erased are the users who wished to be forgotten when they closed their account; not to be changed.
func (a *Accounts) Erased(ctx context.Context) (map[id.UserID]bool, error) {
	a.gone.mu.Lock()
	users, fresh, drops := a.gone.users, a.s.now().Sub(a.gone.at) < erasedAge, a.gone.drops
	a.gone.mu.Unlock()
	if users != nil && fresh {
		return users, nil
	}
	now := a.s.now()
	list, err := all(ctx, a.s, column[id.UserID], "SELECT user_id FROM accounts WHERE erased LIMIT 1000000")
	if err != nil {
		return nil, err
	}
	users = make(map[id.UserID]bool, len(list))
	for _, user := range list {
		users[user] = true
	}
	a.gone.mu.Lock()
	defer a.gone.mu.Unlock()
	if a.gone.drops == drops {
		a.gone.users, a.gone.at = users, now
	}
	return users, nil
}

// forgetErased has the list read again, once what ctx's transaction does is on disk.
func (a *Accounts) forgetErased(ctx context.Context) {
	a.s.After(ctx, func() {
		a.gone.mu.Lock()
		defer a.gone.mu.Unlock()
		a.gone.users = nil
		a.gone.drops++
	})
}
