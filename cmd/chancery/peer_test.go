package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"chancery/federation"
)

// peer is a server that a test plays: it serves its keys, and signs what it asks.
type peer struct {
	name  spec.ServerName
	keyID gomatrixserverlib.KeyID
	key   ed25519.PrivateKey
	house *testHouse
}

// newPeer plays the server that the configuration describes, towards the house.
func newPeer(t *testing.T, house *testHouse, config Config) *peer {
	t.Helper()
	keys := must(federation.LoadKeys(config.ServerName, t.TempDir()+"/signing.key"))(t, "keys")
	pair := must(tls.LoadX509KeyPair(config.Listen.Certificate, config.Listen.Key))(t, "certificate")
	listener := must(net.Listen("tcp", config.Listen.Federation))(t, "listen")
	keyID, key := keys.Current()
	p := &peer{name: spec.ServerName(config.ServerName), keyID: gomatrixserverlib.KeyID(keyID), key: key, house: house}
	server := &http.Server{Handler: http.HandlerFunc(p.serve)}
	go func() {
		_ = server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}}))
	}()
	t.Cleanup(func() { server.Close() })
	return p
}

// serve answers what a homeserver asks a stranger: the keys.
func (p *peer) serve(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/_matrix/key/v2/server") {
		http.NotFound(w, r)
		return
	}
	answer, err := json.Marshal(map[string]any{
		"server_name": p.name, "valid_until_ts": spec.AsTimestamp(time.Now().Add(24 * time.Hour)), "old_verify_keys": map[string]any{},
		"verify_keys": map[string]any{string(p.keyID): map[string]string{"key": base64.RawStdEncoding.EncodeToString(p.key.Public().(ed25519.PublicKey))}},
	})
	if err == nil {
		answer, err = gomatrixserverlib.SignJSON(string(p.name), p.keyID, p.key, answer)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the asker is gone: nobody to tell
}

// ask signs a question and sends it; bend may change it after it was signed.
func (p *peer) ask(t *testing.T, method, uri string, content any, bend ...func(*http.Request)) answered {
	t.Helper()
	question := fclient.NewFederationRequest(method, p.name, "interior.test", uri)
	if content != nil {
		if err := question.SetContent(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := question.Sign(p.name, p.keyID, p.key); err != nil {
		t.Fatal(err)
	}
	signed, err := question.HTTPRequest()
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, "https://"+p.house.config.Listen.Federation+uri, bytes.NewReader(question.Content()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = signed.Header
	for _, change := range bend {
		change(request)
	}
	return answerTo(t, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}, request)
}

// tryServers asks as another server: forged, and honest but not in the room (threats F1, F3, F4, F14, F15).
func (w *wrongHouse) tryServers(t *testing.T) {
	const version = "/_matrix/federation/v1"
	room, ev := url.PathEscape(w.names["room"]), url.PathEscape(w.names["event"])
	header := func(change func(string) string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", change(r.Header.Get("Authorization"))) }
	}
	profile := version + "/query/profile?user_id=" + url.QueryEscape(w.names["alice"])
	empty := map[string]any{"origin": "finance.test", "origin_server_ts": 1, "pdus": []any{}}
	many := func(key string, n int) map[string]any {
		all := make([]any, n)
		for i := range all {
			all[i] = map[string]any{"edu_type": "test.chancery", "content": map[string]any{}}
		}
		transaction := map[string]any{"origin": "finance.test", "origin_server_ts": 1, "pdus": []any{}}
		transaction[key] = all
		return transaction
	}
	for _, c := range []struct {
		name, method, uri string
		content           any
		bend              func(*http.Request)
		status            int
		code              string
	}{
		{"honest", "GET", profile, nil, nil, 200, ""},
		{"honest transaction", "PUT", version + "/send/one", empty, nil, 200, ""},

		{"no header", "GET", profile, nil, func(r *http.Request) { r.Header.Del("Authorization") }, 401, "M_UNAUTHORIZED"},
		{"a client's token", "GET", profile, nil, header(func(string) string { return "Bearer " + w.people["alice"].AccessToken }), 401, "M_UNAUTHORIZED"},
		{"garbage for a header", "GET", profile, nil, header(func(string) string { return "X-Matrix origin=,,,key=\"" }), 401, "M_UNAUTHORIZED"},
		{"signature cut", "GET", profile, nil, header(func(h string) string { return strings.Replace(h, "sig=\"", "sig=\"AAAA", 1) }), 401, "M_UNAUTHORIZED"},
		{"another origin", "GET", profile, nil, header(func(h string) string { return strings.Replace(h, "finance.test", "elsewhere.test", 1) }), 401, "M_UNAUTHORIZED"},
		{"our own name", "GET", profile, nil, header(func(h string) string { return strings.Replace(h, "finance.test", "interior.test", 1) }), 401, "M_UNAUTHORIZED"},
		{"an origin that is none", "GET", profile, nil, header(func(h string) string { return strings.Replace(h, "finance.test", "../../etc", 1) }), 401, "M_UNAUTHORIZED"},
		{"another destination", "GET", profile, nil, header(func(h string) string { return strings.Replace(h, "interior.test", "elsewhere.test", 1) }), 401, "M_UNAUTHORIZED"},
		{"an unknown key", "GET", profile, nil, header(func(h string) string { return strings.Replace(h, string(w.finance.keyID), "ed25519:nosuch", 1) }), 401, "M_UNAUTHORIZED"},
		{"another path", "GET", profile, nil, func(r *http.Request) { r.URL.RawQuery = "user_id=%40bob%3Ainterior.test" }, 401, "M_UNAUTHORIZED"},
		{"another method", "POST", version + "/send/x", empty, func(r *http.Request) { r.Method = "PUT" }, 401, "M_UNAUTHORIZED"},
		{"another body", "PUT", version + "/send/two", empty, func(r *http.Request) {
			other := `{"origin":"finance.test","origin_server_ts":2,"pdus":[]}`
			r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(other)), int64(len(other)), nil
		}, 401, "M_UNAUTHORIZED"},

		{"too many PDUs", "PUT", version + "/send/three", many("pdus", 51), nil, 400, ""},
		{"too many EDUs", "PUT", version + "/send/four", many("edus", 101), nil, 400, ""},
		{"no transaction", "PUT", version + "/send/five", []any{}, nil, 400, ""},
		{"PDUs that are none", "PUT", version + "/send/six", map[string]any{"origin": "finance.test", "origin_server_ts": 1, "pdus": "x"}, nil, 400, ""},
		{"unknown path", "GET", version + "/no/such/thing", nil, nil, 404, "M_UNRECOGNIZED"},
		{"wrong method", "DELETE", version + "/version", nil, nil, 405, "M_UNRECOGNIZED"},

		{"not in the room: event", "GET", version + "/event/" + ev, nil, nil, 403, "M_FORBIDDEN"},
		{"not in the room: state", "GET", version + "/state/" + room + "?event_id=" + ev, nil, nil, 403, "M_FORBIDDEN"},
		{"not in the room: state IDs", "GET", version + "/state_ids/" + room + "?event_id=" + ev, nil, nil, 403, "M_FORBIDDEN"},
		{"not in the room: backfill", "GET", version + "/backfill/" + room + "?limit=10&v=" + ev, nil, nil, 403, "M_FORBIDDEN"},
		{"not in the room: event auth", "GET", version + "/event_auth/" + room + "/" + ev, nil, nil, 403, "M_FORBIDDEN"},
		{"not in the room: missing events", "POST", version + "/get_missing_events/" + room, map[string]any{"latest_events": []string{w.names["event"]}, "earliest_events": []string{}, "limit": 10}, nil, 403, "M_FORBIDDEN"},
		{"not in the room: join", "GET", version + "/make_join/" + room + "/@x:finance.test?ver=11", nil, nil, 403, "M_FORBIDDEN"},
		{"join of another's user", "GET", version + "/make_join/" + room + "/@x:elsewhere.test?ver=11", nil, nil, 403, "M_FORBIDDEN"},
		{"join of an unknown room", "GET", version + "/make_join/%21nosuch:interior.test/@x:finance.test?ver=11", nil, nil, 404, "M_NOT_FOUND"},
		{"unknown event", "GET", version + "/event/$nosuch", nil, nil, 404, "M_NOT_FOUND"},
		{"keys of another's user", "POST", version + "/user/keys/query", map[string]any{"device_keys": "x"}, nil, 400, ""},
		{"profile of another's user", "GET", version + "/query/profile?user_id=%40x%3Aelsewhere.test", nil, nil, 400, ""},
		{"unknown alias", "GET", version + "/query/directory?room_alias=%23nosuch%3Ainterior.test", nil, nil, 404, "M_NOT_FOUND"},
		{"unknown OpenID token", "GET", version + "/openid/userinfo?access_token=nosuch", nil, nil, 401, "M_UNKNOWN_TOKEN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var bend []func(*http.Request)
			if c.bend != nil {
				bend = append(bend, c.bend)
			}
			got := w.finance.ask(t, c.method, c.uri, c.content, bend...)
			if got.status != c.status || c.code != "" && got.code != c.code {
				t.Errorf("got %d %s, want %d %s; the answer: %.300s", got.status, got.code, c.status, c.code, got.body)
			}
		})
	}
}
