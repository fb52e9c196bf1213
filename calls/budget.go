package calls

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/calls/sfu"
)

// guest is another server, as far as its users burden this focus.
type guest struct {
	present int // its participants
	budget  *sfu.Budget
}

// guests counts the participants of other servers.
type guests struct {
	mu    sync.Mutex
	known map[string]*guest
}

// enter counts a participant of the server and gives the budget that is shared there; false: it has its share already.
func (g *guests) enter(server string, most int, bits int64) (*sfu.Budget, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known == nil {
		g.known = map[string]*guest{}
	}
	found := g.known[server]
	if found == nil {
		found = &guest{budget: sfu.NewBudget(bits)}
		g.known[server] = found
	}
	if most > 0 && found.present >= most {
		return nil, false
	}
	found.present++
	return found.budget, true
}

// leave undoes enter.
func (g *guests) leave(server string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if found := g.known[server]; found != nil {
		if found.present--; found.present <= 0 {
			delete(g.known, server)
		}
	}
}

func (g *guests) full(server string, most int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := g.known[server]
	return most > 0 && found != nil && found.present >= most
}

// places counts who is in all calls of this focus together.
type places struct {
	mu     sync.Mutex
	all    int
	guests int               // of all other servers
	ours   map[id.UserID]int // sessions, by user
}

// enter counts a session of the user, in place of one of its own or beside what there is. Zero bounds nothing.
func (c *places) enter(user id.UserID, guest, instead bool, most int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refuses(user, guest, most); err != nil && !instead {
		return err
	}
	c.all++
	if guest {
		c.guests++
	}
	if user != "" {
		if c.ours == nil {
			c.ours = map[id.UserID]int{}
		}
		c.ours[user]++
	}
	return nil
}

// refuses says whether there is no place for a session of the user. The last quarter is for our own users: however many other servers say
// that they have, ours find a place.
func (c *places) refuses(user id.UserID, guest bool, most int) error {
	switch {
	case most > 0 && (c.all >= most || guest && c.guests >= most-most/4):
		return errCrowded
	case c.ours[user] >= maxPlaces:
		return errSessions
	}
	return nil
}

func (c *places) full(user id.UserID, guest bool, most int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refuses(user, guest, most)
}

// leave undoes enter.
func (c *places) leave(user id.UserID, guest bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if guest {
		c.guests--
	}
	if c.ours[user] > 1 {
		c.ours[user]--
	} else {
		delete(c.ours, user)
	}
}

// guestServer is the server of a user who is not one of ours; empty for ours, and in a focus alone.
func (f *Focus) guestServer(user id.UserID) string {
	if f.house == nil || user == "" || user.Homeserver() == f.house.name {
		return ""
	}
	return user.Homeserver()
}

// takePlace counts p among all, and finds what its packets are counted against: its own budget first, so that what is beyond that costs nobody else.
func (p *Participant) takePlace() error {
	f := p.room.focus
	instead := p.room.find(p.identity) != nil // it takes its own place
	server := f.guestServer(p.user)
	if err := f.places.enter(p.user, server != "", instead, f.config.MaxTotalParticipants); err != nil {
		return err
	}
	p.counted = true
	p.budgets = []*sfu.Budget{sfu.NewOwnBudget(f.config.MaxParticipantBitrate), p.room.budget}
	if server == "" {
		return nil
	}
	most := f.config.MaxGuests
	if instead {
		most = 0
	}
	budget, ok := f.guests.enter(server, most, f.config.MaxGuestBitrate)
	if !ok {
		return errFull
	}
	p.budgets = append(p.budgets, budget)
	return nil
}

// leavePlace undoes takePlace, once, and what of it was done.
func (p *Participant) leavePlace() {
	if p.counted {
		p.counted = false
		p.room.focus.places.leave(p.user, p.room.focus.guestServer(p.user) != "")
	}
	if len(p.budgets) > 2 {
		p.room.focus.guests.leave(p.user.Homeserver())
		p.budgets = p.budgets[:2]
	}
}

// takes says whether the call has a place for the bearer, who is not in it yet or comes back.
func (r *Room) takes(c *Claims, v *ruling) error {
	if r.find(c.Subject) != nil {
		return nil
	}
	err, server := r.seat(c, v), r.focus.guestServer(c.user())
	if err == nil && r.focus.guests.full(server, r.focus.config.MaxGuests) {
		err = errFull
	}
	if err == nil {
		err = r.focus.places.full(c.user(), server != "", r.focus.config.MaxTotalParticipants)
	}
	switch err {
	case nil:
		return nil
	case errLocked:
		return &refusal{http.StatusForbidden, err.Error()}
	}
	return &refusal{http.StatusServiceUnavailable, err.Error()}
}

// seat says whether there is a place beside those who are in the call. The room's own goroutine asks it again: by then who comes at
// the same time is in.
func (r *Room) seat(c *Claims, v *ruling) error {
	there, user, sessions := *r.everyone.Load(), c.user(), 0
	for _, p := range there {
		if user != "" && p.user == user {
			sessions++
		}
	}
	switch limit := r.limit(v); {
	case limit > 0 && len(there) >= limit:
		return errFull
	case sessions >= maxSessions:
		return errSessions
	case v.locked && !v.moderate && sessions == 0 && !r.returns(c):
		return errLocked
	}
	return nil
}

// returns says whether the bearer was in the call a moment ago, and did not leave it for good: it comes back from a lost line, or from
// a focus that is no more.
func (r *Room) returns(c *Claims) bool {
	now := time.Now()
	return c.inside(now) && !r.left.since(c.Subject, c.given(), now) && !r.left.sentSince(c.user(), c.given(), now)
}

// maxSessions bounds in how many places of one call a user is: what a session calls itself is the client's choice.
const maxSessions = 10

// maxPlaces bounds it in all calls of this focus together: more than anybody attends, who watches over many meetings too.
const maxPlaces = 50

var (
	errSessions = errors.New("the user is in calls too often")
	errCrowded  = errors.New("as many are in calls as may be")
)

// limit is how many may be in the call at once; 0: any number.
func (r *Room) limit(v *ruling) int {
	limit := r.focus.config.MaxParticipants
	for _, most := range []int{v.most, r.kept().most} {
		if most > 0 && (limit == 0 || most < limit) {
			limit = most
		}
	}
	return limit
}
