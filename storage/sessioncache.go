package storage

import (
	"crypto/sha256"
	"sync"

	"maunium.net/go/mautrix/id"
)

// maxSessions bounds the tokens that are kept in memory.
const maxSessions = 100_000

type tokenHash = [sha256.Size]byte

// sessionCache keeps who holds a token, so that a request costs no query. The zero value is empty. What is read before
// something was dropped is not kept after it: the reading may have been older than the change.
type sessionCache struct {
	mu       sync.Mutex
	sessions map[tokenHash]*Session
	byDevice map[deviceName][]tokenHash
	drops    uint64 // how often something was dropped
}

type deviceName struct {
	user   id.UserID
	device id.DeviceID
}

// find is the session, or nil and a mark to be given to keep.
func (c *sessionCache) find(hash tokenHash) (*Session, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions[hash], c.drops
}

// keep remembers what was read after the mark was given, unless something was dropped since.
func (c *sessionCache) keep(hash tokenHash, s *Session, mark uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drops != mark {
		return
	}
	if c.sessions == nil || len(c.sessions) >= maxSessions {
		c.sessions, c.byDevice = map[tokenHash]*Session{}, map[deviceName][]tokenHash{}
	}
	if c.sessions[hash] == nil {
		name := deviceName{s.UserID, s.DeviceID}
		c.byDevice[name] = append(c.byDevice[name], hash)
	}
	c.sessions[hash] = s
}

// drop forgets the tokens of a device.
func (c *sessionCache) drop(user id.UserID, device id.DeviceID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	name := deviceName{user, device}
	for _, hash := range c.byDevice[name] {
		delete(c.sessions, hash)
	}
	delete(c.byDevice, name)
}

// clear forgets everything.
func (c *sessionCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	c.sessions, c.byDevice = nil, nil
}
