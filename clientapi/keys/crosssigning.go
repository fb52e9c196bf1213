package keys

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// The usages of cross-signing keys.
const (
	usageMaster      = "master"
	usageSelfSigning = "self_signing"
	usageUserSigning = "user_signing"
)

var errSignature = mautrix.RespError{ErrCode: "M_INVALID_SIGNATURE", StatusCode: http.StatusBadRequest}

// UploadCrossSigning handles POST /_matrix/client/v3/keys/device_signing/upload.
// Spec: client-server-api/#post_matrixclientv3keysdevice_signingupload
func (h *Handlers) UploadCrossSigning(r *rest.Request) (any, error) {
	var body struct {
		Auth        json.RawMessage `json:"auth"`
		Master      json.RawMessage `json:"master_key"`
		SelfSigning json.RawMessage `json:"self_signing_key"`
		UserSigning json.RawMessage `json:"user_signing_key"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	known, err := h.store.Keys.CrossSigning(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	var given []storage.CrossSigningKey
	for _, part := range []struct {
		usage string
		raw   json.RawMessage
	}{{usageMaster, body.Master}, {usageSelfSigning, body.SelfSigning}, {usageUserSigning, body.UserSigning}} {
		if len(part.raw) == 0 || string(part.raw) == "null" {
			continue
		}
		key, err := checkCrossSigningKey(part.raw, r.By.User, part.usage)
		if err != nil {
			return nil, err
		}
		given = append(given, key)
	}
	if len(given) == 0 {
		return nil, errMissing.WithMessage("There is no key in the body")
	}
	if err := signedByMaster(given, known); err != nil {
		return nil, err
	}
	given = slices.DeleteFunc(given, func(key storage.CrossSigningKey) bool {
		old := known[key.Usage]
		return old != nil && bytes.Equal(old.JSON, key.JSON)
	})
	if len(given) == 0 {
		return rest.Empty, nil // all of it is so already
	}
	// MSC3967: the first keys need no confirmation; nobody loses anything by them.
	if known[usageMaster] != nil && r.By.Service == nil {
		ways, err := h.uia.Ways(r)
		if err != nil {
			return nil, err
		}
		operation := rest.Operation{Flows: ways, Bound: []any{body.Master, body.SelfSigning, body.UserSigning}, OnPage: "org.matrix.cross_signing_reset"}
		if _, err := h.uia.Confirm(r, operation, body.Auth); err != nil {
			return nil, err
		}
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		for _, key := range given {
			if err := h.store.Keys.PutCrossSigning(ctx, key); err != nil {
				return err
			}
		}
		return h.store.DeviceLists.Change(ctx, r.By.User, "")
	})
}

// checkCrossSigningKey judges the form of a cross-signing key, and gives it in canonical form.
// Spec: client-server-api/#key-and-signature-security
func checkCrossSigningKey(raw json.RawMessage, user id.UserID, usage string) (storage.CrossSigningKey, error) {
	key := storage.CrossSigningKey{UserID: user, Usage: usage}
	var form struct {
		UserID     id.UserID                       `json:"user_id"`
		Usage      []string                        `json:"usage"`
		Keys       map[string]string               `json:"keys"`
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if json.Unmarshal(raw, &form) != nil {
		return key, mautrix.MBadJSON.WithMessage("The %s key does not have the shape it should have", usage)
	}
	if form.UserID != user || !slices.Contains(form.Usage, usage) || len(form.Keys) != 1 {
		return key, mautrix.MInvalidParam.WithMessage("The %s key names another user or usage, or holds more than one key", usage)
	}
	for name, public := range form.Keys {
		algorithm, keyID, ok := storage.SplitKeyName(name)
		if _, err := publicKey(public); !ok || algorithm != "ed25519" || keyID != public || err != nil {
			return key, mautrix.MInvalidParam.WithMessage("The %s key is not an ed25519 key under its own name", usage)
		}
		key.Key = public
	}
	var err error
	key.JSON, err = canonical(raw, "unsigned")
	return key, err
}

// publicKey decodes an ed25519 key.
func publicKey(text string) (ed25519.PublicKey, error) {
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err == nil && len(raw) != ed25519.PublicKeySize {
		err = errSignature
	}
	return raw, err
}

// verify says whether the object bears this signature.
func verify(raw json.RawMessage, signer id.UserID, signerKey, public string) bool {
	key, err := publicKey(public)
	return err == nil && gomatrixserverlib.VerifyJSON(string(signer), gomatrixserverlib.KeyID(signerKey), key, raw) == nil
}

// signedByMaster says whether the keys bear the signature of the master key: the one that comes along, or the known.
func signedByMaster(given []storage.CrossSigningKey, known map[string]*storage.CrossSigningKey) error {
	master := known[usageMaster]
	if given[0].Usage == usageMaster {
		master = &given[0]
	}
	if master == nil {
		return errMissing.WithMessage("There is no master key yet")
	}
	for _, key := range given {
		if key.Usage != usageMaster && !verify(key.JSON, key.UserID, "ed25519:"+master.Key, master.Key) {
			return errSignature.WithMessage("The %s key is not signed by the master key", key.Usage)
		}
	}
	return nil
}
