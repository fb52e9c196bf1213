package turn

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"
)

// Right is what an allocation may reach.
type Right string

const (
	// ToFoci opens the media ports of this server's foci alone: for participants of calls.
	ToFoci Right = "c"
	// ToPublic opens public addresses and other allocations of this server: for calls between two devices.
	ToPublic Right = "v"
)

const (
	// Life is how long a credential opens allocations.
	Life = time.Hour
	// longest is how long allocations may go on after their credential has ended.
	longest = 24*time.Hour - Life
	maxName = 128
)

// Credential makes a username and password for somebody, good for Life. Who is seen on the wire in clear: no user ID, but
// what stands for the same user each time, since its relays are counted together.
func Credential(secret []byte, right Right, who string, now time.Time) (username, password string) {
	username = strconv.FormatInt(now.Add(Life).Unix(), 10) + ":" + string(right) + ":" + who
	return username, Password(secret, username)
}

// Password is what belongs to a username with a time in front, by the custom of TURN servers with a shared secret.
func Password(secret []byte, username string) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// bearer is what a username says.
type bearer struct {
	until time.Time
	right Right
	who   string
}

// user is the bearer's name for as long as it renews its credential.
func (b bearer) user() string { return string(b.right) + ":" + b.who }

// parse reads a username. It is false for what Credential does not make.
func parse(username string) (b bearer, ok bool) {
	if len(username) > maxName {
		return b, false
	}
	parts := strings.SplitN(username, ":", 3)
	if len(parts) != 3 || parts[2] == "" {
		return b, false
	}
	until, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || until <= 0 || strconv.FormatInt(until, 10) != parts[0] {
		return b, false
	}
	b = bearer{until: time.Unix(until, 0), right: Right(parts[1]), who: parts[2]}
	return b, b.right == ToFoci || b.right == ToPublic
}

// holds says whether a credential permits a request now: it opens allocations until it ends, and keeps open longer.
func (b bearer) holds(method stun.Method, now time.Time) bool {
	end := b.until
	if method != stun.MethodAllocate {
		end = end.Add(longest)
	}
	return now.Before(end) && b.until.Before(now.Add(Life+time.Minute))
}

// even is what a clock shows that was as the host's when the server began, and that nobody has set since. By that one holds what was
// given before the host's clock was set; by the host's own, what is given since, here or by other processes.
func (s *Server) even() time.Time { return s.began.Add(time.Since(s.began)) }

// authenticate gives the user and the key of a request's username; Pion checks the request with it.
func (s *Server) authenticate(r *turn.RequestAttributes) (user string, key []byte, ok bool) {
	b, ok := parse(r.Username)
	if !ok || r.Realm != Realm || !b.holds(r.Method, s.settings.Now()) && !b.holds(r.Method, s.even()) {
		refused.WithLabelValues("credential").Inc()
		return "", nil, false
	}
	return b.user(), turn.GenerateAuthKey(r.Username, Realm, Password(s.settings.Secret, r.Username)), true
}

// quota says whether a user may have one more allocation; who it is has been proven.
func (s *Server) quota(user, _ string, _ net.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasRoom(user) {
		refused.WithLabelValues("quota").Inc()
		return false
	}
	return true
}

func addressKey(a net.Addr) string { return a.Network() + " " + a.String() }
