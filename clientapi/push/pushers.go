package push

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"maunium.net/go/mautrix"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
	"chancery/storage"
)

// The bounds of a pusher's fields, in bytes.
const (
	maxPushKey = 512
	maxAppID   = 64
	maxField   = 255
	maxData    = 16 << 10
)

// pusher is a pusher as clients see it.
type pusher struct {
	AppID             string          `json:"app_id"`
	PushKey           string          `json:"pushkey"`
	Kind              *string         `json:"kind"`
	AppDisplayName    *string         `json:"app_display_name"`
	DeviceDisplayName *string         `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag,omitempty"`
	Lang              *string         `json:"lang"`
	Data              json.RawMessage `json:"data"`
	// MSC3881.
	Enabled  *bool  `json:"org.matrix.msc3881.enabled,omitempty"`
	DeviceID string `json:"org.matrix.msc3881.device_id,omitempty"`
}

// Pushers handles GET /_matrix/client/v3/pushers.
// Spec: client-server-api/#get_matrixclientv3pushers
func (h *Handlers) Pushers(r *rest.Request) (any, error) {
	stored, err := h.store.Pushers.Of(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	list := make([]pusher, len(stored))
	for i, p := range stored {
		list[i] = pusher{
			AppID: p.AppID, PushKey: p.PushKey, Kind: &p.Kind, AppDisplayName: &p.AppDisplayName, DeviceDisplayName: &p.DeviceDisplayName,
			ProfileTag: p.ProfileTag, Lang: &p.Lang, Data: p.Data, Enabled: &p.Enabled, DeviceID: string(p.DeviceID),
		}
	}
	return struct {
		Pushers []pusher `json:"pushers"`
	}{list}, nil
}

// SetPusher handles POST /_matrix/client/v3/pushers/set.
// Spec: client-server-api/#post_matrixclientv3pushersset
func (h *Handlers) SetPusher(r *rest.Request) (any, error) {
	var body struct {
		pusher
		Append bool `json:"append"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.AppID == "" || body.PushKey == "" {
		return nil, missingParam.WithMessage("app_id or pushkey is missing")
	}
	if body.Kind == nil || *body.Kind == "" {
		if address, err := mail.Address(body.PushKey); err == nil && body.AppID == "m.email" {
			body.PushKey = address
		}
		return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
			return h.store.Pushers.Delete(ctx, r.By.User, body.AppID, body.PushKey)
		})
	}
	p, err := h.stored(r, body.pusher)
	if err != nil {
		return nil, err
	}
	err = h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.Pushers.Put(ctx, p, !body.Append) })
	h.changed.Store(true)
	return rest.Empty, err
}

// The kinds of pushers.
const (
	kindHTTP  = "http"
	kindEmail = "email"
)

func (h *Handlers) stored(r *rest.Request, p pusher) (*storage.Pusher, error) {
	if p.AppDisplayName == nil || p.DeviceDisplayName == nil || p.Lang == nil || len(p.Data) == 0 {
		return nil, missingParam.WithMessage("app_display_name, device_display_name, lang or data is missing")
	}
	if len(p.PushKey) > maxPushKey || len(p.AppID) > maxAppID || len(p.Data) > maxData {
		return nil, mautrix.MInvalidParam.WithMessage("pushkey, app_id or data is too long")
	}
	for _, field := range []string{*p.AppDisplayName, *p.DeviceDisplayName, *p.Lang, p.ProfileTag} {
		if len(field) > maxField {
			return nil, mautrix.MInvalidParam.WithMessage("A name of the pusher is too long")
		}
	}
	device := r.By.Device
	switch *p.Kind {
	case kindHTTP:
		if _, err := gateway(p.Data); err != nil {
			return nil, mautrix.MInvalidParam.WithMessage("data.url is no address of a push gateway")
		}
	case kindEmail:
		var err error
		if p.PushKey, err = h.ownAddress(r, p); err != nil {
			return nil, err
		}
		device = "" // it concerns the account, and outlives the session that asked for it
	default:
		return nil, mautrix.MInvalidParam.WithMessage("Pushers of this kind are not offered")
	}
	enabled := p.Enabled == nil || *p.Enabled
	return &storage.Pusher{
		UserID: r.By.User, AppID: p.AppID, PushKey: p.PushKey, DeviceID: device, Kind: *p.Kind, AppDisplayName: *p.AppDisplayName,
		DeviceDisplayName: *p.DeviceDisplayName, ProfileTag: p.ProfileTag, Lang: *p.Lang, Data: p.Data, Enabled: enabled,
	}, nil
}

// ownAddress is the address to which an e-mail pusher writes: one of the user's, proved before.
func (h *Handlers) ownAddress(r *rest.Request, p pusher) (string, error) {
	if h.mailer == nil {
		return "", mautrix.MInvalidParam.WithMessage("This server sends no e-mail")
	}
	if p.AppID != "m.email" {
		return "", mautrix.MInvalidParam.WithMessage("The app_id of an e-mail pusher is m.email")
	}
	notYours := mautrix.RespError{ErrCode: "M_THREEPID_NOT_FOUND", StatusCode: http.StatusBadRequest}.WithMessage("This is no e-mail address of yours")
	address, err := mail.Address(p.PushKey)
	if err != nil {
		return "", notYours
	}
	holder, err := h.store.ThreePIDs.ByAddress(r.Context(), "email", address)
	if err == nil && (holder == nil || holder.UserID != r.By.User) {
		err = notYours
	}
	return address, err
}

// notifyPath is the one path of gateways.
const notifyPath = "/_matrix/push/v1/notify"

// gateway reads the gateway's address from a pusher's data.
func gateway(data json.RawMessage) (*url.URL, error) {
	var fields struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	u, err := url.Parse(fields.URL)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Path != notifyPath {
		return nil, mautrix.MInvalidParam
	}
	return u, nil
}
