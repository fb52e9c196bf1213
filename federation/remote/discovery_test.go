package remote

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// dns answers SRV questions from a map and says "no such name" to everything else.
func dns(t *testing.T, srv map[string][]dnsmessage.SRVResource) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 4096)
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
			reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true}, Questions: m.Questions}
			for _, r := range srv[q.Name.String()] {
				reply.Answers = append(reply.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeSRV, Class: dnsmessage.ClassINET, TTL: 60}, Body: &r,
				})
			}
			if len(reply.Answers) == 0 {
				reply.RCode = dnsmessage.RCodeNameError
			}
			out, _ := reply.Pack()
			_, _ = conn.WriteTo(out, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func record(priority, port uint16, target string) dnsmessage.SRVResource {
	return dnsmessage.SRVResource{Priority: priority, Port: port, Target: dnsmessage.MustNewName(target)}
}

func TestResolve(t *testing.T) {
	resolver := dns(t, map[string][]dnsmessage.SRVResource{
		"_matrix-fed._tcp.srv.example.":   {record(2, 8001, "two.example."), record(1, 8000, "one.example.")},
		"_matrix._tcp.oldsrv.example.":    {record(1, 8002, "old.example.")},
		"_matrix-fed._tcp.behind.example": {record(1, 8003, "never.example.")},
		"_matrix-fed._tcp.deleg.example.": {record(1, 8004, "deleg-target.example.")},
	})
	wellKnown := map[string]string{
		"wk-ip.example":    `{"m.server":"1.2.3.4"}`,
		"wk-port.example":  `{"m.server":"there.example:443"}`,
		"wk-srv.example":   `{"m.server":"deleg.example"}`,
		"wk-plain.example": `{"m.server":"plain.example"}`,
		"wk-bad.example":   `{"m.server":"not a name"}`,
		"wk-json.example":  `nonsense`,
		"wk-large.example": `{"m.server":"` + strings.Repeat("a", maxWellKnown) + `"}`,
	}
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		body, ok := wellKnown[r.URL.Host]
		status := http.StatusOK
		if !ok {
			status = http.StatusNotFound
		}
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	})}
	d := newDiscovery(client, resolver, nil)
	for _, c := range []struct {
		server, host string
		addrs        []string
	}{
		{"1.2.3.4", "1.2.3.4", []string{"1.2.3.4:8448"}},
		{"1.2.3.4:443", "1.2.3.4:443", []string{"1.2.3.4:443"}},
		{"[::1]:443", "[::1]:443", []string{"[::1]:443"}},
		{"named.example:443", "named.example:443", []string{"named.example:443"}},
		{"wk-ip.example", "1.2.3.4", []string{"1.2.3.4:8448"}},
		{"wk-port.example", "there.example:443", []string{"there.example:443"}},
		{"wk-srv.example", "deleg.example", []string{"deleg-target.example:8004"}},
		{"wk-plain.example", "plain.example", []string{"plain.example:8448"}},
		{"wk-bad.example", "wk-bad.example", []string{"wk-bad.example:8448"}},
		{"wk-json.example", "wk-json.example", []string{"wk-json.example:8448"}},
		{"wk-large.example", "wk-large.example", []string{"wk-large.example:8448"}},
		{"srv.example", "srv.example", []string{"one.example:8000", "two.example:8001"}},
		{"oldsrv.example", "oldsrv.example", []string{"old.example:8002"}},
		{"nothing.example", "nothing.example", []string{"nothing.example:8448"}},
	} {
		got, err := d.find(t.Context(), c.server)
		if err != nil || got.host != c.host || !slices.Equal(got.addrs, c.addrs) {
			t.Errorf("%s: got %q at %v (%v), want %q at %v", c.server, got.host, got.addrs, err, c.host, c.addrs)
		}
	}
	for _, bad := range []string{"", "a b", "a.example:99999", "a.example:", "[::1", "http://a.example", "a/b"} {
		if got, err := d.find(t.Context(), bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

func TestDelegationOutlivesAFailure(t *testing.T) {
	up := true
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if !up {
			return nil, io.ErrUnexpectedEOF
		}
		body := io.NopCloser(strings.NewReader(`{"m.server":"there.example:443"}`))
		return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=10"}}, Body: body, Request: r}, nil
	})}
	d := newDiscovery(client, dns(t, nil), nil)
	now := time.Now()
	d.now = func() time.Time { return now }
	for _, step := range []struct {
		after time.Duration
		up    bool
	}{{0, true}, {wellKnownMin - time.Second, false}, {wellKnownMin + time.Second, false}, {2 * wellKnownMin, false}} {
		up = step.up
		now = now.Add(step.after)
		got, err := d.find(t.Context(), "a.example")
		if err != nil || got.host != "there.example:443" {
			t.Errorf("after %v: got %q and error %v, want there.example:443", step.after, got.host, err)
		}
	}
}

func TestLifetime(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":                         wellKnownDefault,
		"no-store":                 wellKnownMin,
		"max-age=60":               wellKnownMin,
		"public, Max-Age=7200":     2 * time.Hour,
		"max-age=9999999999999999": wellKnownMax,
		"max-age=9999999":          wellKnownMax,
	} {
		if got := lifetime(http.Header{"Cache-Control": {header}}); got != want {
			t.Errorf("%q: got %v, want %v", header, got, want)
		}
	}
}

// TestHosts finds a server by configuration, and asks nobody.
func TestHosts(t *testing.T) {
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("asked %s", r.URL)
		return nil, io.EOF
	})}
	d := newDiscovery(client, dns(t, nil), map[string]string{"finance.example": "127.0.0.1:8449"})
	got, err := d.find(t.Context(), "finance.example")
	if err != nil || got.host != "finance.example" || !slices.Equal(got.addrs, []string{"127.0.0.1:8449"}) {
		t.Errorf("got %+v, %v; want finance.example at 127.0.0.1:8449", got, err)
	}
}

// FuzzWellKnown: whatever a host answers, it delegates to a server name or to nobody.
func FuzzWellKnown(f *testing.F) {
	f.Add(200, `{"m.server":"there.example:443"}`, "max-age=60")
	f.Add(200, `{"m.server":"[::1]"}`, "no-store")
	f.Add(404, `{"m.server":5}`, "max-age=")
	f.Add(200, `{"m.server":"http://x"}`, `max-age="99999999999999999999"`)
	f.Fuzz(func(t *testing.T, status int, body, cache string) {
		d := newDiscovery(&http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{"Cache-Control": {cache}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})}, nil, nil)
		server, lifetime, _ := d.wellKnown(t.Context(), "a.example")
		if server != "" && !ValidServerName(server) || lifetime < wellKnownFailed || lifetime > wellKnownMax {
			t.Errorf("%d %q: got %q for %v", status, body, server, lifetime)
		}
	})
}
