package remote

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// leaked are keys that anybody can sign with. Whoever serves one, nothing that it signed is believed.
var leaked = []string{
	"l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og", // GHSA-qwcj-h6m8-vp6q (CVE-2026-24044): made from a seed that is known
}

// pins are the keys that the configuration speaks about: those of servers whose keys are never fetched, and those that are
// never believed.
type pins struct {
	pinned map[string]map[gomatrixserverlib.KeyID]ed25519.PublicKey
	denied map[string]bool // by the key's bytes
}

func newPins(pinned map[string]map[string]string, denied []string) (pins, error) {
	p := pins{pinned: make(map[string]map[gomatrixserverlib.KeyID]ed25519.PublicKey), denied: make(map[string]bool)}
	for _, text := range append(append([]string{}, leaked...), denied...) {
		key, err := publicKey(text)
		if err != nil {
			return p, fmt.Errorf("denied key %q: %w", text, err)
		}
		p.denied[string(key)] = true
	}
	for server, keys := range pinned {
		if !ValidServerName(server) {
			return p, fmt.Errorf("pinned keys: %q is no server name", server)
		}
		if len(keys) == 0 {
			return p, fmt.Errorf("pinned keys of %s: none", server)
		}
		p.pinned[server] = make(map[gomatrixserverlib.KeyID]ed25519.PublicKey)
		for keyID, text := range keys {
			key, err := publicKey(text)
			if err == nil && !validKeyID(gomatrixserverlib.KeyID(keyID)) {
				err = fmt.Errorf("want an ID that begins with ed25519:")
			}
			if err != nil {
				return p, fmt.Errorf("pinned key %q of %s: %w", keyID, server, err)
			}
			p.pinned[server][gomatrixserverlib.KeyID(keyID)] = key
		}
	}
	return p, nil
}

func publicKey(text string) (ed25519.PublicKey, error) {
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("it is not 32 bytes of base64")
	}
	return key, nil
}

// has says whether the server's keys are pinned.
func (p pins) has(server string) bool { return p.pinned[server] != nil }

// lookup gives a pinned key, good for as long as any key is.
func (p pins) lookup(req keyRequest, now spec.Timestamp) (keyResult, bool) {
	key, ok := p.pinned[string(req.ServerName)][req.KeyID]
	return keyResult{VerifyKey: gomatrixserverlib.VerifyKey{Key: spec.Base64Bytes(key)}, ValidUntilTS: now + spec.Timestamp(maxKeyValidity.Milliseconds())}, ok
}

// sieve stands before a source of keys: it does not ask for servers whose keys are pinned, and lets no denied key through.
type sieve struct {
	gomatrixserverlib.KeyFetcher
	pins pins
}

// FetchKeys is gomatrixserverlib.KeyFetcher's.
func (s sieve) FetchKeys(ctx context.Context, requests map[keyRequest]spec.Timestamp) (map[keyRequest]keyResult, error) {
	asked := make(map[keyRequest]spec.Timestamp, len(requests))
	for req, ts := range requests {
		if !s.pins.has(string(req.ServerName)) {
			asked[req] = ts
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	found, err := s.KeyFetcher.FetchKeys(ctx, asked)
	s.pins.clean(found)
	return found, err
}

// clean takes out what is denied, and what is said of servers whose keys are pinned.
func (p pins) clean(keys map[keyRequest]keyResult) {
	for req, res := range keys {
		if p.denied[string(res.Key)] || p.has(string(req.ServerName)) {
			delete(keys, req)
		}
	}
}
