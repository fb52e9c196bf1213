package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage"
	"chancery/storage/bus"
)

// Bounds of what one question may ask.
const (
	maxKeyUsers = 1000
	maxClaims   = 5000
)

// userDevices handles GET /_matrix/federation/v1/user/devices/{userId}.
// Spec: server-server-api/#get_matrixfederationv1userdevicesuserid
func (f *Federation) userDevices(r *request) (any, error) {
	user := r.userID()
	if err := f.localUser(user); err != nil {
		return nil, err
	}
	account, err := f.store.Accounts.ByID(r.Context(), user)
	if err != nil {
		return nil, err
	}
	if account == nil {
		return nil, mautrix.MNotFound.WithMessage("Unknown user")
	}
	published, err := f.store.Keys.Published(r.Context(), user, "")
	if err != nil {
		return nil, err
	}
	stream, err := f.store.DeviceLists.Newest(r.Context(), user)
	if err != nil {
		return nil, err
	}
	type device struct {
		ID   id.DeviceID     `json:"device_id"`
		Keys json.RawMessage `json:"keys"`
		Name string          `json:"device_display_name,omitempty"`
	}
	answer := struct {
		UserID      id.UserID        `json:"user_id"`
		StreamID    storage.Position `json:"stream_id"`
		Devices     []device         `json:"devices"`
		Master      json.RawMessage  `json:"master_key,omitempty"`
		SelfSigning json.RawMessage  `json:"self_signing_key,omitempty"`
	}{UserID: user, StreamID: stream, Devices: []device{}, Master: published.Master, SelfSigning: published.SelfSigning}
	for _, d := range published.Devices {
		answer.Devices = append(answer.Devices, device{d.DeviceID, d.JSON, d.DisplayName})
	}
	return answer, nil
}

// queryKeys handles POST /_matrix/federation/v1/user/keys/query.
// Spec: server-server-api/#post_matrixfederationv1userkeysquery
func (f *Federation) queryKeys(r *request) (any, error) {
	var q struct {
		DeviceKeys map[id.UserID][]id.DeviceID `json:"device_keys"`
	}
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if len(q.DeviceKeys) > maxKeyUsers {
		return nil, mautrix.MInvalidParam.WithMessage("At most %d users at once", maxKeyUsers)
	}
	answer := struct {
		Devices     map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
		Master      map[id.UserID]json.RawMessage                 `json:"master_keys"`
		SelfSigning map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
	}{map[id.UserID]map[id.DeviceID]json.RawMessage{}, map[id.UserID]json.RawMessage{}, map[id.UserID]json.RawMessage{}}
	for user, wanted := range q.DeviceKeys {
		if f.localUser(user) != nil {
			continue
		}
		p, err := f.store.Keys.Published(r.Context(), user, "")
		if err != nil {
			return nil, err
		}
		answer.Devices[user] = map[id.DeviceID]json.RawMessage{}
		for _, d := range p.Devices {
			if len(wanted) > 0 && !contains(wanted, d.DeviceID) {
				continue
			}
			raw := d.JSON
			if d.DisplayName != "" {
				if raw, err = sjson.SetBytes(raw, "unsigned.device_display_name", d.DisplayName); err != nil {
					return nil, err
				}
			}
			answer.Devices[user][d.DeviceID] = raw
		}
		if p.Master != nil {
			answer.Master[user] = p.Master
		}
		if p.SelfSigning != nil {
			answer.SelfSigning[user] = p.SelfSigning
		}
	}
	return answer, nil
}

func contains(list []id.DeviceID, device id.DeviceID) bool {
	for _, d := range list {
		if d == device {
			return true
		}
	}
	return false
}

// claimKeys handles POST /_matrix/federation/v1/user/keys/claim.
// Spec: server-server-api/#post_matrixfederationv1userkeysclaim
func (f *Federation) claimKeys(r *request) (any, error) {
	var q struct {
		OneTimeKeys map[id.UserID]map[id.DeviceID]string `json:"one_time_keys"`
	}
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	var claims []storage.Claim
	for user, devices := range q.OneTimeKeys {
		if f.localUser(user) != nil {
			continue
		}
		for device, algorithm := range devices {
			claims = append(claims, storage.Claim{UserID: user, DeviceID: device, Algorithm: algorithm})
		}
	}
	if len(claims) > maxClaims {
		return nil, mautrix.MInvalidParam.WithMessage("At most %d keys at once", maxClaims)
	}
	given, err := f.store.Keys.Claim(r.Context(), claims)
	if err != nil {
		return nil, err
	}
	keys := map[id.UserID]map[id.DeviceID]map[string]json.RawMessage{}
	for c, k := range given {
		if keys[c.UserID] == nil {
			keys[c.UserID] = map[id.DeviceID]map[string]json.RawMessage{}
		}
		keys[c.UserID][c.DeviceID] = map[string]json.RawMessage{k.Name(): k.JSON}
	}
	return map[string]any{"one_time_keys": keys}, nil
}

// askKeys asks one server for its users' device keys.
func (f *Federation) askKeys(ctx context.Context, q *bus.QueryKeys) (json.RawMessage, error) {
	users := make(map[id.UserID][]id.DeviceID, len(q.Users))
	for user, devices := range q.Users {
		if devices == nil {
			devices = []id.DeviceID{}
		}
		users[user] = devices
	}
	return f.receiver.Query(ctx, users, func() (json.RawMessage, error) {
		return f.askPatiently(ctx, remote.Request{
			Server: q.Server, Method: http.MethodPost, Path: []string{"v1", "user", "keys", "query"}, Body: map[string]any{"device_keys": users},
		})
	})
}

// askClaim claims one-time keys at one server.
func (f *Federation) askClaim(ctx context.Context, q *bus.ClaimKeys) (json.RawMessage, error) {
	return f.askPatiently(ctx, remote.Request{
		Server: q.Server, Method: http.MethodPost, Path: []string{"v1", "user", "keys", "claim"}, Body: map[string]any{"one_time_keys": q.Claims},
	})
}

// A server that has answered within recently, and is away now, may be just being started again. It is asked again after againAfter, and
// then after twice as long each time.
const (
	recently   = time.Minute
	againAfter = 250 * time.Millisecond
)

// askPatiently is ask for keys: as long as whoever asked waits, it tries again with a server that was there a moment ago. A client that is
// told of a failure sends messages without a key for that server's devices, and asks it nothing more for a quarter of a minute at least:
// they could not read what is said meanwhile.
func (f *Federation) askPatiently(ctx context.Context, q remote.Request) (json.RawMessage, error) {
	for wait := againAfter; ; wait *= 2 {
		raw, err := f.ask(ctx, q)
		if err == nil || !passing(err) || time.Since(f.remote.Answered(q.Server)) > recently {
			return raw, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// passing says whether a failure may be over in a moment: the server is away, or its proxy says so, or it has too much to do.
func passing(err error) bool {
	var refused *bus.Refusal
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
