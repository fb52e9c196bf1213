package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// The soak's people, rooms, and how long each pauses between two messages.
const (
	soakPeople = 10 // at each of two servers
	soakRooms  = 5
	soakPause  = 200 * time.Millisecond
	soakJudged = 25 * time.Minute // the length from which on memory is judged
)

// TestSoak lets people of two servers talk in shared rooms for as long as CHANCERY_SOAK says, while the servers are killed, restarted
// and stopped (SIGSTOP): everybody sees each message once, in the order of its sender, and after a third of the time (where that is
// about ten minutes) the memory of a server that was last started before the half of that third grows no more. The last line is the verdict.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("CHANCERY_SOAK"))
	if err != nil {
		t.Skip("CHANCERY_SOAK names no duration; `make soak` does")
	}
	s := newSoak(t)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	memory := s.disturb(ctx, length)
	cancel()
	s.speaking.Wait()
	s.drain()
	s.verdict(length, memory)
}

type soak struct {
	t        *testing.T
	servers  []*process
	ears     []*soakEar
	rooms    []id.RoomID
	quit     chan struct{}
	speaking sync.WaitGroup

	mu                     sync.Mutex
	said                   map[soakVoice]int // how many messages each has said in each room
	ended                  bool
	restarts, kills, stops int
}

// soakVoice is one sender in one room.
type soakVoice struct {
	room   id.RoomID
	sender id.UserID
}

func newSoak(t *testing.T) *soak {
	s := &soak{t: t, said: map[soakVoice]int{}, quit: make(chan struct{})}
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	var people []*mautrix.Client
	var names []string
	for _, config := range configs {
		server := newProcess(t, config, "")
		server.start()
		s.servers = append(s.servers, server)
		names = append(names, config.ServerName)
	}
	for _, config := range configs {
		for n := range soakPeople {
			people = append(people, signIn(t, config.Client.PublicURL, fmt.Sprintf("person%d", n)))
		}
	}
	for n := range soakRooms {
		room := must(people[n].CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
		for _, who := range people {
			must(who.JoinRoom(t.Context(), room.String(), &mautrix.ReqJoinRoom{Via: names}))(t, "join")
		}
		s.rooms = append(s.rooms, room)
	}
	for _, who := range people {
		ear := &soakEar{client: who, heard: map[soakVoice]int{}, known: map[id.RoomID]id.EventID{}}
		s.ears = append(s.ears, ear)
		ear.first(t)
		go ear.listen(s.quit)
	}
	t.Cleanup(func() { close(s.quit) })
	for _, who := range people {
		s.speaking.Go(func() { s.speak(who) })
	}
	return s
}

// speak says one message after another until the time is over.
func (s *soak) speak(who *mautrix.Client) {
	for s.t.Context().Err() == nil && !s.over() {
		room := s.rooms[rand.IntN(len(s.rooms))]
		voice := soakVoice{room, who.UserID}
		s.mu.Lock()
		n := s.said[voice] + 1
		s.mu.Unlock()
		sendSurely(s.t, who, room, fmt.Sprintf("soak %d", n))
		s.mu.Lock()
		s.said[voice] = n
		s.mu.Unlock()
		time.Sleep(soakPause/2 + rand.N(soakPause)) // the pace of the load
	}
}

// soakEar is one client's sync, and how far it has heard each voice.
type soakEar struct {
	client *mautrix.Client
	since  string

	mu    sync.Mutex
	heard map[soakVoice]int
	known map[id.RoomID]id.EventID // the newest event of each room
	// lost and doubled count the faults; gaps the timelines that were cut, and filled from the history.
	lost, doubled, gaps int
	faults              []string
}

const soakFilter = `{"presence":{"types":[]},"room":{"ephemeral":{"types":[]},"state":{"lazy_load_members":true},"timeline":{"limit":200}}}`

func (e *soakEar) first(t *testing.T) {
	t.Helper()
	answer, err := e.client.SyncRequest(t.Context(), 0, "", soakFilter, false, event.PresenceOffline)
	if err != nil {
		t.Fatalf("first sync of %s: %v", e.client.UserID, err)
	}
	e.since = answer.NextBatch
	for room, joined := range answer.Rooms.Join {
		if events := joined.Timeline.Events; len(events) > 0 {
			e.known[room] = events[len(events)-1].ID
		}
	}
}

func (e *soakEar) listen(quit chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { <-quit; cancel() }()
	for ctx.Err() == nil {
		answer, err := e.client.SyncRequest(ctx, 10_000, e.since, soakFilter, false, event.PresenceOffline)
		if err == nil {
			err = e.take(ctx, answer)
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // the server is being started again
			}
			continue
		}
		e.since = answer.NextBatch
	}
}

// take hears what an answer says; a timeline that was cut is filled from the history first.
func (e *soakEar) take(ctx context.Context, answer *mautrix.RespSync) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for room, joined := range answer.Rooms.Join {
		events := joined.Timeline.Events
		if joined.Timeline.Limited {
			missing, err := e.fill(ctx, room, joined.Timeline.PrevBatch)
			if err != nil {
				return err
			}
			events = append(missing, events...)
			e.gaps++
		}
		for _, ev := range events {
			e.hear(room, ev)
		}
	}
	return nil
}

// fill pages back to the newest event that was heard; oldest first.
func (e *soakEar) fill(ctx context.Context, room id.RoomID, from string) ([]*event.Event, error) {
	var missing []*event.Event
	for from != "" {
		page, err := e.client.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 200)
		if err != nil {
			return nil, err
		}
		for _, ev := range page.Chunk {
			if ev.ID == e.known[room] {
				slices.Reverse(missing)
				return missing, nil
			}
			missing = append(missing, ev)
		}
		from = page.End
	}
	slices.Reverse(missing)
	return missing, nil
}

func (e *soakEar) hear(room id.RoomID, ev *event.Event) {
	e.known[room] = ev.ID
	body, _ := ev.Content.Raw["body"].(string)
	text, isSoak := strings.CutPrefix(body, "soak ")
	n, err := strconv.Atoi(text)
	if !isSoak || err != nil {
		return
	}
	voice := soakVoice{room, ev.Sender}
	switch last := e.heard[voice]; {
	case n == last+1:
		e.heard[voice] = n
	case n <= last:
		e.doubled++
		e.fault("%s heard %d of %s in %s after %d", e.client.UserID, n, ev.Sender, room, last)
	default:
		e.lost += n - last - 1
		e.heard[voice] = n
		e.fault("%s heard %d of %s in %s after %d", e.client.UserID, n, ev.Sender, room, last)
	}
}

func (e *soakEar) fault(format string, args ...any) {
	if len(e.faults) < 5 {
		e.faults = append(e.faults, fmt.Sprintf(format, args...))
	}
}

func (s *soak) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// disturb stops and restarts the servers until ctx ends. The first server is restarted in the first sixth only, so that its memory has
// seen each room when it is watched, from the third on. It gives that memory, in bytes, one sample a second.
func (s *soak) disturb(ctx context.Context, length time.Duration) (memory []int64) {
	began := time.Now()
	every := min(30*time.Second, length/12)
	next := time.NewTicker(every)
	defer next.Stop()
	sample := time.NewTicker(time.Second)
	defer sample.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			s.ended = true
			s.mu.Unlock()
			return memory
		case <-sample.C:
			if time.Since(began) > length/3 {
				memory = append(memory, residentBytes(s.servers[0].cmd.Process.Pid))
			}
		case <-next.C:
			watched := time.Since(began) > length/6-every
			server := s.servers[n%2]
			switch {
			case n%2 == 0 && watched, n%6 < 2:
				s.freeze(server)
				s.stops++
			case n%6 < 4:
				server.kill()
				server.start()
				s.kills++
			default:
				server.end()
				server.start()
				s.restarts++
			}
			n++
		}
	}
}

// freeze stops a server for some seconds as an overloaded machine would.
func (s *soak) freeze(server *process) {
	if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		s.t.Errorf("stop: %v", err)
	}
	time.Sleep(time.Second + rand.N(4*time.Second)) // for so long it stands still
	if err := server.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		s.t.Errorf("go on: %v", err)
	}
}

// end asks the process to stop, and waits for it.
func (p *process) end() {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Errorf("end: %v", err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("a server that was asked to end said %v", err)
	}
	p.cmd = nil
}

// residentBytes is the memory that a process occupies.
func residentBytes(pid int) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(raw))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// drain waits until everybody has heard everything, or nothing more comes.
func (s *soak) drain() {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if s.unheard() == 0 {
			return
		}
	}
}

// unheard counts the messages that somebody has not heard.
func (s *soak) unheard() (n int) {
	s.mu.Lock()
	said := maps.Clone(s.said)
	s.mu.Unlock()
	for _, ear := range s.ears {
		ear.mu.Lock()
		for voice, last := range said {
			n += max(0, last-ear.heard[voice])
		}
		ear.mu.Unlock()
	}
	return n
}

func (s *soak) verdict(length time.Duration, memory []int64) {
	messages, lost, doubled, gaps := 0, s.unheard(), 0, 0
	for _, n := range s.said {
		messages += n
	}
	for _, ear := range s.ears {
		ear.mu.Lock()
		lost, doubled, gaps = lost+ear.lost, doubled+ear.doubled, gaps+ear.gaps
		for _, fault := range ear.faults {
			s.t.Error(fault)
		}
		ear.mu.Unlock()
	}
	// The first and the last tenth of the samples: a server that leaks grows between them.
	tenth := max(1, len(memory)/10)
	early, late := middle(memory[:min(tenth, len(memory))]), middle(memory[max(0, len(memory)-tenth):])
	var course []string // of the memory, in MB, tenth by tenth
	for i := 0; i+tenth <= len(memory); i += tenth {
		course = append(course, fmt.Sprint(middle(memory[i:i+tenth])>>20))
	}
	fmt.Printf("memory in MB, from a third of the time on: %s\n", strings.Join(course, " "))
	// The caches are full after ten minutes of this load; before that they grow, as they may.
	flat := length < soakJudged || late <= early+early/8+16<<20
	word := "PASS"
	if lost > 0 || doubled > 0 || !flat || s.t.Failed() {
		word = "FAIL"
		s.t.Errorf("lost %d, doubled or out of order %d, memory %d MB after a third of the time and %d MB in the end; want none, and no growth", lost, doubled, early>>20, late>>20)
	}
	fmt.Printf("SOAK %s: %s, %d messages to %d clients on two servers, %d kills, %d restarts, %d stops; lost %d, doubled or out of order %d, timelines cut and filled %d; memory %d MB after a third, %d MB in the end\n",
		word, length, messages, len(s.ears), s.kills, s.restarts, s.stops, lost, doubled, gaps, early>>20, late>>20)
}

func middle(values []int64) int64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
