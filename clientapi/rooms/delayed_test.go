package rooms_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

const delayedPath = "/unstable/org.matrix.msc4140/delayed_events"

// until asks again until the answer is as it should be, or ten seconds are over.
func until(t *testing.T, what string, ask func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ask() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within ten seconds", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestDelayedEvents(t *testing.T) {
	database := filepath.Join(t.TempDir(), "test.db")
	s := startAt(t, database)
	alice, bob := s.register("alice"), s.register("bob")
	nobody := &user{server: s}
	room := alice.create(m{})
	set := func(key, delay string) *answer {
		return alice.set(room, "state/org.test/"+key+"?org.matrix.msc4140.delay="+delay, m{"key": key})
	}
	waiting := func(u *user) int { return len(u.get(delayedPath).ok().body.Get("delayed_events").Array()) }

	soon := set("soon", "50").ok().str("delay_id")
	until(t, "a delayed event is sent", func() bool { return alice.in(room, "state/org.test/soon").code == http.StatusOK })
	until(t, "it waits no more", func() bool { return waiting(alice) == 0 })
	alice.get(delayedPath+"/"+soon).ok().has("outcome", "send")

	txn := alice.set(room, "send/org.test/t1?org.matrix.msc4140.delay=60000", m{"n": 1}).ok().str("delay_id")
	alice.set(room, "send/org.test/t1?org.matrix.msc4140.delay=60000", nil).ok().has("delay_id", txn)
	now := set("now", "60000").ok().str("delay_id")
	never := set("never", "60000").ok().str("delay_id")
	if a, b := waiting(alice), waiting(bob); a != 3 || b != 0 {
		t.Errorf("waiting: got %d of alice and %d of bob, want 3 and 0", a, b)
	}
	nobody.post(delayedPath+"/"+now+"/send", nil).ok()
	alice.in(room, "state/org.test/now").ok().has("key", "now")
	nobody.post(delayedPath+"/"+now+"/send", nil).ok() // again
	nobody.post(delayedPath+"/"+now+"/restart", nil).fails(404, "M_NOT_FOUND")
	nobody.post(delayedPath+"/"+never, m{"action": "restart"}).ok()
	nobody.post(delayedPath+"/"+never, m{"action": "cancel"}).ok()
	alice.in(room, "state/org.test/never").fails(404, "M_NOT_FOUND")
	if got := waiting(alice); got != 1 {
		t.Errorf("waiting: got %d, want 1", got)
	}
	for _, c := range []struct {
		path    string
		body    any
		code    int
		errcode string
	}{
		{"/unknown/send", nil, 404, "M_NOT_FOUND"},
		{"/unknown/oops", nil, 404, "M_UNRECOGNIZED"},
		{"/unknown", m{}, 400, "M_MISSING_PARAM"},
		{"/unknown", m{"action": "oops"}, 400, "M_INVALID_PARAM"},
	} {
		nobody.post(delayedPath+c.path, c.body).fails(c.code, c.errcode)
	}
	nobody.get(delayedPath).fails(401, "M_MISSING_TOKEN")
	bob.get(delayedPath+"/"+txn).fails(404, "M_NOT_FOUND")
	set("far", "86400001").fails(400, "M_UNKNOWN").has(`org\.matrix\.msc4140\.errcode`, "M_MAX_DELAY_EXCEEDED").has(`org\.matrix\.msc4140\.max_delay`, "86400000")
	set("odd", "-1").fails(400, "M_INVALID_PARAM")
	bob.set(room, "state/org.test/x?org.matrix.msc4140.delay=1", m{}).fails(403, "M_FORBIDDEN") // R10

	// R10: asked again when the time has come. Who left sends no more.
	alice.to(room, "invite", m{"user_id": bob.id}).ok()
	bob.join(room).ok()
	late := bob.set(room, "send/org.test/t1?org.matrix.msc4140.delay=60000", m{"n": 1}).ok().str("delay_id")
	bob.to(room, "leave", m{}).ok()
	nobody.post(delayedPath+"/"+late+"/send", nil).ok()
	bob.get(delayedPath+"/"+late).ok().has("outcome", "error").has("error.errcode", "M_FORBIDDEN")

	// What waits at a stop is sent after the next start.
	set("tomorrow", "300").ok()
	s.stop()
	s2 := startAt(t, database)
	alice.server = s2
	until(t, "a delayed event is sent after a restart", func() bool { return alice.in(room, "state/org.test/tomorrow").code == http.StatusOK })
}

func TestDelayedEventsAreListedAndChecked(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	room, other := alice.create(m{}), alice.create(m{})
	alice.put("/v3/directory/room/%23there:interior", m{"room_id": other}).ok()
	delay := func(room, txn, typ string, body m) *answer {
		return alice.put("/unstable/org.matrix.msc4140/rooms/"+room+"/delayed_event/"+typ+"/"+txn, body)
	}
	a := delay(room, "1", "org.a", m{"delay": 3_000_000, "content": m{"n": 1}}).ok().str("delay_id")
	delay(room, "1", "org.a", m{"delay": 3_000_000, "content": m{"n": 1}}).ok().has("delay_id", a)
	b := delay(room, "2", "org.b", m{"delay": 1_000_000, "content": m{"n": 2}, "state_key": "k"}).ok().str("delay_id")
	c := delay(other, "3", "org.a", m{"delay": 2_000_000, "content": m{"n": 3}}).ok().str("delay_id")
	for _, x := range []struct {
		name    string
		body    m
		code    int
		errcode string
	}{
		{"no content", m{"delay": 1}, 400, "M_MISSING_PARAM"},
		{"content that is none", m{"delay": 1, "content": "x"}, 400, "M_BAD_JSON"},
		{"no delay", m{"content": m{}}, 400, "M_INVALID_PARAM"},
		{"a negative delay", m{"delay": -1, "content": m{}}, 400, "M_INVALID_PARAM"},
		{"a long delay", m{"delay": 86_400_001, "content": m{}}, 400, "ORG.MATRIX.MSC4140_MAX_DELAY_EXCEEDED"},
	} {
		t.Run(x.name, func(t *testing.T) { delay(room, "x", "org.a", x.body).fails(x.code, x.errcode) })
	}
	list := func(query string) string {
		t.Helper()
		names := map[string]string{a: "a", b: "b", c: "c"}
		got := ""
		for _, e := range alice.get(delayedPath + "?" + query).ok().body.Get("delayed_events").Array() {
			got += names[e.Get("delay_id").Str]
		}
		return got
	}
	for query, want := range map[string]string{
		"": "bca", "dir=b&since_ts=end": "acb", "room_id=" + other: "c", "type=org.a": "ca",
		"status=finalised": "", "since_ts=1": "bca", "dir=b&since_ts=1": "",
	} {
		if got := list(query); got != want {
			t.Errorf("list with %q: got %q, want %q", query, got, want)
		}
	}
	for _, query := range []string{"status=x", "outcome=x", "order_by=x", "dir=x", "since_ts=x", "from=x"} {
		alice.get(delayedPath+"?"+query).fails(400, "M_INVALID_PARAM")
	}
	alice.post(delayedPath+"/"+a+"/cancel", nil).ok()
	alice.post(delayedPath+"/"+c+"/send", nil).ok()
	if got := list("") + " " + list("status=finalised") + " " + list("outcome=cancel"); got != "b ca a" {
		t.Errorf("once two have ended: got %q, want %q", got, "b ca a")
	}
	sent := alice.get(delayedPath + "/" + c).ok().str("event_id")
	alice.get(alice.event(other, sent, "event")).ok().has(`unsigned.org\.matrix\.msc4140\.delay_id`, c).has("unsigned.transaction_id", "")

	t.Run("what may not be sent may not be sent later", func(t *testing.T) {
		for name, proposed := range map[string]struct {
			typ     string
			content m
		}{
			"an alias of another room": {"m.room.canonical_alias", m{"alias": "#there:interior"}},
			"another beginning":        {"m.room.create", m{}},
		} {
			id := alice.set(room, "state/"+proposed.typ+"?org.matrix.msc4140.delay=60000", proposed.content)
			if id.code != 200 {
				continue // refused at once
			}
			alice.post(delayedPath+"/"+id.str("delay_id")+"/send", nil).ok()
			if got := alice.get(delayedPath + "/" + id.str("delay_id")).ok().str("outcome"); got != "error" {
				t.Errorf("%s: outcome %q, want error", name, got)
			}
		}
	})
	t.Run("not more than a hundred", func(t *testing.T) {
		waiting := len(alice.get(delayedPath).ok().body.Get("delayed_events").Array())
		for range 100 - waiting {
			alice.set(room, "state/org.test/many?org.matrix.msc4140.delay=1000000", m{}).ok()
		}
		alice.set(room, "state/org.test/many?org.matrix.msc4140.delay=1000000", m{}).fails(429, "M_LIMIT_EXCEEDED")
	})
}

// TestDelayedEventsAtOnce: a client that asks again before it is answered is told of the one event, and many requests at once have no
// more wait than one after the other.
func TestDelayedEventsAtOnce(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	room := alice.create(m{})
	atOnce := func(n int, path func(n int) string) (ids map[string]int, refused int) {
		t.Helper()
		answers := make([]*answer, n)
		var asking sync.WaitGroup
		for n := range answers {
			asking.Go(func() { answers[n] = alice.set(room, path(n)+"?org.matrix.msc4140.delay=1000000", m{}) })
		}
		asking.Wait()
		ids = map[string]int{}
		for _, a := range answers {
			if a.code == http.StatusTooManyRequests {
				a.fails(429, "M_LIMIT_EXCEEDED").has(`org\.matrix\.msc4140\.errcode`, "M_MAX_DELAYED_EVENTS_EXCEEDED")
				refused++
				continue
			}
			ids[a.ok().str("delay_id")]++
		}
		return ids, refused
	}
	same := func(round int) string {
		t.Helper()
		ids, refused := atOnce(16, func(int) string { return fmt.Sprint("send/org.test/same", round) })
		if len(ids) != 1 || refused > 0 {
			t.Fatalf("the same, %d: got %d events and %d refused, want one", round, len(ids), refused)
		}
		return slices.Collect(maps.Keys(ids))[0]
	}
	const rounds = 5
	for round := range rounds {
		same(round)
	}
	ids, refused := atOnce(110, func(n int) string { return fmt.Sprint("send/org.test/many", n) })
	if want := 100 - rounds; len(ids) != want || refused != 110-want {
		t.Errorf("many: got %d events and %d refused, want %d and %d", len(ids), refused, want, 110-want)
	}
	last := slices.Collect(maps.Keys(ids))[0]
	for round := range rounds {
		alice.post(delayedPath+"/"+last+"/cancel", nil).ok() // there is place for one again
		last = same(rounds + round)
	}
}

// TestDelayedEventsOfBarredAccounts: what an account has scheduled is not said any more once the account may not speak. That it has left a
// call is said nevertheless, or it would stay there for the others.
func TestDelayedEventsOfBarredAccounts(t *testing.T) {
	s := start(t)
	alice := s.register("alice")
	room := alice.create(m{"preset": "public_chat"})
	alice.set(room, "state/m.room.power_levels", m{"users": m{alice.id: 100}, "state_default": 0}).ok()
	stand := func(set func(*storage.Account)) func(context.Context, id.UserID) error {
		return func(ctx context.Context, user id.UserID) error {
			account := &storage.Account{UserID: user}
			set(account)
			return s.store.Accounts.SetStanding(ctx, account)
		}
	}
	for _, c := range []struct {
		name string
		bar  func(context.Context, id.UserID) error
		// what becomes of a message, and of a redaction of one's own
		message, redaction string
	}{
		{"locked", stand(func(a *storage.Account) { a.Locked = true }), "error", "error"},
		{"suspended", stand(func(a *storage.Account) { a.Suspended = true }), "error", "send"},
		{"shadowed", stand(func(a *storage.Account) { a.Shadowed = true }), "send", "send"},
		{"expired", func(ctx context.Context, user id.UserID) error {
			return s.store.Validity.Put(ctx, storage.Validity{UserID: user, Until: time.Now().Add(-time.Second)})
		}, "error", "error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			eve := s.register(c.name)
			eve.join(room).ok()
			said := eve.set(room, "send/org.test/1", m{"body": "said by " + c.name}).ok().str("event_id")
			legacy, sticky := "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member"
			eve.set(room, "state/"+legacy+"/"+c.name, m{"application": "m.call"}).ok()
			delayed := func(path string, content m) string {
				t.Helper()
				return eve.set(room, path+"?org.matrix.msc4140.delay=3600000&org.matrix.msc4354.sticky_duration_ms=1000", content).ok().str("delay_id")
			}
			wants := map[string]string{
				delayed("send/org.test/2", m{"body": "spoken by " + c.name}):                              c.message,
				delayed("send/"+sticky+"/3", m{"msc4354_sticky_key": "k", "body": "spoken by " + c.name}): c.message,
				delayed("state/"+legacy+"/other"+c.name, m{"application": "spoken by " + c.name}):         c.message,
				delayed("send/m.room.redaction/4", m{"redacts": said}):                                    c.redaction,
				delayed("state/"+legacy+"/"+c.name, m{}):                                                  "send",
				delayed("send/"+sticky+"/5", m{"msc4354_sticky_key": "left by " + c.name}):                "send",
			}
			if err := s.store.Do(t.Context(), func(ctx context.Context) error { return c.bar(ctx, id.UserID(eve.id)) }); err != nil {
				t.Fatal(err)
			}
			for delay, want := range wants {
				alice.post(delayedPath+"/"+delay+"/send", nil).ok()
				d, err := s.store.DelayedEvents.ByID(t.Context(), delay)
				if err != nil || d.Outcome != want {
					t.Errorf("%s %s: got %q, %v, want %q", d.Type, d.Content, d.Outcome, err, want)
				}
			}
			alice.in(room, "state/"+legacy+"/"+c.name).ok().has("application", "")
			timeline := alice.in(room, "messages?dir=b&limit=100").ok().body.Raw
			if strings.Contains(timeline, "spoken by "+c.name) || !strings.Contains(timeline, "left by "+c.name) {
				t.Errorf("what the others see: %s", timeline)
			}
			if got, want := strings.Contains(timeline, "said by "+c.name), c.name != "suspended"; got != want {
				t.Errorf("what was said before is there: %v, want %v", got, want)
			}
		})
	}
}
