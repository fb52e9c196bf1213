package syncing

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	stdnet "net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

func (h *house) waiters(user id.UserID) int {
	h.sync.mu.RLock()
	defer h.sync.mu.RUnlock()
	u := h.sync.users[user]
	if u == nil {
		return 0
	}
	return len(u.waiters)
}

func TestGateLetsTheFewPass(t *testing.T) {
	g := newGate(1)
	if err := g.enter(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []string
	var all sync.WaitGroup
	queue := func(name string, express bool, n int) {
		for range n {
			before := g.queued()
			all.Go(func() {
				if err := g.enter(t.Context(), express); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				g.leave()
			})
			waitFor(t, func() bool { return g.queued() > before })
		}
	}
	queue("crowd", false, 20)
	queue("few", true, 10)
	gone, cancel := context.WithCancel(t.Context())
	refused := make(chan error, 1)
	before := g.queued()
	go func() { refused <- g.enter(gone, true) }()
	waitFor(t, func() bool { return g.queued() > before })
	cancel()
	if err := <-refused; err == nil {
		t.Error("who went away got a turn")
	}
	g.leave()
	all.Wait()
	few := 0
	for i, name := range order {
		if name == "few" {
			few++
		}
		if i == 11 && few < 9 {
			t.Errorf("of the first twelve %d were of the few, want nine or more: %v", few, order)
		}
	}
	if i := slices.Index(order, "crowd"); i > crowdsTurn {
		t.Errorf("the crowd's first turn was the %dth, want one in %d", i, crowdsTurn)
	}
	if free := g.free; free != 1 {
		t.Errorf("%d turns are free in the end, want 1", free)
	}
}

func (g *gate) queued() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.express) + len(g.crowd)
}

// TestSmallRoomBesideACrowd floods a room in which many wait: what is said between two others comes through meanwhile.
func TestSmallRoomBesideACrowd(t *testing.T) {
	h := newHouse(t)
	great, small := h.create(alice, "public"), h.create(alice, "public")
	h.member(small, bob, bob, "join")
	ctx, stop := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	defer func() { stop(); crowd.Wait() }()
	const people = 80
	for i := range people {
		user := id.UserID(fmt.Sprintf("@p%d:interior", i))
		h.member(great, user, user, "join")
	}
	for i := range people {
		user := id.UserID(fmt.Sprintf("@p%d:interior", i))
		crowd.Go(func() {
			for since := ""; ctx.Err() == nil; {
				query := url.Values{"timeout": {"5000"}, "since": {since}, "set_presence": {"offline"}, "filter": {`{"room":{"state":{"lazy_load_members":true}}}`}}
				r := httptest.NewRequestWithContext(ctx, "GET", "/_matrix/client/v3/sync?"+query.Encode(), nil)
				r.Header.Set("Authorization", "Bearer "+string(user)+"/PHONE")
				w := httptest.NewRecorder()
				h.http.ServeHTTP(w, r)
				if w.Code == 200 {
					since = gjson.GetBytes(w.Body.Bytes(), "next_batch").Str
				}
			}
		})
	}
	waitFor(t, func() bool {
		return h.waiters("@p0:interior") > 0 && h.waiters(id.UserID(fmt.Sprintf("@p%d:interior", people-1))) > 0
	})
	crowd.Go(func() {
		flood := *h
		for flood.n = 1 << 20; ctx.Err() == nil; {
			flood.say(great, alice, "flood")
		}
	})
	since := next(h.answerTo(bob, ""))
	for n := range 20 {
		text := fmt.Sprint("between us ", n)
		h.say(small, alice, text)
		start := time.Now()
		r := h.answerTo(bob, since, "timeout", "10000")
		if got := bodies(in(r, "join", small)); !slices.Equal(got, []string{text}) {
			t.Errorf("the small room's news: %v, want %q", got, text)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("beside the crowd the small room waited %s", took)
		}
		since = next(r)
	}
}

// TestBatchWakesOnce commits several changes at once: a waiter is woken once, and told of all.
func TestBatchWakesOnce(t *testing.T) {
	h := newHouse(t)
	since := next(h.answerTo(bob, ""))
	h.sync.mu.RLock()
	u := h.sync.users[bob]
	h.sync.mu.RUnlock()
	w := &waiter{device: "OTHER", woken: make(chan struct{}, 100), ended: make(chan struct{})}
	h.sync.mu.Lock()
	u.waiters[w] = struct{}{}
	h.sync.mu.Unlock()
	err := h.store.Do(t.Context(), func(ctx context.Context) error {
		for i := range 10 {
			if err := h.store.AccountData.Put(ctx, storage.AccountData{UserID: bob, Type: fmt.Sprint("t", i), Content: json.RawMessage(`{}`)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "told", len(h.answerTo(bob, since).Get("account_data.events").Array()), 10)
	same(t, "woken", len(w.woken), 1)
}

// TestAnswersAreHeldUnderLoad: the first news comes at once, what follows closely comes together.
func TestAnswersAreHeldUnderLoad(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	since := next(h.answerTo(bob, ""))
	ctx, stop := context.WithCancel(t.Context())
	var speaking sync.WaitGroup
	said := make(chan int, 1)
	speaking.Go(func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			h.say(room, alice, fmt.Sprint(n))
		}
		said <- n
	})
	answered, seen := 0, 0
	for start := time.Now(); time.Since(start) < time.Second; answered++ {
		r := h.answerTo(bob, since, "timeout", "5000", "filter", `{"room":{"timeline":{"limit":200}}}`)
		seen += len(in(r, "join", room).Get("timeline.events").Array())
		since = next(r)
	}
	stop()
	speaking.Wait()
	if n := <-said; n > 200 && answered > 100 {
		t.Errorf("%d messages in a second made %d answers, want at most one in 20 ms", n, answered)
	}
	if seen == 0 {
		t.Error("nothing was told")
	}
}

// TestSlowClientCostsOneAnswer has a client that does not read its answer: nothing is gathered for it meanwhile.
func TestSlowClientCostsOneAnswer(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	since := next(h.answerTo(bob, ""))
	for range 150 {
		h.say(room, alice, strings.Repeat("long ", 2000))
	}
	server := httptest.NewServer(h.http)
	defer server.Close()
	conn, err := stdnet.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*stdnet.TCPConn).SetReadBuffer(128 << 10); err != nil {
		t.Fatal(err)
	}
	query := url.Values{"since": {since}, "filter": {`{"room":{"timeline":{"limit":200}}}`}}
	fmt.Fprintf(conn, "GET /_matrix/client/v3/sync?%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s/PHONE\r\n\r\n", query.Encode(), bob)
	reader := bufio.NewReaderSize(conn, 512)
	if _, err := reader.Peek(100); err != nil { // the answer is on its way
		t.Fatal(err)
	}
	for range 100 {
		h.say(room, alice, "more")
	}
	if err := h.sync.reach(t.Context(), h.store.Head()); err != nil {
		t.Fatal(err)
	}
	same(t, "waiting for the slow one", h.waiters(bob), 0)
	h.sync.mu.RLock()
	same(t, "answers at work", h.sync.users[bob].using, 0)
	h.sync.mu.RUnlock()
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || !gjson.ValidBytes(body) {
		t.Fatalf("the slow client's answer: %d bytes, %v", len(body), err)
	}
	first := in(gjson.ParseBytes(body), "join", room).Get("timeline.events").Array()
	second := bodies(in(h.answerTo(bob, gjson.GetBytes(body, "next_batch").Str, "filter", `{"room":{"timeline":{"limit":200}}}`), "join", room))
	same(t, "both together", len(first)+len(second), 250)
}

func TestOldestOfTooManyWaitersEnds(t *testing.T) {
	h := newHouse(t)
	since := next(h.answerTo(bob, ""))
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	ended := make(chan int, maxWaiting+1)
	for n := range maxWaiting + 1 {
		all.Go(func() {
			r := httptest.NewRequestWithContext(ctx, "GET", "/_matrix/client/v3/sync?timeout=30000&since="+since, nil)
			r.Header.Set("Authorization", "Bearer "+string(bob)+"/PHONE")
			w := httptest.NewRecorder()
			h.http.ServeHTTP(w, r)
			if w.Code == 200 {
				ended <- n
			}
		})
		waitFor(t, func() bool { return h.waiters(bob) >= min(n+1, maxWaiting) })
	}
	select {
	case n := <-ended:
		same(t, "ended", n, 0)
	case <-time.After(15 * time.Second):
		t.Fatal("none of them ended")
	}
	same(t, "waiting", h.waiters(bob), maxWaiting)
}

func TestIdleUsersAndRoomsLeave(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	h.say(room, alice, "hello")
	since := next(h.answerTo(bob, ""))
	h.answerTo(alice, "")
	h.say(room, alice, "again")
	h.answerTo(bob, since)
	h.sync.mu.Lock()
	if len(h.sync.rooms) != 1 || h.sync.ringed == 0 {
		t.Errorf("%d rooms with %d bytes are at hand, want one", len(h.sync.rooms), h.sync.ringed)
	}
	h.sync.users[bob].seen = time.Now().Add(-time.Hour)
	h.sync.mu.Unlock()
	h.sync.dropIdle()
	h.sync.mu.Lock()
	same(t, "users after Bob went", len(h.sync.users), 1)
	same(t, "rooms after Bob went", len(h.sync.rooms), 1)
	h.sync.users[alice].seen = time.Now().Add(-time.Hour)
	h.sync.mu.Unlock()
	h.sync.dropIdle()
	h.sync.mu.Lock()
	same(t, "users, rooms and bytes in the end", []int{len(h.sync.users), len(h.sync.rooms), h.sync.ringed}, []int{0, 0, 0})
	h.sync.mu.Unlock()
	same(t, "who comes back", bodies(in(h.answerTo(bob, since), "join", room)), []string{"again"})
}

// TestRingsAreBoundedTogether fills the rings of many rooms: they hold no more than they may, and answers lack nothing.
func TestRingsAreBoundedTogether(t *testing.T) {
	h := newHouse(t)
	const limit = 200 << 10
	h.sync.mu.Lock()
	h.sync.cfg.RingBytes = limit
	h.sync.mu.Unlock()
	var rooms []id.RoomID
	for range 8 {
		room := h.create(alice, "public")
		rooms = append(rooms, room)
	}
	since := next(h.answerTo(alice, ""))
	for n := range 5 {
		for _, room := range rooms {
			h.say(room, alice, fmt.Sprint(n, strings.Repeat(" long", 1000)))
		}
	}
	if err := h.sync.reach(t.Context(), h.store.Head()); err != nil {
		t.Fatal(err)
	}
	h.sync.mu.RLock()
	held, counted := h.sync.ringed, 0
	for _, r := range h.sync.rooms {
		for _, x := range r.events {
			counted += x.size
		}
	}
	h.sync.mu.RUnlock()
	if held > limit || held != counted {
		t.Errorf("the rings hold %d bytes, and say %d; want at most %d", counted, held, limit)
	}
	r := h.answerTo(alice, since)
	for _, room := range rooms {
		same(t, "messages in "+string(room), len(in(r, "join", room).Get("timeline.events").Array()), 5)
	}
}

// TestNewsWhileAUserIsRead: what is said while a user's rooms are read, by the first request after a restart, is in no room of theirs
// in the memory. Who knew everything up to then is told it all the same.
func TestNewsWhileAUserIsRead(t *testing.T) {
	h := newHouse(t)
	room := h.create(alice, "public")
	h.member(room, bob, bob, "join")
	since := next(h.answerTo(bob, ""))
	h.again()
	u := newUser(bob, storage.Position(h.sync.applied.Load()))
	u.seen = time.Now()
	h.sync.mu.Lock()
	h.sync.users[bob] = u
	h.sync.mu.Unlock()
	h.say(room, alice, "meanwhile")
	if err := h.sync.reach(t.Context(), h.store.Head()); err != nil {
		t.Fatal(err)
	}
	h.sync.load(t.Context(), u)
	same(t, "what Bob is told", bodies(in(h.answerTo(bob, since), "join", room)), []string{"meanwhile"})
}
