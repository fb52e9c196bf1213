package remote

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix"
)

// httpsAt serves https on port 443 of an address of the loopback network, as a server that is named by that address.
func httpsAt(t *testing.T, address string, pair tls.Certificate, handler http.HandlerFunc) {
	t.Helper()
	listener, err := net.Listen("tcp", address+":443")
	if err != nil {
		t.Skipf("port 443 cannot be had here: %v", err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener, server.TLS = listener, &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
}

// addressCertificate is one for addresses, signed by itself; it gives its file too.
func addressCertificate(t *testing.T, addresses ...string) (pair tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(address))
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, file
}

// TestClientBaseIsFoundByName looks for servers' client APIs as they say where these are, and goes nowhere else (threat C9).
func TestClientBaseIsFoundByName(t *testing.T) {
	const (
		wellKnown, direct, moved, downgraded = "127.8.1.1", "127.8.1.2", "127.8.1.3", "127.8.1.4"
		inwards, endless, silent, busy       = "127.8.1.5", "127.8.1.6", "127.8.1.7", "127.8.1.8"
		denied, private                      = "127.9.1.1", "10.9.8.7"
	)
	pair, ca := addressCertificate(t, wellKnown, direct, moved, downgraded, inwards, endless, silent, busy, denied)
	var trapped, posted atomic.Int32
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { trapped.Add(1) }))
	defer plain.Close()
	base := "https://" + wellKnown
	says := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				posted.Add(1)
				_, _ = w.Write([]byte("{}"))
				return
			}
			_, _ = w.Write([]byte(text))
		}
	}
	to := func(where string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, where, http.StatusTemporaryRedirect) }
	}
	httpsAt(t, wellKnown, pair, says(`{"m.homeserver":{"base_url":"`+base+`/"}}`))
	httpsAt(t, direct, pair, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost { // it has no .well-known, and sends what is posted on
			to("https://"+denied+r.URL.Path)(w, r)
			return
		}
		http.NotFound(w, r)
	})
	httpsAt(t, moved, pair, to(base+"/.well-known/matrix/client"))
	httpsAt(t, downgraded, pair, to(plain.URL))
	httpsAt(t, inwards, pair, to("https://"+private+"/.well-known/matrix/client"))
	httpsAt(t, endless, pair, to("https://"+endless+"/.well-known/matrix/client"))
	httpsAt(t, silent, pair, says(`{"m.homeserver":{"base_url":"http://`+wellKnown+`"}}`))
	httpsAt(t, busy, pair, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	httpsAt(t, denied, pair, func(http.ResponseWriter, *http.Request) { trapped.Add(1) })

	client, err := New(Config{CAFiles: []string{ca}, AllowedNetworks: []string{"127.8.0.0/16"}, Timeout: time.Second}, GenerateKeys("own.example"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, server, want string
		refused            bool // for its address
	}{
		{"what it says", wellKnown, base, false},
		{"a port in the name", wellKnown + ":8448", base, false},
		{"without .well-known, the name itself", direct, "https://" + direct, false},
		{"through a redirect", moved, base, false},
		{"a redirect away from https", downgraded, "", false},
		{"a redirect into a private range", inwards, "", true},
		{"redirects without end", endless, "", false},
		{"an address without TLS", silent, "", false},
		{"in a range that is not allowed", denied, "", true},
		{"in a private range", private, "", true},
		{"no server name", "127.8.1.1/x?", "", false},
		{"a user before the name", "a@127.8.1.1", "", false},
		{"ourselves", "own.example", "", false},
	} {
		got, err := client.ClientBase(t.Context(), c.server)
		if got != c.want || (err == nil) != (c.want != "") || c.refused && !errors.Is(err, ErrRefusedAddress) {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	if err := client.PostClient(t.Context(), moved, "unstable", "x"); err != nil || posted.Load() != 1 {
		t.Errorf("post where the .well-known leads: got %v, %d posts, want one", err, posted.Load())
	}
	if err := client.PostClient(t.Context(), direct, "unstable", "x"); !errors.Is(err, ErrRefusedAddress) {
		t.Errorf("post that is sent on into a range that is not allowed: got %v, want it refused", err)
	}
	var refused mautrix.RespError
	if err := client.PostClient(t.Context(), busy, "unstable", "x"); !errors.As(err, &refused) || refused.StatusCode != http.StatusTooManyRequests || refused.ExtraData["retry_after_ms"] != 7000.0 {
		t.Errorf("post to one that is busy: got %v %v, want 429 and seven seconds", err, refused.ExtraData)
	}
	if n := trapped.Load(); n != 0 {
		t.Errorf("%d requests went where none may go", n)
	}
}
