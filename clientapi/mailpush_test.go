package clientapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/blobs"
)

// mailStreet is alice, who speaks, and bob, who gets mails about it.
type mailStreet struct {
	*testServer
	box        *postbox
	alice, bob *user
	n          int
}

func newMailStreet(t *testing.T, delay, pause time.Duration) *mailStreet {
	s, box := withMail(t, func(cfg *Config) { cfg.Push.EmailDelay, cfg.Push.EmailPause = delay, pause })
	m := &mailStreet{testServer: s, box: box, alice: s.register("alice"), bob: s.register("bob")}
	m.bob.addAddress(box, "bob@example.org")
	m.bob.setMailPusher("Bob@example.org").ok()
	return m
}

func (u *user) setMailPusher(address string) *answer {
	return u.do("POST", v3+"/pushers/set", map[string]any{
		"kind": "email", "app_id": "m.email", "pushkey": address, "app_display_name": "E-mail", "device_display_name": address, "lang": "en",
		"data": map[string]string{"brand": "Chancery"}, "append": true,
	})
}

func (m *mailStreet) room(name string, more map[string]any) string {
	m.t.Helper()
	body := map[string]any{"preset": "private_chat", "invite": []string{string(m.bob.ID)}}
	if name != "" {
		body["name"] = name
	}
	for k, v := range more {
		body[k] = v
	}
	room := m.alice.do("POST", v3+"/createRoom", body).ok().str("room_id")
	m.bob.do("POST", v3+"/rooms/"+room+"/join", "{}").ok()
	return room
}

func (m *mailStreet) send(u *user, room, kind string, content map[string]any) string {
	m.t.Helper()
	m.n++
	return u.do("PUT", fmt.Sprintf("%s/rooms/%s/send/%s/%d", v3, room, kind, m.n), content).ok().str("event_id")
}

func (m *mailStreet) say(room, text string) string {
	m.t.Helper()
	return m.send(m.alice, room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text})
}

func TestMissedMessagesAreMailed(t *testing.T) {
	m := newMailStreet(t, time.Second, time.Hour)
	read, unread, secret := m.room("Read", nil), m.room("Cabinet", nil), m.room("Secret", nil)
	answered := m.room("Answered", nil)
	last := m.say(read, "this was read")
	m.say(unread, "the budget is ready")
	thread := m.say(unread, "a thread begins")
	m.send(m.alice, unread, "m.room.message", map[string]any{"msgtype": "m.text", "body": "in the thread", "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": thread}})
	m.send(m.alice, secret, "m.room.encrypted", map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "WHATITSAYS", "body": "WHATITSAYS"})
	gone := m.say(unread, "this is taken back")
	m.alice.do("PUT", v3+"/rooms/"+unread+"/redact/"+gone+"/r", "{}").ok()
	m.say(answered, "did you see this")
	m.send(m.bob, answered, "m.room.message", map[string]any{"msgtype": "m.text", "body": "yes"})
	m.bob.do("POST", v3+"/rooms/"+read+"/receipt/m.read/"+last, "{}").ok()

	mail := m.box.next()
	if mail.to != "bob@example.org" || !strings.Contains(mail.subject, "3 rooms") {
		t.Errorf("mail: got %+v, want one to bob about 3 rooms and threads", mail)
	}
	for _, want := range []string{"bob", "4 messages", "Cabinet", "alice: the budget is ready", "alice: in the thread", "Secret", "alice: (encrypted message)", "https://matrix.to/#/" + unread + "/" + thread} {
		if !strings.Contains(mail.text, want) {
			t.Errorf("%q is missing in %s", want, mail.text)
		}
	}
	for _, never := range []string{"this was read", "WHATITSAYS", "taken back", "did you see", "Answered"} {
		if strings.Contains(mail.text, never) {
			t.Errorf("%q stands in %s", never, mail.text)
		}
	}

	// The next mail waits for its pause: nothing of it comes while another's does.
	carol := m.register("carol")
	carol.addAddress(m.box, "carol@example.org")
	carol.setMailPusher("carol@example.org").ok()
	m.alice.do("POST", v3+"/rooms/"+unread+"/invite", map[string]any{"user_id": carol.ID}).ok()
	m.say(unread, "one more")
	if mail := m.box.next(); mail.to != "carol@example.org" || !strings.Contains(mail.text, "invites you") {
		t.Errorf("who comes next: got %+v, want carol's invite", mail)
	}
	m.box.empty()
}

// What is planned stands in the database: another process sends it, when the time has come.
func TestPlannedMailsOutliveTheProcess(t *testing.T) {
	m := newMailStreet(t, time.Hour, time.Hour)
	m.say(m.room("Cabinet", nil), "hello")
	var planned []*storage.Pusher
	for end := time.Now().Add(20 * time.Second); len(planned) == 0; time.Sleep(5 * time.Millisecond) {
		var err error
		if planned, err = m.store.Pushers.Due(t.Context(), time.Now().Add(2*time.Hour), 10); err != nil || time.Now().After(end) {
			t.Fatalf("no mail is planned: %v", err)
		}
	}
	planned[0].Mail.Due = time.Now()
	if err := m.store.Do(t.Context(), func(ctx context.Context) error { return m.store.Pushers.PutMail(ctx, planned[0]) }); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.Mail.Server, cfg.Mail.TLS, cfg.Mail.From = m.box.address, "none", "Interior <noreply@interior>"
	files, err := blobs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	second, err := New(cfg, m.store, files, m.bus, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	run(t, second.push.Run)
	if mail := m.box.next(); !strings.Contains(mail.text, "alice: hello") {
		t.Errorf("mail: got %+v", mail)
	}
}

func TestEmailPushersAreForOwnAddresses(t *testing.T) {
	m := newMailStreet(t, time.Hour, time.Hour)
	m.alice.setMailPusher("bob@example.org").fails(400, "M_THREEPID_NOT_FOUND")
	m.alice.setMailPusher("no address").fails(400, "M_THREEPID_NOT_FOUND")
	list := m.bob.do("GET", v3+"/pushers", nil).ok()
	if list.str("pushers.#") != "1" || list.str("pushers.0.pushkey") != "bob@example.org" || list.str("pushers.0.kind") != "email" {
		t.Errorf("list: got %s", list.body.Raw)
	}
	// It outlives the session that asked for it, but not the address.
	other := m.login("bob")
	m.bob.do("POST", v3+"/logout", "{}").ok()
	if other.do("GET", v3+"/pushers", nil).ok().str("pushers.#") != "1" {
		t.Error("the pusher went with the session")
	}
	other.do("POST", v3+"/account/3pid/delete", map[string]any{"medium": "email", "address": "bob@example.org"}).ok()
	if other.do("GET", v3+"/pushers", nil).ok().str("pushers.#") != "0" {
		t.Error("the pusher stayed when the address went")
	}
	s := start(t, testConfig())
	s.register("dave").setMailPusher("dave@example.org").fails(400, "M_INVALID_PARAM")
}

func TestUnsubscribeByMail(t *testing.T) {
	m := newMailStreet(t, 50*time.Millisecond, 50*time.Millisecond)
	room := m.room("Cabinet", nil)
	m.say(room, "hello")
	mail := m.box.next()
	link, err := url.Parse(mail.unsubscribe)
	if err != nil || link.Path != "/_synapse/client/unsubscribe" {
		t.Fatalf("link: got %q", mail.unsubscribe)
	}
	pushers := func() string { return m.bob.do("GET", v3+"/pushers", nil).ok().str("pushers.#") }
	get := func(query string) int {
		resp, err := http.Get(m.url + link.Path + "?" + query)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := get(link.RawQuery); code != 200 || pushers() != "1" {
		t.Errorf("looking at the link: got %d and %s pushers, want 200 and one", code, pushers())
	}
	forged := link.Query()
	forged.Set("user_id", string(id.UserID("@alice:interior")))
	if code := get(forged.Encode()); code != 400 {
		t.Errorf("a forged link: got %d, want 400", code)
	}
	resp, err := http.Post(m.url+link.Path+"?"+link.RawQuery, "application/x-www-form-urlencoded", strings.NewReader("List-Unsubscribe=One-Click"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || pushers() != "0" {
		t.Errorf("unsubscribing: got %d and %s pushers, want 200 and none", resp.StatusCode, pushers())
	}
}
