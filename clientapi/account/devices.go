package account

import (
	"context"
	"time"
	"unicode/utf8"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// maxDeviceName bounds a device's name, in characters.
const maxDeviceName = 100

func checkDeviceName(name string) error {
	if utf8.RuneCountInString(name) > maxDeviceName {
		return mautrix.MTooLarge.WithStatus(400).WithMessage("The device's name has more than %d characters", maxDeviceName)
	}
	return nil
}

// device is a device as its user sees it.
type device struct {
	DeviceID    id.DeviceID `json:"device_id"`
	DisplayName string      `json:"display_name,omitempty"`
	SeenIP      string      `json:"last_seen_ip,omitempty"`
	SeenTime    int64       `json:"last_seen_ts,omitempty"`
	SeenAgent   string      `json:"last_seen_user_agent,omitempty"`
}

func shown(d *storage.Device) device {
	return device{DeviceID: d.DeviceID, DisplayName: d.DisplayName, SeenIP: d.Address, SeenTime: d.Seen.UnixMilli(), SeenAgent: d.Agent}
}

// Devices handles GET /_matrix/client/v3/devices.
// Spec: client-server-api/#get_matrixclientv3devices
func (h *Handlers) Devices(r *rest.Request) (any, error) {
	devices, err := h.store.Devices.All(r.Context(), r.By.User)
	list := make([]device, 0, len(devices))
	for _, d := range devices {
		list = append(list, shown(d))
	}
	return map[string]any{"devices": list}, err
}

var errNoDevice = mautrix.MNotFound.WithMessage("You have no such device")

// Device handles GET /_matrix/client/v3/devices/{deviceId}.
// Spec: client-server-api/#get_matrixclientv3devicesdeviceid
func (h *Handlers) Device(r *rest.Request) (any, error) {
	d, err := h.store.Devices.ByID(r.Context(), r.By.User, id.DeviceID(r.Path("deviceId")))
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, errNoDevice
	}
	return shown(d), nil
}

// PutDevice handles PUT /_matrix/client/v3/devices/{deviceId}. Application services may make devices with it.
// Spec: client-server-api/#put_matrixclientv3devicesdeviceid
func (h *Handlers) PutDevice(r *rest.Request) (any, error) {
	var body struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	deviceID := id.DeviceID(r.Path("deviceId"))
	if len(deviceID) > 255 {
		return nil, mautrix.MInvalidParam.WithMessage("The device ID is longer than 255 bytes")
	}
	name := ""
	if body.DisplayName != nil {
		name = *body.DisplayName
		if err := checkDeviceName(name); err != nil {
			return nil, err
		}
	}
	found := false
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		d, err := h.store.Devices.ByID(ctx, r.By.User, deviceID)
		found = d != nil
		switch {
		case err != nil:
			return err
		case found && body.DisplayName != nil:
			_, err = h.store.Devices.Rename(ctx, r.By.User, deviceID, name)
		case !found && r.By.Service != nil:
			found = true
			err = h.store.Devices.Put(ctx, &storage.Device{UserID: r.By.User, DeviceID: deviceID, DisplayName: name})
		}
		return err
	})
	if err == nil && !found {
		err = errNoDevice
	}
	return rest.Empty, err
}

// DeleteDevice handles DELETE /_matrix/client/v3/devices/{deviceId}.
// Spec: client-server-api/#delete_matrixclientv3devicesdeviceid
func (h *Handlers) DeleteDevice(r *rest.Request) (any, error) {
	var body authBody
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if err := h.confirm(r, body.Auth, nil); err != nil {
		return nil, err
	}
	return rest.Empty, h.endDevices(r.Context(), r.By.User, id.DeviceID(r.Path("deviceId")))
}

// DeleteDevices handles POST /_matrix/client/v3/delete_devices.
// Spec: client-server-api/#post_matrixclientv3delete_devices
func (h *Handlers) DeleteDevices(r *rest.Request) (any, error) {
	var body struct {
		authBody
		Devices []id.DeviceID `json:"devices"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Devices == nil {
		return nil, errMissing.WithMessage("devices is missing")
	}
	if err := h.confirm(r, body.Auth, body.Devices); err != nil {
		return nil, err
	}
	return rest.Empty, h.endDevices(r.Context(), r.By.User, body.Devices...)
}

// endIdle ends, inside Do, devices that have not been used for as long as the operator bears. Those of application
// services are machines, and may be silent.
func (h *Handlers) endIdle(ctx context.Context, now time.Time) error {
	if h.cfg.IdleTime == 0 {
		return nil
	}
	idle, err := h.store.Devices.Idle(ctx, now.Add(-h.cfg.IdleTime), 1000)
	if err != nil {
		return err
	}
	for _, d := range idle {
		if err := h.store.Devices.End(ctx, d.UserID, d.DeviceID); err != nil {
			return err
		}
	}
	return nil
}
