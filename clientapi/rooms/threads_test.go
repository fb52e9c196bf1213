package rooms_test

import (
	"net/url"
	"strings"
	"testing"
)

// reply sends a text into the thread of root.
func (u *user) reply(room, root, text string) string {
	u.t.Helper()
	return u.sends(room, "m.room.message", m{
		"msgtype": "m.text", "body": text, "m.relates_to": m{"rel_type": "m.thread", "event_id": root},
	}).ok().str("event_id")
}

func TestThreadSubscriptions(t *testing.T) {
	s := start(t)
	alice, bob, eve := s.register("alice"), s.register("bob"), s.register("eve")
	room := alice.create(m{"preset": "public_chat"})
	bob.join(room).ok()
	of := func(u *user, root string) string {
		return "/unstable/io.element.msc4306/rooms/" + url.PathEscape(room) + "/thread/" + url.PathEscape(root) + "/subscription"
	}
	follow := func(u *user, root string, body any) *answer { t.Helper(); return u.put(of(u, root), body) }
	leave := func(u *user, root string) *answer {
		t.Helper()
		return u.do("DELETE", "/_matrix/client"+of(u, root), nil)
	}
	follows := func(u *user, root string) *answer { t.Helper(); return u.get(of(u, root)) }
	const conflict, elsewhere = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"

	root, other := alice.send(room, "root"), alice.send(room, "other")
	first, stray := alice.reply(room, root, "one"), alice.reply(room, other, "stray")
	follows(bob, root).fails(404, "M_NOT_FOUND")
	leave(bob, root).ok()
	follow(bob, root, m{"automatic": root}).fails(400, elsewhere)
	follow(bob, root, m{"automatic": stray}).fails(400, elsewhere)
	follow(bob, root, m{"automatic": "$nothing"}).fails(400, elsewhere)
	follow(bob, root, m{"automatic": true}).fails(400, "M_BAD_JSON")
	follow(bob, root, m{"automatic": "one"}).fails(400, "M_INVALID_PARAM")
	follow(bob, "$nothing", m{}).fails(404, "M_NOT_FOUND")
	follows(bob, "$nothing").fails(404, "M_NOT_FOUND")
	leave(bob, "$nothing").fails(404, "M_NOT_FOUND")
	private := alice.create(m{"preset": "private_chat"})
	secret := alice.send(private, "secret")
	eve.put("/unstable/io.element.msc4306/rooms/"+url.PathEscape(private)+"/thread/"+url.PathEscape(secret)+"/subscription", m{}).fails(404, "M_NOT_FOUND")

	follow(bob, root, m{"automatic": first}).ok()
	follows(bob, root).ok().has("automatic", "true")
	follow(bob, root, m{}).ok()
	follows(bob, root).ok().has("automatic", "false")
	follow(bob, root, m{"automatic": first}).ok() // the user's own wish stands
	follows(bob, root).ok().has("automatic", "false")
	follows(alice, root).fails(404, "M_NOT_FOUND")

	second := alice.reply(room, root, "two")
	leave(bob, root).ok()
	follows(bob, root).fails(404, "M_NOT_FOUND")
	leave(bob, root).ok()
	third := alice.reply(room, root, "three")
	follow(bob, root, m{"automatic": first}).fails(409, conflict)
	follow(bob, root, m{"automatic": second}).fails(409, conflict)
	follows(bob, root).fails(404, "M_NOT_FOUND")
	follow(bob, root, m{"automatic": third}).ok()
	follows(bob, root).ok().has("automatic", "true")

	t.Run("list", func(t *testing.T) {
		follow(bob, other, m{}).ok()
		leave(bob, other).ok()
		extra := []string{}
		for range 3 {
			id := alice.send(room, "more")
			follow(bob, id, m{}).ok()
			extra = append(extra, id)
		}
		const list = "/unstable/io.element.msc4308/thread_subscriptions"
		in := func(part string, ids ...string) string {
			return part + "." + strings.ReplaceAll(room, ".", `\.`) + "." + strings.Join(ids, "")
		}
		all := bob.get(list + "?dir=b").ok()
		all.has(in("subscribed", root)+".automatic", "true").has(in("subscribed", extra[0])+".automatic", "false").has("end", "")
		if got := all.body.Get(in("unsubscribed", other)); !got.Exists() || got.Get("automatic").Exists() || got.Get("bump_stamp").Int() == 0 {
			t.Errorf("a thread that was left: got %s", all.body.Raw)
		}
		seen, token, pages := map[string]bool{}, "", 0
		for {
			page := bob.get(list + "?dir=b&limit=2" + token).ok()
			pages++
			for _, part := range []string{"subscribed", "unsubscribed"} {
				for id := range page.body.Get(in(part)[:len(in(part))-1]).Map() {
					if seen[id] {
						t.Errorf("%s comes twice", id)
					}
					seen[id] = true
				}
			}
			if token = page.str("end"); token == "" {
				break
			}
			token = "&from=" + url.QueryEscape(token)
		}
		if len(seen) != 5 || pages != 3 {
			t.Errorf("got %d threads on %d pages, want 5 on 3", len(seen), pages)
		}
		told := bob.get("/v3/sync?filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":1}}}`)).ok().str("next_batch")
		follow(bob, second, m{}).ok()
		if page := bob.get(list + "?to=" + url.QueryEscape(told)).ok(); len(page.body.Get(in("subscribed")[:len(in("subscribed"))-1]).Map()) != 1 {
			t.Errorf("after %s: got %s, want one thread", told, page.body.Raw)
		}
		bob.get(list+"?dir=f").fails(400, "M_INVALID_PARAM")
		bob.get(list+"?limit=0").fails(400, "M_INVALID_PARAM")
		bob.get(list+"?from=nonsense").fails(400, "M_INVALID_PARAM")
		alice.get(list).ok().has("@this", "{}")
	})

	t.Run("notifications", func(t *testing.T) {
		filter := url.QueryEscape(`{"room":{"timeline":{"unread_thread_notifications":true}}}`)
		unread := func(root string) string {
			a := bob.get("/v3/sync?filter=" + filter).ok()
			in := "rooms.join." + strings.ReplaceAll(room, ".", `\.`)
			return a.body.Get(in + ".unread_thread_notifications." + root + ".notification_count").String()
		}
		receipt := func() {
			bob.to(room, "receipt/m.read/"+url.PathEscape(alice.send(room, "here")), m{}).ok()
		}
		receipt()
		alice.reply(room, root, "four")
		if got := unread(root); got != "1" {
			t.Errorf("in a thread that Bob follows: got %q, want 1", got)
		}
		alice.reply(room, other, "five")
		if got := unread(other); got != "" {
			t.Errorf("in a thread that Bob does not follow: got %q, want none", got)
		}
		alice.reply(room, other, "Bob, look: @bob:interior")
		if got := unread(other); got != "1" {
			t.Errorf("mentioned in a thread that Bob does not follow: got %q, want 1", got)
		}
		leave(bob, root).ok()
		receipt()
		alice.reply(room, root, "six")
		if got := unread(root); got != "" {
			t.Errorf("in a thread that Bob has left: got %q, want none", got)
		}
		rules := bob.get("/v3/pushrules/global/postcontent/.io.element.msc4306.rule.unsubscribed_thread").ok()
		rules.has("conditions.0.kind", "io.element.msc4306.thread_subscription").has("conditions.0.subscribed", "false").has("enabled", "true")
		bob.put("/v3/pushrules/global/postcontent/mine", m{"actions": []any{}, "conditions": []any{}}).fails(400, "M_INVALID_PARAM")
		bob.put("/v3/pushrules/global/postcontent/.io.element.msc4306.rule.unsubscribed_thread/enabled", m{"enabled": false}).ok()
		receipt()
		alice.reply(room, root, "seven")
		if got := unread(root); got != "1" {
			t.Errorf("with the rule off: got %q, want 1", got)
		}
	})
}

func TestStickyEvents(t *testing.T) {
	s := start(t)
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.create(m{"preset": "private_chat", "initial_state": []any{
		m{"type": "m.room.history_visibility", "content": m{"history_visibility": "joined"}},
	}})
	send := func(txn, query string) *answer {
		return alice.set(room, "send/org.test/"+txn+"?org.matrix.msc4354.sticky_duration_ms="+query, m{"msc4354_sticky_key": "k"})
	}
	send("1", "soon").fails(400, "M_INVALID_PARAM")
	send("2", "-1").fails(400, "M_INVALID_PARAM")
	ten, long := send("3", "600000").ok().str("event_id"), send("4", "99999999").ok().str("event_id")
	none := send("5", "0").ok().str("event_id")
	if again := send("3", "600000").ok().str("event_id"); again != ten {
		t.Errorf("again: got %s, want %s", again, ten)
	}
	e := alice.get(alice.event(room, ten, "event")).ok().has("msc4354_sticky.duration_ms", "600000")
	if ttl := e.body.Get("unsigned.msc4354_sticky_duration_ttl_ms").Int(); ttl <= 0 || ttl > 600000 {
		t.Errorf("time left: got %d", ttl)
	}
	alice.get(alice.event(room, long, "event")).ok().has("msc4354_sticky.duration_ms", "3600000")
	alice.get(alice.event(room, none, "event")).ok().has("msc4354_sticky", "").has("unsigned.msc4354_sticky_duration_ttl_ms", "")

	// Who comes later sees what still is sticky, whatever the history visibility says.
	alice.to(room, "invite", m{"user_id": bob.id}).ok()
	bob.get(bob.event(room, ten, "event")).fails(404, "M_NOT_FOUND")
	bob.join(room).ok()
	bob.get(bob.event(room, ten, "event")).ok()
	bob.get(bob.event(room, none, "event")).fails(404, "M_NOT_FOUND")
	list, err := s.store.Events.Sticky(t.Context(), "", 0, s.store.Head(), 0, 10)
	if err != nil || len(list) != 0 {
		t.Errorf("another room: got %v %v", list, err)
	}
	alice.put(alice.event(room, ten, "redact")+"/r", m{}).ok()
	alice.get(alice.event(room, ten, "event")).ok().has("msc4354_sticky", "").has("unsigned.msc4354_sticky_duration_ttl_ms", "")
	bob.get(bob.event(room, ten, "event")).fails(404, "M_NOT_FOUND")

	// A delayed event is sticky from when it is sent.
	delayed := alice.set(room, "send/org.test/6?org.matrix.msc4140.delay=60000&org.matrix.msc4354.sticky_duration_ms=1000000", m{}).ok().str("delay_id")
	alice.post("/unstable/org.matrix.msc4140/delayed_events/"+delayed+"/send", nil).ok()
	sent := alice.get("/unstable/org.matrix.msc4140/delayed_events/" + delayed).ok().str("event_id")
	alice.get(alice.event(room, sent, "event")).ok().has("msc4354_sticky.duration_ms", "1000000")
}
