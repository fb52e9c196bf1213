package storage

import (
	"context"
	"encoding/json"

	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/id"
)

// Published are a user's keys as somebody may see them: with the signatures that came after them.
type Published struct {
	Devices []*DeviceKeys
	// Cross-signing keys; nil where there is none, or where the viewer may not see it.
	Master, SelfSigning, UserSigning json.RawMessage
}

// Published are the user's keys as viewer may see them: signatures by the user and by the viewer; the user-signing key
// is the user's own affair.
func (k *Keys) Published(ctx context.Context, user, viewer id.UserID) (*Published, error) {
	devices, err := k.Devices(ctx, user)
	if err != nil {
		return nil, err
	}
	crossSigning, err := k.CrossSigning(ctx, user)
	if err != nil {
		return nil, err
	}
	signatures, err := k.Signatures(ctx, user, viewer)
	if err != nil {
		return nil, err
	}
	byName := make(map[string][]Signature)
	for _, s := range signatures {
		byName[s.KeyName] = append(byName[s.KeyName], s)
	}
	p := &Published{Devices: devices}
	for _, d := range devices {
		if d.JSON, err = withSignatures(d.JSON, byName[string(d.DeviceID)]); err != nil {
			return nil, err
		}
	}
	for usage, into := range map[string]*json.RawMessage{"master": &p.Master, "self_signing": &p.SelfSigning, "user_signing": &p.UserSigning} {
		key := crossSigning[usage]
		if key == nil || usage == "user_signing" && user != viewer {
			continue
		}
		if *into, err = withSignatures(key.JSON, byName[key.Key]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// withSignatures adds signatures that came after the key.
func withSignatures(raw json.RawMessage, signatures []Signature) (json.RawMessage, error) {
	if len(signatures) == 0 {
		return raw, nil
	}
	var key struct {
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &key); err != nil {
		return nil, err
	}
	if key.Signatures == nil {
		key.Signatures = map[id.UserID]map[string]string{}
	}
	for _, s := range signatures {
		if key.Signatures[s.SignerID] == nil {
			key.Signatures[s.SignerID] = map[string]string{}
		}
		key.Signatures[s.SignerID][s.SignerKey] = s.Signature
	}
	return sjson.SetBytes(raw, "signatures", key.Signatures)
}
