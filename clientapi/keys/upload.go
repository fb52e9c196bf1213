package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"sort"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage"
)

// maxUpload bounds the one-time keys of one upload.
const maxUpload = 1000

// signedCurve25519 is the algorithm whose count clients want to see even when it is nought.
const signedCurve25519 = "signed_curve25519"

// Upload handles POST /_matrix/client/v3/keys/upload.
// Spec: client-server-api/#post_matrixclientv3keysupload
func (h *Handlers) Upload(r *rest.Request) (any, error) {
	if err := needDevice(r); err != nil {
		return nil, err
	}
	var body struct {
		DeviceKeys  json.RawMessage            `json:"device_keys"`
		OneTime     map[string]json.RawMessage `json:"one_time_keys"`
		Fallback    map[string]json.RawMessage `json:"fallback_keys"`
		OldFallback map[string]json.RawMessage `json:"org.matrix.msc2732.fallback_keys"` // older js-sdk
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Fallback == nil {
		body.Fallback = body.OldFallback
	}
	var device json.RawMessage
	if len(body.DeviceKeys) > 0 && string(body.DeviceKeys) != "null" {
		var err error
		if device, err = checkDeviceKeys(body.DeviceKeys, r.By.User, r.By.Device); err != nil {
			return nil, err
		}
	}
	oneTime, err := checkOneTimeKeys(body.OneTime)
	if err != nil {
		return nil, err
	}
	fallback, err := checkOneTimeKeys(body.Fallback)
	if err != nil {
		return nil, err
	}
	var clash string
	err = h.store.Do(r.Context(), func(ctx context.Context) (err error) {
		clash, err = h.upload(ctx, r.By.User, r.By.Device, device, oneTime, fallback)
		return err
	})
	if err != nil {
		return nil, err
	}
	if clash != "" {
		return nil, mautrix.MInvalidParam.WithMessage("There is another one-time key %q already", clash)
	}
	counts, err := h.store.Keys.OneTimeCounts(r.Context(), r.By.User, r.By.Device)
	if err != nil {
		return nil, err
	}
	if _, ok := counts[signedCurve25519]; !ok {
		counts[signedCurve25519] = 0
	}
	return map[string]any{"one_time_key_counts": counts}, nil
}

// upload writes what was checked, inside Do. clash is the name of a one-time key that exists with other content: then
// nothing is written.
func (h *Handlers) upload(ctx context.Context, user id.UserID, device id.DeviceID, identity json.RawMessage, oneTime, fallback []storage.OneTimeKey) (clash string, err error) {
	for _, key := range oneTime {
		known, err := h.store.Keys.OneTime(ctx, user, device, key.Algorithm, key.KeyID)
		if err != nil {
			return "", err
		}
		if known != nil && !bytes.Equal(known, key.JSON) {
			return key.Name(), nil
		}
	}
	if identity != nil {
		known, err := h.store.Keys.Device(ctx, user, device)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(known, identity) {
			if known != nil && ownSignature(known, user, device) == signatureGood && !sameIdentity(known, identity) {
				return "", errFixed
			}
			if err := h.store.Keys.PutDevice(ctx, storage.DeviceKeys{UserID: user, DeviceID: device, JSON: identity}); err != nil {
				return "", err
			}
			if err := h.store.DeviceLists.Change(ctx, user, device); err != nil {
				return "", err
			}
		}
	}
	if err := h.store.Keys.PutOneTime(ctx, user, device, oneTime); err != nil {
		return "", err
	}
	for _, key := range fallback {
		if err := h.store.Keys.PutFallback(ctx, user, device, key); err != nil {
			return "", err
		}
	}
	return "", nil
}

// errFixed: whoever has seen the signed keys of a device trusts them for as long as the device lives.
var errFixed = mautrix.MInvalidParam.WithMessage("The identity keys of a device never change: log in anew")

// sameIdentity says whether two sets of identity keys hold the same keys.
func sameIdentity(a, b json.RawMessage) bool {
	var x, y struct {
		Keys map[string]string `json:"keys"`
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && maps.Equal(x.Keys, y.Keys)
}

// What there is to say of a device's signature upon its own keys.
type signature int

const (
	signatureMissing signature = iota
	signatureWrong
	signatureGood
)

// ownSignature judges the signature with which a device vouches for its own keys.
func ownSignature(raw json.RawMessage, user id.UserID, device id.DeviceID) signature {
	var form struct {
		Keys       map[string]string               `json:"keys"`
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	name := "ed25519:" + string(device)
	switch {
	case json.Unmarshal(raw, &form) != nil:
		return signatureWrong
	case form.Signatures[user][name] == "":
		return signatureMissing
	case !verify(raw, user, name, form.Keys[name]):
		return signatureWrong
	}
	return signatureGood
}

// checkDeviceKeys judges a device's identity keys, and gives them in canonical form without what is not signed.
// Spec: client-server-api/#device-keys
func checkDeviceKeys(raw json.RawMessage, user id.UserID, device id.DeviceID) (json.RawMessage, error) {
	var keys struct {
		UserID     id.UserID                       `json:"user_id"`
		DeviceID   id.DeviceID                     `json:"device_id"`
		Algorithms []string                        `json:"algorithms"`
		Keys       map[string]string               `json:"keys"`
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if json.Unmarshal(raw, &keys) != nil {
		return nil, mautrix.MBadJSON.WithMessage("device_keys does not have the shape it should have")
	}
	switch {
	case keys.UserID != user || keys.DeviceID != device:
		return nil, mautrix.MInvalidParam.WithMessage("device_keys names another user or device")
	case keys.Algorithms == nil || len(keys.Keys) == 0 || keys.Signatures == nil:
		return nil, mautrix.MBadJSON.WithMessage("device_keys needs algorithms, keys and signatures")
	}
	for name := range keys.Keys {
		if _, keyID, ok := storage.SplitKeyName(name); !ok || keyID != string(device) {
			return nil, mautrix.MBadJSON.WithMessage("device_keys holds a key that is not named algorithm:device ID")
		}
	}
	// Clients refuse keys without a signature themselves; Complement (2026) uploads such keys, and changes them.
	if ownSignature(raw, user, device) == signatureWrong {
		return nil, errSignature.WithMessage("device_keys does not bear the signature of its own ed25519 key")
	}
	return canonical(raw, "unsigned")
}

// checkOneTimeKeys judges one-time or fallback keys, and gives them in the order of their names.
// Spec: client-server-api/#one-time-and-fallback-keys
func checkOneTimeKeys(named map[string]json.RawMessage) ([]storage.OneTimeKey, error) {
	if len(named) > maxUpload {
		return nil, mautrix.MTooLarge.WithMessage("At most %d one-time keys at once", maxUpload)
	}
	keys := make([]storage.OneTimeKey, 0, len(named))
	for name, raw := range named {
		algorithm, keyID, ok := storage.SplitKeyName(name)
		if !ok || len(name) > 255 {
			return nil, mautrix.MBadJSON.WithMessage("A one-time key's name has to be algorithm:ID")
		}
		var text string
		if json.Unmarshal(raw, &text) != nil {
			var signed struct {
				Key        *string                         `json:"key"`
				Signatures map[id.UserID]map[string]string `json:"signatures"`
				Fallback   bool                            `json:"fallback"`
			}
			if json.Unmarshal(raw, &signed) != nil || signed.Key == nil {
				return nil, mautrix.MBadJSON.WithMessage("A one-time key has to be a string, or an object with a key and signatures")
			}
			var err error
			if raw, err = canonical(raw); err != nil {
				return nil, err
			}
		}
		keys = append(keys, storage.OneTimeKey{Algorithm: algorithm, KeyID: keyID, JSON: raw})
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].Name() < keys[j].Name() })
	return keys, nil
}

// canonical gives an object in canonical form, without some of its members. What has no such form (floats, huge
// numbers) is refused: no other server would take it.
func canonical(raw json.RawMessage, without ...string) (json.RawMessage, error) {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil || object == nil {
		return nil, mautrix.MBadJSON.WithMessage("A key has to be an object")
	}
	for _, member := range without {
		delete(object, member)
	}
	plain, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	out, err := pdu.Canonical(plain)
	if err != nil {
		return nil, mautrix.MBadJSON.WithMessage("A key may hold whole numbers only")
	}
	return out, nil
}
