package policy

import "encoding/json"

// PolicyServerKey is the ID under which a policy server's signatures stand.
const PolicyServerKey = "ed25519:policy_server"

// PolicyServer reads the content of a room's m.room.policy: the server that is asked for a signature on each event, and its public
// key in base64. Both are empty where the room names none. That the server has a joined user in the room is for the caller to see.
// Spec: server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room
func PolicyServer(content []byte) (server, key string) {
	var said struct {
		Via  string `json:"via"`
		Keys struct {
			Ed25519 string `json:"ed25519"`
		} `json:"public_keys"`
	}
	if json.Unmarshal(content, &said) != nil || said.Via == "" || said.Keys.Ed25519 == "" {
		return "", ""
	}
	return said.Via, said.Keys.Ed25519
}

// NeedsPolicyServer says whether events of this kind are shown to a room's policy server: all but the one by which the room chooses it.
// Spec: server-server-api/#validating-policy-server-signatures
func NeedsPolicyServer(typ string, stateKey *string) bool {
	return typ != "m.room.policy" || stateKey == nil || *stateKey != ""
}
