package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// ledger keeps what a server asks of its database: it is the server's log at trace level.
type ledger struct {
	mu           sync.Mutex
	reads        []string
	transactions [][]string
	// What sortOut makes of them: writes and commits for messages, and the reads and transactions beside them.
	writes, beside []string
	commits        int
	// within are the statements of the transaction that is open; most is how many were open at once.
	within     []string
	open, most int
}

// chores are statements that come at most once a second, however many messages there are: cursors, and the search index.
var chores = regexp.MustCompile(`INTO (cursors|search_)|FROM pushers WHERE kind IN|leases`)

// Write takes a line of the log.
func (l *ledger) Write(line []byte) (int, error) {
	if !bytes.Contains(line, []byte(`"Statement"`)) {
		return len(line), nil
	}
	var entry struct{ Side, SQL string }
	if err := json.Unmarshal(line, &entry); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch sql := strings.Join(strings.Fields(entry.SQL), " "); {
	case sql == "Begin":
		l.open++
		l.most = max(l.most, l.open)
	case sql == "Commit", sql == "Rollback":
		l.open--
		l.close()
	case entry.Side == "read":
		l.reads = append(l.reads, sql)
	default:
		l.within = append(l.within, sql)
	}
	return len(line), nil
}

// close books a transaction.
func (l *ledger) close() {
	l.transactions = append(l.transactions, l.within)
	l.within = nil
}

func (l *ledger) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads, l.transactions, l.writes, l.beside, l.commits, l.most = nil, nil, nil, nil, 0, l.open
}

// counter is the statement with which every transaction begins.
func counter(sql string) bool { return strings.HasPrefix(sql, "UPDATE counter") }

// sortOut puts beside the messages what came fewer times than that: something else that a server does now and then.
func (l *ledger) sortOut(few int) {
	count := map[string]int{}
	for _, sql := range slices.Concat(l.reads, slices.Concat(l.transactions...)) {
		count[sql]++
	}
	chore := func(sql string) bool { return count[sql] < few || chores.MatchString(sql) }
	l.reads = slices.DeleteFunc(l.reads, func(sql string) bool {
		if chore(sql) {
			l.beside = append(l.beside, sql)
		}
		return chore(sql)
	})
	for _, within := range l.transactions {
		if !slices.ContainsFunc(within, func(sql string) bool { return !chore(sql) && !counter(sql) }) {
			l.beside = append(l.beside, "transaction of "+strings.Join(within, "; "))
			continue
		}
		l.commits++
		for _, sql := range within {
			if !chore(sql) {
				l.writes = append(l.writes, sql)
			}
		}
	}
}

// kinds lists the statements with how often each came, the most frequent first.
func (l *ledger) kinds() string {
	count := map[string]int{}
	for _, s := range slices.Concat(l.reads, l.writes, l.beside) {
		if cut := strings.Index(s, "VALUES"); cut > 0 {
			s = s[:cut]
		}
		count[s[:min(len(s), 160)]]++
	}
	var lines []string
	for s, n := range count {
		lines = append(lines, fmt.Sprintf("%6d × %s", n, s))
	}
	slices.Sort(lines)
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

// openCounted starts a server whose statements are counted.
func openCounted(t *testing.T, config Config) (*testHouse, *ledger) {
	t.Helper()
	l := &ledger{}
	h := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	h.openWith(zerolog.New(l).Level(zerolog.TraceLevel).WithContext(context.Background()))
	t.Cleanup(h.close)
	return h, l
}

// TestStatementsOfAMessage counts what one message costs while its reader syncs, push follows and another server is sent it: three
// statements and one commit, and not one more in a room of many. A commit waits for the disk once (for SQLite's log, or PostgreSQL's).
// Beginnings and ends of transactions are not counted, nor what comes once a second however many messages there are.
func TestStatementsOfAMessage(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		configs := testConfigs(t, database, "interior.example", "finance.example")
		interior, ledger := openCounted(t, configs[0])
		finance := &testHouse{t: t, config: configs[1], url: configs[1].Client.PublicURL}
		finance.open()
		t.Cleanup(finance.close)
		alice, bob, carol := interior.person("alice"), interior.person("bob"), finance.person("carol")
		room := must(alice.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create a room").RoomID
		for _, who := range []*mautrix.Client{bob, carol} {
			must(who.JoinRoom(t.Context(), room.String(), &mautrix.ReqJoinRoom{Via: []string{"interior.example"}}))(t, "join")
		}
		near, far := listen(t, bob), listen(t, carol)
		say := func(text string) {
			said := must(alice.SendText(t.Context(), room, text))(t, "say "+text).EventID
			for _, l := range []*listener{near, far} {
				l.until(text, func(ev *event.Event) bool { return ev.ID == said })
			}
		}
		count := func(members int) {
			for n := range 20 { // until all is warm
				say(fmt.Sprint("warm ", n))
			}
			const messages = 100
			ledger.begin()
			begun := time.Now()
			for n := range messages {
				say(fmt.Sprint("counted ", n))
			}
			seconds := time.Since(begun).Seconds()
			ledger.mu.Lock()
			defer ledger.mu.Unlock()
			ledger.sortOut(messages / 10)
			t.Logf("%d members: %d messages cost %d reads, %d writes and %d commits; beside them %d chores in %.1f s",
				members, messages, len(ledger.reads), len(ledger.writes), ledger.commits, len(ledger.beside), seconds)
			if n := len(ledger.reads) + len(ledger.writes); n > 3*messages {
				t.Errorf("%d messages cost %d statements, want at most 3 each:\n%s", messages, n, ledger.kinds())
			}
			if ledger.commits > messages {
				t.Errorf("%d messages cost %d commits, want at most one each:\n%s", messages, ledger.commits, ledger.kinds())
			}
			if most := 10 * (seconds + 2); float64(len(ledger.beside)) > most {
				t.Errorf("beside the messages came %d statements in %.1f s, want at most %.0f:\n%s", len(ledger.beside), seconds, most, ledger.kinds())
			}
		}
		count(3)
		interior.crowd(room, 200)
		count(203)
	})
}

// crowd lets people of the server into a room.
func (h *testHouse) crowd(room id.RoomID, people int) {
	h.t.Helper()
	var all sync.WaitGroup
	for n := range people {
		all.Go(func() {
			if _, err := h.person(fmt.Sprintf("crowd%d", n)).JoinRoomByID(h.t.Context(), room); err != nil {
				h.t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestCommitsAreShared counts the commits of fifty who write over HTTP at once in fifty rooms: fewer than one for each message, and never
// two at once. (The room server's own test asks it directly.)
func TestCommitsAreShared(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		h, ledger := openCounted(t, testConfigs(t, database, "interior.example")[0])
		const people = 50
		var clients []*mautrix.Client
		var rooms []id.RoomID
		for n := range people {
			client := h.person(fmt.Sprintf("person%d", n))
			clients = append(clients, client)
			rooms = append(rooms, must(client.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{}))(t, "create a room").RoomID)
		}
		const each = 20
		ledger.begin()
		begun := time.Now()
		var all sync.WaitGroup
		for n := range people {
			all.Go(func() {
				for range each {
					if _, err := clients[n].SendText(t.Context(), rooms[n], "hello"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		took := time.Since(begun)
		ledger.mu.Lock()
		defer ledger.mu.Unlock()
		const messages = people * each
		ledger.sortOut(0)
		t.Logf("%d messages in %v cost %d commits, %d reads and %d writes", messages, took, ledger.commits, len(ledger.reads), len(ledger.writes))
		if ledger.commits >= messages {
			t.Errorf("%d messages cost %d commits, want fewer:\n%s", messages, ledger.commits, ledger.kinds())
		}
		if ledger.most > 1 {
			t.Errorf("%d transactions were open at once, want one", ledger.most)
		}
	})
}
