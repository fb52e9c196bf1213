package keys

import (
	"bytes"
	"encoding/json"
	"testing"

	"chancery/roomserver/pdu"
)

func FuzzUploadedKeys(f *testing.F) {
	f.Add([]byte(`{"user_id":"@a:b","device_id":"D","algorithms":[],"keys":{"ed25519:D":"k"},"signatures":{"@a:b":{"ed25519:D":"s"}}}`))
	f.Add([]byte(`{"user_id":"@a:b","usage":["master"],"keys":{"ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}`))
	f.Add([]byte(`{"signed_curve25519:A":{"key":"k","signatures":{}},"curve25519:B":"k"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var found []json.RawMessage
		if keys, err := checkDeviceKeys(raw, "@a:b", "D"); err == nil {
			found = append(found, keys)
		}
		if key, err := checkCrossSigningKey(raw, "@a:b", usageMaster); err == nil {
			found = append(found, key.JSON)
			verify(key.JSON, "@a:b", "ed25519:"+key.Key, key.Key)
		}
		var named map[string]json.RawMessage
		if json.Unmarshal(raw, &named) == nil {
			if keys, err := checkOneTimeKeys(named); err == nil {
				for _, key := range keys {
					if key.Algorithm == "" || key.KeyID == "" {
						t.Errorf("a key without a name passed: %+v", key)
					}
				}
			}
		}
		for _, key := range found {
			// What passes is what every other server would take.
			if again, err := pdu.Canonical(key); err != nil || !bytes.Equal(again, key) {
				t.Errorf("passed, but is not canonical: %s (%v)", key, err)
			}
		}
	})
}
