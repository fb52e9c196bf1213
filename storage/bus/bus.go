// Package bus carries wake-ups, questions and ephemera between the components,
// over NATS: embedded without a listener, or an external server.
//
// It owns every subject and every message that components exchange
// (messages.go), so that none is spelled twice. Truths to keep:
//
//   - the bus carries names, not goods: nothing that matters tomorrow exists only here;
//   - a question stays under 256 KiB and has a deadline; it may be asked again,
//     so each answerer is idempotent;
//   - a lost message costs latency, never data: followers read the database.
package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
)

// Config says which NATS links the components.
type Config struct {
	// URL of an external NATS server ("nats://host:4222"). Empty: a server is
	// embedded in this process, without a listener. Default empty.
	URL string `yaml:"url"`
	// Credentials is a NATS .creds file for the external server. Default none.
	Credentials string `yaml:"credentials"`
	// User and Password authenticate at the external server, where it has no
	// credentials file. Default none.
	User     string `yaml:"user"`
	Password string `yaml:"password"`
	// CA, Certificate and Key are PEM files for TLS to the external server.
	// Default none (the system's authorities, when the URL says tls://).
	CA          string `yaml:"ca"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// Prefix stands before every subject; two homeservers that share one NATS
	// need two prefixes. Default "chancery".
	Prefix string `yaml:"prefix"`
}

// DefaultConfig is an embedded server.
func DefaultConfig() Config { return Config{Prefix: "chancery"} }

// MaxQuestion bounds the encoded size of one message in bytes. What outgrows
// it goes in pieces, or by number through storage.
const MaxQuestion = 256 << 10

// minPayload is the least max_payload that an external NATS must offer.
const minPayload = 1 << 20

// defaultPatience bounds a question whose context has no deadline.
const defaultPatience = 30 * time.Second

// ErrTooLarge says that a message is larger than the bus carries.
var ErrTooLarge = errors.New("bus: message larger than 1 MiB")

// ErrAway says that the external NATS is not connected just now.
var ErrAway = errors.New("bus: NATS is away")

// ErrFault is wrapped by the error of a question at which the answerer failed:
// it was asked, and something is broken there.
var ErrFault = errors.New("answerer failed")

var connected = promauto.NewGauge(prometheus.GaugeOpts{
	Name: "chancery_bus_connected", Help: "1 while NATS is connected, which links the processes of this server; always 1 where it is embedded.",
})

// Bus is one connection to NATS. It is safe for concurrent use.
type Bus struct {
	conn     *nats.Conn
	embedded *server.Server
	prefix   string
	desk     *desk // nil where the bus is embedded
}

// Open connects to the external NATS that cfg names, or starts an embedded one.
// It blocks until the connection stands or fails.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	b := &Bus{prefix: cfg.Prefix}
	if b.prefix != "" {
		b.prefix += "."
	}
	log := zerolog.Ctx(ctx)
	opts := []nats.Option{
		nats.Name("chancery"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200 * time.Millisecond),
		// What is said while NATS is away is not kept for later: by then its asker has given up, or asks anew.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			connected.Set(0)
			if err != nil { // nil: we closed it
				log.Warn().Err(err).Msg("NATS is away: components do not reach one another")
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			connected.Set(1)
			log.Info().Msg("NATS is back")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			ev := log.Warn().Err(err)
			if sub != nil {
				ev = ev.Str("subject", sub.Subject)
			}
			ev.Msg("Bus error")
		}),
	}
	url := cfg.URL
	if url == "" {
		ns, err := server.NewServer(&server.Options{
			DontListen: true, NoSigs: true, NoLog: true, MaxPayload: 8 << 20,
		})
		if err != nil {
			return nil, fmt.Errorf("embed NATS: %w", err)
		}
		go ns.Start()
		if !ns.ReadyForConnections(10 * time.Second) {
			return nil, errors.New("bus: embedded NATS did not start")
		}
		b.embedded = ns
		opts = append(opts, nats.InProcessServer(ns))
	} else {
		more, err := externalOptions(cfg)
		if err != nil {
			return nil, err
		}
		opts = append(opts, more...)
	}
	conn, err := nats.Connect(url, opts...)
	if err != nil {
		b.stopEmbedded()
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	if conn.MaxPayload() < minPayload {
		conn.Close()
		return nil, fmt.Errorf("bus: NATS offers max_payload %d, need at least %d", conn.MaxPayload(), minPayload)
	}
	b.conn = conn
	connected.Set(1)
	if b.embedded == nil {
		if b.desk, err = openDesk(conn, b.prefix); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return b, nil
}

func externalOptions(cfg Config) ([]nats.Option, error) {
	var opts []nats.Option
	if cfg.Credentials != "" {
		opts = append(opts, nats.UserCredentials(cfg.Credentials))
	}
	if cfg.User != "" {
		opts = append(opts, nats.UserInfo(cfg.User, cfg.Password))
	}
	if cfg.CA == "" && cfg.Certificate == "" {
		return opts, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("read NATS authority: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("bus: no certificate in %s", cfg.CA)
		}
	}
	if cfg.Certificate != "" {
		cert, err := tls.LoadX509KeyPair(cfg.Certificate, cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("read NATS certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return append(opts, nats.Secure(t)), nil
}

// Away is ErrAway while NATS is not connected, and nil while it is. It does not block.
func (b *Bus) Away() error {
	if !b.conn.IsConnected() {
		return ErrAway
	}
	return nil
}

// orAway names the error of what cannot be said because NATS is away.
func orAway(err error) error {
	if errors.Is(err, nats.ErrReconnectBufExceeded) {
		return ErrAway
	}
	return err
}

// Embedded reports whether all components share this process's own NATS.
func (b *Bus) Embedded() bool { return b.embedded != nil }

// Close drains the connection and stops the embedded server, if there is one.
func (b *Bus) Close() {
	if b.conn != nil {
		b.conn.Close()
	}
	b.stopEmbedded()
}

func (b *Bus) stopEmbedded() {
	if b.embedded != nil {
		b.embedded.Shutdown()
		b.embedded.WaitForShutdown()
	}
}

// reply is how an answer travels: exactly one field is set. The last two are the desk's.
type reply struct {
	OK      json.RawMessage `json:"ok,omitempty"`
	Refusal *Refusal        `json:"refusal,omitempty"`
	Fault   string          `json:"fault,omitempty"`
	// Desk is the subject to ask next: the answer takes longer. Lost says that it is no longer known there.
	Desk string `json:"desk,omitempty"`
	Lost bool   `json:"lost,omitempty"`
}

// patienceHeader bears how long the asker still waits, in milliseconds: a span, since the clocks of two hosts need not agree.
const patienceHeader = "Patience"

// Ask puts a question and waits for its answer. It asks again while nobody
// answers on the subject, and when the answerer dies over it, until ctx ends
// (at most 30 s if ctx has no deadline). A refusal by the answerer comes back
// as *Refusal; any other failure there as an error that wraps ErrFault.
func Ask[Req, Reply any](ctx context.Context, b *Bus, subject string, req Req) (Reply, error) {
	var answer Reply
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultPatience)
		defer cancel()
	}
	body, err := json.Marshal(req)
	if err != nil {
		return answer, fmt.Errorf("encode question %s: %w", subject, err)
	}
	if int64(len(body)) > b.conn.MaxPayload()-4096 {
		return answer, ErrTooLarge
	}
	deadline, _ := ctx.Deadline()
	msg := &nats.Msg{Subject: b.prefix + subject, Data: body, Header: nats.Header{}}
	wait := 2 * time.Millisecond
	for {
		msg.Header.Set(patienceHeader, strconv.FormatInt(time.Until(deadline).Milliseconds(), 10))
		r, err := b.ask(ctx, msg)
		if errors.Is(err, errAskAnew) {
			select {
			case <-ctx.Done():
				return answer, fmt.Errorf("nobody answers %s: %w", subject, ctx.Err())
			case <-time.After(wait):
				wait = min(2*wait, 200*time.Millisecond)
				continue
			}
		}
		if err != nil {
			return answer, fmt.Errorf("ask %s: %w", subject, err)
		}
		switch {
		case r.Refusal != nil:
			return answer, r.Refusal
		case r.Fault != "":
			return answer, fmt.Errorf("%s: %w: %s", subject, ErrFault, r.Fault)
		}
		if len(r.OK) > 0 {
			if err := json.Unmarshal(r.OK, &answer); err != nil {
				return answer, fmt.Errorf("decode answer of %s: %w", subject, err)
			}
		}
		return answer, nil
	}
}

// Question is one question under way.
type Question[Req, Reply any] struct {
	// Subject as it was asked, without the prefix.
	Subject string
	Body    Req

	slip     *slip
	deadline time.Time
}

// Context gives a context that ends with the asker's patience.
func (q *Question[Req, Reply]) Context(parent context.Context) (context.Context, context.CancelFunc) {
	return context.WithDeadline(parent, q.deadline)
}

// Respond answers the question, once; it does not block. A *Refusal in err's
// chain reaches the asker as such.
func (q *Question[Req, Reply]) Respond(answer Reply, err error) {
	var r reply
	if err == nil {
		r.OK, err = json.Marshal(answer)
	}
	if err != nil {
		var refusal *Refusal
		if errors.As(err, &refusal) {
			r.Refusal = refusal
		} else {
			r.Fault = err.Error()
		}
	}
	body, err := json.Marshal(r)
	if err != nil {
		body = []byte(`{"fault":"encode answer"}`)
	}
	q.slip.done(body)
}

// Serve hands each question on the subject to fn, in order of arrival and one
// at a time: fn must not block, and answers with Respond whenever it likes.
// Among several processes that serve the same subject, one gets each question.
func Serve[Req, Reply any](b *Bus, subject string, fn func(*Question[Req, Reply])) (stop func(), err error) {
	sub, err := b.conn.QueueSubscribe(b.prefix+subject, "answer", func(m *nats.Msg) {
		q := &Question[Req, Reply]{Subject: m.Subject[len(b.prefix):], slip: b.desk.take(m), deadline: time.Now().Add(patienceOf(m))}
		if err := json.Unmarshal(m.Data, &q.Body); err != nil {
			var none Reply
			q.Respond(none, fmt.Errorf("decode question: %w", err))
			return
		}
		fn(q)
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", subject, err)
	}
	// Questions are few and bounded by their askers; none may be dropped.
	_ = sub.SetPendingLimits(-1, -1)
	if err := b.conn.Flush(); err != nil {
		return nil, fmt.Errorf("serve %s: %w", subject, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// patienceOf is how long the asker of a question still waits.
func patienceOf(m *nats.Msg) time.Duration {
	ms, err := strconv.ParseInt(m.Header.Get(patienceHeader), 10, 64)
	if err != nil {
		return defaultPatience
	}
	return time.Duration(ms) * time.Millisecond
}

// Answer answers each question on the subject in a goroutine of its own, with a
// context that ends with the asker's patience.
func Answer[Req, Reply any](ctx context.Context, b *Bus, subject string, fn func(ctx context.Context, subject string, req Req) (Reply, error)) (stop func(), err error) {
	return Serve(b, subject, func(q *Question[Req, Reply]) {
		go func() {
			qctx, cancel := q.Context(ctx)
			defer cancel()
			defer func() {
				if p := recover(); p != nil {
					zerolog.Ctx(ctx).Error().Interface("panic", p).Str("subject", q.Subject).Msg("Answerer panicked")
					var none Reply
					q.Respond(none, errors.New("internal fault"))
				}
			}()
			answer, err := fn(qctx, q.Subject, q.Body)
			q.Respond(answer, err)
		}()
	})
}

// Tell sends a message to all who listen now. Nobody need listen: while NATS is away it is lost, which is no error.
func Tell[M any](b *Bus, subject string, m M) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", subject, err)
	}
	if err := orAway(b.conn.Publish(b.prefix+subject, body)); err != nil && !errors.Is(err, ErrAway) {
		return fmt.Errorf("tell %s: %w", subject, err)
	}
	return nil
}

// Listen hands each message on the subject (which may hold NATS wildcards) to
// fn, one at a time; fn must not block. Under overload messages are dropped:
// listeners must survive that.
func Listen[M any](b *Bus, subject string, fn func(subject string, m M)) (stop func(), err error) {
	sub, err := b.conn.Subscribe(b.prefix+subject, func(msg *nats.Msg) {
		var m M
		if json.Unmarshal(msg.Data, &m) == nil {
			fn(msg.Subject[len(b.prefix):], m)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", subject, err)
	}
	if err := b.conn.Flush(); err != nil {
		return nil, fmt.Errorf("listen %s: %w", subject, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
