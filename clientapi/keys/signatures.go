package keys

import (
	"bytes"
	"context"
	"encoding/json"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

// maxSignatures bounds the keys of one request.
const maxSignatures = 5000

// UploadSignatures handles POST /_matrix/client/v3/keys/signatures/upload.
// Spec: client-server-api/#post_matrixclientv3keyssignaturesupload
func (h *Handlers) UploadSignatures(r *rest.Request) (any, error) {
	var body map[id.UserID]map[string]json.RawMessage
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	own, err := h.store.Keys.CrossSigning(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	failures := map[id.UserID]map[string]failure{}
	var good []storage.Signature
	n := 0
	for user, keys := range body {
		if n += len(keys); n > maxSignatures {
			return nil, mautrix.MTooLarge.WithMessage("At most %d keys at once", maxSignatures)
		}
		for name, raw := range keys {
			signatures, err := h.judge(r.Context(), r.By.User, own, user, name, raw)
			if err == nil {
				good = append(good, signatures...)
				continue
			}
			refusal, ok := err.(mautrix.RespError)
			if !ok {
				return nil, err
			}
			if failures[user] == nil {
				failures[user] = map[string]failure{}
			}
			failures[user][name] = failure{Code: refusal.ErrCode, Message: refusal.Err}
		}
	}
	err = h.store.Do(r.Context(), func(ctx context.Context) error { return h.putSignatures(ctx, good) })
	return map[string]any{"failures": failures}, err
}

// putSignatures writes what was judged good, inside Do, and tells of each key that is signed now.
func (h *Handlers) putSignatures(ctx context.Context, good []storage.Signature) error {
	told := map[storage.DeviceChange]bool{}
	for _, sig := range good {
		if err := h.store.Keys.PutSignature(ctx, sig); err != nil {
			return err
		}
		change := storage.DeviceChange{UserID: sig.UserID}
		if device, err := h.store.Keys.Device(ctx, sig.UserID, id.DeviceID(sig.KeyName)); err != nil {
			return err
		} else if device != nil {
			change.DeviceID = id.DeviceID(sig.KeyName)
		}
		if told[change] {
			continue
		}
		told[change] = true
		if err := h.store.DeviceLists.Change(ctx, change.UserID, change.DeviceID); err != nil {
			return err
		}
	}
	return nil
}

// judge gives the signatures that signer has added to a key. A RespError says why the key is refused.
func (h *Handlers) judge(ctx context.Context, signer id.UserID, own map[string]*storage.CrossSigningKey, user id.UserID, name string, raw json.RawMessage) ([]storage.Signature, error) {
	var form struct {
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if json.Unmarshal(raw, &form) != nil {
		return nil, mautrix.MBadJSON.WithMessage("The key does not have the shape it should have")
	}
	stored, signers, err := h.signable(ctx, signer, own, user, name)
	if err != nil {
		return nil, err
	}
	if same, err := sameKey(stored, raw); err != nil || !same {
		return nil, mautrix.MInvalidParam.WithMessage("The key is not the one that is stored")
	}
	var good []storage.Signature
	for signerKey, signature := range form.Signatures[signer] {
		public, ok := signers[signerKey]
		if !ok {
			continue // such as the device's own signature, which came with the key
		}
		if !verify(raw, signer, signerKey, public) {
			return nil, errSignature.WithMessage("The signature by %s is wrong", signerKey)
		}
		good = append(good, storage.Signature{UserID: user, KeyName: name, SignerID: signer, SignerKey: signerKey, Signature: signature})
	}
	if len(good) == 0 {
		return nil, errSignature.WithMessage("There is no new signature by a key that may sign this one")
	}
	return good, nil
}

var errNoKey = mautrix.MNotFound.WithMessage("There is no such key")

// signable is the stored key of this name, and those of the signer's keys that may sign it: public keys by name.
// Spec: client-server-api/#cross-signing
func (h *Handlers) signable(ctx context.Context, signer id.UserID, own map[string]*storage.CrossSigningKey, user id.UserID, name string) (json.RawMessage, map[string]string, error) {
	by := func(key *storage.CrossSigningKey) map[string]string {
		if key == nil {
			return nil
		}
		return map[string]string{"ed25519:" + key.Key: key.Key}
	}
	if user != signer {
		// Another user's master key, by our user-signing key.
		master, err := h.masterKey(ctx, user, name)
		return master, by(own[usageUserSigning]), err
	}
	if master := own[usageMaster]; master != nil && master.Key == name {
		// Our master key, by one of our devices.
		signers, err := h.deviceSigners(ctx, user)
		return master.JSON, signers, err
	}
	// A device of ours, by our self-signing key.
	device, err := h.store.Keys.Device(ctx, user, id.DeviceID(name))
	if err == nil && device == nil {
		err = errNoKey
	}
	return device, by(own[usageSelfSigning]), err
}

// deviceSigners are the ed25519 keys of a user's devices.
func (h *Handlers) deviceSigners(ctx context.Context, user id.UserID) (map[string]string, error) {
	devices, err := h.store.Keys.Devices(ctx, user)
	signers := make(map[string]string, len(devices))
	for _, d := range devices {
		var form struct {
			Keys map[string]string `json:"keys"`
		}
		if json.Unmarshal(d.JSON, &form) == nil {
			name := "ed25519:" + string(d.DeviceID)
			signers[name] = form.Keys[name]
		}
	}
	return signers, err
}

// masterKey is another user's master key, if it has this public key. Of other servers' users it is asked for, unless
// there is a copy.
func (h *Handlers) masterKey(ctx context.Context, user id.UserID, public string) (json.RawMessage, error) {
	keys, err := h.store.Keys.CrossSigning(ctx, user)
	if err != nil {
		return nil, err
	}
	if key := keys[usageMaster]; key != nil && key.Key == public {
		return key.JSON, nil
	}
	if h.local(user) || !rest.ValidUserID(user) {
		return nil, errNoKey
	}
	raw, err := h.askFederation(ctx, bus.FederationQuestion{
		QueryKeys: &bus.QueryKeys{Server: user.Homeserver(), Users: map[id.UserID][]id.DeviceID{user: {}}},
	})
	if err != nil {
		return nil, mautrix.MNotFound.WithMessage("The key could not be had from its server")
	}
	var answer queried
	if json.Unmarshal(raw, &answer) != nil {
		return nil, errNoKey
	}
	key, err := checkCrossSigningKey(answer.Master[user], user, usageMaster)
	if err != nil || key.Key != public {
		return nil, errNoKey
	}
	return key.JSON, nil
}

// sameKey says whether two objects differ in nothing but signatures and what is not signed.
func sameKey(a, b json.RawMessage) (bool, error) {
	a, err := canonical(a, "signatures", "unsigned")
	if err != nil {
		return false, err
	}
	b, err = canonical(b, "signatures", "unsigned")
	return bytes.Equal(a, b), err
}
