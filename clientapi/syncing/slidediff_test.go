package syncing

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

// sight is what a client knows of a room.
type sight struct {
	membership      string
	state           map[string]string // "type|key" to event ID
	events          []string          // event IDs, without a gap
	counts          string            // notifications and highlights
	joined, invited int64
}

func (s *sight) apply(e gjson.Result) {
	if e.Get("state_key").Exists() {
		s.state[e.Get("type").Str+"|"+e.Get("state_key").Str] = e.Get("event_id").Str
	}
}

// sights are a client's rooms.
type sights map[string]*sight

func (v sights) of(room string, anew bool) *sight {
	if v[room] == nil || anew {
		v[room] = &sight{state: map[string]string{}}
	}
	return v[room]
}

// oldClient knows sync v2 alone.
type oldClient struct {
	user  id.UserID
	since string
	sights
}

func (c *oldClient) sync(h *house) {
	h.Helper()
	r := h.answerTo(c.user, c.since, "use_state_after", "true", "filter", `{"room":{"timeline":{"limit":4}}}`)
	c.since = next(r)
	for room := range r.Get("rooms.leave").Map() {
		delete(c.sights, room)
	}
	for room := range r.Get("rooms.invite").Map() {
		c.of(room, true).membership = "invite"
	}
	r.Get("rooms.join").ForEach(func(room, part gjson.Result) bool {
		old := c.sights[room.Str]
		s := c.of(room.Str, old == nil || old.membership != "join")
		s.membership = "join"
		if part.Get("timeline.limited").Bool() {
			s.events = nil
		}
		for _, e := range part.Get("timeline.events").Array() {
			s.events = append(s.events, e.Get("event_id").Str)
		}
		for _, e := range part.Get("state_after.events").Array() {
			s.apply(e)
		}
		if n := part.Get("unread_notifications"); n.Exists() {
			s.counts = n.Get("notification_count").Raw + " " + n.Get("highlight_count").Raw
		}
		if n := part.Get(`summary.m\.joined_member_count`); n.Exists() {
			s.joined, s.invited = n.Int(), part.Get(`summary.m\.invited_member_count`).Int()
		}
		return true
	})
}

// newClient knows sliding sync alone.
type newClient struct {
	slider
	sights
	anew int // how often it had to begin anew
}

func (c *newClient) sync(h *house, random *rand.Rand, high int, lossy bool) {
	h.Helper()
	c.house = h
	ask := list(0, high, 1+random.IntN(4), `["*","*"]`, "")
	if room := c.known(random); room != "" && random.IntN(3) == 0 {
		ask = strings.TrimSuffix(ask, "}") + fmt.Sprintf(`,"room_subscriptions":{%q:{"timeline_limit":%d,"required_state":[["*","*"]]}}}`, room, 1+random.IntN(8))
	}
	before := c.pos
	code, r := c.ask(ask)
	if os.Getenv("SLIDE_SEED") != "" {
		h.Logf("%s -> %d %s", ask, code, r.Raw)
	}
	if code == 400 && r.Get("errcode").Str == "M_UNKNOWN_POS" {
		c.anew++
		c.pos, c.sights = "", sights{}
		code, r = c.ask(ask)
	}
	if code != 200 {
		h.Fatalf("sliding sync: %d %s", code, r.Raw)
	}
	if lossy && before != "" && random.IntN(5) == 0 {
		return // the answer was lost
	}
	c.pos = r.Get("pos").Str
	r.Get("rooms").ForEach(func(room, part gjson.Result) bool {
		c.take(room.Str, part)
		return true
	})
}

// known is a room that the client knows, to subscribe to.
func (c *newClient) known(random *rand.Rand) string {
	var rooms []string
	for room := range c.sights {
		rooms = append(rooms, room)
	}
	if len(rooms) == 0 {
		return ""
	}
	slices.Sort(rooms)
	return rooms[random.IntN(len(rooms))]
}

func (c *newClient) take(room string, part gjson.Result) {
	own := part.Get(`required_state.#(state_key=="` + string(c.user) + `").content.membership`).Str
	switch {
	case part.Get("invite_state").Exists():
		c.of(room, true).membership = "invite"
		return
	case own == "leave" || own == "ban":
		delete(c.sights, room)
		return
	}
	s := c.of(room, part.Get("initial").Bool())
	s.membership = "join"
	if part.Get("limited").Bool() || part.Get("unstable_expanded_timeline").Bool() {
		s.events = nil
	}
	for _, e := range part.Get("timeline").Array() {
		s.events = append(s.events, e.Get("event_id").Str)
	}
	for _, e := range part.Get("required_state").Array() {
		s.apply(e)
	}
	if n := part.Get("notification_count"); n.Exists() {
		s.counts = n.Raw + " " + part.Get("highlight_count").Raw
	}
	if n := part.Get("joined_count"); n.Exists() {
		s.joined, s.invited = n.Int(), part.Get("invited_count").Int()
	}
}

// TestSlideAgreesWithSync does random things in random rooms, while one client knows only sliding sync, with windows,
// subscriptions and lost answers, and another only sync v2. In the end both see the same: rooms, timelines, state and counts.
func TestSlideAgreesWithSync(t *testing.T) {
	houses, runs := 10, 30
	if testing.Short() {
		houses, runs = 2, 10
	}
	base := uint64(time.Now().UnixNano())
	if text := os.Getenv("SLIDE_SEED"); text != "" { // one run again
		base, _ = strconv.ParseUint(text, 10, 64)
		houses, runs = 1, 1
	}
	for n := range houses {
		t.Run(fmt.Sprint("house ", n), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			for run := range runs {
				seed := base + uint64(n*1000+run)
				if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
					here := *h
					here.TB = t
					slideAgree(&here, run, seed, func() {
						h.again() // ends with the house, not with this run
						here.sync, here.http = h.sync, h.http
					})
				}) {
					return
				}
			}
		})
	}
}

// stage is where one run plays.
type stage struct {
	*house
	random         *rand.Rand
	host, me, peer id.UserID
	rooms          []id.RoomID
	standing       map[id.RoomID]string // how the user stands to them
	said           map[id.RoomID][]id.EventID
	n              int
}

func slideAgree(h *house, run int, seed uint64, again func()) {
	random := rand.New(rand.NewPCG(seed, 11))
	name := func(role string) id.UserID { return id.UserID(fmt.Sprintf("@%s%d:interior", role, run)) }
	s := &stage{house: h, random: random, host: name("host"), me: name("me"), peer: name("peer"), standing: map[id.RoomID]string{}, said: map[id.RoomID][]id.EventID{}}
	for range 2 + random.IntN(3) {
		room := h.create(s.host, "public")
		h.member(room, s.peer, s.peer, "join")
		s.rooms = append(s.rooms, room)
	}
	older := &oldClient{user: s.me, sights: sights{}}
	newer := &newClient{slider: slider{user: s.me}, sights: sights{}}
	for range 25 {
		switch n := random.IntN(20); {
		case n < 4:
			older.sync(h)
		case n < 8:
			newer.sync(h, random, random.IntN(4), true)
		case n == 8 && random.IntN(6) == 0:
			if random.IntN(2) == 0 {
				if err := h.sync.saveSlides(context.Background(), 100); err != nil {
					h.Fatal(err)
				}
			}
			again()
		default:
			s.act(s.rooms[random.IntN(len(s.rooms))])
		}
	}
	for range 4 {
		older.sync(h)
		newer.sync(h, random, 20, false)
	}
	s.compare(older.sights, newer.sights)
}

// act does something in a room.
func (s *stage) act(room id.RoomID) {
	s.n++
	inside := s.standing[room] == "join"
	switch n := s.random.IntN(17); {
	case n < 5:
		who := s.host
		if s.random.IntN(2) == 0 {
			who = s.peer
		}
		s.said[room] = append(s.said[room], s.say(room, who, fmt.Sprint(s.n)))
	case n == 5 && inside:
		s.said[room] = append(s.said[room], s.say(room, s.me, fmt.Sprint("mine ", s.n)))
	case n == 6:
		s.propose(room, bus.Proposal{Sender: s.host, Type: "m.room.message", Content: content(`{"msgtype":"m.text","body":"%d","m.mentions":{"user_ids":[%q]}}`, s.n, s.me)})
	case n == 7:
		s.state(room, s.host, []string{"m.room.name", "m.room.topic", "m.room.avatar"}[s.random.IntN(3)], "", content(`{"name":"%d","topic":"%d","url":"mxc://a/%d"}`, s.n, s.n, s.n))
	case n == 8:
		s.state(room, s.host, "x.y", fmt.Sprint(s.random.IntN(3)), content(`{"n":%d}`, s.n))
	case n == 9:
		s.propose(room, profile(s.peer, s.n))
	case n == 10 && inside:
		s.propose(room, profile(s.me, s.n))
	case n == 11 && inside && len(s.said[room]) > 0:
		s.read(room, s.me, s.said[room][s.random.IntN(len(s.said[room]))], "")
	case n == 12 && len(s.said[room]) > 0:
		target := s.said[room][s.random.IntN(len(s.said[room]))]
		s.propose(room, bus.Proposal{Sender: s.host, Type: "m.room.redaction", Content: content(`{"redacts":%q}`, target)})
	case n == 13 && inside && len(s.said[room]) > 0:
		s.note(s.me, room, "m.marked_unread", fmt.Sprintf(`{"n":%d}`, s.n))
	default:
		s.move(room)
	}
}

// move changes how the user stands to a room.
func (s *stage) move(room id.RoomID) {
	by, membership := s.me, "join"
	switch s.standing[room] {
	case "join":
		switch s.random.IntN(6) {
		case 0:
			membership = "leave"
		case 1:
			by, membership = s.host, "leave"
		case 2:
			by, membership = s.host, "ban"
		default:
			return
		}
	case "ban":
		by, membership = s.host, "leave"
	case "invite":
		if s.random.IntN(3) == 0 {
			membership = "leave"
		}
	default:
		if s.random.IntN(3) == 0 {
			by, membership = s.host, "invite"
		}
	}
	s.member(room, by, s.me, membership)
	s.standing[room] = membership
}

func (s *stage) compare(older, newer sights) {
	s.Helper()
	for _, room := range s.rooms {
		want, got := older[string(room)], newer[string(room)]
		if want == nil || got == nil {
			if (want == nil) != (got == nil) {
				s.Errorf("%s (%s): sync v2 has it: %t, sliding sync: %t", room, s.standing[room], want != nil, got != nil)
			}
			continue
		}
		equal := func(what string, got, want any) {
			if fmt.Sprint(got) != fmt.Sprint(want) {
				s.Errorf("%s: %s: got %v, want %v", room, what, got, want)
			}
		}
		equal("membership", got.membership, want.membership)
		if want.membership != "join" {
			continue
		}
		equal("state", got.state, want.state)
		n := min(len(got.events), len(want.events))
		if n == 0 {
			equal("events", len(got.events), len(want.events))
		}
		equal("timeline", got.events[len(got.events)-n:], want.events[len(want.events)-n:])
		equal("counts", got.counts, want.counts)
		equal("members", fmt.Sprint(got.joined, got.invited), fmt.Sprint(want.joined, want.invited))
	}
}
