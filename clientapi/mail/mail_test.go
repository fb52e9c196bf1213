package mail

import (
	"context"
	"crypto/tls"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

func testConfig(s *mailServer) Config {
	cfg := DefaultConfig()
	cfg.Server, cfg.CA, cfg.From, cfg.AppName, cfg.Timeout = s.address, s.ca, "Chancery <noreply@interior>", "Chancery", 5*time.Second
	return cfg
}

func newMailer(t *testing.T, cfg Config) *Mailer {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func reset(to, lang string) Message {
	return Message{To: to, Lang: lang, Template: "password", Data: Data{User: "@alice:interior", Link: "https://matrix.interior/x?a=1&b=2"}}
}

// parts reads the text and the HTML of a mail.
func (m received) parts(t *testing.T) (text, html string) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(m.Msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("content type: got %q, want multipart/alternative", m.Msg.Header.Get("Content-Type"))
	}
	reader := multipart.NewReader(m.Msg.Body, params["boundary"])
	for _, into := range []*string{&text, &html} {
		part, err := reader.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		body := io.Reader(part)
		if part.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			body = quotedprintable.NewReader(part)
		}
		raw, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		*into = strings.ReplaceAll(string(raw), "\r\n", "\n")
	}
	return text, html
}

func (m received) subject(t *testing.T) string {
	t.Helper()
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Msg.Header.Get("Subject"))
	if err != nil {
		t.Fatal(err)
	}
	return subject
}

func TestConnections(t *testing.T) {
	for _, c := range []struct {
		name string
		wish serverWish
		set  func(*Config)
		fail string // part of the error; empty: the mail arrives
		auth string
	}{
		{name: "STARTTLS"},
		{name: "implicit TLS", wish: serverWish{implicit: true}, set: func(c *Config) { c.TLS = "implicit" }},
		{name: "none, on this machine", wish: serverWish{plainText: true}, set: func(c *Config) { c.TLS = "none" }},
		{name: "STARTTLS is not offered", wish: serverWish{plainText: true}, fail: "STARTTLS"},
		{name: "a certificate of nobody", set: func(c *Config) { c.CA = "" }, fail: "certificate"},
		{name: "TLS 1.1", wish: serverWish{maxTLS: tls.VersionTLS11}, fail: "protocol version"},
		{name: "PLAIN", wish: serverWish{auth: []string{"PLAIN"}}, set: login("plain", "s3cret"), auth: "PLAIN"},
		{name: "LOGIN", wish: serverWish{auth: []string{"LOGIN"}}, set: login("login", "s3cret"), auth: "LOGIN"},
		{name: "what the server offers", wish: serverWish{auth: []string{"LOGIN", "PLAIN"}}, set: login("auto", "s3cret"), auth: "PLAIN"},
		{name: "wrong password", wish: serverWish{auth: []string{"PLAIN"}}, set: login("auto", "guess"), fail: "Authentication failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startMailServer(t, c.wish)
			cfg := testConfig(s)
			if c.set != nil {
				c.set(&cfg)
			}
			err := newMailer(t, cfg).Send(t.Context(), reset("bob@interior", "en"))
			if c.fail != "" {
				if err == nil || !strings.Contains(err.Error(), c.fail) {
					t.Fatalf("got %v, want an error with %q", err, c.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m := s.next(t)
			if m.To != "bob@interior" || m.From != "noreply@interior" || m.Auth != c.auth {
				t.Errorf("got from %s to %s by %q, want noreply@interior to bob@interior by %q", m.From, m.To, m.Auth, c.auth)
			}
			if want := cfg.TLS != "none"; (m.TLS >= tls.VersionTLS12) != want {
				t.Errorf("TLS: got version %x, want 1.2 or newer: %v", m.TLS, want)
			}
		})
	}
}

func login(way, password string) func(*Config) {
	return func(c *Config) { c.Auth, c.Username, c.Password = way, "chancery", password }
}

func TestEachLanguageSaysEveryMail(t *testing.T) {
	s := startMailServer(t, serverWish{})
	m := newMailer(t, testConfig(s))
	seen := map[string]bool{}
	for _, lang := range Languages {
		for _, template := range []string{"register", "add", "taken", "password", "changed", "missed"} {
			msg := reset("bob@interior", lang)
			msg.Template = template
			if template == "taken" || template == "changed" {
				msg.Data.Link = ""
			}
			if template == "missed" {
				msg.Data.Rooms = []Room{{Name: "Cabinet <1>", Link: "https://matrix.to/#/!r", More: 3}}
				msg.Data.Count, msg.Data.Link, msg.Unsubscribe = 8, "", "https://matrix.interior/unsubscribe?token=T"
				for _, kind := range []string{"encrypted", "image", "video", "audio", "file", "other", "invite"} {
					msg.Data.Rooms[0].Lines = append(msg.Data.Rooms[0].Lines, Line{Sender: "Alice", Time: "12:00", Kind: kind})
				}
				msg.Data.Rooms[0].Lines = append(msg.Data.Rooms[0].Lines, Line{Sender: "Alice", Kind: "text", Text: "<b>bold</b> & new"})
			}
			if err := m.Send(t.Context(), msg); err != nil {
				t.Fatalf("%s in %s: %v", template, lang, err)
			}
			got := s.next(t)
			subject := got.subject(t)
			text, html := got.parts(t)
			if seen[lang+subject] && template != "add" {
				t.Errorf("%s in %s: the subject %q is another mail's", template, lang, subject)
			}
			seen[lang+subject] = true
			if strings.Contains(text+html+subject, "no value") || !strings.Contains(text, "Chancery") || !strings.Contains(html, `lang="`+lang+`"`) {
				t.Errorf("%s in %s: got %s", template, lang, text)
			}
			if msg.Data.Link != "" && !strings.Contains(text, msg.Data.Link) {
				t.Errorf("%s in %s: the link is missing in %s", template, lang, text)
			}
			if template == "missed" && (!strings.Contains(html, "&lt;b&gt;bold&lt;/b&gt; &amp; new") || !strings.Contains(text, "<b>bold</b> & new") ||
				got.Msg.Header.Get("List-Unsubscribe") != "<https://matrix.interior/unsubscribe?token=T>") {
				t.Errorf("missed in %s: got %s\n%s", lang, got.Raw, html)
			}
		}
	}
}

func TestLanguage(t *testing.T) {
	for _, c := range []struct{ wanted, want string }{
		{"fr", "fr"}, {"fr-BE,fr;q=0.9,en;q=0.5", "fr"}, {"nl_NL", "nl"}, {"de-AT", "de"}, {"en-GB", "en"}, {"", "nl"}, {"ja", "nl"},
		{"ja, de;q=0.2", "de"}, {"*", "nl"}, {";;;", "nl"}, {strings.Repeat("fr,", 500), "nl"},
	} {
		if got := Language(c.wanted, "nl"); got != c.want {
			t.Errorf("Language(%q): got %s, want %s", c.wanted, got, c.want)
		}
	}
}

func TestAddress(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"alice@example.org", "alice@example.org"}, {" Alice.Doe+x@Example.ORG ", "alice.doe+x@example.org"}, {"a@b", "a@b"},
		{"", ""}, {"alice", ""}, {"@example.org", ""}, {"alice@", ""}, {"a@b@c", ""}, {"Alice <a@b>", ""}, {"a b@c", ""}, {`"a b"@c`, ""},
		{"a@b\r\nBcc: c@d", ""}, {"a@b\n", "a@b"}, {"a@b,c@d", ""}, {"a\x00@b", ""}, {"a\u2028b@c", ""}, {strings.Repeat("x", 250) + "@b.cd", ""},
	} {
		if got, _ := Address(c.text); got != c.want {
			t.Errorf("Address(%q): got %q, want %q", c.text, got, c.want)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"alice@example.org", "A <a@b>", "a@b\r\nBcc: c@d", "\"a\"@b", "a@[::1]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		address, err := Address(text)
		if err != nil {
			return
		}
		if again, err := Address(address); err != nil || again != address {
			t.Errorf("Address(%q) = %q, and that again %q, %v", text, address, again, err)
		}
		if strings.ContainsAny(address, "\r\n <>,") || len(address) > maxAddress {
			t.Errorf("Address(%q) = %q", text, address)
		}
	})
}

func TestNobodyAddsHeaders(t *testing.T) {
	s := startMailServer(t, serverWish{})
	m := newMailer(t, testConfig(s))
	if err := m.Send(t.Context(), reset("bob@interior\r\nBcc: eve@interior", "en")); err == nil || !Permanent(err) {
		t.Errorf("an address with a line break: got %v, want a refusal for good", err)
	}
	msg := Message{To: "bob@interior", Template: "missed", Data: Data{Count: 1, Rooms: []Room{{Name: "Cabinet\r\nBcc: eve@interior\u2028X", Link: "https://x/"}}}}
	if err := m.Send(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
	got := s.next(t)
	if got.Msg.Header.Get("Bcc") != "" || !strings.Contains(got.subject(t), "Cabinet") {
		t.Errorf("a room's name with line breaks: got headers %v", got.Msg.Header)
	}
	msg.Unsubscribe = "https://x/\r\nBcc: eve@interior"
	if err := m.Send(t.Context(), msg); err == nil {
		t.Error("a link with a line break was taken")
	}
}

func TestQueueTriesAgain(t *testing.T) {
	s := startMailServer(t, serverWish{})
	m := newMailer(t, testConfig(s))
	m.pauses = []time.Duration{time.Millisecond, time.Millisecond}
	s.refuse = []error{&smtp.SMTPError{Code: 451, Message: "later"}, &smtp.SMTPError{Code: 451, Message: "later"}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	if err := m.Queue(reset("bob@interior", "en")); err != nil {
		t.Fatal(err)
	}
	s.next(t)

	// Who is refused for good is not asked again: the next mail comes after one refusal.
	s.mu.Lock()
	s.refuse, s.dropped = []error{&smtp.SMTPError{Code: 550, Message: "no such mailbox"}}, 0
	s.mu.Unlock()
	if err := m.Queue(reset("nobody@interior", "en")); err != nil {
		t.Fatal(err)
	}
	if err := m.Queue(reset("carol@interior", "en")); err != nil {
		t.Fatal(err)
	}
	first := s.next(t)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run ended with %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped != 1 || first.To == "" {
		t.Errorf("got %d refusals, want one", s.dropped)
	}
}

func TestOperatorsTemplatesReplaceOurs(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("en.tmpl", `{{define "password.subject"}}Ministry: new password{{end}}`)
	write("layout.txt", "MINISTRY\n{{range .Paragraphs}}{{.}}\n{{end}}")
	s := startMailServer(t, serverWish{})
	cfg := testConfig(s)
	cfg.Templates = folder
	if err := newMailer(t, cfg).Send(t.Context(), reset("bob@interior", "en")); err != nil {
		t.Fatal(err)
	}
	got := s.next(t)
	text, _ := got.parts(t)
	if got.subject(t) != "Ministry: new password" || !strings.HasPrefix(text, "MINISTRY\nSomebody, perhaps you") {
		t.Errorf("got %q, %q", got.subject(t), text)
	}
	write("fr.tmpl", `{{define "x"}}`)
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "fr.tmpl") {
		t.Errorf("a broken template: got %v, want an error that names it", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if m, err := New(DefaultConfig()); m != nil || err != nil {
		t.Errorf("without a mail server: got %v, %v, want none", m, err)
	}
	var none *Mailer
	if err := none.Queue(Message{}); err != ErrOff {
		t.Errorf("Queue of none: got %v, want ErrOff", err)
	}
	for _, set := range []func(*Config){
		func(c *Config) { c.Server = "mail" }, func(c *Config) { c.Server = "mail:x" }, func(c *Config) { c.From = "" },
		func(c *Config) { c.From = "A <a@b>\r\nBcc: c@d" }, func(c *Config) { c.TLS = "maybe" }, func(c *Config) { c.Auth = "cram" },
		func(c *Config) { c.Language = "tlh" }, func(c *Config) { c.Timeout = 0 }, func(c *Config) { c.CA = "/nonexistent" },
	} {
		cfg := DefaultConfig()
		cfg.Server, cfg.From = "127.0.0.1:25", "a@b"
		set(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("taken: %+v", cfg)
		}
	}
}
