package keys

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// maxClaims bounds the keys of one request.
const maxClaims = 10_000

// keysByDevice are one-time keys by user, device and name.
type keysByDevice map[id.UserID]map[id.DeviceID]map[string]json.RawMessage

func (k keysByDevice) add(user id.UserID, device id.DeviceID, name string, key json.RawMessage) {
	if k[user] == nil {
		k[user] = map[id.DeviceID]map[string]json.RawMessage{}
	}
	k[user][device] = map[string]json.RawMessage{name: key}
}

// Claim handles POST /_matrix/client/v3/keys/claim.
// Spec: client-server-api/#post_matrixclientv3keysclaim
func (h *Handlers) Claim(r *rest.Request) (any, error) {
	var body struct {
		Timeout int64                                `json:"timeout"`
		Keys    map[id.UserID]map[id.DeviceID]string `json:"one_time_keys"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Keys == nil {
		return nil, errMissing.WithMessage("one_time_keys is missing")
	}
	var own []storage.Claim
	abroad := map[string]map[id.UserID]map[id.DeviceID]string{}
	n := 0
	for user, devices := range body.Keys {
		if !rest.ValidUserID(user) {
			return nil, mautrix.MInvalidParam.WithMessage("one_time_keys names somebody who is no user")
		}
		if n += len(devices); n > maxClaims {
			return nil, mautrix.MTooLarge.WithMessage("At most %d keys at once", maxClaims)
		}
		if !h.local(user) {
			server := user.Homeserver()
			if abroad[server] == nil {
				abroad[server] = map[id.UserID]map[id.DeviceID]string{}
			}
			abroad[server][user] = devices
			continue
		}
		for device, algorithm := range devices {
			own = append(own, storage.Claim{UserID: user, DeviceID: device, Algorithm: algorithm})
		}
	}
	given := keysByDevice{}
	if len(own) > 0 {
		claimed, err := h.store.Keys.Claim(r.Context(), own)
		if err != nil {
			return nil, err
		}
		for claim, key := range claimed {
			given.add(claim.UserID, claim.DeviceID, key.Name(), key.JSON)
		}
	}
	failures := h.claimAbroad(r.Context(), given, abroad, body.Timeout)
	return map[string]any{"one_time_keys": given, "failures": failures}, nil
}

// claimAbroad asks all servers at once, adds what they give, and returns those that failed.
func (h *Handlers) claimAbroad(ctx context.Context, given keysByDevice, abroad map[string]map[id.UserID]map[id.DeviceID]string, timeout int64) map[string]failure {
	ctx, cancel := context.WithTimeout(ctx, patience(timeout))
	defer cancel()
	failures := map[string]failure{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for server, claims := range abroad {
		wg.Go(func() {
			raw, err := h.askFederation(ctx, bus.FederationQuestion{ClaimKeys: &bus.ClaimKeys{Server: server, Claims: claims}})
			var answer struct {
				Keys keysByDevice `json:"one_time_keys"`
			}
			if err == nil {
				err = json.Unmarshal(raw, &answer)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				zerolog.Ctx(ctx).Info().Err(err).Str("server", server).Msg("One-time keys not received")
				failures[server] = failure{Code: "M_UNAVAILABLE", Message: "The server did not answer"}
				return
			}
			// Only what was asked for: a server speaks for its own users.
			for user, devices := range claims {
				for device := range devices {
					for name, key := range answer.Keys[user][device] {
						given.add(user, device, name, key)
					}
				}
			}
		})
	}
	wg.Wait()
	return failures
}
