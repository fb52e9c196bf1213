package main

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// asking asks the focus for tokens from behind a proxy.
type asking struct {
	t    *testing.T
	at   *testHouse
	room id.RoomID
}

// from asks with an OpenID token, for the client at an address.
func (a *asking) from(address string, openID map[string]any) answered {
	a.t.Helper()
	body := jsonBody(a.t, map[string]any{"room": a.room, "device_id": "DEV", "openid_token": openID})
	return raw(a.t, "POST", a.at.focus()+"/sfu/get", "", body, "X-Forwarded-For", "198.51.100.1, "+address)
}

// untilTooMany shows made-up tokens of a server until that is too much, and says how often it was not.
func (a *asking) untilTooMany(address func(n int) string, server string) (shown int) {
	a.t.Helper()
	for n := range 300 {
		got := a.from(address(n), map[string]any{"access_token": fmt.Sprint("made up ", n), "matrix_server_name": server})
		if got.status != http.StatusTooManyRequests {
			if got.status != http.StatusUnauthorized {
				a.t.Fatalf("a made-up token: got %d %s, want 401", got.status, got.body)
			}
			continue
		}
		if after, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || after < 1 || got.code != "M_LIMIT_EXCEEDED" || len(got.has("error")) == 0 {
			a.t.Errorf("got %s with Retry-After %q, want M_LIMIT_EXCEEDED and when to come again", got.body, got.header.Get("Retry-After"))
		}
		return n
	}
	a.t.Fatal("300 made-up tokens were looked at")
	return 0
}

// TestMadeUpTokensHarmNobodyElse shows made-up OpenID tokens from an address that many share, until that is too much: good ones go on
// being good, and other addresses and servers are not concerned.
func TestMadeUpTokensHarmNobodyElse(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	configs[0].Client.HTTP.TrustForwardedFor = true
	houses := openConfigured(t, configs)
	interior := houses[0]
	anna, felix := interior.person("anna"), houses[1].person("felix")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	interior.takesIn(t, felix, room)
	a := &asking{t, interior, room}
	const here, there = "192.0.2.7", "192.0.2.8"
	bad := map[string]any{"access_token": "made up", "matrix_server_name": "interior.test"}
	a.untilTooMany(func(int) string { return here }, "interior.test")
	for _, c := range []struct {
		name, address string
		openID        map[string]any
		want          int
	}{
		{"another made-up one", here, bad, http.StatusTooManyRequests},
		{"a good one", here, openIDOf(t, anna), http.StatusOK},
		{"a good one of another server", here, openIDOf(t, felix), http.StatusOK},
		{"a made-up one from elsewhere", there, bad, http.StatusUnauthorized},
	} {
		if got := a.from(c.address, c.openID); got.status != c.want {
			t.Errorf("%s: got %d %s, want %d", c.name, got.status, got.body, c.want)
		}
	}
	a.untilTooMany(func(int) string { return here }, "finance.test")
	if got := a.from(here, openIDOf(t, anna)); got.status != http.StatusOK {
		t.Errorf("a good one, after made-up ones of another server: got %d %s, want 200", got.status, got.body)
	}
	if got := a.from(there, openIDOf(t, felix)); got.status != http.StatusOK {
		t.Errorf("a good one of that server, from elsewhere: got %d %s, want 200", got.status, got.body)
	}
}

// TestAddressesAreNotTheClientsChoice: without a proxy, what a request says of its address counts for nothing.
func TestAddressesAreNotTheClientsChoice(t *testing.T) {
	interior := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	a := &asking{t, interior, "!room:interior.test"}
	a.untilTooMany(func(n int) string { return fmt.Sprint("192.0.2.", n%250) }, "interior.test")
}
