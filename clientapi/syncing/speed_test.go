package syncing

import (
	"bufio"
	"fmt"
	"io"
	stdnet "net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

// processorTime is what this process has used of the processor.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// ask sends a request over a connection that stays open, and reads the answer: hardly more than the bytes, so that what is measured
// is the server.
func askOver(t testing.TB, conn stdnet.Conn, reader *bufio.Reader, request []byte) int {
	t.Helper()
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	if err != nil || answer.StatusCode != 200 {
		t.Fatalf("%d %v", answer.StatusCode, err)
	}
	return int(n)
}

// nothingNew asks n times over HTTP for news that there is none, and gives the processor time that one took, server and client.
func nothingNew(t testing.TB, n int) time.Duration {
	h := newHouse(t)
	for range 20 {
		room := h.create(alice, "public")
		h.member(room, bob, bob, "join")
		h.say(room, alice, "hello")
	}
	const filter = `{"room":{"state":{"lazy_load_members":true},"timeline":{"unread_thread_notifications":true}}}`
	since := next(h.answerTo(bob, "", "filter", filter))
	since = next(h.answerTo(bob, since, "filter", filter))
	server := httptest.NewServer(h.http)
	defer server.Close()
	conn, err := stdnet.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	query := url.Values{"since": {since}, "filter": {filter}, "timeout": {"0"}}
	request := fmt.Appendf(nil, "GET /_matrix/client/v3/sync?%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s/PHONE\r\n\r\n", query.Encode(), bob)
	reader := bufio.NewReader(conn)
	askOver(t, conn, reader, request)
	reads, _ := h.store.Statements()
	before := processorTime(t)
	for range n {
		askOver(t, conn, reader, request)
	}
	took := (processorTime(t) - before) / time.Duration(n)
	if now, _ := h.store.Statements(); now != reads {
		t.Errorf("%d syncs without news made %d statements, want none", n, now-reads)
	}
	return took
}

func TestNothingNewCostsNextToNothing(t *testing.T) {
	n := 10_000
	if raced {
		n = 100 // for the statements alone
	}
	took := nothingNew(t, n)
	t.Logf("a sync without news takes %s of the processor, HTTP on both sides included", took)
	if took > 300*time.Microsecond && !raced {
		t.Errorf("a sync without news takes %s of the processor, want less than 300µs", took)
	}
}

func BenchmarkNothingNew(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(float64(nothingNew(b, 10_000).Microseconds()), "cpu-µs/sync")
	}
}

// BenchmarkReconnect lets 2,000 clients come back at once after a restart, into rooms where ten messages were said meanwhile.
func BenchmarkReconnect(b *testing.B) {
	const clients, rooms, each = 2000, 100, 2
	h := newHouse(b)
	var list []id.RoomID
	for range rooms {
		list = append(list, h.create(alice, "public"))
	}
	inRooms := func(do func(n int, room id.RoomID)) {
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				for n := w; n < rooms; n += 8 {
					do(n, list[n])
				}
			})
		}
		all.Wait()
	}
	name := func(n int) id.UserID { return id.UserID(fmt.Sprintf("@p%d:interior", n)) }
	inRooms(func(n int, room id.RoomID) {
		for k := range clients {
			if k%rooms != n && (k+7)%rooms != n {
				continue
			}
			user := name(k)
			h.propose(room, bus.Proposal{Sender: user, Type: "m.room.member", StateKey: key(string(user)), Content: content(`{"membership":"join"}`)})
		}
	})
	const filter = `{"room":{"state":{"lazy_load_members":true}}}`
	tokens := make([]string, clients)
	for n := range clients {
		tokens[n] = next(h.answerTo(name(n), "", "filter", filter))
	}
	for b.Loop() {
		h.again()
		inRooms(func(_ int, room id.RoomID) {
			for k := range 10 {
				h.propose(room, bus.Proposal{Sender: alice, Type: "m.room.message", Content: content(`{"msgtype":"m.text","body":"%d"}`, k)})
			}
		})
		h.again() // and nothing of it is at hand
		reads, _ := h.store.Statements()
		used, start := processorTime(b), time.Now()
		took, found := make([]time.Duration, clients), make([]int, clients)
		var all sync.WaitGroup
		for n := range clients {
			all.Go(func() {
				r := h.answerTo(name(n), tokens[n], "filter", filter, "timeout", "30000")
				took[n] = time.Since(start)
				r.Get("rooms.join").ForEach(func(_, room gjson.Result) bool {
					for _, e := range room.Get("timeline.events").Array() {
						if e.Get("type").Str == "m.room.message" {
							found[n]++
						}
					}
					return true
				})
				tokens[n] = next(r)
			})
		}
		all.Wait()
		whole := time.Since(start)
		cpu := processorTime(b) - used
		after, _ := h.store.Statements()
		for n, messages := range found {
			if messages != 10*each {
				b.Fatalf("client %d was told of %d messages, want %d", n, messages, 10*each)
			}
		}
		slices.Sort(took)
		b.ReportMetric(float64(whole.Milliseconds()), "ms/all")
		b.ReportMetric(float64(took[clients/2].Milliseconds()), "ms/p50")
		b.ReportMetric(float64(took[clients*99/100].Milliseconds()), "ms/p99")
		b.ReportMetric(float64(cpu.Microseconds())/clients, "cpu-µs/client")
		b.ReportMetric(float64(after-reads)/clients, "reads/client")
	}
}
