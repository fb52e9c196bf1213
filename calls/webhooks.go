package calls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"

	"chancery/calls/signal"
)

// An address of the operator's is told of each call's life, in LiveKit's words and signed as LiveKit signs: with a token over
// the body's hash. No caller ever names an address.

const (
	hookQueue   = 4096
	hookTries   = 4
	hookPause   = 500 * time.Millisecond
	hookTime    = 10 * time.Second
	hookTokenOf = 5 * time.Minute
)

// hooks tells in the order in which things happened.
type hooks struct {
	url    string
	tokens tokens
	client *http.Client
	queue  chan *signal.WebhookEvent
}

func newHooks(config Config, keys tokens) *hooks {
	if config.Webhook == "" {
		return nil
	}
	return &hooks{
		url: config.Webhook, tokens: keys, queue: make(chan *signal.WebhookEvent, hookQueue),
		client: &http.Client{Timeout: hookTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// tell hands an event over. It never blocks: what does not fit is lost, and counted. A nil *hooks tells nobody.
func (h *hooks) tell(event string, room *signal.Room, p *signal.Participant, track *signal.Track) {
	if h == nil {
		return
	}
	e := &signal.WebhookEvent{Event: event, Id: newID("EV_"), CreatedAt: h.tokens.now().Unix(), Room: room, Participant: p, Track: track}
	select {
	case h.queue <- e:
	default:
		hooksTold.WithLabelValues("lost").Inc()
	}
}

// run tells until ctx ends.
func (h *hooks) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-h.queue:
			h.deliver(ctx, e)
		}
	}
}

// drain waits a while for what is still to be told.
func (h *hooks) drain(ctx context.Context, patience time.Duration) {
	for end := time.Now().Add(patience); len(h.queue) > 0 && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// deliver posts an event, a few times if need be.
func (h *hooks) deliver(ctx context.Context, e *signal.WebhookEvent) {
	pause := hookPause
	for try := 1; ; try++ {
		err := h.post(ctx, e)
		if err == nil {
			hooksTold.WithLabelValues("ok").Inc()
			return
		}
		if try >= hookTries || ctx.Err() != nil {
			hooksTold.WithLabelValues("failed").Inc()
			zerolog.Ctx(ctx).Warn().Err(err).Str("event", e.Event).Msg("Webhook of calls not delivered")
			return
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		pause *= 2
	}
}

// hookClaims sign a body by its hash.
type hookClaims struct {
	jwt.RegisteredClaims
	SHA256 string `json:"sha256"`
}

func (h *hooks) post(ctx context.Context, e *signal.WebhookEvent) error {
	body, err := signal.EncodeEvent(e)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	now := h.tokens.now()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, hookClaims{
		RegisteredClaims: jwt.RegisteredClaims{Issuer: h.tokens.key, NotBefore: jwt.NewNumericDate(now.Add(-10 * time.Second)), ExpiresAt: jwt.NewNumericDate(now.Add(hookTokenOf))},
		SHA256:           base64.StdEncoding.EncodeToString(sum[:]),
	}).SignedString(h.tokens.secret)
	if err != nil {
		return fmt.Errorf("sign webhook: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/webhook+json")
	req.Header.Set("Authorization", token)
	resp, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4096) // so that the connection may serve again
	if resp.StatusCode/100 != 2 {
		return errors.New("the address answers " + resp.Status)
	}
	return nil
}

// described is the call as hooks tell of it, without one who leaves it, or nil.
func (r *Room) described(leaver *Participant) *signal.Room {
	n := headcount{}
	for _, p := range *r.everyone.Load() {
		if p != leaver && !p.data.hidden.Load() {
			n.members++
		}
	}
	return r.describe(n)
}

// hook tells of p, or of a track of its own that others know.
func (p *Participant) hook(event string, t *publication) {
	h := p.room.focus.hooks
	if h == nil || t != nil && !t.live {
		return
	}
	var track *signal.Track
	if t != nil {
		track = signal.Clone(t.info)
	}
	var leaver *Participant
	if p.ended() {
		leaver = p
	}
	h.tell(event, p.room.described(leaver), p.snapshot().info, track)
}
