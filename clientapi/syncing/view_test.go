package syncing

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"
)

// client keeps the view of a room that a client makes of its syncs.
type client struct {
	user  id.UserID
	since string
	query []string
	state map[string]string // "type|key" to event ID
	// seen are the bodies of messages, in the order in which they were shown; a gap empties it.
	seen   []string
	joined bool
}

func (c *client) sync(t *testing.T, h *house, room id.RoomID, name string) {
	t.Helper()
	r := h.answerTo(c.user, c.since, c.query...)
	c.since = next(r)
	if left := in(r, "leave", room); left.Exists() {
		c.joined = false
	}
	joined := in(r, "join", room)
	if !joined.Exists() {
		return
	}
	if !c.joined { // what was known of it before does not count
		c.state, c.seen = map[string]string{}, nil
	}
	c.joined = true
	if joined.Get("timeline.limited").Bool() {
		c.seen = nil
	}
	apply := func(e gjson.Result) {
		if e.Get("state_key").Exists() {
			c.state[e.Get("type").Str+"|"+e.Get("state_key").Str] = e.Get("event_id").Str
		}
	}
	for _, e := range joined.Get(gjson.Escape(name)).Get("events").Array() {
		apply(e)
	}
	for _, e := range joined.Get("timeline.events").Array() {
		if name == "state" {
			apply(e)
		}
		if body := e.Get("content.body").Str; body != "" {
			c.seen = append(c.seen, body)
		}
	}
}

// TestViewsAgree does random things in a room, while clients sync now and then: from memory and from the tables, with the
// state before and after the timeline, with short timelines. In the end each has the view of one that begins anew.
func TestViewsAgree(t *testing.T) {
	runs := 12
	if testing.Short() {
		runs = 3
	}
	base := uint64(time.Now().UnixNano())
	for run := range runs {
		seed := base + uint64(run)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { agree(t, rand.New(rand.NewPCG(seed, 7)), run%2 == 1) })
	}
}

func agree(t *testing.T, random *rand.Rand, restarts bool) {
	h := newHouse(t)
	room := h.create(alice, "public")
	const short = `{"room":{"timeline":{"limit":3}}}`
	clients := []*client{
		{user: bob, query: []string{"filter", short}},
		{user: bob, query: []string{"filter", short, "use_state_after", "true"}},
		{user: bob},
	}
	in := false
	said := 0
	for range 60 {
		switch n := random.IntN(12); {
		case n < 4:
			said++
			h.say(room, alice, fmt.Sprint("m", said))
		case n < 6:
			h.state(room, alice, []string{"m.room.topic", "m.room.name"}[random.IntN(2)], "", content(`{"x":"%d"}`, random.IntN(1000)))
		case n < 7:
			h.state(room, alice, "x.y", fmt.Sprint(random.IntN(3)), content(`{"x":"%d"}`, random.IntN(1000)))
		case n < 8:
			in = !in
			h.member(room, bob, bob, map[bool]string{true: "join", false: "leave"}[in])
		case n < 9 && in:
			h.propose(room, profile(bob, random.IntN(100)))
		default:
			c := clients[random.IntN(len(clients))]
			name := "state"
			if slices.Contains(c.query, "use_state_after") {
				name = "state_after"
			}
			if restarts {
				h.again()
			}
			c.sync(t, h, room, name)
		}
	}
	if !in {
		h.member(room, bob, bob, "join")
	}
	h.say(room, alice, "end")
	fresh := &client{user: bob}
	fresh.sync(t, h, room, "state")
	for i, c := range clients {
		name := "state"
		if slices.Contains(c.query, "use_state_after") {
			name = "state_after"
		}
		c.sync(t, h, room, name)
		for key, want := range fresh.state {
			if c.state[key] != want {
				t.Errorf("client %d: %s is %s, want %s", i, key, c.state[key], want)
			}
		}
		for key := range c.state {
			if fresh.state[key] == "" {
				t.Errorf("client %d has %s, which is not there", i, key)
			}
		}
		if n := len(c.seen); n == 0 || !slices.Equal(c.seen, fresh.seen[max(0, len(fresh.seen)-n):]) {
			// One whose timelines are not cut has seen more than a first sync shows.
			if n <= len(fresh.seen) || !slices.Equal(c.seen[n-len(fresh.seen):], fresh.seen) {
				t.Errorf("client %d saw %v, want an unbroken end of %v", i, c.seen, fresh.seen)
			}
		}
	}
}
