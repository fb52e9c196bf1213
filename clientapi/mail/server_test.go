package mail

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	netmail "net/mail"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// received is a mail that the test's mail server took.
type received struct {
	From, To string
	Raw      []byte
	Msg      *netmail.Message
	// How it came: over TLS of which version (0: none), logged in by which way.
	TLS  uint16
	Auth string
}

// mailServer is a real SMTP server.
type mailServer struct {
	address string
	ca      string // file with the certificate
	got     chan received

	mu      sync.Mutex
	refuse  []error // what it says to the next mails instead of taking them
	dropped int
}

// serverWish says what the server should be like.
type serverWish struct {
	implicit, plainText bool
	maxTLS              uint16
	auth                []string
}

func startMailServer(t *testing.T, wish serverWish) *mailServer {
	t.Helper()
	s := &mailServer{got: make(chan received, 100)}
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &mailSession{server: s, conn: c, wish: wish}, nil
	}))
	server.Domain = "mail.test"
	server.ErrorLog = quiet{}
	server.AllowInsecureAuth = wish.plainText
	if !wish.plainText {
		certificate, file := selfSigned(t)
		s.ca = file
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS10, MaxVersion: wish.maxTLS}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	if wish.implicit {
		l = tls.NewListener(l, server.TLSConfig)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-ended })
	return s
}

func (s *mailServer) next(t *testing.T) received {
	t.Helper()
	select {
	case m := <-s.got:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("no mail came")
		return received{}
	}
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

type mailSession struct {
	server *mailServer
	conn   *smtp.Conn
	wish   serverWish
	mail   received
}

func (s *mailSession) Reset()        { s.mail.From, s.mail.To = "", "" }
func (s *mailSession) Logout() error { return nil }
func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	if len(s.wish.auth) > 0 && s.mail.Auth == "" {
		return smtp.ErrAuthRequired
	}
	s.mail.From = from
	return nil
}
func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if len(s.server.refuse) > 0 {
		err := s.server.refuse[0]
		s.server.refuse = s.server.refuse[1:]
		s.server.dropped++
		return err
	}
	s.mail.To = to
	return nil
}
func (s *mailSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m := s.mail
	m.Raw = raw
	if m.Msg, err = netmail.ReadMessage(bytes.NewReader(raw)); err != nil {
		return err
	}
	if state, ok := s.conn.TLSConnectionState(); ok {
		m.TLS = state.Version
	}
	s.server.got <- m
	return nil
}

func (s *mailSession) AuthMechanisms() []string { return s.wish.auth }
func (s *mailSession) Auth(mech string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != "chancery" || password != "s3cret" {
			return smtp.ErrAuthFailed
		}
		s.mail.Auth = mech
		return nil
	}
	if mech == sasl.Login {
		return &loginServer{check: check}, nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
}

// loginServer is the server's side of LOGIN, which the library has for clients only.
type loginServer struct {
	check func(user, password string) error
	user  string
	step  int
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	l.step++
	switch {
	case l.step == 1 && response == nil:
		return []byte("Username:"), false, nil
	case l.user == "":
		l.user = string(response)
		return []byte("Password:"), false, nil
	case l.step > 4:
		return nil, true, errors.New("too many steps")
	}
	return nil, true, l.check(l.user, string(response))
}

// selfSigned makes a certificate for 127.0.0.1 and the file that says to trust it.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}
