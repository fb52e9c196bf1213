// Package keys is the client's side of end-to-end encryption: device keys, one-time keys and fallback keys,
// cross-signing, messages from device to device, and the backup of room keys.
//
// It owns the keys of this server's users; copies of others' are federation's. To keep:
//
//   - a one-time key is given to one asker (storage.Keys.Claim), and a key ID never changes its content;
//   - what other servers and clients will read is checked when it is uploaded: owner, names, types, integers, and
//     each cross-signing signature;
//   - replaced identity keys and new signatures are news to those who share a room (storage.DeviceLists.Change), in the
//     same commit;
//   - a message to a device is sent once for each transaction ID, across a restart too.
package keys

import (
	"context"
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// Handlers are the endpoints of this chapter.
type Handlers struct {
	server string
	store  *storage.Store
	bus    *bus.Bus
	uia    *rest.UIA
}

// New makes the handlers. server is the name in our users' IDs.
func New(server string, store *storage.Store, messages *bus.Bus, uia *rest.UIA) *Handlers {
	return &Handlers{server: server, store: store, bus: messages, uia: uia}
}

var errMissing = mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}

// local says whether the user belongs to this server.
func (h *Handlers) local(user id.UserID) bool { return user.Homeserver() == h.server }

// askFederation puts a question to other servers.
func (h *Handlers) askFederation(ctx context.Context, q bus.FederationQuestion) (json.RawMessage, error) {
	answer, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo, q)
	return answer.Body, err
}

// needDevice refuses requests that come from no device.
func needDevice(r *rest.Request) error {
	if r.By.Device == "" {
		return mautrix.MInvalidParam.WithMessage("This needs a device; an application service names one with device_id")
	}
	return nil
}
