package turn

import (
	"maps"
	"time"

	"golang.org/x/time/rate"
)

// user is what the allocations of one user have together. The count is guarded by the server's lock.
type user struct {
	allocations int
	rate        *rate.Limiter // bytes in both directions
}

// rested says whether nothing is lost by forgetting the user: without allocations, and with all its bytes back. Who came again as
// somebody new could spend them twice.
func (u *user) rested(now time.Time) bool {
	return u.allocations == 0 && u.rate.TokensAt(now) >= float64(u.rate.Burst())
}

// userRate is how many bytes in a second one user may have relayed in both directions, by however many allocations.
func (s Settings) userRate() int { return max(s.TotalRate/8, 2*s.Rate) }

// hasRoom says whether a user may have one more allocation. The server is locked.
func (s *Server) hasRoom(name string) bool {
	u := s.users[name]
	return len(s.relays) < s.settings.Allocations && (u == nil || u.allocations < s.settings.PerUser)
}

// keep counts a relay, unless there are too many.
func (s *Server) keep(r *relay) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasRoom(r.name) {
		return false
	}
	if r.user = s.users[r.name]; r.user == nil {
		now := s.now()
		maps.DeleteFunc(s.users, func(_ string, u *user) bool { return u.rested(now) })
		each := s.settings.userRate()
		r.user = &user{rate: rate.NewLimiter(rate.Limit(each), each)}
		s.users[r.name] = r.user
	}
	r.user.allocations++
	s.relays[r] = struct{}{}
	s.told[r.told], s.at[r.at] = r, r
	allocations.Inc()
	return true
}

func (s *Server) drop(r *relay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.relays, r)
	delete(s.told, r.told)
	delete(s.at, r.at)
	if r.user.allocations--; r.user.rested(s.now()) {
		delete(s.users, r.name)
	}
	allocations.Dec()
}
