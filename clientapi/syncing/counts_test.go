package syncing

import (
	"fmt"
	"testing"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

const threadCounts = `{"room":{"timeline":{"limit":1,"unread_thread_notifications":true}}}`

func (h *house) inThread(room id.RoomID, user id.UserID, root id.EventID, text string) id.EventID {
	h.Helper()
	return h.propose(room, bus.Proposal{Sender: user, Type: "m.room.message",
		Content: content(`{"msgtype":"m.text","body":%q,"m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, text, root)})
}

func unreadOf(joined gjson.Result, root id.EventID) [4]int64 {
	thread := joined.Get("unread_thread_notifications").Get(gjson.Escape(string(root)))
	return [4]int64{joined.Get("unread_notifications.notification_count").Int(), joined.Get("unread_notifications.highlight_count").Int(),
		thread.Get("notification_count").Int(), thread.Get("highlight_count").Int()}
}

// What lies far back is counted too: the threads that nobody read, and a main timeline of more than a thousand messages.
func TestCountsFarBack(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	root := h.say(room, alice, "root")
	h.inThread(room, alice, root, "for @bob:interior")
	h.inThread(room, alice, root, "for all")
	const messages = 1300
	var last id.EventID
	for i := range messages {
		last = h.say(room, alice, fmt.Sprint("m", i))
	}
	h.again()
	same(t, "all of it", unreadOf(in(h.answerTo(bob, "", "filter", threadCounts), "join", room), root), [4]int64{messages + 1, 0, 2, 1})
	h.read(room, bob, last, "main")
	h.again()
	same(t, "the main timeline read, anew", unreadOf(in(h.answerTo(bob, "", "filter", threadCounts), "join", room), root), [4]int64{0, 0, 2, 1})
}

// A count that would keep a client waiting is finished after its answer, and told with the next.
func TestCountsFinishedLater(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	const messages = 3 * unreadPage
	for i := range messages {
		h.say(room, alice, fmt.Sprint("m", i))
	}
	h.again()
	ctx := t.Context()
	u, err := h.sync.enter(ctx, bob)
	if err != nil {
		t.Fatal(err)
	}
	defer h.sync.leave(u)
	since := next(h.answerTo(bob, ""))
	// As if the answer had had time for the first page only.
	a := &answer{s: h.sync, u: u, q: &question{filter: &Filter{}}, to: storage.Position(h.sync.applied.Load())}
	h.sync.mu.RLock()
	p := h.sync.planRoom(u, room, u.stays[room], false)
	h.sync.mu.RUnlock()
	j, err := a.judge(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{room: room, page: a.to.End(), threads: map[string]unread{}}
	if err := w.step(ctx, j); err != nil {
		t.Fatal(err)
	}
	h.sync.mu.Lock()
	c := u.count(room)
	c.threads, w.threads = w.threads, map[string]unread{}
	w.read = c.read
	version := c.version
	h.sync.mu.Unlock()
	h.sync.countLater(&later{user: u, room: room, version: version, walk: w})
	r := in(h.answerTo(bob, since, "timeout", "15000"), "join", room)
	same(t, "finished", unreadOf(r, "")[0], int64(messages))
	same(t, "and nothing else", len(r.Get("timeline.events").Array()), 0)
}

// A receipt of a thread counts that thread again, from memory; a redacted message is no longer unread.
func TestCountsAreKeptInMemory(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	since := next(h.answerTo(bob, ""))
	step := func() gjson.Result {
		t.Helper()
		r := h.answerTo(bob, since, "filter", threadCounts)
		since = next(r)
		return in(r, "join", room)
	}
	root := h.say(room, alice, "root")
	h.inThread(room, alice, root, "t1 @bob:interior")
	second := h.inThread(room, alice, root, "t2")
	last := h.say(room, alice, "m2")
	step()
	for _, c := range []struct {
		name string
		do   func()
		want [4]int64
	}{
		{"one more", func() { last = h.say(room, alice, "m3") }, [4]int64{3, 0, 2, 1}},
		{"main read", func() { h.read(room, bob, last, "main") }, [4]int64{0, 0, 2, 1}},
		{"another", func() { last = h.say(room, alice, "m4") }, [4]int64{1, 0, 2, 1}},
		{"the thread read", func() { h.read(room, bob, second, string(root)) }, [4]int64{1, 0, 0, 0}},
		{"the thread goes on", func() { h.inThread(room, alice, root, "t3") }, [4]int64{1, 0, 1, 0}},
		{"Bob speaks in it", func() { h.inThread(room, bob, root, "t4") }, [4]int64{1, 0, 0, 0}},
		{"all read", func() { h.read(room, bob, last, "") }, [4]int64{0, 0, 0, 0}},
	} {
		c.do()
		same(t, c.name, unreadOf(step(), root), c.want)
	}
	// Redacting reads what was redacted; the rest is counted from memory.
	h.say(room, alice, "m5")
	regret := h.say(room, alice, "m6 @bob:interior")
	same(t, "two", unreadOf(step(), root), [4]int64{2, 1, 0, 0})
	h.propose(room, bus.Proposal{Sender: alice, Type: "m.room.redaction", Content: content(`{}`), Redacts: regret})
	same(t, "one redacted", unreadOf(step(), root), [4]int64{1, 0, 0, 0})
}
