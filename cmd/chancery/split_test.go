package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// bindingRequest is STUN's simplest question.
func bindingRequest() []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 0x0001)
	binary.BigEndian.PutUint32(b[4:], 0x2112A442)
	copy(b[8:], "twelve bytes")
	return b
}

// testTLS gives the server's side of TLS for names, and the client's.
func testTLS(t testing.TB, names ...string) (server, client *tls.Config) {
	t.Helper()
	ca, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.issue(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if server, err = (&certificate{certFile: cert, keyFile: key}).tlsConfig(); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca.file())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in the authority's file")
	}
	return server, &tls.Config{RootCAs: roots}
}

// TestOnePortForTwoProtocols: by ALPN, by name, and by the first byte.
func TestOnePortForTwoProtocols(t *testing.T) {
	server, client := testTLS(t, "matrix.test")
	client.InsecureSkipVerify = true // the names are what is tried here
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	split := newSplitter(tcp, server, "matrix.test", "turn.test", func(conn net.Conn) {
		go func() {
			defer conn.Close()
			b := make([]byte, 4)
			if _, err := io.ReadFull(conn, b); err == nil {
				_, _ = conn.Write(append([]byte("TURN"), b...))
			}
		}()
	})
	web := &http.Server{Handler: overTLS(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.Header.Get("X-Forwarded-Proto")+r.Header.Get("X-Forwarded-For"))
	}))}
	go func() { _ = web.Serve(split) }()
	defer web.Close()
	const get = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n"
	for _, c := range []struct {
		name, server string
		protocols    []string
		says, want   string
	}{
		{"ALPN of TURN", "matrix.test", []string{"stun.turn"}, "abcd", "TURNabcd"},
		{"ALPN of HTTP", "matrix.test", []string{"http/1.1"}, get, "HTTP/1.1 https"},
		{"ALPN of HTTP, TURN's name", "turn.test", []string{"http/1.1"}, get, "HTTP/1.1 https"},
		{"TURN's name", "turn.test", nil, "abcd", "TURNabcd"},
		{"first byte, TURN", "matrix.test", nil, "\x00\x03\x00\x08", "TURN\x00\x03\x00\x08"},
		{"first byte, no name", "", nil, "\x00\x01\x00\x00", "TURN\x00\x01\x00\x00"},
		{"first byte, HTTP", "matrix.test", nil, get, "HTTP/1.1 https"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := client.Clone()
			config.ServerName, config.NextProtos = c.server, c.protocols
			conn, err := tls.Dial("tcp", tcp.Addr().String(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, c.says); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || !strings.HasSuffix(string(got), c.want) {
				t.Errorf("got %q, %v, want %q at its end", got, err, c.want)
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		config := client.Clone()
		config.ServerName = "matrix.test"
		transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("https://" + tcp.Addr().String() + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "HTTP/2.0 https" {
			t.Errorf("got %q, %v, want HTTP/2.0", body, err)
		}
	})
	t.Run("nobody waits for the silent", func(t *testing.T) {
		silent, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		handshaken, err := tls.Dial("tcp", tcp.Addr().String(), client)
		if err != nil {
			t.Fatal(err)
		}
		defer handshaken.Close()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := web.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		for _, conn := range []net.Conn{silent, handshaken} {
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want it closed", err)
			}
		}
		if took := time.Since(begun); took > partPatience/2 {
			t.Errorf("the door closed after %v", took)
		}
	})
}

// TestTheSilentOfOneAddressKeepNobodyOut: connections that say nothing fill half of the places, and others still come in; an address of
// which none is left has its share of the other half.
func TestTheSilentOfOneAddressKeepNobodyOut(t *testing.T) {
	server, client := testTLS(t, "matrix.test")
	client.ServerName = "matrix.test"
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &splitter{tcp: tcp, tls: server, web: make(chan net.Conn), done: make(chan struct{}), fresh: newcomers{places: 16, share: 2}}
	s.waiting.Go(s.accept)
	defer s.Close()
	go func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	dial := func(from string) net.Conn {
		t.Helper()
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Skipf("the loopback has no %s here: %v", from, err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(partPatience / 2)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for range 8 {
		dial("127.0.0.2")
	}
	for _, c := range []struct {
		name, from string
		before     int // connections that fit
	}{{"more of that address", "127.0.0.2", 0}, {"more than a share of the other half", "127.0.0.3", 2}} {
		for range c.before {
			dial(c.from)
		}
		if _, err := dial(c.from).Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got %v, want it closed", c.name, err)
		}
	}
	if err := tls.Client(dial("127.0.0.4"), client).Handshake(); err != nil {
		t.Errorf("another address: %v", err)
	}
}

func TestComesFrom(t *testing.T) {
	for _, c := range []struct{ at, want string }{
		{"192.0.2.7:443", "192.0.2.7"},
		{"[::ffff:192.0.2.7]:443", "192.0.2.7"},
		{"[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::"},
		{"[fe80::1%eth0]:443", "fe80::"},
	} {
		at, err := net.ResolveTCPAddr("tcp", c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := comesFrom(at).String(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.at, got, c.want)
		}
	}
}

// TestOnlyPort443: the client API, the focus and TURN on one TLS port of a whole server, and credentials for it.
func TestOnlyPort443(t *testing.T) {
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Listen.Secure = loopback("tcp", 0)
	config.Client.PublicURL = "https://" + config.Listen.Secure
	config.Calls.TURN.Host = "interior.test"
	house := &testHouse{t: t, config: config, url: "http://" + config.Listen.Client}
	house.open()
	t.Cleanup(house.close)
	pem, err := os.ReadFile(config.Federation.Remote.CAFiles[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	secure := &tls.Config{RootCAs: roots, ServerName: "interior.test"}
	transport := &http.Transport{TLSClientConfig: secure.Clone(), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport}
	for _, path := range []string{"/_matrix/client/versions", "/_matrix/federation/v1/version", "/calls/healthz"} {
		resp, err := web.Get(config.Client.PublicURL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: got %d", path, resp.StatusCode)
		}
	}
	anna := house.person("anna")
	var servers struct {
		Username, Password string
		URIs               []string
		TTL                int
	}
	if _, err := anna.MakeRequest(t.Context(), http.MethodGet, anna.BuildClientURL("v3", "voip", "turnServer"), nil, &servers); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(config.Listen.Secure)
	if want := "turns:interior.test:" + port + "?transport=tcp"; len(servers.URIs) != 3 || servers.URIs[2] != want {
		t.Errorf("got URIs %v, want three, the last %s", servers.URIs, want)
	}
	if servers.Username == "" || servers.Password == "" || servers.TTL < 60 || servers.TTL > 86400 || strings.Contains(servers.Username, "anna") {
		t.Errorf("got %+v, want a credential without her name, for at most a day", servers)
	}
	conn, err := tls.Dial("tcp", config.Listen.Secure, secure)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(bindingRequest()); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 20)
	if _, err := io.ReadFull(conn, answer); err != nil || binary.BigEndian.Uint16(answer) != 0x0101 || !bytes.Equal(answer[8:], []byte("twelve bytes")) {
		t.Errorf("binding over TLS: got %x, %v", answer, err)
	}
}

func TestWithoutCallsThereIsNoTURN(t *testing.T) {
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Calls.Enabled = false
	house := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	house.open()
	t.Cleanup(house.close)
	anna := house.person("anna")
	var answer json.RawMessage
	if _, err := anna.MakeRequest(t.Context(), http.MethodGet, anna.BuildClientURL("v3", "voip", "turnServer"), nil, &answer); err != nil || string(answer) != "{}" {
		t.Errorf("got %s, %v, want {}", answer, err)
	}
}

// FuzzSplit lets anybody say anything to the one port.
func FuzzSplit(f *testing.F) {
	ca, err := newAuthority(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	cert, key, err := ca.issue("matrix.test")
	if err != nil {
		f.Fatal(err)
	}
	secure, err := (&certificate{certFile: cert, keyFile: key}).tlsConfig()
	if err != nil {
		f.Fatal(err)
	}
	var hello bytes.Buffer // what a client begins with
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: "turn.test", NextProtos: []string{"stun.turn"}}).Handshake()
	}()
	b := make([]byte, 4096)
	n, err := far.Read(b)
	if err != nil {
		f.Fatal(err)
	}
	hello.Write(b[:n])
	near.Close()
	far.Close()
	f.Add(hello.Bytes(), "stun.turn", "turn.test", byte(0))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), "h2", "", byte('G'))
	f.Fuzz(func(t *testing.T, said []byte, protocol, name string, first byte) {
		turned := false
		s := &splitter{tls: secure, turnName: "turn.test", turn: func(conn net.Conn) { turned = true; conn.Close() }, web: make(chan net.Conn, 1), done: make(chan struct{})}
		near, far := net.Pipe()
		go func() {
			go func() { _, _ = io.Copy(io.Discard, far) }()
			_, _ = far.Write(said)
			far.Close()
		}()
		s.part(near)
		if turned {
			t.Error("a connection without a handshake was taken for TURN")
		}
		if got := s.speaks(protocol, name); got == speaksTURN && protocol != alpnTURN && (protocol != "" || name != "turn.test") {
			t.Errorf("%q and %q are taken for TURN", protocol, name)
		}
		if protocol == "" && name == "" && s.speaks("", "") != speaksEither {
			t.Error("who says nothing is judged")
		}
	})
}
