package syncing

import (
	"hash/maphash"
	"slices"
	"sync"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// sentMembers remembers which members a connection was sent with lazy loading, so that they are not sent again with each message.
// Thousands wait, each having been sent hundreds of members: a member is remembered as a hash of 64 bits under a seed of this process.
type sentMembers struct {
	mu         sync.Mutex
	seed       maphash.Seed
	n          int // members noted in the young half
	young, old map[connection]map[id.RoomID]*sentRoom
	// alike are lists of members by their sum: those who wait in one room were mostly sent the same.
	alike map[uint64][]uint64
}

// sentRoom is what a connection was sent of one room's members.
type sentRoom struct {
	// known were sent by answers up to settled, which the client has seen; ascending.
	known   []uint64
	settled storage.Position
	// self is with which answer the connection's own user was sent, who is not among the others; 0 for none.
	self storage.Position
	// last were sent by the answers since, of which the client may ask again.
	last []sentBatch
}

// sentBatch is what one answer held.
type sentBatch struct {
	at      storage.Position
	members []uint64
}

// connection is a device with a filter.
type connection struct {
	user   id.UserID
	device id.DeviceID
	filter string
}

// maxSent bounds what sentMembers remembers in each half.
const maxSent = 1_000_000

func newSentMembers() *sentMembers {
	return &sentMembers{seed: maphash.MakeSeed(), young: map[connection]map[id.RoomID]*sentRoom{}, alike: map[uint64][]uint64{}}
}

// reset forgets what a connection was sent: it begins anew.
func (m *sentMembers) reset(c connection) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.young, c)
	delete(m.old, c)
}

// unsent keeps of the users those whom the connection was not sent in this room by an answer up to since, and notes them
// as sent with the answer that reaches to. An answer that never arrived is asked for again with the same since.
func (m *sentMembers) unsent(c connection, room id.RoomID, users []id.UserID, since, to storage.Position) []id.UserID {
	m.mu.Lock()
	defer m.mu.Unlock()
	rooms := m.young[c]
	if rooms == nil {
		if rooms = m.old[c]; rooms == nil {
			rooms = map[id.RoomID]*sentRoom{}
		}
		m.young[c] = rooms
	}
	sent := rooms[room]
	if sent == nil {
		sent = &sentRoom{}
		rooms[room] = sent
	}
	sent.settle(m, since)
	var fresh []id.UserID
	var members []uint64
	for _, user := range users {
		if user == c.user {
			if sent.self == 0 || sent.self > since {
				fresh, sent.self = append(fresh, user), to
			}
			continue
		}
		member := maphash.String(m.seed, string(user))
		if _, known := slices.BinarySearch(sent.known, member); !known {
			fresh, members = append(fresh, user), append(members, member)
		}
	}
	if len(members) > 0 {
		sent.note(m, to, members)
		m.n += len(members)
	}
	if m.n > maxSent {
		m.old, m.young, m.n = m.young, map[connection]map[id.RoomID]*sentRoom{}, 0
	}
	return fresh
}

// note takes in what the answer that reaches to holds; more than once if it is made of parts, or asked for again.
func (r *sentRoom) note(m *sentMembers, to storage.Position, members []uint64) {
	r.last = slices.DeleteFunc(r.last, func(b sentBatch) bool {
		if b.at == to {
			members = append(members, b.members...)
		}
		return b.at >= to
	})
	r.last = append(r.last, sentBatch{to, m.share(members)})
}

// maxAlike bounds how many lists are held to be shared.
const maxAlike = 1024

// share sorts the members, and gives the list that others have of the same ones. It is never changed from then on.
func (m *sentMembers) share(members []uint64) []uint64 {
	slices.Sort(members)
	members = slices.Clip(slices.Compact(members))
	sum := uint64(len(members))
	for _, member := range members {
		sum = sum*31 + member
	}
	if other := m.alike[sum]; slices.Equal(other, members) {
		return other
	}
	if len(m.alike) >= maxAlike {
		clear(m.alike)
	}
	m.alike[sum] = members
	return members
}

// settle takes what was sent up to since as known. A client that goes back behind what was settled may have seen none of it.
func (r *sentRoom) settle(m *sentMembers, since storage.Position) {
	if since < r.settled {
		*r = sentRoom{}
	}
	n := 0
	var seen []uint64
	for n < len(r.last) && r.last[n].at <= since {
		seen = append(seen, r.last[n].members...)
		n++
	}
	if n == 0 {
		return
	}
	r.known, r.settled = m.share(append(seen, r.known...)), since
	if r.last = r.last[n:]; len(r.last) == 0 {
		r.last = nil
	}
}
