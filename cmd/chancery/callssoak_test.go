package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/federation"
	"chancery/storage/testdb"
)

// What the soak of calls demands, and who is in it.
const (
	callSoakCallers  = 18
	callSoakPictures = 6                // of these send a picture
	callBackWithin   = 10 * time.Second // after the focus was killed
	callHeardWithin  = 15 * time.Second // after a join, where others are there
	callGhostWithin  = 22 * time.Second // a vanished member's leave is 18 s away, and noticed at a poll
	callLeaveDelay   = 18 * time.Second // as Element Call has it
	callRestartEvery = 4 * time.Second
	callSoakJudged   = 20 * time.Minute // the length from which on memory is judged
)

// TestSoakCalls lets eighteen callers and two Element Calls in browsers come and go in one call for as long as
// CHANCERY_SOAK_CALLS says. There are two focuses; in the middle the one that has the call is killed, and comes again. The last
// line is the verdict: whoever came in heard the others, all were back after the kill with the token they had, no membership
// outlived its client, and in the end nothing was left over in the focuses: no goroutines, no sockets, no memory.
func TestSoakCalls(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("CHANCERY_SOAK_CALLS"))
	if err != nil {
		t.Skip("CHANCERY_SOAK_CALLS names no duration; `make soak` does")
	}
	s := newCallSoak(t)
	s.warmUp()
	rest := s.sample("at rest, before")

	over, end := context.WithTimeout(t.Context(), length)
	defer end()
	for n, seat := range s.seats {
		s.calling.Go(func() { s.comeAndGo(over, seat, n < callSoakPictures) })
	}
	browsers := s.openBrowsers(t, length)
	running := s.watch(over, length)
	s.calling.Wait()
	browserTrouble := <-browsers
	s.settle()
	s.verdict(length, rest, running, s.sample("at rest, in the end"), browserTrouble)
}

// callSoak is the houses, the people and what went wrong.
type callSoak struct {
	t       *testing.T
	url     string // of the client API
	focus   string // of the focuses, through the balancer
	foci    []*process
	admins  []string
	room    id.RoomID
	host    *mautrix.Client
	seats   []*callSeat
	calling sync.WaitGroup

	joins, vanished, returns atomic.Int64
	ended                    atomic.Bool
	lost                     atomic.Int64 // sockets, without a word and without a kill
	killed                   atomic.Int64 // when, in Unix milliseconds
	slowest                  atomic.Int64 // return after the kill, in milliseconds

	mu     sync.Mutex
	faults []string
}

// callSeat is one person who calls without a browser.
type callSeat struct {
	who           *mautrix.Client
	socket, token string
	key           string // of the membership
}

func (s *callSoak) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, time.Now().Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

// newCallSoak starts one server as processes, so that a focus can be killed alone.
func newCallSoak(t *testing.T) *callSoak {
	s := &callSoak{t: t}
	config := testConfigs(t, func() string { return testdb.Postgres(t) }, "interior.test")[0]
	config.Bus.URL, config.Bus.User, config.Bus.Password = externalNATS(t), natsUser, natsPassword
	config.Calls.EmptyTimeout = 5 * time.Second
	s.url = config.Client.PublicURL
	s.focus = s.balance(config.Calls.Path)
	config.Calls.URL = s.focus
	if err := os.MkdirAll(config.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := federation.LoadKeys(config.ServerName, config.inData(config.SigningKey)); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"rooms", "client", "federation", "calls", "calls"} {
		p := newProcess(t, config, part)
		p.start()
		if part == "calls" {
			s.foci, s.admins = append(s.foci, p), append(s.admins, strings.TrimSuffix(p.health, "/health"))
		}
	}
	s.host = signIn(t, s.url, "host")
	s.room = must(s.host.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat", PowerLevelOverride: &event.PowerLevelsEventContent{
		Users: map[id.UserID]int{s.host.UserID: 100}, Events: map[string]int{callMember: 0},
	}}))(t, "create room").RoomID
	for n := range callSoakCallers {
		who := signIn(t, s.url, fmt.Sprintf("caller%d", n))
		must(who.JoinRoomByID(t.Context(), s.room))(t, "join")
		seat := &callSeat{who: who, key: fmt.Sprintf("_%s_%s_m.call", who.UserID, who.DeviceID)}
		seat.socket, seat.token = callTokenAt(t, who, s.focus, s.room)
		s.seats = append(s.seats, seat)
	}
	return s
}

// balance is what stands before the focuses: one address, and whichever of them takes the connection.
func (s *callSoak) balance(path string) string {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var last error
		for _, n := range rand.Perm(len(s.foci)) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, s.foci[n].client)
			if err == nil {
				return conn, nil
			}
			last = err
		}
		return nil, last
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "focus"}) },
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, _ error) {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	server := httptest.NewServer(proxy)
	s.t.Cleanup(server.Close)
	return server.URL + path
}

// callMember is the type of a membership of a call.
const callMember = "org.matrix.msc3401.call.member"

// comeAndGo joins and leaves until the time is over.
func (s *callSoak) comeAndGo(over context.Context, seat *callSeat, picture bool) {
	for pause(over, rand.N(8*time.Second)) {
		s.visit(over, seat, picture)
	}
}

// pause waits, and says whether time is left.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d): // the pace of the load
		return true
	}
}

// visit is one stay in the call, through a kill of the focus if there is one; it ends with a word, or without.
func (s *callSoak) visit(over context.Context, seat *callSeat, picture bool) {
	c := s.comeIn(seat, picture)
	if c == nil {
		return
	}
	delay := s.announce(seat)
	s.joins.Add(1)
	stay := time.NewTimer(5*time.Second + rand.N(40*time.Second))
	restart := time.NewTicker(callRestartEvery)
	defer stay.Stop()
	defer restart.Stop()
	for staying := true; staying; {
		select {
		case <-over.Done():
			staying = false
		case <-stay.C:
			staying = false
		case <-restart.C:
			s.delayed(seat, delay, "restart")
			c.asksForPictures()
		case <-c.gone:
			c.drop()
			if c = s.comeBack(seat, picture, c.because); c == nil {
				s.delayed(seat, delay, "send")
				return
			}
		}
	}
	if rand.N(10) < 7 || over.Err() != nil {
		c.leave()
		s.delayed(seat, delay, "send")
		return
	}
	c.vanish()
	s.vanished.Add(1)
	s.untilGone(seat)
}

// comeIn joins and sends; where others are there it must hear them.
func (s *callSoak) comeIn(seat *callSeat, picture bool) *caller {
	c, err := enter(s.t.Context(), seat.socket, seat.token)
	if err == nil {
		err = c.publish(string(seat.who.UserID.Localpart()), picture)
	}
	if err != nil {
		if c != nil {
			c.drop()
		}
		if !s.aroundKill() {
			s.fault("%s did not come in: %v", seat.who.UserID, err)
		}
		return nil
	}
	if c.others > 0 && !c.hears(callHeardWithin) && !s.aroundKill() && !s.ended.Load() { // in the end all leave
		s.fault("%s came in to %d others and heard none of them: %s", seat.who.UserID, c.others, c.standing())
	}
	return c
}

// comeBack joins again with the same token, as clients do whose focus is gone, or who have lost their socket.
func (s *callSoak) comeBack(seat *callSeat, picture bool, because *signal.Leave) *caller {
	if because != nil && because.Action == signal.Leave_DISCONNECT {
		s.fault("%s was sent away: %v", seat.who.UserID, because)
		return nil
	}
	since, killed := time.Now(), s.aroundKill()
	if killed {
		since = time.UnixMilli(s.killed.Load())
	} else {
		s.lost.Add(1)
	}
	for {
		c, err := enter(s.t.Context(), seat.socket, seat.token)
		if err == nil {
			err = c.publish(string(seat.who.UserID.Localpart()), picture)
		}
		took := time.Since(since)
		if err == nil {
			if !killed {
				return c
			}
			s.returns.Add(1)
			for was := s.slowest.Load(); took.Milliseconds() > was && !s.slowest.CompareAndSwap(was, took.Milliseconds()); was = s.slowest.Load() {
			}
			if took > callBackWithin {
				s.fault("%s was back %v after the kill, want %v", seat.who.UserID, took, callBackWithin)
			}
			return c
		}
		if c != nil {
			c.drop()
		}
		if took > 2*callBackWithin {
			s.fault("%s did not come back: %v", seat.who.UserID, err)
			return nil
		}
		time.Sleep(300 * time.Millisecond) // the second pause of the clients' plan
	}
}

// aroundKill says whether the focus was killed just now.
func (s *callSoak) aroundKill() bool {
	return time.Since(time.UnixMilli(s.killed.Load())) < 2*callBackWithin
}

// announce writes the membership, its leave beforehand.
func (s *callSoak) announce(seat *callSeat) (delay string) {
	path := seat.who.BuildURLWithQuery(mautrix.ClientURLPath{"v3", "rooms", s.room, "state", callMember, seat.key},
		map[string]string{"org.matrix.msc4140.delay": fmt.Sprint(callLeaveDelay.Milliseconds())})
	var scheduled struct {
		ID string `json:"delay_id"`
	}
	_, err := seat.who.MakeRequest(s.t.Context(), http.MethodPut, path, struct{}{}, &scheduled)
	if err == nil {
		focus := map[string]any{"type": "livekit", "livekit_alias": s.room, "livekit_service_url": s.focus}
		_, err = seat.who.SendStateEvent(s.t.Context(), s.room, event.NewEventType(callMember), seat.key, map[string]any{
			"application": "m.call", "call_id": "", "scope": "m.room", "device_id": seat.who.DeviceID, "expires": 14_400_000,
			"membershipID": fmt.Sprintf("%s:%s", seat.who.UserID, seat.who.DeviceID), "m.call.intent": "video",
			"focus_active": map[string]any{"type": "livekit", "focus_selection": "multi_sfu"}, "foci_preferred": []any{focus},
		})
	}
	if err != nil {
		s.fault("%s has no membership: %v", seat.who.UserID, err)
	}
	return scheduled.ID
}

// delayed restarts or sends the leave.
func (s *callSoak) delayed(seat *callSeat, delay, what string) {
	path := seat.who.BuildURL(mautrix.ClientURLPath{"unstable", "org.matrix.msc4140", "delayed_events", delay, what})
	if _, err := seat.who.MakeRequest(s.t.Context(), http.MethodPost, path, struct{}{}, nil); err != nil && s.t.Context().Err() == nil {
		s.fault("%s: %s the leave: %v", seat.who.UserID, what, err)
	}
}

// untilGone waits until the membership of a vanished client has been taken away.
func (s *callSoak) untilGone(seat *callSeat) {
	began := time.Now()
	for s.isMember(seat.key) {
		if time.Since(began) > callGhostWithin {
			s.fault("%s vanished, and is a member of the call after %v", seat.who.UserID, callGhostWithin)
			return
		}
		time.Sleep(250 * time.Millisecond) // between two looks
	}
}

func (s *callSoak) isMember(key string) bool {
	var content map[string]any
	err := s.host.StateEvent(s.t.Context(), s.room, event.NewEventType(callMember), key, &content)
	return err == nil && len(content) > 0
}

// ghosts are the memberships that are left.
func (s *callSoak) ghosts() (keys []string) {
	state, err := s.host.State(s.t.Context(), s.room)
	if err != nil {
		s.fault("read the state: %v", err)
	}
	for key, ev := range state[event.NewEventType(callMember)] {
		if len(ev.Content.Raw) > 0 {
			keys = append(keys, key)
		}
	}
	for key, ev := range state[event.Type{Type: callMember, Class: event.StateEventType}] {
		if len(ev.Content.Raw) > 0 && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// warmUp fills what is filled once: pools of connections, the first call.
func (s *callSoak) warmUp() {
	var all []*caller
	for _, seat := range s.seats {
		if c := s.comeIn(seat, true); c != nil {
			all = append(all, c)
		}
	}
	for _, c := range all {
		c.leave()
	}
	s.empty()
}

// empty waits until the focuses have no call any more, and have looked after what the last to leave left behind.
func (s *callSoak) empty() {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) { // between two looks
		left := 0.0
		for _, admin := range s.admins {
			left += metric(s.t, admin, "chancery_calls_rooms") + metric(s.t, admin, "chancery_calls_participants")
			left += float64(standing(s.t, admin).at("chancery/calls.(*Focus).closes"))
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.fault("%v calls, participants and those who wait for what they left behind are in the focus a minute after the last has gone", left)
			return
		}
	}
}

// settle waits until all that follows the last leave is done.
func (s *callSoak) settle() {
	s.empty()
	for deadline := time.Now().Add(callGhostWithin); len(s.ghosts()) > 0 && time.Now().Before(deadline); {
		time.Sleep(250 * time.Millisecond) // between two looks
	}
	if left := s.ghosts(); len(left) > 0 {
		s.fault("ghosts in the end: %v", left)
	}
}

// callSample is what a focus holds at one moment.
type callSample struct {
	resident                 int64
	goroutines, participants int
	udp, tcp                 int
	stacks                   goroutines
}

// goroutines counts those that stand at the same place, by a name for it.
type goroutines map[string]int

// standing reads what a process's goroutines do.
func standing(t *testing.T, admin string) goroutines {
	t.Helper()
	resp, err := http.Get(admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := goroutines{}
	_, stacks, _ := strings.Cut(string(text), "\n") // behind the line with their number
	for _, stack := range strings.Split(stacks, "\n\n") {
		lines := strings.Split(strings.TrimSpace(stack), "\n")
		var count int
		if _, err := fmt.Sscanf(lines[0], "%d @", &count); err != nil {
			continue
		}
		var path []string
		for _, line := range lines[1:] {
			if fields := strings.Fields(line); len(fields) > 2 {
				name, _, _ := strings.Cut(fields[2], "+")
				path = append(path, name)
			}
		}
		found[strings.Join(path[max(0, len(path)-3):], " < ")] += count
	}
	return found
}

// at counts those in a function.
func (g goroutines) at(function string) (n int) {
	for place, count := range g {
		if strings.Contains(place, function) {
			n += count
		}
	}
	return n
}

// grown lists where there are more than before.
func (g goroutines) grown(before goroutines) (list string) {
	for _, place := range slices.Sorted(maps.Keys(g)) {
		if more := g[place] - before[place]; more > 0 {
			list += fmt.Sprintf("\n  %+d %s", more, place)
		}
	}
	return list
}

// sample looks at each focus, and prints it.
func (s *callSoak) sample(when string) (all []callSample) {
	for n, p := range s.foci {
		one := callSample{
			resident: residentBytes(p.cmd.Process.Pid), goroutines: int(metric(s.t, s.admins[n], "go_goroutines")),
			participants: int(metric(s.t, s.admins[n], "chancery_calls_participants")),
		}
		one.udp, one.tcp = openSockets(p.cmd.Process.Pid)
		if one.participants == 0 {
			one.stacks = standing(s.t, s.admins[n])
		}
		all = append(all, one)
		fmt.Printf("%s: focus %d has %d participants, %d goroutines, %d MB, %d UDP and %d TCP sockets\n",
			when, n+1, one.participants, one.goroutines, one.resident>>20, one.udp, one.tcp)
	}
	return all
}

// watch samples each minute, and kills a focus in the middle.
func (s *callSoak) watch(over context.Context, length time.Duration) (samples [][]callSample) {
	began := time.Now()
	minute := time.NewTicker(min(time.Minute, length/10))
	middle := time.NewTimer(length / 2)
	defer minute.Stop()
	defer middle.Stop()
	for {
		select {
		case <-over.Done():
			s.ended.Store(true)
			return samples
		case <-middle.C:
			home := s.busiest()
			s.killed.Store(time.Now().UnixMilli())
			s.foci[home].kill()
			s.foci[home].start()
			fmt.Printf("after %v focus %d was killed, and is back\n", time.Since(began).Round(time.Second), home+1)
		case <-minute.C:
			samples = append(samples, s.sample("after "+time.Since(began).Round(time.Second).String()))
		}
	}
}

// busiest is the focus that has the call.
func (s *callSoak) busiest() (home int) {
	most := -1.0
	for n, admin := range s.admins {
		if now := metric(s.t, admin, "chancery_calls_participants"); now > most {
			home, most = n, now
		}
	}
	return home
}

// openBrowsers lets two people come and go in Element Call; what it gives says what went wrong with them.
func (s *callSoak) openBrowsers(t *testing.T, length time.Duration) <-chan error {
	trouble := make(chan error, 1)
	var people []map[string]any
	for _, name := range []string{"Anna", "Claire"} {
		who := callGuest(t, s.url, name)
		must(who.JoinRoomByID(t.Context(), s.room))(t, "join")
		people = append(people, map[string]any{"name": name, "url": s.url, "user": who.UserID.Localpart(), "password": testPassword(who.UserID.Localpart())})
	}
	go func() {
		out, err := browse(t.Context(), length+5*time.Minute, "elementSoak", map[string]any{
			"mode": "compatibility", "people": people, "room": s.room, "length": length.Milliseconds(), "killAt": (length / 2).Milliseconds(),
		})
		fmt.Println(out)
		trouble <- err
	}()
	return trouble
}

func (s *callSoak) verdict(length time.Duration, before []callSample, running [][]callSample, after []callSample, browsers error) {
	if browsers != nil {
		s.fault("browsers: %v", browsers)
	}
	for n := range after {
		if grown := after[n].goroutines - before[n].goroutines; grown > 5 {
			s.fault("focus %d has %d goroutines more than before:%s", n+1, grown, after[n].stacks.grown(before[n].stacks))
		}
		if after[n].udp > before[n].udp || after[n].tcp > before[n].tcp+5 {
			s.fault("focus %d has %d UDP and %d TCP sockets, before %d and %d", n+1, after[n].udp, after[n].tcp, before[n].udp, before[n].tcp)
		}
		// From the kill on, in quarters of that half: a focus that leaks grows from the second to the last.
		var resident []int64
		for _, sample := range running[len(running)/2:] {
			resident = append(resident, sample[n].resident)
		}
		quarter := max(1, len(resident)/4)
		early, late := middle(resident[min(quarter, len(resident)):min(2*quarter, len(resident))]), middle(resident[max(0, len(resident)-quarter):])
		fmt.Printf("focus %d: memory %d MB a quarter after the middle, %d MB in the end\n", n+1, early>>20, late>>20)
		if length >= callSoakJudged && late > early+early/8+16<<20 {
			s.fault("focus %d grew from %d to %d MB in the second half", n+1, early>>20, late>>20)
		}
	}
	word := "PASS"
	if len(s.faults) > 0 || s.joins.Load() == 0 {
		word = "FAIL"
		s.t.Errorf("%d faults, the first of them:\n%s", len(s.faults), strings.Join(s.faults[:min(20, len(s.faults))], "\n"))
	}
	fmt.Printf("SOAK OF CALLS %s: %s, %d joins of %d callers and 2 browsers, %d vanished without a word, one of two focuses killed: %d came back, the last after %d ms; %d sockets lost besides; %d faults\n",
		word, length, s.joins.Load(), len(s.seats), s.vanished.Load(), s.returns.Load(), s.slowest.Load(), s.lost.Load(), len(s.faults))
}

// metric reads the sum of a metric from a process's admin listener.
func metric(t *testing.T, admin, name string) (sum float64) {
	t.Helper()
	body := string(raw(t, "GET", admin+"/metrics", "", nil).body)
	for _, line := range regexp.MustCompile(`(?m)^`+name+`(\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(body, -1) {
		value, err := strconv.ParseFloat(line[2], 64)
		if err != nil {
			t.Fatalf("metric %s: %v", name, err)
		}
		sum += value
	}
	return sum
}

// openSockets counts the sockets of a process that have a port. The database's, which are a pool, have none in the tests.
func openSockets(pid int) (udp, tcp int) {
	ports := map[string]string{}
	for _, table := range []string{"udp", "udp6", "tcp", "tcp6"} {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table)) // no table: none
		for _, line := range strings.Split(string(text), "\n") {
			if fields := strings.Fields(line); len(fields) > 9 {
				ports["socket:["+fields[9]+"]"] = table[:3]
			}
		}
	}
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(folder) // a process that is gone has none
	for _, entry := range entries {
		target, _ := os.Readlink(folder + "/" + entry.Name()) // closed meanwhile
		switch ports[target] {
		case "udp":
			udp++
		case "tcp":
			tcp++
		}
	}
	return udp, tcp
}
