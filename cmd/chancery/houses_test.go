package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/synapseadmin"

	"chancery/clientapi/account"
	"chancery/storage/testdb"
)

// patience bounds whatever a test waits for.
const patience = 30 * time.Second

// TestMain lets the test binary be the server too: the tests that need processes of their own start it again so.
func TestMain(m *testing.M) {
	if os.Getenv("CHANCERY_BE_THE_SERVER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// testHouse is one homeserver of a test.
type testHouse struct {
	t      *testing.T
	config Config
	// url is the base of its client API.
	url   string
	stack *stack
}

// databases runs a test with houses on SQLite and, where TEST_POSTGRES names a server, on PostgreSQL.
func databases(t *testing.T, test func(t *testing.T, database func() string)) {
	t.Run("sqlite", func(t *testing.T) {
		test(t, func() string { return DefaultConfig().Storage.Database })
	})
	t.Run("postgres", func(t *testing.T) {
		test(t, func() string { return testdb.Postgres(t) })
	})
}

// testConfigs makes configurations of servers that know one another: an authority of their own, addresses on loopback,
// cheap hashes, no limits. The names are as given.
func testConfigs(t *testing.T, database func() string, names ...string) []Config {
	t.Helper()
	folder := t.TempDir()
	ca, err := newAuthority(folder)
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]string{}
	var configs []Config
	for _, name := range names {
		config := DefaultConfig()
		config.ServerName = name
		config.Data = filepath.Join(folder, name)
		config.Storage.Database = database()
		config.Listen = Listen{Client: loopback("tcp", 0), Federation: loopback("tcp", 0)}
		if config.Listen.Certificate, config.Listen.Key, err = ca.issue(name); err != nil {
			t.Fatal(err)
		}
		config.Log = Log{Level: testLevel(), Format: "text"}
		config.Client.PublicURL = "http://" + config.Listen.Client
		config.Client.HTTP.Limits.Enabled = false
		config.Calls.UDPPort, config.Calls.TCPPort, config.Calls.Loopback, config.Calls.Listen = 0, 0, true, []string{"127.0.0.1"}
		config.Calls.TURN.UDPPort, config.Calls.TURN.TCPPort = 0, 0
		config.Federation.Remote.CAFiles = []string{ca.file()}
		config.Federation.Remote.AllowedNetworks = []string{"127.0.0.0/8"}
		config.Federation.Remote.Hosts = hosts
		hosts[name] = config.Listen.Federation
		config.Client.Account.SharedSecret = testSecret
		config.Client.Account.PasswordHash = account.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}
		configs = append(configs, config)
	}
	return configs
}

// testLevel is what the servers of a test log: warnings, or what CHANCERY_TEST_LOG says.
func testLevel() zerolog.Level {
	if level, err := zerolog.ParseLevel(os.Getenv("CHANCERY_TEST_LOG")); err == nil && level != zerolog.NoLevel {
		return level
	}
	return zerolog.WarnLevel
}

// openHouses starts servers in this process; the test's end stops them.
func openHouses(t *testing.T, database func() string, names ...string) []*testHouse {
	t.Helper()
	return openConfigured(t, testConfigs(t, database, names...))
}

// openConfigured is openHouses with configurations of the test's own.
func openConfigured(t *testing.T, configs []Config) []*testHouse {
	t.Helper()
	var houses []*testHouse
	for _, config := range configs {
		house := &testHouse{t: t, config: config, url: config.Client.PublicURL}
		house.open()
		t.Cleanup(house.close)
		houses = append(houses, house)
	}
	return houses
}

// open starts the server, again perhaps, on what its data folder holds.
func (h *testHouse) open() {
	h.t.Helper()
	log := zerolog.New(zerolog.NewConsoleWriter(zerolog.ConsoleTestWriter(h.t))).Level(h.config.Log.Level).With().Str("house", h.config.ServerName).Timestamp().Logger()
	h.openWith(log.WithContext(context.Background()))
}

// openWith is open with a log of the test's own.
func (h *testHouse) openWith(ctx context.Context) {
	h.t.Helper()
	h.stack = newStack(ctx)
	behind, err := h.stack.assemble(ctx, h.config, allParts)
	if err == nil {
		err = h.stack.openDoors(ctx, h.config.Listen, behind)
	}
	if err != nil {
		h.close()
		h.t.Fatalf("open %s: %v", h.config.ServerName, err)
	}
}

// close stops the server as a signal would, within the promised ten seconds.
func (h *testHouse) close() {
	if h.stack == nil {
		return
	}
	begun := time.Now()
	h.stack.stop(stopPatience)
	h.stack = nil
	if took := time.Since(begun); took > 10*time.Second {
		h.t.Errorf("%s took %v to stop, want at most 10s", h.config.ServerName, took)
	}
}

// person registers somebody and signs them in.
func (h *testHouse) person(name string) *mautrix.Client {
	h.t.Helper()
	return signIn(h.t, h.url, name)
}

// signIn registers somebody at a server that the test started, and signs them in.
func signIn(t *testing.T, url, name string) *mautrix.Client {
	t.Helper()
	client, err := mautrix.NewClient(url, "", "")
	if err != nil {
		t.Fatal(err)
	}
	client.Log = zerolog.Nop()
	admin := &synapseadmin.Client{Client: client}
	if _, err := admin.SharedSecretRegister(t.Context(), testSecret, synapseadmin.ReqSharedSecretRegister{
		Username: name, Password: testPassword(name), InhibitLogin: true,
	}); err != nil {
		t.Fatalf("register %s: %v", name, err)
	}
	if _, err := client.Login(t.Context(), &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Password: testPassword(name), StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
	}); err != nil {
		t.Fatalf("sign in %s: %v", name, err)
	}
	return client
}

// testPassword is the password of the person with that name.
func testPassword(name string) string { return "correct horse " + name }

// testSecret is the shared secret of every test server.
const testSecret = "a secret for tests"

// patientSyncer asks again soon when the server is away: tests start servers again.
type patientSyncer struct{ *mautrix.DefaultSyncer }

func (s patientSyncer) OnFailedSync(*mautrix.RespSync, error) (time.Duration, error) {
	return 50 * time.Millisecond, nil
}

// listener collects what a client's sync brings, and lets a test wait for it.
type listener struct {
	t      *testing.T
	client *mautrix.Client
	events chan *event.Event
	seen   []*event.Event
}

// listen starts the client's sync; the test's end stops it.
func listen(t *testing.T, client *mautrix.Client) *listener {
	t.Helper()
	l := &listener{t: t, client: client, events: make(chan *event.Event, 4096)}
	syncer := mautrix.NewDefaultSyncer()
	// Room for what comes in one go after a server was away: a timeline that is cut would look like a loss.
	syncer.FilterJSON = &mautrix.Filter{Room: &mautrix.RoomFilter{Timeline: &mautrix.FilterPart{Limit: 1000}}}
	syncer.OnEvent(func(_ context.Context, ev *event.Event) { l.events <- ev })
	client.Syncer = patientSyncer{syncer}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := client.SyncWithContext(ctx); err != nil && ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond): // the server is being started again
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

// until waits for an event that fits; those before it are remembered, and looked at first.
func (l *listener) until(what string, fits func(*event.Event) bool) *event.Event {
	l.t.Helper()
	for _, ev := range l.seen {
		if fits(ev) {
			return ev
		}
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case ev := <-l.events:
			l.seen = append(l.seen, ev)
			if fits(ev) {
				return ev
			}
		case <-deadline.C:
			var had strings.Builder
			for _, ev := range l.seen {
				fmt.Fprintf(&had, "\n  %s %s from %s: %s", ev.RoomID, ev.Type.Type, ev.Sender, ev.Content.VeryRaw)
			}
			l.t.Fatalf("%s did not see %s within %v; it saw:%s", l.client.UserID, what, patience, had.String())
		}
	}
}

// forget drops what was seen of a room so far, so that until waits for news of it.
func (l *listener) forget(room id.RoomID) {
	l.seen = slices.DeleteFunc(l.seen, func(ev *event.Event) bool { return ev.RoomID == room })
}

// untilText waits for a message with that text.
func (l *listener) untilText(room id.RoomID, text string) *event.Event {
	l.t.Helper()
	return l.until("the message "+text, func(ev *event.Event) bool {
		return ev.RoomID == room && ev.Type == event.EventMessage && ev.Content.AsMessage().Body == text
	})
}

// untilMember waits for somebody's membership.
func (l *listener) untilMember(room id.RoomID, user id.UserID, membership event.Membership) *event.Event {
	l.t.Helper()
	return l.until(fmt.Sprintf("%s to be %s", user, membership), func(ev *event.Event) bool {
		return ev.RoomID == room && ev.Type == event.StateMember && ev.GetStateKey() == user.String() && ev.Content.AsMember().Membership == membership
	})
}

// must gives the value, or ends the test.
func must[T any](value T, err error) func(t *testing.T, doing string) T {
	return func(t *testing.T, doing string) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", doing, err)
		}
		return value
	}
}

// focus is the base of the call focus, as clients are told.
func (h *testHouse) focus() string { return h.url + "/calls" }
