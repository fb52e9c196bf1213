package remote

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix/federation"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// Keys are this server's own signing keys. The first signs; the others are published, so that a key can be announced before it
// is used; old ones are published as such, so that what they signed can still be checked.
type Keys struct {
	ServerName string
	keys       []signing
	old        []retired
}

type signing struct {
	id  string
	key ed25519.PrivateKey
}

type retired struct {
	id      string
	key     ed25519.PublicKey
	expired time.Time
}

// keyValidity is how long others may use our keys without asking again.
const keyValidity = 7 * 24 * time.Hour

var keyIDPattern = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// LoadKeys reads a key file. Each line is a key: "ed25519 <version> <seed>" for one in use (the first signs), or
// "old <version> <public key> <unix milliseconds>" for one that was used until then. Lines that begin with # are comments.
func LoadKeys(serverName, path string) (*Keys, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	return ParseKeys(serverName, string(text))
}

// ParseKeys reads the text of a key file.
func ParseKeys(serverName, text string) (*Keys, error) {
	k := &Keys{ServerName: serverName}
	seen := map[string]bool{}
	for n, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := k.add(fields); err != nil {
			return nil, fmt.Errorf("signing keys, line %d: %w", n+1, err)
		}
		if seen[fields[1]] {
			return nil, fmt.Errorf("signing keys, line %d: key %s appears twice", n+1, fields[1])
		}
		seen[fields[1]] = true
	}
	if len(k.keys) == 0 {
		return nil, errors.New("signing keys: no key in use")
	}
	return k, nil
}

func (k *Keys) add(fields []string) error {
	if len(fields) < 3 || !keyIDPattern.MatchString(fields[1]) {
		return errors.New("want a kind, a version of letters, digits and underscores, and a key")
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[2], "="))
	if err != nil || len(raw) != 32 {
		return errors.New("the key is not 32 bytes of base64")
	}
	keyID := "ed25519:" + fields[1]
	switch {
	case fields[0] == "ed25519" && len(fields) == 3:
		k.keys = append(k.keys, signing{keyID, ed25519.NewKeyFromSeed(raw)})
	case fields[0] == "old" && len(fields) == 4:
		ms, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			return fmt.Errorf("expiry: %w", err)
		}
		k.old = append(k.old, retired{keyID, raw, time.UnixMilli(ms)})
	default:
		return fmt.Errorf("unknown kind of line %q with %d fields", fields[0], len(fields))
	}
	return nil
}

// GenerateKeys makes keys for a new server, in memory.
func GenerateKeys(serverName string) *Keys {
	seed := make([]byte, 32)
	rand.Read(seed)
	key := ed25519.NewKeyFromSeed(seed)
	return &Keys{ServerName: serverName, keys: []signing{{newKeyID(key), key}}}
}

func newKeyID(key ed25519.PrivateKey) string {
	version := base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)[:4])
	return "ed25519:c_" + strings.ReplaceAll(version, "-", "_")
}

// CreateKeys reads the key file, and makes one with a new key if there is none yet.
func CreateKeys(serverName, path string) (*Keys, error) {
	k, err := LoadKeys(serverName, path)
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	k = GenerateKeys(serverName)
	return k, k.Save(path)
}

// Rotate gives new keys, of which a fresh one signs; those in use until now become old ones as of now.
func (k *Keys) Rotate(now time.Time) *Keys {
	next := GenerateKeys(k.ServerName)
	next.old = append(next.old, k.old...)
	for _, s := range k.keys {
		next.old = append(next.old, retired{s.id, s.key.Public().(ed25519.PublicKey), now})
	}
	return next
}

// Save writes the key file, readable by its owner only. The file is there whole or not at all.
func (k *Keys) Save(path string) error {
	var b strings.Builder
	for _, s := range k.keys {
		fmt.Fprintf(&b, "ed25519 %s %s\n", strings.TrimPrefix(s.id, "ed25519:"), base64.RawStdEncoding.EncodeToString(s.key.Seed()))
	}
	for _, o := range k.old {
		fmt.Fprintf(&b, "old %s %s %d\n", strings.TrimPrefix(o.id, "ed25519:"), base64.RawStdEncoding.EncodeToString(o.key), o.expired.UnixMilli())
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".signing-*")
	if err != nil {
		return fmt.Errorf("write signing keys: %w", err)
	}
	defer os.Remove(tmp.Name()) // gone already after the rename
	_, err = tmp.WriteString(b.String())
	if err = errors.Join(err, tmp.Chmod(0o600), tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write signing keys: %w", err)
	}
	return nil
}

// Current is the key that signs, with its ID ("ed25519:version").
func (k *Keys) Current() (keyID string, key ed25519.PrivateKey) {
	return k.keys[0].id, k.keys[0].key
}

// Signer signs events in this server's name.
func (k *Keys) Signer() pdu.Signer {
	return pdu.Signer{ServerName: k.ServerName, KeyID: k.keys[0].id, Key: k.keys[0].key}
}

// Sign adds our signature to a JSON object. Existing signatures stay.
func (k *Keys) Sign(object []byte) ([]byte, error) {
	s := k.keys[0]
	return gomatrixserverlib.SignJSON(k.ServerName, gomatrixserverlib.KeyID(s.id), s.key, object)
}

func (k *Keys) signingKey() *federation.SigningKey {
	s := k.keys[0]
	return &federation.SigningKey{
		ID:   id.KeyID(s.id),
		Pub:  id.SigningKey(base64.RawStdEncoding.EncodeToString(s.key.Public().(ed25519.PublicKey))),
		Priv: s.key,
	}
}

// Publish is the signed answer to the question which keys this server has.
func (k *Keys) Publish(now time.Time) ([]byte, error) {
	answer := gomatrixserverlib.ServerKeyFields{
		ServerName:    spec.ServerName(k.ServerName),
		VerifyKeys:    make(map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey),
		ValidUntilTS:  spec.AsTimestamp(now.Add(keyValidity)),
		OldVerifyKeys: make(map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey),
	}
	for _, s := range k.keys {
		answer.VerifyKeys[gomatrixserverlib.KeyID(s.id)] = gomatrixserverlib.VerifyKey{Key: spec.Base64Bytes(s.key.Public().(ed25519.PublicKey))}
	}
	for _, o := range k.old {
		answer.OldVerifyKeys[gomatrixserverlib.KeyID(o.id)] = gomatrixserverlib.OldVerifyKey{
			VerifyKey: gomatrixserverlib.VerifyKey{Key: spec.Base64Bytes(o.key)}, ExpiredTS: spec.AsTimestamp(o.expired),
		}
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("publish keys: %w", err)
	}
	for _, s := range k.keys {
		if raw, err = gomatrixserverlib.SignJSON(k.ServerName, gomatrixserverlib.KeyID(s.id), s.key, raw); err != nil {
			return nil, fmt.Errorf("publish keys: %w", err)
		}
	}
	return raw, nil
}

// lookup finds one of our own keys, for checking what we signed ourselves.
func (k *Keys) lookup(keyID gomatrixserverlib.KeyID, now time.Time) (gomatrixserverlib.PublicKeyLookupResult, bool) {
	var res gomatrixserverlib.PublicKeyLookupResult
	for _, s := range k.keys {
		if s.id == string(keyID) {
			res.Key = spec.Base64Bytes(s.key.Public().(ed25519.PublicKey))
			res.ValidUntilTS = spec.AsTimestamp(now.Add(keyValidity))
			return res, true
		}
	}
	for _, o := range k.old {
		if o.id == string(keyID) {
			res.Key, res.ExpiredTS = spec.Base64Bytes(o.key), spec.AsTimestamp(o.expired)
			return res, true
		}
	}
	return res, false
}
