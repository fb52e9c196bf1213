package rooms_test

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"
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
