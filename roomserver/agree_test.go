package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

var (
	agreeRuns = flag.Int("agree.runs", 200, "rooms that TestThreeServersAgree plays for each seed")
	agreeSeed = flag.Uint64("agree.seed", 0, "play TestThreeServersAgree's rooms of this seed alone")
)

// TestThreeServersAgree is about state resolution: with the build tag broken_resolution it fails, and `make test` sees to it that it does.
//
// It lets the users of three servers do what they like in a room, while the links between the servers come and go
// at random; in the end all links are up, and all three must hold the same state. It plays many rooms, half of them always the same.
func TestThreeServersAgree(t *testing.T) {
	seeds := []uint64{20261122, rand.Uint64()}
	if *agreeSeed != 0 {
		seeds = []uint64{*agreeSeed}
	}
	const tables = 8 // rooms played side by side
	servers := threeHouses(t)
	for _, seed := range seeds {
		t.Logf("%d rooms with seed %d; to repeat them: go test -run TestThreeServersAgree ./roomserver -agree.seed %d", *agreeRuns, seed, seed)
		for table := range tables {
			t.Run(fmt.Sprintf("seed %d, table %d", seed, table), func(t *testing.T) {
				t.Parallel()
				for run := table; run < *agreeRuns; run += tables {
					p := newParty(t, servers, seed, run)
					p.play()
					p.agree()
				}
			})
		}
	}
}

// threeHouses are the room servers of three ministries.
func threeHouses(t *testing.T) []*house {
	var servers []*house
	for _, name := range []string{"interior.example", "finance.example", "health.example"} {
		h := &house{TB: t, cfg: storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, signer: signerFor(name)}
		h.start()
		t.Cleanup(func() { h.end() })
		servers = append(servers, h)
	}
	return servers
}

// party is one room in which three servers take part.
type party struct {
	testing.TB
	*rand.Rand
	name    string
	servers []*house
	version id.RoomVersion
	room    id.RoomID
	// up tells which links carry; queues holds what each server has yet to hear from each other.
	up     [3][3]bool
	queues [3][3][]id.EventID
	events []id.EventID
	clock  int64
	log    []string
}

// root made the room, and is never heard of again. Each server has an anchor, who may do everything and is never touched, and guests.
const root = id.UserID("@root:founder.example")

func anchor(server *house) id.UserID { return id.NewUserID("anchor", server.signer.ServerName) }

func guest(server *house, n int) id.UserID {
	return id.NewUserID(fmt.Sprintf("guest%d", n), server.signer.ServerName)
}

func newParty(t testing.TB, servers []*house, seed uint64, run int) *party {
	p := &party{TB: t, Rand: rand.New(rand.NewPCG(seed, uint64(run))), name: fmt.Sprintf("seed %d, run %d", seed, run), clock: 1_700_000_000_000}
	for _, h := range servers {
		mine := *h
		mine.TB = t
		p.servers = append(p.servers, &mine)
	}
	p.version = []id.RoomVersion{"2", "3", "6", "8", "10", "11", "12"}[p.IntN(7)]
	p.found(seed, run)
	return p
}

// found makes the room, and has each server join it in turn.
func (p *party) found(seed uint64, run int) {
	s := &stranger{house: p.servers[0], signer: signerFor("founder.example"), version: p.version, state: map[pdu.Key]gomatrixserverlib.PDU{}}
	if p.version != "12" {
		s.room = id.RoomID(fmt.Sprintf("!%x-%d:founder.example", seed, run))
	}
	levels := map[id.UserID]int{}
	for _, h := range p.servers {
		levels[anchor(h)] = 100
	}
	if p.version != "12" {
		levels[root] = 100
	}
	content, _ := json.Marshal(map[string]any{"users": levels})
	first := s.make(p.timed(stateEvent(root, "m.room.create", "", fmt.Sprintf(`{"creator":%q,"room_version":%q,"run":"%d-%d"}`, root, p.version, seed, run))))
	s.room = pdu.RoomIDOf(first)
	p.room = s.room
	s.make(p.timed(membership(root, root, "join")))
	s.make(p.timed(stateEvent(root, "m.room.power_levels", "", string(content))))
	s.make(p.timed(joinRules(root, "public")))
	for i, h := range p.servers {
		s.house, s.signer = h, signerFor("founder.example")
		chain := s.snapshot()
		s.signer = h.signer
		user := anchor(h)
		join := s.make(p.timed(membership(user, user, "join")))
		if o, err := s.adopt(bus.Adopt{Version: p.version, Event: join.JSON(), Snapshot: chain, Resident: "founder.example"}); err != nil || o.Verdict != bus.Accepted {
			p.Fatalf("%s: %s does not join: %+v, %v", p.name, user, o, err)
		}
		for _, other := range p.servers[:i] {
			s.house = other
			s.want(bus.Accepted, join)
		}
	}
}

// timed gives a proposal its time: clocks go wrong, and meet.
func (p *party) timed(q bus.Proposal) bus.Proposal {
	p.clock += int64(p.IntN(3))
	q.Timestamp = p.clock + int64(p.IntN(20)) - 10
	return q
}

// play has the users act, under links that come and go.
func (p *party) play() {
	for range 2 + p.IntN(3) {
		for i := range 3 {
			for j := range i {
				p.up[i][j] = p.IntN(2) == 0
				p.up[j][i] = p.up[i][j]
			}
		}
		for range 4 + p.IntN(6) {
			p.act(p.IntN(3))
			if from, to := p.IntN(3), p.IntN(3); p.up[from][to] {
				p.deliver(from, to)
			}
		}
		for i := range 3 {
			for j := range 3 {
				if p.up[i][j] && p.IntN(4) > 0 {
					p.deliver(i, j)
				}
			}
		}
	}
}

// act has a user of the server do something.
func (p *party) act(server int) {
	h := p.servers[server]
	sender := anchor(h)
	if p.IntN(3) > 0 {
		sender = guest(h, p.IntN(2))
	}
	q := p.timed(p.wish(h, sender))
	o, err := h.propose(p.room, q)
	if refusal := (*bus.Refusal)(nil); errors.As(err, &refusal) {
		p.note("%s may not %s", sender, describe(q))
		return
	}
	if err != nil || o.Verdict != bus.Accepted {
		p.Fatalf("%s: %s by %s: %+v, %v\n%s", p.name, q.Type, sender, o, err, strings.Join(p.log, "\n"))
	}
	if o.Already {
		return
	}
	p.note("%s: %s %s", o.EventID, sender, describe(q))
	p.events = append(p.events, o.EventID)
	for to := range 3 {
		// Some events are never sent: they must be asked for.
		if to != server && p.IntN(10) > 0 {
			p.queues[server][to] = append(p.queues[server][to], o.EventID)
		}
	}
}

func describe(q bus.Proposal) string {
	if q.StateKey == nil {
		return fmt.Sprintf("%s %s", q.Type, q.Content)
	}
	return fmt.Sprintf("%s %q %s", q.Type, *q.StateKey, q.Content)
}

func (p *party) note(format string, args ...any) { p.log = append(p.log, fmt.Sprintf(format, args...)) }

// wish is something that the user would like to do.
func (p *party) wish(h *house, sender id.UserID) bus.Proposal {
	target := guest(p.servers[p.IntN(3)], p.IntN(2))
	isAnchor := sender == anchor(h)
	if m, err := h.store.Memberships.Of(h.context(), p.room, sender); err != nil {
		p.Fatal(err)
	} else if (m == nil || m.Membership != event.MembershipJoin) && p.IntN(2) == 0 { // who is not there can do little
		return membership(sender, sender, "join")
	}
	switch p.IntN(16) {
	case 0, 1, 2:
		return message(sender, fmt.Sprint(p.clock))
	case 3:
		return stateEvent(sender, "m.room.name", "", fmt.Sprintf(`{"name":"%d"}`, p.clock))
	case 4:
		return stateEvent(sender, "test.note", fmt.Sprint(p.IntN(3)), fmt.Sprintf(`{"n":%d}`, p.clock))
	case 5, 6:
		return stateEvent(sender, "m.room.power_levels", "", p.levels(h, target))
	case 7:
		rules := []string{"public", "invite"}
		if p.version.Knocks() {
			rules = append(rules, "knock")
		}
		return joinRules(sender, rules[p.IntN(len(rules))])
	case 8, 9:
		return stateEvent(sender, "m.room.member", string(sender), fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, p.clock))
	case 10:
		if isAnchor {
			return message(sender, "I stay")
		}
		return membership(sender, sender, "leave")
	case 11:
		return membership(sender, target, "invite")
	case 12:
		return membership(sender, target, "leave")
	case 13:
		return membership(sender, target, "ban")
	case 14:
		if p.version.Knocks() && !isAnchor {
			return membership(sender, sender, "knock")
		}
		return membership(sender, target, "leave")
	}
	if len(p.events) == 0 {
		return message(sender, "nothing to redact")
	}
	q := message(sender, "")
	q.Type, q.Redacts, q.Content = "m.room.redaction", p.events[p.IntN(len(p.events))], json.RawMessage(`{}`)
	return q
}

// levels are the power levels that the server knows, with one thing changed.
func (p *party) levels(h *house, target id.UserID) string {
	now, err := h.store.State.Current(h.context(), p.room, levelsKey)
	if err != nil || now == nil {
		p.Fatalf("%s: power levels: %v, %v", p.name, now, err)
	}
	var content struct {
		Content json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(now.JSON, &content); err != nil {
		p.Fatal(err)
	}
	path, level := "users."+strings.ReplaceAll(string(target), ".", `\.`), []int{0, 25, 50, 100}[p.IntN(4)]
	switch p.IntN(5) {
	case 0:
		path, level = []string{"ban", "kick", "invite", "redact", "state_default"}[p.IntN(5)], []int{0, 25, 50, 75}[p.IntN(4)]
	case 1:
		path, level = `events.test\.note`, []int{0, 50, 100}[p.IntN(3)]
	}
	changed, err := sjson.SetBytes(content.Content, path, level)
	if err != nil {
		p.Fatal(err)
	}
	return string(changed)
}

// deliver sends what waits on a link, in transactions of some size; now and then one comes twice.
func (p *party) deliver(from, to int) {
	waiting := p.queues[from][to]
	p.queues[from][to] = nil
	for len(waiting) > 0 {
		part := waiting[:min(len(waiting), 1+p.IntN(5))]
		waiting = waiting[len(part):]
		p.send(from, to, part, 0)
		if p.IntN(10) == 0 {
			p.send(from, to, part, 0)
		}
	}
}

// send hands events over, and what the receiver finds missing before them.
func (p *party) send(from, to int, events []id.EventID, depth int) {
	q := bus.Received{Origin: p.servers[from].signer.ServerName, Version: p.version}
	var sent []id.EventID
	for _, e := range events {
		if row := p.find(e, from); row != nil {
			q.PDUs, sent = append(q.PDUs, row.JSON), append(sent, e)
		}
	}
	outcomes, err := p.servers[to].ask(p.room, bus.RoomQuestion{Receive: &q})
	if err != nil || len(outcomes) != len(sent) || depth > 200 {
		p.Fatalf("%s: %s receives %v (depth %d): %+v, %v", p.name, p.servers[to].signer.ServerName, sent, depth, outcomes, err)
	}
	for i, o := range outcomes {
		p.note("to %d from %d: %s %s %s", to, from, o.EventID, o.Verdict, o.Reason)
		if o.Verdict != bus.Missing {
			continue
		}
		for _, missing := range o.Missing {
			p.send(from, to, []id.EventID{missing}, depth+1)
		}
		p.send(from, to, sent[i:i+1], depth+1)
	}
}

// find gets an event from the server that is asked, or from whoever has it.
func (p *party) find(e id.EventID, from int) *storage.Event {
	for i := range 3 {
		h := p.servers[(from+i)%3]
		row, err := h.store.Events.ByID(h.context(), e)
		if err != nil {
			p.Fatal(err)
		}
		if row != nil {
			return row
		}
	}
	return nil
}

// agree lets all links carry, each server speak, and compares.
func (p *party) agree() {
	for range 2 {
		for from := range 3 {
			for to := range 3 {
				p.deliver(from, to)
			}
		}
		for server, h := range p.servers {
			said := h.must(p.room, p.timed(message(anchor(h), "all together")))
			p.note("%s: all together, says %s", said, anchor(h))
			for to := range 3 {
				if to != server {
					p.send(server, to, []id.EventID{said}, 0)
				}
			}
		}
	}
	first := p.servers[0]
	want := first.state(p.room)
	for _, h := range p.servers {
		got := h.state(p.room)
		if maps.Equal(got, want) && slices.Equal(h.room(p.room).Extremities, first.room(p.room).Extremities) && p.membersFit(h, got) {
			continue
		}
		var differ []string
		for key := range want {
			if got[key] != want[key] {
				differ = append(differ, fmt.Sprintf("%v: %s has %s, %s has %s", key, h.signer.ServerName, got[key], first.signer.ServerName, want[key]))
			}
		}
		for key := range got {
			if want[key] == "" {
				differ = append(differ, fmt.Sprintf("%v: %s has %s, %s has nothing", key, h.signer.ServerName, got[key], first.signer.ServerName))
			}
		}
		p.Fatalf("the servers disagree (%s, room version %s): extremities %v and %v\n%s\n\nwhat went before:\n%s", p.name, p.version,
			h.room(p.room).Extremities, first.room(p.room).Extremities, strings.Join(differ, "\n"), strings.Join(p.log, "\n"))
	}
}

// membersFit tells whether the table of memberships says what the state says.
func (p *party) membersFit(h *house, state map[pdu.Key]id.EventID) bool {
	members, err := h.store.Memberships.ByRoom(context.Background(), p.room)
	if err != nil {
		p.Fatal(err)
	}
	fit := true
	for _, m := range members {
		if at := state[memberKey(m.UserID)]; at != m.EventID && !(at == "" && m.Membership == event.MembershipLeave) {
			p.note("%s stands as %s by %s, not by %s", m.UserID, m.Membership, m.EventID, at)
			fit = false
		}
	}
	return fit
}
