// Package mail writes the server's e-mails and hands them to a mail server.
//
// What a mail says stands in templates: one file for each language, and a layout for each of its two forms (text and
// HTML); an operator's folder may replace any of them. The account and push chapters say which mail and with what, and
// see neither SMTP nor MIME. Truths to keep:
//
//   - an address or a subject never becomes another header: what holds a line break is refused;
//   - neither addresses nor contents are logged;
//   - whoever answers a request uses Queue, which does not wait: how long a mail takes would tell whether an address is known.
//
// SMTP and MIME are github.com/wneessen/go-mail's: it is well kept, stands on the standard library alone, and knows
// STARTTLS, implicit TLS and the usual ways to log in.
package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	gomail "github.com/wneessen/go-mail"
)

var sentMails = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "chancery_mails_total", Help: "E-mails, by what became of them.",
}, []string{"outcome"})

// Config is what an operator may say about e-mail.
type Config struct {
	// Server is the mail server that takes our mails, as "host:port". Default none: this server sends no e-mail, and
	// whatever needs one says so.
	Server string `yaml:"server"`
	// TLS is how the connection is protected: "starttls" (the default, and never without), "implicit" (port 465), or
	// "none" for a mail server on this very machine.
	TLS string `yaml:"tls"`
	// CA is a file with the certificates (PEM) that the mail server's has to be signed by. Default: those of the system.
	CA string `yaml:"ca"`
	// Username to log in with at the mail server. Default none: no login.
	Username string `yaml:"username"`
	// Password that goes with it. Written as `!file PATH` it stays out of this file.
	Password string `yaml:"password"`
	// Auth is how to log in: "auto" (the default), "plain" or "login".
	Auth string `yaml:"auth"`
	// From is the sender, like "Chancery <noreply@example.org>". Needed with server.
	From string `yaml:"from"`
	// AppName is what mails call this service. Default: the server name.
	AppName string `yaml:"app_name"`
	// ClientURL is what links to rooms begin with; room and event follow. Default "https://matrix.to/#/".
	ClientURL string `yaml:"client_url"`
	// Language of mails to people whose language is not known: "en" (the default), "fr", "nl" or "de".
	Language string `yaml:"language"`
	// Templates is a folder whose files replace ours of the same name (en.tmpl, fr.tmpl, nl.tmpl, de.tmpl, layout.txt,
	// layout.html). Default none. A definition that is missing there is taken from ours.
	Templates string `yaml:"templates"`
	// Timeout bounds each conversation with the mail server. Default 30s.
	Timeout time.Duration `yaml:"timeout"`
}

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{TLS: "starttls", Auth: "auto", ClientURL: "https://matrix.to/#/", Language: "en", Timeout: 30 * time.Second}
}

// Message is one e-mail to be.
type Message struct {
	// To is the address, as Address gives it.
	To string
	// Lang is the reader's language, or a list of them as browsers send it; another than ours is the configured one.
	Lang string
	// Template is the name of the mail in the language files: register, add, taken, password, changed, missed, renew.
	Template string
	Data     Data
	// Unsubscribe is a link that ends mails of this kind, or empty.
	Unsubscribe string
}

// Mailer sends e-mails. A nil one sends none.
type Mailer struct {
	cfg    Config
	host   string
	port   int
	roots  *x509.CertPool
	texts  *texts
	queue  chan Message
	pauses []time.Duration
}

// maxQueue bounds the mails that wait for the mail server.
const maxQueue = 1000

// ErrOff is what Queue and Send of a nil Mailer return.
var ErrOff = errors.New("mail: no mail server is configured")

// New makes it; nil if no mail server is configured.
func New(cfg Config) (*Mailer, error) {
	if cfg.Server == "" {
		return nil, nil
	}
	m := &Mailer{cfg: cfg, queue: make(chan Message, maxQueue), pauses: []time.Duration{5 * time.Second, 30 * time.Second, 3 * time.Minute}}
	host, port, err := net.SplitHostPort(cfg.Server)
	if err == nil {
		m.host = host
		m.port, err = strconv.Atoi(port)
	}
	if err != nil || m.host == "" || m.port < 1 || m.port > 65535 {
		return nil, fmt.Errorf("mail.server: %q is not host:port", cfg.Server)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("mail.ca: %w", err)
		}
		m.roots = x509.NewCertPool()
		if !m.roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("mail.ca: no certificate in %s", cfg.CA)
		}
	}
	m.texts, err = loadTexts(cfg.Templates)
	return m, err
}

func (c Config) validate() error {
	switch {
	case c.TLS != "starttls" && c.TLS != "implicit" && c.TLS != "none":
		return fmt.Errorf("mail.tls: %q is none of starttls, implicit, none", c.TLS)
	case c.Auth != "auto" && c.Auth != "plain" && c.Auth != "login":
		return fmt.Errorf("mail.auth: %q is none of auto, plain, login", c.Auth)
	case c.Timeout < time.Second:
		return errors.New("mail.timeout has to be at least 1s")
	case !known(c.Language):
		return fmt.Errorf("mail.language: there are no mails in %q", c.Language)
	}
	if _, _, err := sender(c.From); err != nil {
		return fmt.Errorf("mail.from: %w", err)
	}
	return nil
}

// AppName is what mails call this service.
func (m *Mailer) AppName() string { return m.cfg.AppName }

// RoomLink is where a click on a room, or an event of it, leads.
func (m *Mailer) RoomLink(room, event string) string {
	if event != "" {
		event = "/" + event
	}
	return m.cfg.ClientURL + room + event
}

// Queue has Run send a mail; it never waits. What the mail server does not take is tried again for some minutes, and
// not after a restart.
func (m *Mailer) Queue(msg Message) error {
	if m == nil {
		return ErrOff
	}
	select {
	case m.queue <- msg:
		return nil
	default:
		sentMails.WithLabelValues("crowded out").Inc()
		return errors.New("mail: too many are waiting")
	}
}

// senders is how many conversations with the mail server may go on at once.
const senders = 2

// Run sends what is queued, until ctx ends.
func (m *Mailer) Run(ctx context.Context) error {
	if m == nil {
		<-ctx.Done()
		return nil
	}
	done := make(chan struct{})
	for range senders {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				select {
				case <-ctx.Done():
					return
				case msg := <-m.queue:
					m.deliver(ctx, msg)
				}
			}
		}()
	}
	for range senders {
		<-done
	}
	return nil
}

// deliver tries until the mail server has taken the mail, or refused it for good.
func (m *Mailer) deliver(ctx context.Context, msg Message) {
	for try := 0; ; try++ {
		err := m.Send(ctx, msg)
		if err == nil {
			return
		}
		if Permanent(err) || try == len(m.pauses) || ctx.Err() != nil {
			zerolog.Ctx(ctx).Warn().Str("mail", msg.Template).Str("reason", blind(err, msg.To)).Msg("E-mail could not be sent")
			return
		}
		timer := time.NewTimer(m.pauses[try])
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// blind takes the address out of what a mail server said.
func blind(err error, address string) string {
	return strings.ReplaceAll(err.Error(), address, "<address>")
}

// Permanent says whether sending the same again would fail again.
func Permanent(err error) bool {
	var refused *gomail.SendError
	return errors.Is(err, errWords) || errors.As(err, &refused) && !refused.IsTemp() && refused.ErrorCode()/100 == 5
}

// errWords is a mail that cannot be written.
var errWords = errors.New("mail cannot be written")

// Send sends a mail now.
func (m *Mailer) Send(ctx context.Context, msg Message) error {
	if m == nil {
		return ErrOff
	}
	err := m.send(ctx, msg)
	switch {
	case err == nil:
		sentMails.WithLabelValues("sent").Inc()
	case Permanent(err):
		sentMails.WithLabelValues("refused").Inc()
	default:
		sentMails.WithLabelValues("failed").Inc()
	}
	return err
}

func (m *Mailer) send(ctx context.Context, msg Message) error {
	written, err := m.write(msg)
	if err != nil {
		return fmt.Errorf("%w: %w", errWords, err)
	}
	client, err := m.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	return client.DialAndSendWithContext(ctx, written)
}

// client is a way to the mail server, for one conversation.
func (m *Mailer) client() (*gomail.Client, error) {
	options := []gomail.Option{
		gomail.WithPort(m.port), gomail.WithTimeout(m.cfg.Timeout), gomail.WithoutNoop(),
		gomail.WithTLSConfig(&tls.Config{ServerName: m.host, RootCAs: m.roots, MinVersion: tls.VersionTLS12}),
	}
	switch m.cfg.TLS {
	case "starttls":
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case "implicit":
		options = append(options, gomail.WithSSL())
	case "none":
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	}
	if m.cfg.Username != "" {
		options = append(options, gomail.WithUsername(m.cfg.Username), gomail.WithPassword(m.cfg.Password), gomail.WithSMTPAuth(m.way()))
	}
	return gomail.NewClient(m.host, options...)
}

func (m *Mailer) way() gomail.SMTPAuthType {
	open := m.cfg.TLS == "none" // the operator said so: it is this machine
	switch {
	case m.cfg.Auth == "plain" && open:
		return gomail.SMTPAuthPlainNoEnc
	case m.cfg.Auth == "plain":
		return gomail.SMTPAuthPlain
	case m.cfg.Auth == "login" && open:
		return gomail.SMTPAuthLoginNoEnc
	case m.cfg.Auth == "login":
		return gomail.SMTPAuthLogin
	}
	return gomail.SMTPAuthAutoDiscover
}

// write makes the mail.
func (m *Mailer) write(msg Message) (*gomail.Msg, error) {
	to, err := Address(msg.To)
	if err != nil {
		return nil, err
	}
	msg.Data.App = m.cfg.AppName
	subject, text, html, err := m.texts.render(Language(msg.Lang, m.cfg.Language), msg)
	if err != nil {
		return nil, err
	}
	name, address, err := sender(m.cfg.From)
	if err != nil {
		return nil, err
	}
	out := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	if err := errors.Join(out.FromFormat(name, address), out.To(to)); err != nil {
		return nil, err
	}
	out.Subject(subject)
	out.SetDate()
	out.SetMessageIDWithValue(messageID(address))
	out.SetGenHeader("Auto-Submitted", "auto-generated")
	if msg.Unsubscribe != "" {
		if oneLine(msg.Unsubscribe) != nil {
			return nil, errors.New("the link to unsubscribe holds a line break")
		}
		out.SetGenHeader(gomail.HeaderListUnsubscribe, "<"+msg.Unsubscribe+">")
		out.SetGenHeader(gomail.HeaderListUnsubscribePost, "List-Unsubscribe=One-Click")
	}
	out.SetBodyString(gomail.TypeTextPlain, text)
	out.AddAlternativeString(gomail.TypeTextHTML, html)
	return out, nil
}
