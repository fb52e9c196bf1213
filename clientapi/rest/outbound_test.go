package rest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestOutbound(t *testing.T) {
	reached := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached++
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
		}
	}))
	defer server.Close()
	port := server.URL[strings.LastIndex(server.URL, ":"):]
	get := func(cfg OutboundConfig, url string) error {
		t.Helper()
		client, err := NewOutbound(cfg)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	loopback := OutboundConfig{AllowedNetworks: []string{"127.0.0.1/32"}}
	if err := get(loopback, server.URL); err != nil {
		t.Errorf("an allowed address: %v", err)
	}
	reached = 0
	// N1, M8: odd spellings and names too, since the address counts.
	for _, url := range []string{server.URL, "http://localhost" + port, "http://[::ffff:127.0.0.1]" + port, "http://[::1]" + port, "http://0.0.0.0" + port, "http://169.254.169.254/"} {
		if err := get(OutboundConfig{}, url); !errors.Is(err, ErrAddressRefused) {
			t.Errorf("%s: got %v, want it refused", url, err)
		}
	}
	if reached != 0 {
		t.Errorf("%d requests arrived, want none", reached)
	}
	if err := get(OutboundConfig{AllowedNetworks: []string{"127.0.0.0/8"}, DeniedNetworks: []string{"127.0.0.1"}}, server.URL); !errors.Is(err, ErrAddressRefused) {
		t.Errorf("denied wins: got %v", err)
	}
	if err := get(loopback, server.URL+"?to=http://127.0.0.2"+port); !errors.Is(err, ErrAddressRefused) {
		t.Errorf("redirect to a refused address: got %v", err)
	}
	if err := get(loopback, server.URL+"?to=file:///etc/passwd"); err == nil {
		t.Error("redirect to a file was followed")
	}
	if err := get(OutboundConfig{Proxy: server.URL}, "http://10.0.0.1/"); !errors.Is(err, ErrAddressRefused) {
		t.Errorf("literal address through the proxy: got %v, want it refused", err)
	}
	if err := get(OutboundConfig{Proxy: server.URL}, "http://push.example/"); err != nil {
		t.Errorf("through the proxy: %v", err)
	}
	for _, cfg := range []OutboundConfig{{AllowedNetworks: []string{"nonsense"}}, {Proxy: "nonsense"}} {
		if _, err := NewOutbound(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
