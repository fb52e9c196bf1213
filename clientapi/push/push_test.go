package push

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

const alice = id.UserID("@alice:interior")

type tokens struct{}

func (tokens) ByToken(_ context.Context, token, _, _ string) (*rest.Requester, error) {
	user, device, _ := strings.Cut(token, "/")
	return &rest.Requester{User: id.UserID(user), Device: id.DeviceID(device)}, nil
}

type house struct {
	*testing.T
	store *storage.Store
	http  http.Handler
}

func newHouse(t *testing.T) *house {
	b, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(); b.Close() })
	h := New(DefaultConfig(), store, view.New(store), http.DefaultClient, nil)
	const p = "/_matrix/client/v3/pushrules/"
	routes := []rest.Route{
		{Method: "GET", Path: p + "{$}", Handler: h.Rules, Auth: rest.User},
		{Method: "GET", Path: p + "global/{$}", Handler: h.Global, Auth: rest.User},
		{Method: "GET", Path: p + "global/{kind}/{ruleId}", Handler: h.Rule, Auth: rest.User},
		{Method: "PUT", Path: p + "global/{kind}/{ruleId}", Handler: h.PutRule, Auth: rest.User},
		{Method: "DELETE", Path: p + "global/{kind}/{ruleId}", Handler: h.DeleteRule, Auth: rest.User},
		{Method: "GET", Path: p + "global/{kind}/{ruleId}/enabled", Handler: h.RuleEnabled, Auth: rest.User},
		{Method: "PUT", Path: p + "global/{kind}/{ruleId}/enabled", Handler: h.PutRuleEnabled, Auth: rest.User},
		{Method: "GET", Path: p + "global/{kind}/{ruleId}/actions", Handler: h.RuleActions, Auth: rest.User},
		{Method: "PUT", Path: p + "global/{kind}/{ruleId}/actions", Handler: h.PutRuleActions, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/pushers", Handler: h.Pushers, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/pushers/set", Handler: h.SetPusher, Auth: rest.User},
	}
	cfg := rest.DefaultConfig()
	cfg.Limits.Enabled = false
	return &house{t, store, rest.NewMux(routes, rest.Options{Config: cfg, Log: zerolog.Nop(), Tokens: tokens{}})}
}

func (h *house) ask(user id.UserID, method, path, body string) (int, gjson.Result) {
	h.Helper()
	r := httptest.NewRequest(method, "/_matrix/client/v3/"+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+string(user)+"/PHONE")
	w := httptest.NewRecorder()
	h.http.ServeHTTP(w, r)
	return w.Code, gjson.ParseBytes(w.Body.Bytes())
}

func TestPushRules(t *testing.T) {
	h := newHouse(t)
	steps := []struct {
		method, path, body string
		code               int
		look, want         string
	}{
		{"GET", "pushrules/", "", 200, "global.override.0.rule_id", `".m.rule.master"`},
		{"GET", "pushrules/global/", "", 200, "content.0.pattern", `"alice"`},
		{"PUT", "pushrules/global/room/!r:x", `{"actions":["dont_notify"]}`, 200, "", ""},
		{"GET", "pushrules/global/room/!r:x", "", 200, "actions.0", `"dont_notify"`},
		{"GET", "pushrules/global/room/!r:x/enabled", "", 200, "enabled", "true"},
		{"PUT", "pushrules/global/room/!r:x/enabled", `{"enabled":false}`, 200, "", ""},
		{"GET", "pushrules/global/room/!r:x/enabled", "", 200, "enabled", "false"},
		{"PUT", "pushrules/global/room/!r:x/actions", `{"actions":["notify",{"set_tweak":"sound","value":"bell"}]}`, 200, "", ""},
		{"GET", "pushrules/global/room/!r:x/actions", "", 200, "actions.1.value", `"bell"`},
		{"PUT", "pushrules/global/override/.m.rule.master/enabled", `{"enabled":true}`, 200, "", ""},
		{"GET", "pushrules/global/override/.m.rule.master", "", 200, "enabled", "true"},
		{"PUT", "pushrules/global/content/b", `{"actions":[],"pattern":"b"}`, 200, "", ""},
		{"PUT", "pushrules/global/content/a?before=b", `{"actions":[],"pattern":"a"}`, 200, "", ""},
		{"PUT", "pushrules/global/content/c?after=a", `{"actions":[],"pattern":"c"}`, 200, "", ""},
		{"GET", "pushrules/global/", "", 200, "content.#.rule_id", `["a","c","b",".m.rule.contains_user_name"]`},
		{"DELETE", "pushrules/global/room/!r:x", "", 200, "", ""},
		{"DELETE", "pushrules/global/room/!r:x", "", 404, "errcode", `"M_NOT_FOUND"`},
		{"GET", "pushrules/global/room/!r:x", "", 404, "errcode", `"M_NOT_FOUND"`},
		{"PUT", "pushrules/global/room/!r:x/enabled", `{"enabled":true}`, 404, "errcode", `"M_NOT_FOUND"`},
		{"DELETE", "pushrules/global/override/.m.rule.master", "", 400, "errcode", `"M_INVALID_PARAM"`},
		{"PUT", "pushrules/global/override/.m.mine", `{"actions":[]}`, 400, "errcode", `"M_INVALID_PARAM"`},
		{"PUT", "pushrules/global/content/x", `{"actions":[]}`, 400, "errcode", `"M_INVALID_PARAM"`},
		{"PUT", "pushrules/global/content/x", `{"pattern":"x"}`, 400, "errcode", `"M_MISSING_PARAM"`},
		{"PUT", "pushrules/global/content/x?before=none", `{"actions":[],"pattern":"x"}`, 404, "errcode", `"M_NOT_FOUND"`},
		{"PUT", "pushrules/global/other/x", `{"actions":[]}`, 400, "errcode", `"M_INVALID_PARAM"`},
		{"PUT", "pushrules/global/room/x", `[]`, 400, "errcode", `"M_BAD_JSON"`},
	}
	for _, s := range steps {
		code, body := h.ask(alice, s.method, s.path, s.body)
		if code != s.code || s.look != "" && body.Get(s.look).Raw != s.want {
			t.Errorf("%s %s: got %d, %s = %s, want %d, %s", s.method, s.path, code, s.look, body.Get(s.look).Raw, s.code, s.want)
		}
	}
	if _, other := h.ask("@bob:interior", "GET", "pushrules/", ""); other.Get("global.override.0.enabled").Bool() {
		t.Error("another user's rules changed")
	}
}

func TestPushers(t *testing.T) {
	h := newHouse(t)
	const good = `{"app_id":"im.app","pushkey":"K","kind":"http","app_display_name":"App","device_display_name":"Phone","lang":"en","data":{"url":"https://gw.example/_matrix/push/v1/notify","format":"event_id_only"}}`
	const bob = id.UserID("@bob:interior")
	count := func(user id.UserID) int64 {
		t.Helper()
		code, list := h.ask(user, "GET", "pushers", "")
		if code != 200 {
			t.Fatalf("pushers: %d", code)
		}
		return list.Get("pushers.#").Int()
	}
	if code, body := h.ask(alice, "POST", "pushers/set", good); code != 200 {
		t.Fatalf("set: %d %s", code, body.Raw)
	}
	h.ask(alice, "POST", "pushers/set", good)
	if n := count(alice); n != 1 {
		t.Errorf("set twice: %d pushers, want 1", n)
	}
	h.ask(bob, "POST", "pushers/set", strings.Replace(good, `{`, `{"append":true,`, 1))
	if a, b := count(alice), count(bob); a != 1 || b != 1 {
		t.Errorf("appended: %d and %d, want one each", a, b)
	}
	h.ask(bob, "POST", "pushers/set", good)
	if a, b := count(alice), count(bob); a != 0 || b != 1 {
		t.Errorf("not appended: %d and %d, want the key to be Bob's alone", a, b)
	}
	h.ask(bob, "POST", "pushers/set", `{"app_id":"im.app","pushkey":"K","kind":null}`)
	if n := count(bob); n != 0 {
		t.Errorf("deleted: %d left", n)
	}
	for body, want := range map[string]string{
		`{"app_id":"a"}`: "M_MISSING_PARAM",
		`{"app_id":"a","pushkey":"k","kind":"http"}`:                      "M_MISSING_PARAM",
		strings.Replace(good, "https://gw", "ftp://gw", 1):                "M_INVALID_PARAM",
		strings.Replace(good, "notify", "other", 1):                       "M_INVALID_PARAM",
		strings.Replace(good, `"http"`, `"pigeon"`, 1):                    "M_INVALID_PARAM",
		strings.Replace(good, `"K"`, `"`+strings.Repeat("k", 600)+`"`, 1): "M_INVALID_PARAM",
	} {
		if code, refusal := h.ask(alice, "POST", "pushers/set", body); code != 400 || refusal.Get("errcode").Str != want {
			t.Errorf("%.60s: got %d %s, want 400 %s", body, code, refusal.Raw, want)
		}
	}
}
