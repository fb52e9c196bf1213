// Package rooms is the rooms' chapter of the client API: create, membership, sending, reading, receipts, typing,
// directory, spaces, upgrades, delayed events.
//
// It owns no state but the timers of delayed events: what is read comes from storage through roomserver/view, what is
// to happen is asked of the room over the bus. Truths to keep:
//
//   - nothing here judges an event; the room loop does, and its refusal reaches the client as it is;
//   - who may read is decided in access.go (the room) and by view.Visible (each event), by nobody else;
//   - whoever may not read a room learns nothing of it: 403, or 404 for a single event, never an empty 200;
//   - a request that makes an event is idempotent by device, path and transaction ID, which travel in the proposal.
package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

// Config is what an operator may say about rooms.
type Config struct {
	// ServerName is the name in user IDs. cmd fills it in.
	ServerName string `yaml:"-"`
	// DefaultVersion is the version of rooms whose creator names none.
	DefaultVersion id.RoomVersion `yaml:"-"`
	// MaxDelay bounds the delay of delayed events. Default 24h.
	MaxDelay time.Duration `yaml:"max_delay"`
	// MaxDelayed bounds the delayed events that one user may have waiting. Default 100.
	MaxDelayed int `yaml:"max_delayed"`
}

// DefaultConfig has the defaults named above.
func DefaultConfig() Config {
	return Config{DefaultVersion: id.RoomV11, MaxDelay: 24 * time.Hour, MaxDelayed: 100}
}

// Handlers serves the rooms' chapter. It is safe for concurrent use.
type Handlers struct {
	cfg     Config
	store   *storage.Store
	bus     *bus.Bus
	view    *view.Reader
	bridges Bridges
	index   *index
	now     func() time.Time
}

// Bridges are the application services, as far as rooms need them.
type Bridges interface {
	// MayChangeAlias refuses an alias that belongs to another than by, who is an application service or none.
	MayChangeAlias(by rest.Application, alias id.RoomAlias) error
	// QueryAlias has a service make the alias, if one wants to; true if it has.
	QueryAlias(ctx context.Context, alias id.RoomAlias) bool
}

// New makes the handlers. Delayed events are sent, and the search index is fed, by Run alone.
func New(cfg Config, store *storage.Store, b *bus.Bus, v *view.Reader, bridges Bridges) *Handlers {
	return &Handlers{cfg: cfg, store: store, bus: b, view: v, bridges: bridges, index: newIndex(store), now: time.Now}
}

// ask puts a question to a room.
func (h *Handlers) ask(ctx context.Context, room id.RoomID, q bus.RoomQuestion) ([]bus.Outcome, error) {
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, h.bus, bus.RoomDo(room), q)
	return answer.Outcomes, err
}

// propose has the room make an event, and gives its ID.
func (h *Handlers) propose(ctx context.Context, room id.RoomID, p bus.Proposal) (id.EventID, error) {
	if err := h.welcome(ctx, p); err != nil {
		return "", err
	}
	outcomes, err := h.ask(ctx, room, bus.RoomQuestion{Propose: &p})
	if err != nil {
		return "", err
	}
	outcome, err := single(outcomes)
	if err != nil {
		return "", err
	}
	return outcome.EventID, nil
}

// draft has the room build and authorise an event without making it so.
func (h *Handlers) draft(ctx context.Context, room id.RoomID, p bus.Proposal) (bus.Outcome, error) {
	outcomes, err := h.ask(ctx, room, bus.RoomQuestion{Draft: &p})
	if err != nil {
		return bus.Outcome{}, err
	}
	return single(outcomes)
}

// single takes the one outcome of a question that has one, and makes a refusal of a rejection.
func single(outcomes []bus.Outcome) (bus.Outcome, error) {
	if len(outcomes) != 1 {
		return bus.Outcome{}, fmt.Errorf("room gave %d outcomes, not one", len(outcomes))
	}
	o := outcomes[0]
	switch o.Verdict {
	case bus.Accepted, bus.Known, "":
		return o, nil
	case bus.Missing:
		return o, fmt.Errorf("room lacks %d parents of %s", len(o.Missing), o.EventID)
	}
	return o, mautrix.MForbidden.WithMessage("%s", o.Reason)
}

// federation puts a question to other servers.
func (h *Handlers) federation(ctx context.Context, q bus.FederationQuestion) (bus.FederationAnswer, error) {
	return bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo, q)
}

// local says whether the user is one of this server's.
func (h *Handlers) local(user id.UserID) bool { return user.Homeserver() == h.cfg.ServerName }

// object encodes what is known to be encodable: structs and maps of plain values.
func object(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// eventAnswer is the answer of requests that make an event.
type eventAnswer struct {
	EventID id.EventID `json:"event_id"`
}

// viewer is for whom a request's events are rendered.
func viewer(r *rest.Request) view.Viewer { return view.Viewer{User: r.By.User, Device: r.By.Device} }
