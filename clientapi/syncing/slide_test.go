package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

const (
	unstableSync = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
	mergedSync   = "/_matrix/client/v4/sync"
)

// slider is a client with one connection.
type slider struct {
	*house
	user   id.UserID
	merged bool
	pos    string
}

// ask sends one request; further gives query parameters in pairs.
func (c *slider) ask(body string, further ...string) (int, gjson.Result) {
	c.Helper()
	query := url.Values{}
	path := unstableSync
	if c.merged {
		path = mergedSync
		if c.pos != "" {
			body = fmt.Sprintf(`{"pos":%q,`, c.pos) + strings.TrimPrefix(body, "{")
			body = strings.Replace(body, ",}", "}", 1)
		}
	} else if c.pos != "" {
		query.Set("pos", c.pos)
	}
	for i := 0; i+1 < len(further); i += 2 {
		query.Set(further[i], further[i+1])
	}
	return c.house.ask("POST", path, c.user, query, body)
}

// slide sends a request that must succeed, and goes on from its answer.
func (c *slider) slide(body string, further ...string) gjson.Result {
	c.Helper()
	code, answer := c.ask(body, further...)
	if code != 200 || answer.Get("pos").Str == "" {
		c.Fatalf("sliding sync of %s: got %d %s, want 200 with a pos", c.user, code, answer.Raw)
	}
	c.pos = answer.Get("pos").Str
	return answer
}

func slid(answer gjson.Result, room id.RoomID) gjson.Result {
	return answer.Get("rooms").Get(gjson.Escape(string(room)))
}

// texts gives what a room's timeline says: the bodies of messages, the types of other events.
func texts(room gjson.Result) []string {
	list := []string{}
	for _, e := range room.Get("timeline").Array() {
		if body := e.Get("content.body"); body.Exists() {
			list = append(list, body.Str)
		} else {
			list = append(list, e.Get("type").Str)
		}
	}
	return list
}

func roomIDs(answer gjson.Result) []string {
	list := []string{}
	for room := range answer.Get("rooms").Map() {
		list = append(list, room)
	}
	slices.Sort(list)
	return list
}

func sorted(rooms ...id.RoomID) []string {
	list := []string{}
	for _, r := range rooms {
		list = append(list, string(r))
	}
	slices.Sort(list)
	return list
}

// list writes a request with one list.
func list(low, high, limit int, state, further string) string {
	return fmt.Sprintf(`{"lists":{"all":{"ranges":[[%d,%d]],"timeline_limit":%d,"required_state":[%s]%s}}}`, low, high, limit, state, further)
}

// later asks while something happens: the request waits, and must be answered soon after.
func (c *slider) later(body string, do func()) gjson.Result {
	c.Helper()
	done := make(chan gjson.Result, 1)
	go func() { done <- c.slide(body, "timeout", "20000") }()
	waitFor(c.TB, func() bool {
		c.sync.mu.RLock()
		defer c.sync.mu.RUnlock()
		u := c.sync.users[c.user]
		return u != nil && len(u.waiters) > 0
	})
	do()
	select {
	case r := <-done:
		return r
	case <-time.After(10 * time.Second):
		c.Fatal("the sync was not answered within ten seconds")
	}
	return gjson.Result{}
}

func (h *house) note(user id.UserID, room id.RoomID, typ, body string) {
	h.Helper()
	err := h.store.Do(h.Context(), func(ctx context.Context) error {
		return h.store.AccountData.Put(ctx, storage.AccountData{UserID: user, RoomID: room, Type: typ, Content: json.RawMessage(body), Deleted: body == ""})
	})
	if err != nil {
		h.Fatal(err)
	}
}

func (h *house) writes(room id.RoomID, user id.UserID, yes bool) {
	h.Helper()
	err := bus.Tell(h.bus, bus.TypingIn(room), bus.Typing{RoomID: room, UserID: user, Typing: yes, Until: time.Now().Add(time.Minute).UnixMilli()})
	if err != nil {
		h.Fatal(err)
	}
}

func TestSlideFirstWindow(t *testing.T) {
	h := newHouse(t)
	one := h.create(alice, "public", bus.Proposal{Sender: alice, Type: "m.room.name", StateKey: key(""), Content: content(`{"name":"One"}`)})
	two := h.create(alice, "public")
	three := h.create(alice, "public")
	h.say(one, alice, "hello")
	c := &slider{house: h, user: alice}
	first := c.slide(list(0, 1, 2, `["m.room.create",""],["m.room.member","$ME"]`, ""))
	same(t, "count", first.Get("lists.all.count").Int(), int64(3))
	same(t, "rooms", roomIDs(first), sorted(one, three))
	r := slid(first, one)
	same(t, "initial", r.Get("initial").Bool(), true)
	same(t, "name", r.Get("name").Str, "One")
	same(t, "timeline", texts(r), []string{"m.room.name", "hello"})
	same(t, "limited", r.Get("limited").Bool(), true)
	same(t, "required state", types(r.Get("required_state")), []string{"m.room.create", "m.room.member " + string(alice)})
	same(t, "joined", r.Get("joined_count").Int(), int64(1))
	same(t, "live at first", r.Get("num_live").Int(), int64(0))
	if _, err := storage.ParsePage(r.Get("prev_batch").Str); err != nil {
		t.Errorf("prev_batch %q: %v", r.Get("prev_batch").Str, err)
	}
	second := c.slide(list(0, 9, 2, `["m.room.create",""],["m.room.member","$ME"]`, ""))
	same(t, "the rest of the wider window", roomIDs(second), sorted(two))
	h.say(two, alice, "again")
	third := c.slide(list(0, 9, 2, `["m.room.create",""],["m.room.member","$ME"]`, ""))
	same(t, "what changed", roomIDs(third), sorted(two))
	r = slid(third, two)
	same(t, "delta", texts(r), []string{"again"})
	same(t, "delta is not initial", r.Get("initial").Bool(), false)
	same(t, "delta is live", r.Get("num_live").Int(), int64(1))
	same(t, "unchanged state", r.Get("required_state").Exists(), false)
	same(t, "nothing new", roomIDs(c.slide(list(0, 9, 2, `["m.room.create",""],["m.room.member","$ME"]`, ""))), []string{})
}
