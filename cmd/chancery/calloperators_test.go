package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

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
	if _, err := askCalls(t.Context(), config.Listen.Admin, "POST", "/calls", clientapi.CallWish{Do: "lock", Room: string(room)}); err != nil {
		t.Fatal(err)
	}
	if got := tokenStatus(t, root, interior, room); got != http.StatusForbidden {
		t.Errorf("of a locked call: got %d, want 403", got)
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

func TestCallsTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	calls := []bus.LiveCall{{
		SID: "RM_1", RoomID: "!room:interior.example", Focus: "FO_1", Since: now.Add(-5 * time.Minute).UnixMilli(), Class: "pair",
		Participants: []bus.LiveParticipant{
			{UserID: "@ann:interior.example", DeviceID: "DEV", Joined: now.Add(-time.Minute).UnixMilli(), Up: 1_500_000, Down: 64_000, Loss: 2, RoundTrip: 31.4, Jitter: 3.2,
				Tracks: []bus.LiveTrack{{Kind: "camera"}, {Kind: "microphone", Muted: true}}},
			{Identity: "hash", Joined: now.UnixMilli()},
		},
	}}
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(callList{Calls: calls})
	}))
	defer admin.Close()
	said, err := askCalls(t.Context(), strings.TrimPrefix(admin.URL, "http://"), "GET", "/calls/list", nil)
	var list callList
	if err != nil || json.Unmarshal(said, &list) != nil {
		t.Fatalf("got %s (%v)", said, err)
	}
	var out strings.Builder
	if err := printCalls(&out, list.Calls, now); err != nil {
		t.Fatal(err)
	}
	const want = `!room:interior.example   2 in it  since 5m0s ago              FO_1
  WHO                    DEVICE   SENDS                       UP           DOWN       LOSS  ROUND TRIP  JITTER  SINCE
  @ann:interior.example  DEV      camera, microphone (muted)  1500 kbit/s  64 kbit/s  2%    31 ms       3 ms    1m0s ago
  hash                            -                           0 kbit/s     0 kbit/s   0%    0 ms        0 ms    0s ago
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}
