package keys

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// maxDehydrated bounds the data of a dehydrated device.
const maxDehydrated = 128 << 10

// eventsAtOnce is how many messages of a dehydrated device one answer holds.
const eventsAtOnce = 100

var errNotDehydrated = mautrix.MNotFound.WithMessage("You have no such dehydrated device")

// Dehydrate handles PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device. The one before ends.
// Spec: MSC3814
func (h *Handlers) Dehydrate(r *rest.Request) (any, error) {
	var body struct {
		DeviceID    id.DeviceID                `json:"device_id"`
		DisplayName string                     `json:"initial_device_display_name"`
		Data        json.RawMessage            `json:"device_data"`
		DeviceKeys  json.RawMessage            `json:"device_keys"`
		OneTime     map[string]json.RawMessage `json:"one_time_keys"`
		Fallback    map[string]json.RawMessage `json:"fallback_keys"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	var data struct {
		Algorithm string `json:"algorithm"`
	}
	switch {
	case body.DeviceID == "" || len(body.Data) == 0 || len(body.DeviceKeys) == 0:
		return nil, errMissing.WithMessage("device_id, device_data and device_keys are needed")
	case len(body.DeviceID) > 255 || len(body.DisplayName) > 255:
		return nil, mautrix.MInvalidParam.WithMessage("The device's ID or name is longer than 255 bytes")
	case len(body.Data) > maxDehydrated:
		return nil, mautrix.MTooLarge.WithMessage("device_data is larger than %d bytes", maxDehydrated)
	case json.Unmarshal(body.Data, &data) != nil || data.Algorithm == "":
		return nil, mautrix.MBadJSON.WithMessage("device_data has to be an object with an algorithm")
	}
	identity, err := checkDeviceKeys(body.DeviceKeys, r.By.User, body.DeviceID)
	if err != nil {
		return nil, err
	}
	oneTime, err := checkOneTimeKeys(body.OneTime)
	if err != nil {
		return nil, err
	}
	fallback, err := checkOneTimeKeys(body.Fallback)
	if err != nil {
		return nil, err
	}
	device := storage.Dehydrated{UserID: r.By.User, DeviceID: body.DeviceID, Data: body.Data}
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		if err := h.replaceDehydrated(ctx, device, body.DisplayName); err != nil {
			return err
		}
		_, err := h.upload(ctx, r.By.User, body.DeviceID, identity, oneTime, fallback)
		return err
	})
	return map[string]id.DeviceID{"device_id": body.DeviceID}, err
}

// replaceDehydrated ends the dehydrated device that was, and makes the new one, inside Do.
func (h *Handlers) replaceDehydrated(ctx context.Context, device storage.Dehydrated, name string) error {
	old, err := h.store.Dehydrated.Of(ctx, device.UserID)
	if err != nil {
		return err
	}
	if old != nil {
		if err := h.store.Devices.End(ctx, device.UserID, old.DeviceID); err != nil {
			return err
		}
	}
	living, err := h.store.Devices.ByID(ctx, device.UserID, device.DeviceID)
	if err != nil {
		return err
	}
	if living != nil {
		return mautrix.MInvalidParam.WithMessage("You have a living device of this ID")
	}
	if err := h.store.Devices.Put(ctx, &storage.Device{UserID: device.UserID, DeviceID: device.DeviceID, DisplayName: name}); err != nil {
		return err
	}
	return h.store.Dehydrated.Put(ctx, device)
}

// DehydratedDevice handles GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device.
// Spec: MSC3814
func (h *Handlers) DehydratedDevice(r *rest.Request) (any, error) {
	d, err := h.store.Dehydrated.Of(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, errNotDehydrated
	}
	return map[string]any{"device_id": d.DeviceID, "device_data": d.Data}, nil
}

// DeleteDehydrated handles DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device.
// Spec: MSC3814
func (h *Handlers) DeleteDehydrated(r *rest.Request) (any, error) {
	var d *storage.Dehydrated
	err := h.store.Do(r.Context(), func(ctx context.Context) (err error) {
		if d, err = h.store.Dehydrated.Of(ctx, r.By.User); err != nil || d == nil {
			return err
		}
		return h.store.Devices.End(ctx, r.By.User, d.DeviceID)
	})
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, errNotDehydrated
	}
	return map[string]id.DeviceID{"device_id": d.DeviceID}, nil
}

// DehydratedEvents handles POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events, and GET
// with next_batch in the query. The messages stay until the device ends: who brings it to life may have to begin again.
// Spec: MSC3814
func (h *Handlers) DehydratedEvents(r *rest.Request) (any, error) {
	var body struct {
		Next string `json:"next_batch"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if body.Next == "" {
		body.Next = r.Query("next_batch")
	}
	d, err := h.store.Dehydrated.Of(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	if d == nil || d.DeviceID != id.DeviceID(r.Path("deviceId")) {
		return nil, errNotDehydrated
	}
	after := int64(0)
	if body.Next != "" {
		if after, err = strconv.ParseInt(body.Next, 10, 64); err != nil || after < 0 {
			return nil, mautrix.MInvalidParam.WithMessage("next_batch is no token of this list")
		}
	}
	messages, err := h.store.ToDevice.After(r.Context(), r.By.User, d.DeviceID, storage.Position(after), h.store.Head(), eventsAtOnce)
	if err != nil {
		return nil, err
	}
	events := make([]json.RawMessage, len(messages))
	for i, m := range messages {
		events[i], after = m.JSON, int64(m.Position)
	}
	return map[string]any{"events": events, "next_batch": fmt.Sprint(after)}, nil
}
