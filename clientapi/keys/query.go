package keys

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// Bounds of one request.
const (
	maxUsers  = 10_000
	usersAsk  = 100 // users asked of another server in one question: the bus carries small things
	maxRemote = 20 * time.Second
)

// queried is what a query answers, for clients and from other servers.
type queried struct {
	mu          sync.Mutex
	Failures    map[string]any                                `json:"failures"`
	Devices     map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	Master      map[id.UserID]json.RawMessage                 `json:"master_keys"`
	SelfSigning map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
	UserSigning map[id.UserID]json.RawMessage                 `json:"user_signing_keys"`
}

// Query handles POST /_matrix/client/v3/keys/query.
// Spec: client-server-api/#post_matrixclientv3keysquery
func (h *Handlers) Query(r *rest.Request) (any, error) {
	var body struct {
		Timeout int64                       `json:"timeout"`
		Users   map[id.UserID][]id.DeviceID `json:"device_keys"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if len(body.Users) > maxUsers {
		return nil, mautrix.MTooLarge.WithMessage("At most %d users at once", maxUsers)
	}
	q := &queried{
		Failures: map[string]any{}, Devices: map[id.UserID]map[id.DeviceID]json.RawMessage{},
		Master: map[id.UserID]json.RawMessage{}, SelfSigning: map[id.UserID]json.RawMessage{}, UserSigning: map[id.UserID]json.RawMessage{},
	}
	abroad := map[string]map[id.UserID][]id.DeviceID{}
	for user, devices := range body.Users {
		if !rest.ValidUserID(user) {
			return nil, mautrix.MInvalidParam.WithMessage("device_keys names somebody who is no user")
		}
		if h.local(user) {
			if err := h.addPublished(r.Context(), q, user, r.By.User, devices); err != nil {
				return nil, err
			}
			continue
		}
		known, err := h.addCopy(r.Context(), q, user, r.By.User, devices)
		if err != nil {
			return nil, err
		}
		if !known {
			server := user.Homeserver()
			if abroad[server] == nil {
				abroad[server] = map[id.UserID][]id.DeviceID{}
			}
			abroad[server][user] = devices
		}
	}
	h.queryAbroad(r.Context(), q, abroad, patience(body.Timeout))
	return q, nil
}

// patience is how long other servers are waited for, by the client's wish.
func patience(ms int64) time.Duration {
	wish := time.Duration(min(ms, maxRemote.Milliseconds())) * time.Millisecond
	if wish <= 0 {
		return 10 * time.Second
	}
	return wish
}

// addPublished adds the keys that we hold of a user. No devices named means all of them.
func (h *Handlers) addPublished(ctx context.Context, q *queried, user, viewer id.UserID, devices []id.DeviceID) error {
	p, err := h.store.Keys.Published(ctx, user, viewer)
	if err != nil {
		return err
	}
	shown := make(map[id.DeviceID]json.RawMessage, len(p.Devices))
	for _, d := range p.Devices {
		if len(devices) > 0 && !slices.Contains(devices, d.DeviceID) {
			continue
		}
		if d.DisplayName != "" {
			if d.JSON, err = sjson.SetBytes(d.JSON, "unsigned.device_display_name", d.DisplayName); err != nil {
				return err
			}
		}
		shown[d.DeviceID] = d.JSON
	}
	q.Devices[user] = shown
	for into, key := range map[*map[id.UserID]json.RawMessage]json.RawMessage{&q.Master: p.Master, &q.SelfSigning: p.SelfSigning, &q.UserSigning: p.UserSigning} {
		if key != nil {
			(*into)[user] = key
		}
	}
	return nil
}

// addCopy adds our copy of another server's user's keys; false if there is none that can be believed, or if the viewer
// shares no room with the user: then nobody keeps it up to date.
func (h *Handlers) addCopy(ctx context.Context, q *queried, user, viewer id.UserID, devices []id.DeviceID) (bool, error) {
	list, err := h.store.DeviceLists.Remote(ctx, user)
	if err != nil || list == nil || list.Stale {
		return false, err
	}
	if share, err := h.store.Memberships.DoShare(ctx, user, viewer); err != nil || !share {
		return false, err
	}
	return true, h.addPublished(ctx, q, user, viewer, devices)
}

// queryAbroad asks all servers at once. One that does not answer in time is named among the failures.
func (h *Handlers) queryAbroad(ctx context.Context, q *queried, abroad map[string]map[id.UserID][]id.DeviceID, wait time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for server, users := range abroad {
		for names := range slices.Chunk(slices.Sorted(maps.Keys(users)), usersAsk) {
			part := make(map[id.UserID][]id.DeviceID, len(names))
			for _, user := range names {
				part[user] = users[user]
			}
			wg.Go(func() {
				raw, err := h.askFederation(ctx, bus.FederationQuestion{QueryKeys: &bus.QueryKeys{Server: server, Users: part}})
				q.take(ctx, server, part, raw, err)
			})
		}
	}
}

// take adds what a server said of its own users.
func (q *queried) take(ctx context.Context, server string, asked map[id.UserID][]id.DeviceID, raw json.RawMessage, err error) {
	var answer queried
	if err == nil {
		err = json.Unmarshal(raw, &answer)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		zerolog.Ctx(ctx).Info().Err(err).Str("server", server).Msg("Keys of another server's users not received")
		q.Failures[server] = failure{Code: "M_UNAVAILABLE", Message: "The server did not answer"}
		return
	}
	for user := range asked {
		if devices, ok := answer.Devices[user]; ok {
			q.Devices[user] = devices
		}
		if key, ok := answer.Master[user]; ok {
			q.Master[user] = key
		}
		if key, ok := answer.SelfSigning[user]; ok {
			q.SelfSigning[user] = key
		}
	}
}

// failure is one entry of a "failures" object.
type failure struct {
	Code    string `json:"errcode"`
	Message string `json:"error"`
}

// Changes handles GET /_matrix/client/v3/keys/changes.
// Spec: client-server-api/#get_matrixclientv3keyschanges
func (h *Handlers) Changes(r *rest.Request) (any, error) {
	from, err := storage.ParseToken(r.Query("from"))
	if err != nil {
		return nil, mautrix.MInvalidParam.WithMessage("from is no sync token")
	}
	if !h.store.Valid(from) {
		from.Position = 0 // of another database: everybody may have changed
	}
	to := h.store.Head()
	if text := r.Query("to"); text != "" {
		end, err := storage.ParseToken(text)
		if err != nil {
			return nil, mautrix.MInvalidParam.WithMessage("to is no sync token")
		}
		if h.store.Valid(end) {
			to = min(to, end.Position)
		}
	}
	changed, left, err := h.store.DeviceLists.ChangedFor(r.Context(), r.By.User, from.Position, to)
	return struct {
		Changed []id.UserID `json:"changed"`
		Left    []id.UserID `json:"left"`
	}{append([]id.UserID{}, changed...), append([]id.UserID{}, left...)}, err
}
