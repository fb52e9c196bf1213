package admin

import (
	"context"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

type shownDevice struct {
	UserID     id.UserID   `json:"user_id"`
	DeviceID   id.DeviceID `json:"device_id"`
	Name       string      `json:"display_name,omitempty"`
	Address    string      `json:"last_seen_ip"`
	Agent      string      `json:"last_seen_user_agent"`
	Seen       int64       `json:"last_seen_ts"`
	Dehydrated bool        `json:"dehydrated"`
}

func showDevice(d *storage.Device) shownDevice {
	return shownDevice{UserID: d.UserID, DeviceID: d.DeviceID, Name: d.DisplayName, Address: d.Address, Agent: d.Agent, Seen: d.Seen.UnixMilli()}
}

var noSuchDevice = mautrix.MNotFound.WithMessage("The user has no such device")

// Devices handles GET /_synapse/admin/v2/users/{userId}/devices.
func (h *Handlers) Devices(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	devices, err := h.store.Devices.All(r.Context(), account.UserID)
	list := make([]shownDevice, len(devices))
	for i, d := range devices {
		list[i] = showDevice(d)
	}
	return map[string]any{"devices": list, "total": len(list)}, err
}

// device finds {deviceId} of {userId}.
func (h *Handlers) device(r *rest.Request) (*storage.Device, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	d, err := h.store.Devices.ByID(r.Context(), account.UserID, id.DeviceID(r.Path("deviceId")))
	if err == nil && d == nil {
		err = noSuchDevice
	}
	return d, err
}

// Device handles GET /_synapse/admin/v2/users/{userId}/devices/{deviceId}.
func (h *Handlers) Device(r *rest.Request) (any, error) {
	d, err := h.device(r)
	if err != nil {
		return nil, err
	}
	return showDevice(d), nil
}

// maxDeviceName bounds a device's name, and its ID.
const maxDeviceName = 255

// MakeDevice handles POST /_synapse/admin/v2/users/{userId}/devices. One that is there stays as it is.
func (h *Handlers) MakeDevice(r *rest.Request) (any, error) {
	account, err := h.open(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		DeviceID id.DeviceID `json:"device_id"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	switch {
	case body.DeviceID == "":
		return nil, missing.WithMessage("device_id is missing")
	case len(body.DeviceID) > maxDeviceName:
		return nil, mautrix.MInvalidParam.WithMessage("The device ID is too long")
	}
	return rest.Status{Code: 201}, h.store.Do(r.Context(), func(ctx context.Context) error {
		known, err := h.store.Devices.ByID(ctx, account.UserID, body.DeviceID)
		if err != nil || known != nil {
			return err
		}
		return h.store.Devices.Put(ctx, &storage.Device{UserID: account.UserID, DeviceID: body.DeviceID})
	})
}

// PutDevice handles PUT /_synapse/admin/v2/users/{userId}/devices/{deviceId}: it gives the device another name.
func (h *Handlers) PutDevice(r *rest.Request) (any, error) {
	d, err := h.device(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Name *string `json:"display_name"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	switch {
	case body.Name == nil:
		return rest.Empty, nil
	case len(*body.Name) > maxDeviceName:
		return nil, mautrix.MInvalidParam.WithMessage("The device's name is too long")
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		_, err := h.store.Devices.Rename(ctx, d.UserID, d.DeviceID, *body.Name)
		return err
	})
}

// DeleteDevice handles DELETE /_synapse/admin/v2/users/{userId}/devices/{deviceId}.
func (h *Handlers) DeleteDevice(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	return rest.Empty, h.end(r.Context(), account.UserID, id.DeviceID(r.Path("deviceId")))
}

// DeleteDevices handles POST /_synapse/admin/v2/users/{userId}/delete_devices.
func (h *Handlers) DeleteDevices(r *rest.Request) (any, error) {
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Devices []id.DeviceID `json:"devices"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Devices == nil {
		return nil, missing.WithMessage("devices is missing")
	}
	return rest.Empty, h.end(r.Context(), account.UserID, body.Devices...)
}

func (h *Handlers) end(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	return h.store.Do(ctx, func(ctx context.Context) error {
		for _, d := range devices {
			if err := h.store.Devices.End(ctx, user, d); err != nil {
				return err
			}
		}
		return nil
	})
}

// WhoIs handles GET /_matrix/client/v3/admin/whois/{userId}, and Synapse's path for the same. Everybody may ask for
// themselves.
// Spec: client-server-api/#get_matrixclientv3adminwhoisuserid
func (h *Handlers) WhoIs(r *rest.Request) (any, error) {
	user, err := h.userID(r)
	if err != nil {
		return nil, err
	}
	if user != r.By.User && !r.By.Admin {
		return nil, mautrix.MForbidden.WithMessage("You are not a server administrator")
	}
	account, err := h.account(r)
	if err != nil {
		return nil, err
	}
	devices, err := h.store.Devices.All(r.Context(), account.UserID)
	shown := map[id.DeviceID]any{}
	for _, d := range devices {
		connection := map[string]any{"ip": d.Address, "last_seen": d.Seen.UnixMilli(), "user_agent": d.Agent}
		shown[d.DeviceID] = map[string]any{"sessions": []any{map[string]any{"connections": []any{connection}}}}
	}
	return map[string]any{"user_id": account.UserID, "devices": shown}, err
}
