package main

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// TestWrongInput sends what no well-behaved client or server sends, and holds the status and errcode that the spec names.
func TestWrongInput(t *testing.T) {
	house := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	anna, eve := house.person("anna"), house.person("eve")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create room").RoomID
	send := "/_matrix/client/v3/rooms/" + room.String() + "/send/m.room.message/"
	nowhere := "/_matrix/client/v3/rooms/!nowhere:interior.test"
	large := `{"msgtype":"m.text","body":"` + strings.Repeat("a", 64<<10+1) + `"}`

	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
		code                            string
	}{
		{"malformed JSON", "PUT", send + "1", anna.AccessToken, `{"body":`, 400, "M_NOT_JSON"},
		{"JSON of the wrong kind", "PUT", send + "2", anna.AccessToken, `[1]`, 400, "M_BAD_JSON"},
		{"text after the JSON", "PUT", send + "3", anna.AccessToken, `{"body":"x"} y`, 400, "M_NOT_JSON"},
		{"bytes that are not UTF-8", "PUT", send + "4", anna.AccessToken, "{\"body\":\"\xff\"}", 400, "M_NOT_JSON"},
		{"float in an event", "PUT", send + "5", anna.AccessToken, `{"msgtype":"m.text","body":"x","n":1.5}`, 400, "M_BAD_JSON"},
		{"integer beyond 2^53", "PUT", send + "6", anna.AccessToken, `{"msgtype":"m.text","body":"x","n":9007199254740993}`, 400, "M_BAD_JSON"},
		{"event above 64 KiB", "PUT", send + "7", anna.AccessToken, large, 413, "M_TOO_LARGE"},
		{"state event above 64 KiB", "PUT", "/_matrix/client/v3/rooms/" + room.String() + "/state/m.room.topic", anna.AccessToken, `{"topic":"` + strings.Repeat("a", 64<<10) + `"}`, 413, "M_TOO_LARGE"},
		{"unknown room, send", "PUT", nowhere + "/send/m.room.message/1", anna.AccessToken, `{"msgtype":"m.text","body":"x"}`, 403, "M_FORBIDDEN"},
		{"unknown room, state", "GET", nowhere + "/state", anna.AccessToken, "", 403, "M_FORBIDDEN"},
		{"room of others", "PUT", send + "8", eve.AccessToken, `{"msgtype":"m.text","body":"x"}`, 403, "M_FORBIDDEN"},
		{"bad token", "GET", "/_matrix/client/v3/account/whoami", "not-a-token", "", 401, "M_UNKNOWN_TOKEN"},
		{"no token", "GET", "/_matrix/client/v3/account/whoami", "", "", 401, "M_MISSING_TOKEN"},
		{"wrong password", "POST", "/_matrix/client/v3/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"anna"},"password":"no"}`, 403, "M_FORBIDDEN"},
		{"unknown login type", "POST", "/_matrix/client/v3/login", "", `{"type":"m.login.smile"}`, 400, "M_UNKNOWN"},
		{"unknown endpoint", "GET", "/_matrix/client/v3/nothing/here", anna.AccessToken, "", 404, "M_UNRECOGNIZED"},
		{"wrong method", "DELETE", "/_matrix/client/v3/account/whoami", anna.AccessToken, "", 405, "M_UNRECOGNIZED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, code := ask(t, http.DefaultClient, c.method, house.url+c.path, bearer(c.token), c.body)
			if status != c.status || code != c.code {
				t.Errorf("got %d %s, want %d %s", status, code, c.status, c.code)
			}
		})
	}
}

// TestForgedXMatrix asks the federation door with signatures that prove nothing.
func TestForgedXMatrix(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // whose door it is does not matter here
	url := "https://" + houses[0].config.Listen.Federation + "/_matrix/federation/v1/query/profile?user_id=@nobody:interior.test"
	for _, c := range []struct{ name, header string }{
		{"none", ""},
		{"another scheme", "Bearer abc"},
		{"no signature", `X-Matrix origin="finance.test",key="ed25519:1"`},
		{"forged signature", `X-Matrix origin="finance.test",destination="interior.test",key="ed25519:1",sig="` + strings.Repeat("A", 86) + `"`},
		{"unknown server", `X-Matrix origin="nowhere.test",destination="interior.test",key="ed25519:1",sig="` + strings.Repeat("A", 86) + `"`},
		{"ourselves", `X-Matrix origin="interior.test",destination="interior.test",key="ed25519:1",sig="` + strings.Repeat("A", 86) + `"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := http.Header{}
			if c.header != "" {
				header.Set("Authorization", c.header)
			}
			status, code := ask(t, client, "GET", url, header, "")
			if status != 401 || code != "M_UNAUTHORIZED" {
				t.Errorf("got %d %s, want 401 M_UNAUTHORIZED", status, code)
			}
		})
	}
}

// TestCallTokenByStranger asks the focus for a token as somebody who is not in the room.
func TestCallTokenByStranger(t *testing.T) {
	house := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	anna, eve := house.person("anna"), house.person("eve")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat"}))(t, "create room").RoomID
	for _, c := range []struct {
		name   string
		who    *mautrix.Client
		room   id.RoomID
		status int
	}{
		{"member", anna, room, 200},
		{"not a member", eve, room, 403},
		{"unknown room", anna, "!nowhere:interior.test", 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			openID := struct {
				AccessToken string `json:"access_token"`
				TokenType   string `json:"token_type"`
				ServerName  string `json:"matrix_server_name"`
				ExpiresIn   int    `json:"expires_in"`
			}{}
			url := c.who.BuildClientURL("v3", "user", c.who.UserID, "openid", "request_token")
			if _, err := c.who.MakeRequest(t.Context(), http.MethodPost, url, struct{}{}, &openID); err != nil {
				t.Fatalf("openid token: %v", err)
			}
			body, err := json.Marshal(map[string]any{"room": c.room, "openid_token": openID, "device_id": c.who.DeviceID})
			if err != nil {
				t.Fatal(err)
			}
			status, code := ask(t, http.DefaultClient, "POST", house.focus()+"/sfu/get", nil, string(body))
			if status != c.status || (status != 200 && code != "M_FORBIDDEN") {
				t.Errorf("got %d %s, want %d", status, code, c.status)
			}
		})
	}
}

func bearer(token string) http.Header {
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	return header
}

// ask sends one request and reads the status and the errcode of its answer.
func ask(t *testing.T, client *http.Client, method, url string, header http.Header, body string) (status int, code string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Code string `json:"errcode"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		t.Fatalf("%s %s answered %d with no JSON: %v\n%s", method, url, answer.StatusCode, err, raw)
	}
	return answer.StatusCode, said.Code
}
