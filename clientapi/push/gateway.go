package push

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/storage"
)

var sentNotifications = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "chancery_push_notifications_total", Help: "Notifications for gateways, by what became of them.",
}, []string{"outcome"})

const (
	// maxWaiting bounds what waits for one pusher; beyond it the oldest goes.
	maxWaiting = 64
	// tries, and the first pause between them; each pause is twice the one before.
	tries       = 8
	firstPause  = time.Second
	gatewayTime = 20 * time.Second
	maxResponse = 64 << 10
	idlePusher  = time.Minute
)

// gateways hold a queue for each pusher that has something to tell.
type gateways struct {
	*Handlers
	mu      sync.Mutex
	queues  map[pusherName]chan notification
	running sync.WaitGroup
}

type pusherName struct {
	user           id.UserID
	appID, pushKey string
}

// notification is what waits for one pusher.
type notification struct {
	pusher *storage.Pusher
	body   []byte
	since  time.Time
}

func newGateways(h *Handlers) *gateways {
	return &gateways{Handlers: h, queues: map[pusherName]chan notification{}}
}

// wait ends when all queues have: they end with their context.
func (g *gateways) wait() { g.running.Wait() }

// message is the body of a notification.
// Spec: push-gateway-api/#post_matrixpushv1notify
type message struct {
	EventID      id.EventID      `json:"event_id,omitempty"`
	RoomID       id.RoomID       `json:"room_id,omitempty"`
	Type         string          `json:"type,omitempty"`
	Sender       id.UserID       `json:"sender,omitempty"`
	SenderName   string          `json:"sender_display_name,omitempty"`
	RoomName     string          `json:"room_name,omitempty"`
	RoomAlias    string          `json:"room_alias,omitempty"`
	UserIsTarget bool            `json:"user_is_target,omitempty"`
	Priority     string          `json:"prio,omitempty"`
	Content      json.RawMessage `json:"content,omitempty"`
	Counts       counts          `json:"counts"`
	Devices      []device        `json:"devices"`
}

type counts struct {
	Unread int `json:"unread"`
}

type device struct {
	AppID     string                     `json:"app_id"`
	PushKey   string                     `json:"pushkey"`
	PushKeyTS int64                      `json:"pushkey_ts,omitempty"`
	Data      json.RawMessage            `json:"data,omitempty"`
	Tweaks    map[string]json.RawMessage `json:"tweaks,omitempty"`
}

// send queues an event for a user's pushers.
func (g *gateways) send(ctx context.Context, user id.UserID, pushers []*storage.Pusher, e *storage.Event, v rules.Verdict, unread int) error {
	var whole *message
	for _, p := range pushers {
		if !p.Enabled || p.Kind != "http" {
			continue
		}
		m := message{EventID: e.ID, RoomID: e.RoomID, Priority: priority(e, v)}
		if gjson.GetBytes(p.Data, "format").Str != "event_id_only" {
			if whole == nil {
				var err error
				if whole, err = g.whole(ctx, user, e, m.Priority); err != nil {
					return err
				}
			}
			m = *whole
		}
		m.Counts.Unread = unread
		m.Devices = []device{{AppID: p.AppID, PushKey: p.PushKey, PushKeyTS: p.Created / 1000, Data: withoutURL(p.Data), Tweaks: v.Tweaks}}
		g.queue(ctx, p, m)
	}
	return nil
}

// sendBadge queues a changed count for a user's pushers.
func (g *gateways) sendBadge(ctx context.Context, pushers []*storage.Pusher, unread int) {
	for _, p := range pushers {
		if p.Enabled && p.Kind == "http" {
			g.queue(ctx, p, message{Counts: counts{unread}, Devices: []device{{AppID: p.AppID, PushKey: p.PushKey, PushKeyTS: p.Created / 1000, Data: withoutURL(p.Data)}}})
		}
	}
}

// whole is a notification with all that a gateway may show.
func (g *gateways) whole(ctx context.Context, user id.UserID, e *storage.Event, prio string) (*message, error) {
	m := &message{
		EventID: e.ID, RoomID: e.RoomID, Type: e.Type, Sender: e.Sender, Priority: prio,
		Content:      json.RawMessage(gjson.GetBytes(e.JSON, "content").Raw),
		UserIsTarget: e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == string(user),
	}
	summary, err := g.view.Summary(ctx, e.RoomID)
	if err != nil {
		return nil, err
	}
	if summary != nil {
		m.RoomName, m.RoomAlias = summary.Name, string(summary.CanonicalAlias)
	}
	sender, err := g.store.Memberships.Of(ctx, e.RoomID, e.Sender)
	if err != nil || sender == nil {
		return m, err
	}
	events, err := g.store.Events.ByNumbers(ctx, []int64{sender.Event})
	if err == nil && len(events) > 0 {
		m.SenderName = gjson.GetBytes(events[0].JSON, "content.displayname").Str
	}
	return m, err
}

// priority is low for what makes no sound and is not meant for the user; what is encrypted may be either.
func priority(e *storage.Event, v rules.Verdict) string {
	if _, sounds := v.Tweaks["sound"]; sounds || v.Highlight || e.Type == "m.room.encrypted" {
		return "high"
	}
	return "low"
}

func withoutURL(data json.RawMessage) json.RawMessage {
	rest, err := sjson.DeleteBytes(data, "url")
	if err != nil || len(rest) <= len("{}") {
		return nil
	}
	return rest
}

// queue never waits: a gateway that does not keep up loses its oldest.
func (g *gateways) queue(ctx context.Context, p *storage.Pusher, m message) {
	body, err := json.Marshal(struct {
		Notification message `json:"notification"`
	}{m})
	if err != nil {
		zerolog.Ctx(ctx).Error().Err(err).Msg("Notification cannot be written")
		return
	}
	name := pusherName{p.UserID, p.AppID, p.PushKey}
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.queues[name]
	if q == nil {
		q = make(chan notification, maxWaiting)
		g.queues[name] = q
		g.running.Go(func() { g.drain(ctx, name, q) })
	}
	for {
		select {
		case q <- notification{p, body, time.Now()}:
			return
		default:
		}
		select {
		case <-q:
			sentNotifications.WithLabelValues("crowded out").Inc()
		default:
		}
	}
}

// drain sends what waits for one pusher, in order, until nothing has come for a while.
func (g *gateways) drain(ctx context.Context, name pusherName, q chan notification) {
	idle := time.NewTimer(idlePusher)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-q:
			g.deliver(ctx, n)
			idle.Reset(idlePusher)
		case <-idle.C:
			g.mu.Lock()
			if len(q) == 0 {
				delete(g.queues, name)
				g.mu.Unlock()
				return
			}
			g.mu.Unlock()
			idle.Reset(idlePusher)
		}
	}
}

// deliver tries until the gateway has taken it, or it is too old.
func (g *gateways) deliver(ctx context.Context, n notification) {
	pause := firstPause
	for range tries {
		if time.Since(n.since) > tooOld {
			break
		}
		rejected, err := g.post(ctx, n)
		if err == nil {
			outcome := "sent"
			for _, pushKey := range rejected {
				if pushKey == n.pusher.PushKey {
					outcome = "rejected"
					g.forget(ctx, n.pusher)
				}
			}
			sentNotifications.WithLabelValues(outcome).Inc()
			return
		}
		zerolog.Ctx(ctx).Debug().Err(err).Stringer("user_id", n.pusher.UserID).Msg("Gateway not reached, will try again")
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause *= 2
	}
	sentNotifications.WithLabelValues("given up").Inc()
}

// post gives the push keys that the gateway does not know any more.
func (g *gateways) post(ctx context.Context, n notification) (rejected []string, err error) {
	to, err := gateway(n.pusher.Data)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	ctx, stop := context.WithTimeout(ctx, gatewayTime)
	defer stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(n.body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := g.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		return nil, fmt.Errorf("gateway answered %d", response.StatusCode)
	}
	gjson.GetBytes(body, "rejected").ForEach(func(_, v gjson.Result) bool {
		rejected = append(rejected, v.Str)
		return true
	})
	return rejected, nil
}

// forget removes a pusher whose key the gateway does not know any more.
func (g *gateways) forget(ctx context.Context, p *storage.Pusher) {
	err := g.store.Do(ctx, func(ctx context.Context) error { return g.store.Pushers.Delete(ctx, p.UserID, p.AppID, p.PushKey) })
	if err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Stringer("user_id", p.UserID).Msg("Rejected pusher not removed")
	}
}
