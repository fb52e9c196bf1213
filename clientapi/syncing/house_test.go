package syncing

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver"
	"chancery/roomserver/pdu"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
	"chancery/storage/testdb"
)

const (
	alice = id.UserID("@alice:interior")
	bob   = id.UserID("@bob:interior")
	carol = id.UserID("@carol:interior")
)

// house is a real store, bus and room server with a sync engine on top, asked over HTTP.
type house struct {
	testing.TB
	store *storage.Store
	bus   *bus.Bus
	sync  *Syncing
	http  http.Handler
	n     int
}

// tokens makes "@alice:interior/PHONE" a token of that device.
type tokens struct{}

func (tokens) ByToken(_ context.Context, token, _, _ string) (*rest.Requester, error) {
	user, device, ok := strings.Cut(token, "/")
	if !ok {
		return nil, nil
	}
	return &rest.Requester{User: id.UserID(user), Device: id.DeviceID(device)}, nil
}

// database is a new SQLite file; in the runs of onPostgres, a new database there.
func database(t testing.TB) string {
	if strings.Contains(t.Name(), "/postgres") {
		return testdb.Postgres(t)
	}
	return testdb.SQLite(t)
}

// TestOnPostgres runs again on PostgreSQL what reads the tables most.
func TestOnPostgres(t *testing.T) {
	if os.Getenv("TEST_POSTGRES") == "" {
		t.Skip("TEST_POSTGRES names no PostgreSQL server; `make test` starts one")
	}
	for name, test := range map[string]func(*testing.T){
		"views": func(t *testing.T) { agree(t, mathrand.New(mathrand.NewPCG(1, 7)), true) }, "memberships": TestMembershipSections,
		"counts": TestReceiptsAndCounts, "devices": TestDeviceListsOfWhoComesAndGoes, "to-device": TestToDeviceIsDeletedWhenAcknowledged,
		"lazy": TestLazyMembers, "gap": TestLimitedTimelineAndGap,
		"sliding": func(t *testing.T) {
			for name, run := range map[string]func(*testing.T, *house){
				"restarts": slideRestarts, "filters": slideFilters, "expands": slideExpands, "invites": slideInvites, "leaves": slideLeaves, "threads": slideThreads,
			} {
				t.Run(name, func(t *testing.T) { run(t, newHouse(t)) })
			}
		},
	} {
		t.Run("postgres "+name, test)
	}
}

func newHouse(t testing.TB) *house {
	t.Helper()
	ctx, cancel := context.WithCancel(zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel).WithContext(context.Background()))
	b, err := bus.Open(ctx, bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(ctx, storage.Config{Database: database(t)}, b)
	if err != nil {
		t.Fatal(err)
	}
	seed := bytes.Repeat([]byte{1}, ed25519.SeedSize)
	rooms := roomserver.New(roomserver.DefaultConfig(), store, b, pdu.Signer{ServerName: "interior", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed)})
	h := &house{TB: t, store: store, bus: b}
	h.sync = New(DefaultConfig(), store, b, view.New(store))
	ended := make(chan error, 2)
	go func() { ended <- rooms.Run(ctx) }()
	go func() { ended <- h.sync.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-ended
		store.Close()
		b.Close()
	})
	h.serve()
	return h
}

func (h *house) serve() {
	cfg := rest.DefaultConfig()
	cfg.Limits.Enabled = false
	h.http = rest.NewMux([]rest.Route{
		{Method: "GET", Path: "/_matrix/client/v3/sync", Handler: h.sync.Sync, Auth: rest.User, Timeout: -1},
		{Method: "POST", Path: "/_matrix/client/v4/sync", Handler: h.sync.SlideMerged, Auth: rest.User, Timeout: -1},
		{Method: "POST", Path: "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", Handler: h.sync.Slide, Auth: rest.User, Timeout: -1},
		{Method: "POST", Path: "/_matrix/client/v3/user/{userId}/filter", Handler: h.sync.PutFilter, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/user/{userId}/filter/{filterId}", Handler: h.sync.Filter, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/presence/{userId}/status", Handler: h.sync.PutPresence, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/presence/{userId}/status", Handler: h.sync.Presence, Auth: rest.User},
	}, rest.Options{Config: cfg, Log: zerolog.Nop(), Tokens: tokens{}})
}

// again is the same house with a new sync engine, as after a restart of the client process.
func (h *house) again() {
	h.Helper()
	h.sync = New(DefaultConfig(), h.store, h.bus, view.New(h.store))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := h.sync
	go func() { ended <- s.Run(ctx) }()
	h.Cleanup(func() { cancel(); <-ended })
	h.serve()
}

func (h *house) ask(method, path string, user id.UserID, query url.Values, body string) (int, gjson.Result) {
	h.Helper()
	r := httptest.NewRequest(method, path+"?"+query.Encode(), strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+string(user)+"/PHONE")
	w := httptest.NewRecorder()
	h.http.ServeHTTP(w, r)
	if !gjson.ValidBytes(w.Body.Bytes()) {
		h.Fatalf("%s %s: not JSON: %s", method, path, w.Body.String())
	}
	return w.Code, gjson.ParseBytes(w.Body.Bytes())
}

// answerTo asks for a sync; further gives query parameters in pairs.
func (h *house) answerTo(user id.UserID, since string, further ...string) gjson.Result {
	h.Helper()
	query := url.Values{}
	if since != "" {
		query.Set("since", since)
	}
	for i := 0; i < len(further); i += 2 {
		query.Set(further[i], further[i+1])
	}
	code, answer := h.ask("GET", "/_matrix/client/v3/sync", user, query, "")
	if code != 200 {
		h.Fatalf("sync of %s: %d %s", user, code, answer.Raw)
	}
	return answer
}

func next(answer gjson.Result) string { return answer.Get("next_batch").Str }

// in gives the part of a room.
func in(answer gjson.Result, kind string, room id.RoomID) gjson.Result {
	return answer.Get("rooms").Get(kind).Get(gjson.Escape(string(room)))
}

func (h *house) do(room id.RoomID, q bus.RoomQuestion) bus.Outcome {
	h.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, h.bus, bus.RoomDo(room), q)
	if err != nil {
		h.Fatalf("room server: %v", err)
	}
	if len(answer.Outcomes) == 0 {
		return bus.Outcome{}
	}
	return answer.Outcomes[0]
}

func (h *house) propose(room id.RoomID, p bus.Proposal) id.EventID {
	h.Helper()
	return h.do(room, bus.RoomQuestion{Propose: &p}).EventID
}

func key(s string) *string { return &s }

func (h *house) create(creator id.UserID, preset string, further ...bus.Proposal) id.RoomID {
	h.Helper()
	member := func(user id.UserID, membership string) bus.Proposal {
		return bus.Proposal{Sender: user, Type: "m.room.member", StateKey: key(string(user)), Content: content(`{"membership":%q,"displayname":%q}`, membership, user.Localpart())}
	}
	events := []bus.Proposal{
		member(creator, "join"),
		{Sender: creator, Type: "m.room.power_levels", StateKey: key(""), Content: content(`{"users":{%q:100}}`, creator)},
		{Sender: creator, Type: "m.room.join_rules", StateKey: key(""), Content: content(`{"join_rule":%q}`, preset)},
	}
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	made, err := bus.Ask[bus.Create, bus.Created](ctx, h.bus, bus.CreateRoom, bus.Create{
		Version: id.RoomV11, Content: content(`{}`), Events: append(events, further...), Sender: creator,
	})
	if err != nil {
		h.Fatalf("create room: %v", err)
	}
	return made.RoomID
}

// createOf makes a room of a type.
func (h *house) createOf(creator id.UserID, kind string) id.RoomID {
	h.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	made, err := bus.Ask[bus.Create, bus.Created](ctx, h.bus, bus.CreateRoom, bus.Create{
		Version: id.RoomV11, Content: content(`{"type":%q}`, kind), Sender: creator,
		Events: []bus.Proposal{{Sender: creator, Type: "m.room.member", StateKey: key(string(creator)), Content: content(`{"membership":"join"}`)},
			{Sender: creator, Type: "m.room.power_levels", StateKey: key(""), Content: content(`{"users":{%q:100}}`, creator)}},
	})
	if err != nil {
		h.Fatalf("create room: %v", err)
	}
	return made.RoomID
}

func content(format string, args ...any) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(format, args...))
}

func (h *house) member(room id.RoomID, by, user id.UserID, membership string) id.EventID {
	h.Helper()
	return h.propose(room, bus.Proposal{Sender: by, Type: "m.room.member", StateKey: key(string(user)),
		Content: content(`{"membership":%q,"displayname":%q}`, membership, user.Localpart())})
}

func (h *house) say(room id.RoomID, user id.UserID, text string) id.EventID {
	h.Helper()
	h.n++
	return h.propose(room, bus.Proposal{Sender: user, Type: "m.room.message", Content: content(`{"msgtype":"m.text","body":%q}`, text),
		Device: "PHONE", Path: "PUT m.room.message", TransactionID: fmt.Sprint("t", h.n)})
}

func (h *house) state(room id.RoomID, user id.UserID, typ, stateKey string, body json.RawMessage) id.EventID {
	h.Helper()
	return h.propose(room, bus.Proposal{Sender: user, Type: typ, StateKey: key(stateKey), Content: body})
}

func (h *house) read(room id.RoomID, user id.UserID, event id.EventID, thread string) {
	h.Helper()
	err := h.store.Do(context.Background(), func(ctx context.Context) error {
		_, err := h.store.Receipts.Put(ctx, &storage.Receipt{RoomID: room, UserID: user, Type: storage.ReceiptRead, Thread: thread, EventID: event, Timestamp: 1})
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
}

// bodies gives what the timeline says: the bodies of messages, the types of other events.
func bodies(room gjson.Result) []string {
	var list []string
	for _, e := range room.Get("timeline.events").Array() {
		if body := e.Get("content.body"); body.Exists() {
			list = append(list, body.Str)
		} else {
			list = append(list, e.Get("type").Str)
		}
	}
	return list
}

// types gives the types and state keys of a list of events.
func types(events gjson.Result) []string {
	var list []string
	for _, e := range events.Array() {
		text := e.Get("type").Str
		if k := e.Get("state_key").Str; k != "" {
			text += " " + k
		}
		list = append(list, text)
	}
	return list
}

// profile is a change of somebody's name in a room.
func profile(user id.UserID, n int) bus.Proposal {
	return bus.Proposal{Sender: user, Type: "m.room.member", StateKey: key(string(user)), Content: content(`{"membership":"join","displayname":"%d"}`, n)}
}
