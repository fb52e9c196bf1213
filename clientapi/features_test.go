package clientapi

import (
	"net/http"
	"strings"
	"testing"
)

// TestFeaturesAnswer asks of each unstable feature that /versions names whether it is there: a request that only a server
// with that feature answers so.
func TestFeaturesAnswer(t *testing.T) {
	cfg := testConfig()
	cfg.PolicyServerKey = "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s"
	cfg.Foci = []string{"https://calls.example"}
	s := start(t, cfg)
	s.do("", "GET", "/.well-known/matrix/policy_server", nil).ok()
	alice := s.register("alice")
	room := alice.do("POST", v3+"/createRoom", map[string]any{}).ok().str("room_id")
	message := alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/t1", map[string]any{"body": "x", "msgtype": "m.text"}).ok().str("event_id")
	const unstable = "/_matrix/client/unstable"
	asks := func(method, path string, body any, codes ...int) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			a := alice.do(method, path, body)
			for _, code := range append(codes, http.StatusOK) {
				if a.code == code && a.str("errcode") != "M_UNRECOGNIZED" {
					return
				}
			}
			t.Errorf("%s %s: got %d %s", method, path, a.code, a.body.Raw)
		}
	}
	probes := map[string]func(*testing.T){
		"fi.mau.msc2246.stable":        asks("POST", "/_matrix/media/v1/create", map[string]any{}),
		"fi.mau.msc2659.stable":        asks("POST", "/_matrix/client/v1/appservice/x/ping", map[string]any{}, 401, 403),
		"org.matrix.e2e_cross_signing": asks("POST", v3+"/keys/device_signing/upload", map[string]any{}, 400),
		"org.matrix.msc2285.stable":    asks("POST", v3+"/rooms/"+room+"/receipt/m.read.private/"+message, map[string]any{}),
		"org.matrix.msc2946":           asks("GET", unstable+"/org.matrix.msc2946/rooms/"+room+"/hierarchy", nil),
		"org.matrix.msc3391":           asks("DELETE", unstable+"/org.matrix.msc3391/user/"+string(alice.ID)+"/account_data/org.test", nil),
		"org.matrix.msc3440.stable":    asks("GET", "/_matrix/client/v1/rooms/"+room+"/threads", nil),
		"org.matrix.msc3827.stable":    asks("POST", v3+"/publicRooms", map[string]any{"filter": map[string]any{"room_types": []any{nil}}}),
		"org.matrix.msc3881": func(t *testing.T) {
			alice.do("POST", v3+"/pushers/set", map[string]any{
				"app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "a", "device_display_name": "d", "lang": "en",
				"data": map[string]any{"url": "https://push.example/_matrix/push/v1/notify"}, "org.matrix.msc3881.enabled": false,
			}).ok()
			if got := alice.do("GET", v3+"/pushers", nil).ok().body.Get("pushers.0.org\\.matrix\\.msc3881\\.enabled"); !got.Exists() || got.Bool() {
				t.Errorf("a pusher that is off: got %s", got.Raw)
			}
		},
		"org.matrix.msc3912": func(t *testing.T) {
			send := func(txn string) string {
				return alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/"+txn, map[string]any{
					"body": "x", "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": message},
				}).ok().str("event_id")
			}
			related := send("r1")
			alice.do("PUT", v3+"/rooms/"+room+"/redact/"+message+"/r2", map[string]any{
				"reason": "over", "org.matrix.msc3912.with_relations": []string{"m.thread"},
			}).ok()
			for _, id := range []string{message, related} {
				if e := alice.do("GET", v3+"/rooms/"+room+"/event/"+id, nil).ok(); e.body.Get("content").Raw != "{}" ||
					e.body.Get("unsigned.redacted_because.content.org\\.matrix\\.msc3912\\.with_relations").Exists() {
					t.Errorf("%s: got %s, want it redacted", id, e.body.Raw)
				}
			}
		},
		"org.matrix.msc3916.stable": asks("GET", "/_matrix/client/v1/media/config", nil),
		"org.matrix.msc4140":        asks("GET", unstable+"/org.matrix.msc4140/delayed_events", nil),
		"org.matrix.msc4143":        asks("GET", unstable+"/org.matrix.msc4143/rtc/transports", nil),
		"org.matrix.msc4155": func(t *testing.T) {
			bob := s.register("bob")
			alice.do("PUT", v3+"/user/"+string(alice.ID)+"/account_data/org.matrix.msc4155.invite_permission_config",
				map[string]any{"enabled": true, "blocked_users": []any{"@bob*"}}).ok()
			bob.do("POST", v3+"/createRoom", map[string]any{"invite": []any{alice.ID}}).fails(403, "M_INVITE_BLOCKED")
		},
		"org.matrix.msc4222": func(t *testing.T) {
			if a := alice.do("GET", v3+"/sync?org.matrix.msc4222.use_state_after=true", nil).ok(); !strings.Contains(a.body.Raw, `"org.matrix.msc4222.state_after":`) {
				t.Errorf("no state after the timeline in %s", a.body.Raw)
			}
		},
		"org.matrix.msc4306": asks("GET", unstable+"/io.element.msc4306/rooms/"+room+"/thread/"+message+"/subscription", nil, 404),
		"org.matrix.msc4354": func(t *testing.T) {
			id := alice.do("PUT", v3+"/rooms/"+room+"/send/org.test/s1?org.matrix.msc4354.sticky_duration_ms=1000", map[string]any{}).ok().str("event_id")
			if e := alice.do("GET", v3+"/rooms/"+room+"/event/"+id, nil).ok(); e.body.Get("msc4354_sticky.duration_ms").Int() != 1000 {
				t.Errorf("got %s, want it sticky", e.body.Raw)
			}
		},
		"org.matrix.msc4380.stable": func(t *testing.T) {
			carol := s.register("carol")
			alice.do("PUT", v3+"/user/"+string(alice.ID)+"/account_data/m.invite_permission_config", map[string]any{"default_action": "block"}).ok()
			carol.do("POST", v3+"/createRoom", map[string]any{"invite": []any{alice.ID}}).fails(403, "M_INVITE_BLOCKED")
		},
		"uk.half-shot.msc2666.query_mutual_rooms":        asks("GET", unstable+"/uk.half-shot.msc2666/user/mutual_rooms?user_id=@dora:interior", nil),
		"uk.half-shot.msc2666.query_mutual_rooms.stable": asks("GET", "/_matrix/client/v1/mutual_rooms?user_id=@dora:interior", nil),
		"uk.tcpip.msc4133":                               asks("PUT", unstable+"/uk.tcpip.msc4133/profile/"+string(alice.ID)+"/org.test", map[string]any{"org.test": 1}),
		"uk.tcpip.msc4133.stable":                        asks("PUT", v3+"/profile/"+string(alice.ID)+"/org.test", map[string]any{"org.test": 1}),
	}
	for name, is := range unstableFeatures {
		probe := probes[name]
		if !is || probe == nil {
			// What another chapter names is proved there.
			t.Logf("%s has no probe here", name)
			continue
		}
		t.Run(name, probe)
	}
}
