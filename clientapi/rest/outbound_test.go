package rest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
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

// nameServer answers for the names in the table, each time with the next of its addresses, and gives a resolver that asks it.
func nameServer(t *testing.T, table map[string][]string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	asked := map[string]int{}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			name := strings.TrimSuffix(q.Name.String(), ".")
			for i, a := range table[name] {
				addr := netip.MustParseAddr(a)
				if len(table[name]) > 1 && i != asked[name]%len(table[name]) {
					continue
				}
				header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
				switch {
				case q.Type == dnsmessage.TypeA && addr.Is4():
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}})
				case q.Type == dnsmessage.TypeAAAA && addr.Is6():
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
				}
			}
			if q.Type == dnsmessage.TypeA {
				asked[name]++
			}
			if len(table[name]) == 0 {
				m.RCode = dnsmessage.RCodeNameError
			}
			if out, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// M8, N1: it is the address that counts, whatever the name, at each hop, at the moment of connecting.
func TestOutboundJudgesWhatNamesComeTo(t *testing.T) {
	var reached atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
		}
	}))
	defer server.Close()
	port := server.URL[strings.LastIndex(server.URL, ":"):]
	cfg := OutboundConfig{AllowedNetworks: []string{"127.0.0.1/32"}, Resolver: nameServer(t, map[string][]string{
		"allowed.test": {"127.0.0.1"}, "loopback.test": {"127.0.0.2"}, "private.test": {"10.1.2.3"}, "mapped.test": {"::ffff:10.1.2.3"},
		"metadata.test": {"169.254.169.254"}, "local6.test": {"fe80::1"}, "loopback6.test": {"::1"}, "any.test": {"0.0.0.0"}, "any6.test": {"::"},
		"cgnat.test": {"100.64.1.1"}, "unique.test": {"fd00::1"}, "nat64.test": {"64:ff9b::a01:203"}, "multicast.test": {"224.0.0.1"},
		"rebinding.test": {"127.0.0.1", "127.0.0.2"},
	})}
	client, err := NewOutbound(cfg)
	if err != nil {
		t.Fatal(err)
	}
	get := func(url string) error {
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get("http://allowed.test" + port); err != nil || reached.Load() != 1 {
		t.Errorf("a name of an allowed address: %v, reached %d times", err, reached.Load())
	}
	for _, host := range []string{
		"loopback.test", "private.test", "mapped.test", "metadata.test", "local6.test", "loopback6.test", "any.test", "any6.test", "cgnat.test",
		"unique.test", "nat64.test", "multicast.test",
		"127.0.0.2", "10.1.2.3", "[::ffff:7f00:2]", "[::ffff:10.1.2.3]", "169.254.169.254", "[fe80::1]", "[::1]", "0.0.0.0", "[::]", "100.64.1.1", "[fd00::1]",
	} {
		if err := get("http://" + host + port); !errors.Is(err, ErrAddressRefused) {
			t.Errorf("%s: got %v, want it refused", host, err)
		}
		before := reached.Load()
		if err := get(server.URL + "?to=" + url.QueryEscape("http://"+host+port)); !errors.Is(err, ErrAddressRefused) || reached.Load() != before+1 {
			t.Errorf("redirect to %s: got %v after %d requests, want it refused after one", host, err, reached.Load()-before)
		}
	}
	// A name that is asked again comes to another address: each connection is judged anew.
	client.Transport.(*http.Transport).DisableKeepAlives = true
	if err := get("http://rebinding.test" + port); err != nil {
		t.Errorf("before it turns: %v", err)
	}
	if err := get("http://rebinding.test" + port); !errors.Is(err, ErrAddressRefused) {
		t.Errorf("after it turned: got %v, want it refused", err)
	}
	round := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		http.Redirect(w, r, "/on", http.StatusFound)
	}))
	defer round.Close()
	before := reached.Load()
	if err := get(round.URL); err == nil {
		t.Error("endless redirects came to an end")
	}
	if n := reached.Load() - before; n > maxRedirects+1 {
		t.Errorf("%d requests for endless redirects, want at most %d", n, maxRedirects+1)
	}
}
