package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"maunium.net/go/mautrix"

	"chancery/calls/signal"
	"chancery/clientapi"
	"chancery/storage"
	"chancery/storage/bus"
)

// TestOperatorsKeepCalls looks at a call as an administrator does, and keeps order in it.
func TestOperatorsKeepCalls(t *testing.T) {
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Listen.Admin = loopback("tcp", 0)
	interior := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	interior.open()
	t.Cleanup(interior.close)
	root, anna, ben := interior.administrator("root"), interior.person("anna"), interior.person("ben")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(ben.JoinRoom(t.Context(), string(room), nil))(t, "join room")
	socket, token := callToken(t, ben, interior, room)
	ws := enterCall(t, socket, token)

	var live struct{ Calls []bus.LiveCall }
	do(t, root, "GET", "/_chancery/admin/v1/calls", nil, &live)
	if len(live.Calls) != 1 || live.Calls[0].RoomID != room || len(live.Calls[0].Participants) != 1 || live.Calls[0].Participants[0].UserID != ben.UserID ||
		live.Calls[0].Class != "pair" || live.Calls[0].Participants[0].Rule != "member, may publish" {
		t.Fatalf("got %+v, want ben's call", live.Calls)
	}
	roomPath := "/_chancery/admin/v1/rooms/" + url.PathEscape(string(room)) + "/call"
	for path, method := range map[string]string{"/_chancery/admin/v1/calls": "GET", "/_chancery/admin/v1/calls/records": "GET", roomPath: "PUT", roomPath + "/end": "POST"} {
		if got := raw(t, method, interior.url+path, anna.AccessToken, jsonBody(t, struct{}{})); got.status != http.StatusForbidden {
			t.Errorf("%s %s by who is no administrator: got %d, want 403", method, path, got.status)
		}
	}

	straight := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	slashes, err := http.NewRequestWithContext(t.Context(), "POST", interior.url+config.Calls.Path+"//twirp/livekit.RoomService/ListRooms", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if got := answerTo(t, straight, slashes); got.status != http.StatusUnauthorized {
		t.Errorf("the room service behind two slashes, without a token: got %d, want 401", got.status)
	}

	// An order beside the room's own settings, and back.
	do(t, root, "PUT", roomPath, map[string]any{"view_only": true, "max_participants": 1}, nil)
	permission(t, func() *signal.Response { return heard(t, ws) }, string(ben.UserID), false)
	_, second := callToken(t, anna, interior, room)
	if got := statusOf(t, "GET", interior.focus()+"/rtc/validate?"+url.Values{"access_token": {second}}.Encode()); got != http.StatusServiceUnavailable {
		t.Errorf("beyond the order: got %d, want 503", got)
	}
	var order struct{ Orders map[string]any }
	if do(t, root, "GET", roomPath, nil, &order); order.Orders["view_only"] != true {
		t.Errorf("got %v, want the order", order)
	}
	do(t, root, "PUT", roomPath, struct{}{}, nil)
	permission(t, func() *signal.Response { return heard(t, ws) }, string(ben.UserID), true)
	if got := raw(t, "PUT", interior.url+roomPath, root.AccessToken, jsonBody(t, map[string]any{"lockd": true})); got.status != http.StatusBadRequest || !strings.Contains(string(got.body), "lockd") {
		t.Errorf("an order that is misspelt: got %d %s, want 400 and which", got.status, got.body)
	}
	if got := raw(t, "POST", interior.url+roomPath+"/tea", root.AccessToken, jsonBody(t, struct{}{})); got.status != http.StatusBadRequest {
		t.Errorf("no such command: got %d, want 400", got.status)
	}

	// The admin listener: list, page, and the wishes of the subcommand.
	said, err := askCalls(t.Context(), config.Listen.Admin, "GET", "/calls/list", nil)
	if err != nil || !strings.Contains(string(said), string(ben.UserID)) {
		t.Errorf("the list: got %s (%v)", said, err)
	}
	if page, err := askCalls(t.Context(), config.Listen.Admin, "GET", "/calls", nil); err != nil || !strings.Contains(string(page), "<title>Calls</title>") || strings.Contains(string(page), "http://") || strings.Contains(string(page), "https://") {
		t.Errorf("the page: %v, or it names another host", err)
	}
	if got := raw(t, "POST", "http://"+config.Listen.Admin+"/calls", "", strings.NewReader("{}"), "Content-Type", "text/plain"); got.status != http.StatusUnsupportedMediaType {
		t.Errorf("a wish of a foreign page: got %d, want 415", got.status)
	}
	for kind, want := range map[string]int{
		"": http.StatusUnsupportedMediaType, "text/plain": http.StatusUnsupportedMediaType, "application/x-www-form-urlencoded": http.StatusUnsupportedMediaType,
		"application/json": http.StatusConflict, // where there is no other process
	} {
		if got := raw(t, "POST", "http://"+config.Listen.Admin+"/calls/drain?within=0s", "", nil, "Content-Type", kind); got.status != want {
			t.Errorf("a drain as %q: got %d, want %d", kind, got.status, want)
		}
	}
	if _, err := askCalls(t.Context(), config.Listen.Admin, "POST", "/calls", clientapi.CallWish{Do: "lock", Room: string(room)}); err != nil {
		t.Fatal(err)
	}
	if got := tokenStatus(t, root, interior, room); got != http.StatusForbidden {
		t.Errorf("of a locked call: got %d, want 403", got)
	}
	if said, err := askCalls(t.Context(), config.Listen.Admin, "POST", "/calls", clientapi.CallWish{Do: "mute", Room: string(room), User: "ben"}); err == nil || !strings.Contains(err.Error(), "want one such as @ben:interior.test") {
		t.Errorf("mute ben, without a server: got %s (%v)", said, err)
	}
	if said, err := askCalls(t.Context(), config.Listen.Admin, "POST", "/calls", clientapi.CallWish{Do: "mute", Room: string(room), User: "@bn:interior.test"}); err != nil || string(said) != "mute: 0, nothing there to do that to\n" {
		t.Errorf("mute who is not there: got %s (%v)", said, err)
	}
	if said, err := askCalls(t.Context(), config.Listen.Admin, "POST", "/calls", clientapi.CallWish{Do: "remove", Room: string(room), User: ben.UserID}); err != nil || string(said) != "remove: 1\n" {
		t.Errorf("remove: got %s (%v)", said, err)
	}
	if reason := sentAway(t, ws); reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
		t.Errorf("got %v, want PARTICIPANT_REMOVED", reason)
	}

	// What is remembered of it.
	var records struct{ Records []storage.CallRecord }
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		do(t, root, "GET", "/_chancery/admin/v1/calls/records?room_id="+url.QueryEscape(string(room)), nil, &records)
		if len(records.Records) == 1 && records.Records[0].Ended != 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %+v, want one that has ended", records.Records)
		}
	}
	if r := records.Records[0]; r.UserID != ben.UserID || r.RoomID != room || r.Reason != "PARTICIPANT_REMOVED" || r.Joined == 0 || r.Ended < r.Joined || r.Rule == "" {
		t.Errorf("got %+v", r)
	}
}

// TestOperatorsSeeQuality lets two people send, and looks for how they do: in the list, and in the metrics by class of call. Then it lets the
// records grow old.
func TestOperatorsSeeQuality(t *testing.T) {
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Listen.Admin = loopback("tcp", 0)
	interior := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	interior.open()
	t.Cleanup(func() { interior.close() })
	root, anna, ben := interior.administrator("root"), interior.person("anna"), interior.person("ben")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(ben.JoinRoom(t.Context(), string(room), nil))(t, "join room")
	first, second := interior.inCall(t, anna, room), interior.inCall(t, ben, room)
	seen := func(calls []bus.LiveCall) string {
		if len(calls) != 1 || len(calls[0].Participants) != 2 || calls[0].Class != "pair" {
			return "one call of two"
		}
		for _, p := range calls[0].Participants {
			if p.Up == 0 || p.Down == 0 || p.RoundTrip == 0 || len(p.Tracks) != 2 || len(p.Tracks[0].Layers) == 0 || !p.Tracks[0].Layers[0].Alive || p.Tracks[0].Layers[0].Height != pictureHeight {
				return "rates, round trip and layers of " + p.UserID.String()
			}
		}
		return ""
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		first.asksForPictures()
		var live struct{ Calls []bus.LiveCall }
		do(t, root, "GET", "/_chancery/admin/v1/calls", nil, &live)
		missing := seen(live.Calls)
		metrics := must(askCalls(t.Context(), config.Listen.Admin, "GET", "/metrics", nil))(t, "metrics")
		for _, name := range []string{"loss_percent_count", "jitter_seconds_count", "round_trip_seconds_count", "layer_height_count", "track_bitrate_count", "media_total"} {
			if !strings.Contains(string(metrics), "chancery_calls_"+name+`{class="pair"`) {
				missing += " metric " + name
			}
		}
		if !strings.Contains(string(metrics), `chancery_calls_media_total{class="pair",what="key_frame_requests"}`) {
			missing += " key frames asked for"
		}
		if missing == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not seen: %s; got %+v", missing, live.Calls)
		}
	}
	records := func() []storage.CallRecord {
		var found struct{ Records []storage.CallRecord }
		do(t, root, "GET", "/_chancery/admin/v1/calls/records", nil, &found)
		return found.Records
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // also of a focus that is killed it is known what was sent
		if found := records(); len(found) == 2 && found[0].Kinds == "camera,microphone" && found[1].Kinds == found[0].Kinds && found[0].Ended == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("records while the call lives: got %+v, want what both send", records())
		}
	}
	first.leave()
	second.leave()
	ended := func() bool {
		found := records()
		return len(found) == 2 && found[0].Ended != 0 && found[1].Ended != 0
	}
	for deadline := time.Now().Add(patience); !ended(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("records: got %+v, want two that have ended", records())
		}
	}
	if r := records()[0]; r.Kinds != "camera,microphone" || r.Rule != "member, may publish" {
		t.Errorf("record: got %+v, want the kinds of tracks and the rule", r)
	}
	for _, c := range []struct {
		keep time.Duration
		want int
	}{{0, 2}, {time.Hour, 2}, {time.Millisecond, 0}} {
		interior.close()
		interior.config.Calls.KeepRecords = c.keep
		interior.open()
		for deadline := time.Now().Add(patience); len(records()) != c.want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("kept for %v: got %d records, want %d", c.keep, len(records()), c.want)
			}
		}
	}
}

// TestBrowserOperators opens the page of live calls while two people are in one.
func TestBrowserOperators(t *testing.T) {
	needBrowser(t, false)
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Listen.Admin = loopback("tcp", 0)
	interior := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	interior.open()
	t.Cleanup(interior.close)
	anna, ben := interior.person("anna"), interior.person("ben")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	must(ben.JoinRoom(t.Context(), string(room), nil))(t, "join room")
	interior.inCall(t, anna, room)
	interior.inCall(t, ben, room)
	runBrowser(t, "operators", map[string]any{"page": "http://" + config.Listen.Admin, "room": room, "anna": anna.UserID, "ben": ben.UserID})
}

func TestCallsTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	calls := []bus.LiveCall{{
		SID: "RM_1", RoomID: "!room:interior.example", Focus: "FO_1", Since: now.Add(-5 * time.Minute).UnixMilli(), Class: "pair", Count: 3,
		Participants: []bus.LiveParticipant{
			{UserID: "@ann:interior.example", DeviceID: "DEV", Joined: now.Add(-time.Minute).UnixMilli(), Up: 1_500_000, Down: 64_000, Loss: 2, RoundTrip: 31.4, Jitter: 3.2,
				KeyAsks: 4, Tracks: []bus.LiveTrack{{Kind: "camera", Layers: []bus.LiveLayer{{Height: 180, Alive: true}, {Height: 360}, {Height: 720, Alive: true}}}, {Kind: "microphone", Muted: true}}},
			{Identity: "hash", Joined: now.UnixMilli()},
		},
	}}
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(callList{Calls: calls, More: true})
	}))
	defer admin.Close()
	said, err := askCalls(t.Context(), strings.TrimPrefix(admin.URL, "http://"), "GET", "/calls/list", nil)
	var list callList
	if err != nil || json.Unmarshal(said, &list) != nil {
		t.Fatalf("got %s (%v)", said, err)
	}
	var out strings.Builder
	if err := printCalls(&out, list, now); err != nil {
		t.Fatal(err)
	}
	const want = `!room:interior.example   3 in it (pair)  since 5m0s ago                        FO_1
  WHO                    DEVICE          SENDS                                 UP           DOWN       LOSS  ROUND TRIP  JITTER  KEY FRAMES  SINCE
  @ann:interior.example  DEV             camera 180p 720p, microphone (muted)  1500 kbit/s  64 kbit/s  2%    31 ms       3 ms    4           1m0s ago
  hash                                   -                                     0 kbit/s     0 kbit/s   0%    0 ms        0 ms    0           0s ago
  and 1 more
Not everything is listed: there is more than one answer holds.
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
	out.Reset()
	if err := printCalls(&out, callList{Part: true}, now); err != nil || out.String() != "No call is open.\n"+partOnly+"\n" {
		t.Errorf("of one focus process among several: got %q (%v)", &out, err)
	}
}

// TestCommandsElsewhere asks processes that lack what a subcommand needs, and one that has lost its database: what they say is true, and one line.
func TestCommandsElsewhere(t *testing.T) {
	rooms := httptest.NewServer(adminHandler(handlers{}))
	defer rooms.Close()
	for path, want := range map[string]string{"/calls/drain": "call focus", "/calls": "client API", "/accounts": "client API", "/accounts/export": "client API"} {
		_, err := askCalls(t.Context(), strings.TrimPrefix(rooms.URL, "http://"), "POST", path, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "this process has no "+want+": ") {
			t.Errorf("%s: got %v, want that there is no %s", path, err, want)
		}
	}

	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	s := newStack(t.Context())
	defer s.stop(stopPatience)
	behind, err := s.assemble(t.Context(), config, allParts)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel() // as a database that is away, this one cannot be asked
	if _, err := behind.calls.keep(gone, clientapi.CallWish{Do: "end", Room: "!room:interior.test"}); err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "no such room") {
		t.Errorf("without a database: got %q, want what is wrong", err)
	}
}

// TestCountersBeginAtNothing looks for the counters of calls that the operators' page names, before any call: a first failure shows as a rise
// only where there was a zero.
func TestCountersBeginAtNothing(t *testing.T) {
	page, err := os.ReadFile("../../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, f := range families {
		there[f.GetName()] = true
	}
	named := regexp.MustCompile("chancery_(?:calls|turn)_[a-z_]+_total").FindAllString(string(page), -1)
	for _, name := range named {
		if !there[name] {
			t.Errorf("there is no %s yet", name)
		}
	}
	if len(named) < 9 {
		t.Errorf("the page names %d counters: %v", len(named), named)
	}
}
