package pdu

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix/id"
)

// Signer is a server's name and the key that it signs with.
type Signer struct {
	ServerName string
	// KeyID with its algorithm: "ed25519:a1".
	KeyID string
	Key   ed25519.PrivateKey
}

// EventID is the ID of an event: what it carries in versions 1 and 2, its reference hash later.
// Spec: rooms/v4/#event-ids
func EventID(version id.RoomVersion, raw []byte) (id.EventID, error) {
	f, err := formatOf(version)
	if err != nil {
		return "", err
	}
	all, err := parseMembers(raw, f.strictNumbers)
	if err != nil {
		return "", err
	}
	if f.references {
		s, ok := text(field(all, "event_id"))
		if !ok {
			return "", fmt.Errorf("%w: event_id is missing", ErrMalformed)
		}
		return id.EventID(s), nil
	}
	hash, err := f.referenceHash(all)
	if err != nil {
		return "", err
	}
	return id.EventID(f.eventID(hash)), nil
}

// ReferenceHash is the hash that versions 1 and 2 write beside the ID of a referenced event.
// Spec: server-server-api/#calculating-the-reference-hash-for-an-event
func ReferenceHash(ev gomatrixserverlib.PDU) ([]byte, error) {
	f, err := formatOf(id.RoomVersion(ev.Version()))
	if err != nil {
		return nil, err
	}
	all, err := parseMembers(ev.JSON(), f.strictNumbers)
	if err != nil {
		return nil, err
	}
	hash, err := f.referenceHash(all)
	return hash[:], err
}

func (f *format) referenceHash(all []member) (hash [sha256.Size]byte, err error) {
	kept, err := f.redact(all)
	if err != nil {
		return hash, err
	}
	return hashOf(kept, "signatures", "unsigned"), nil
}

func (f *format) eventID(hash [sha256.Size]byte) string {
	encoding := base64.RawURLEncoding
	if f.plainBase64 {
		encoding = base64.RawStdEncoding
	}
	var b [44]byte
	b[0] = '$'
	encoding.Encode(b[1:], hash[:])
	return string(b[:])
}

// Sign adds a signature to an event, as the server that answers an invite does. All else
// stays as it is; the event ID does not change. It is safe on foreign bytes.
// Spec: server-server-api/#signing-events
func Sign(version id.RoomVersion, raw []byte, signer Signer) ([]byte, error) {
	f, err := formatOf(version)
	if err != nil {
		return nil, err
	}
	all, err := parseMembers(raw, f.strictNumbers)
	if err != nil {
		return nil, err
	}
	kept, err := f.redact(all)
	if err != nil {
		return nil, err
	}
	message := appendObject(make([]byte, 0, len(raw)), kept, "signatures", "unsigned")
	signatures, err := addSignature(field(all, "signatures"), signer, message)
	if err != nil {
		return nil, err
	}
	all = with(all, "signatures", signatures)
	return appendObject(make([]byte, 0, len(raw)+len(signatures)), all), nil
}

// addSignature signs message and gives the signatures object with one more.
func addSignature(old []byte, signer Signer, message []byte) ([]byte, error) {
	if old == nil {
		old = []byte("{}")
	}
	servers, err := members(nil, old)
	if err != nil {
		return nil, err
	}
	mine := field(servers, signer.ServerName)
	if mine == nil {
		mine = []byte("{}")
	}
	keys, err := members(nil, mine)
	if err != nil {
		return nil, err
	}
	signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(signer.Key, message))
	keys = with(keys, signer.KeyID, appendText(nil, signature))
	servers = with(servers, signer.ServerName, appendObject(nil, keys))
	return appendObject(nil, servers), nil
}

// maxAttempts bounds the signature checks that one object may cost us.
const maxAttempts = 64

// SignedBy says whether any signature in a canonical object, whoever it claims to be from, was made by any
// of the keys: how the "signed" part of an invite by e-mail is proved. At most 64 pairs are tried.
func SignedBy(object []byte, keys []ed25519.PublicKey) bool {
	all, err := members(nil, object)
	if err != nil {
		return false
	}
	servers, err := members(nil, field(all, "signatures"))
	if err != nil {
		return false
	}
	message := appendObject(nil, all, "signatures", "unsigned")
	attempts := 0
	for _, server := range servers {
		signatures, err := members(nil, server.value)
		if err != nil {
			continue
		}
		for _, m := range signatures {
			encoded, _ := text(m.value)
			signature, ok := decodeBase64(encoded)
			if !ok || len(signature) != ed25519.SignatureSize || !strings.HasPrefix(string(m.key), "ed25519:") {
				continue
			}
			for _, key := range keys {
				if attempts++; attempts > maxAttempts {
					return false
				}
				if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, signature) {
					return true
				}
			}
		}
	}
	return false
}

// PublicKey reads a key in base64; nil if it is none.
func PublicKey(encoded string) ed25519.PublicKey {
	key, ok := decodeBase64(encoded)
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil
	}
	return key
}

// Verify checks that each event bears the signatures it needs; the result has an error or
// nil for each, in their order. All keys that are needed are asked of the ring at once.
// Keys that the ring does not know are no failure as long as one known key of that server fits.
// Spec: server-server-api/#validating-hashes-and-signatures-on-received-events
func Verify(ctx context.Context, events []gomatrixserverlib.PDU, ring gomatrixserverlib.JSONVerifier) []error {
	failures := make([]error, len(events))
	var requests []gomatrixserverlib.VerifyJSONRequest
	var owners []int
	for i, ev := range events {
		more, err := signatureRequests(ev)
		if err != nil {
			failures[i] = err
			continue
		}
		for range more {
			owners = append(owners, i)
		}
		requests = append(requests, more...)
	}
	if len(requests) == 0 {
		return failures
	}
	results, err := ring.VerifyJSONs(ctx, requests)
	if err == nil && len(results) != len(requests) {
		err = fmt.Errorf("pdu: %d answers to %d signatures", len(results), len(requests))
	}
	for n, i := range owners {
		switch {
		case failures[i] != nil:
		case err != nil:
			failures[i] = fmt.Errorf("verify %s: %w", events[i].EventID(), err)
		case results[n].Error != nil:
			failures[i] = fmt.Errorf("verify %s: signature of %s: %w", events[i].EventID(), requests[n].ServerName, results[n].Error)
		}
	}
	return failures
}

func signatureRequests(ev gomatrixserverlib.PDU) ([]gomatrixserverlib.VerifyJSONRequest, error) {
	f, err := formatOf(id.RoomVersion(ev.Version()))
	if err != nil {
		return nil, err
	}
	signers, err := f.signers(ev)
	if err != nil || len(signers) == 0 {
		return nil, err
	}
	all, err := members(make([]member, 0, 20), ev.JSON())
	if err != nil {
		return nil, err
	}
	kept, err := f.redact(all)
	if err != nil {
		return nil, err
	}
	message := appendObject(nil, kept)
	validity := gomatrixserverlib.NoStrictValidityCheck
	if f.keyValidity {
		validity = gomatrixserverlib.StrictValiditySignatureCheck
	}
	requests := make([]gomatrixserverlib.VerifyJSONRequest, len(signers))
	for i, server := range signers {
		requests[i] = gomatrixserverlib.VerifyJSONRequest{
			ServerName:           spec.ServerName(server),
			AtTS:                 ev.OriginServerTS(),
			Message:              message,
			ValidityCheckingFunc: validity,
		}
	}
	return requests, nil
}

// signers lists the servers that must have signed ev: the sender's; in versions 1 and 2
// the one that gave the event ID; from version 8 the one that authorised a restricted join.
// An invite by e-mail may be sent by another server than its sender's, and is proved by
// the identity server's signature in the authorisation rules instead. The invited user's
// server signs invites too, but nobody needs to see that.
func (f *format) signers(ev gomatrixserverlib.PDU) ([]string, error) {
	content := memberContent(ev)
	var names []string
	if !(content.membership == "invite" && content.thirdParty) {
		names = append(names, serverOf(string(ev.SenderID())))
	}
	if f.references {
		if server := serverOf(ev.EventID()); len(names) == 0 || names[0] != server {
			names = append(names, server)
		}
	}
	if f.restrictedJoins && content.membership == "join" && content.authoriser != nil {
		user, ok := text(content.authoriser)
		if !ok || !ValidUserID(user) {
			return nil, fmt.Errorf("%w: join_authorised_via_users_server is no user ID", ErrMalformed)
		}
		if server := serverOf(user); len(names) == 0 || names[0] != server {
			names = append(names, server)
		}
	}
	return names, nil
}

// membership is what the content of a member event says about signatures.
type membership struct {
	membership string
	thirdParty bool
	authoriser []byte
}

func memberContent(ev gomatrixserverlib.PDU) (m membership) {
	if ev.Type() != "m.room.member" || ev.StateKey() == nil {
		return m
	}
	all, err := members(make([]member, 0, 12), ev.Content())
	if err != nil {
		return m
	}
	m.membership, _ = text(field(all, "membership"))
	m.thirdParty = field(all, "third_party_invite") != nil
	m.authoriser = field(all, "join_authorised_via_users_server")
	return m
}

// serverOf is the server name of a user or event ID; empty if there is none.
func serverOf(s string) string {
	_, server, _ := strings.Cut(s, ":")
	return server
}

// AddSignature adds another server's signature to an event of ours, under the ID of its key; all else stays as it is, and so
// does the event ID.
func AddSignature(ev gomatrixserverlib.PDU, server, keyID, signature string) (gomatrixserverlib.PDU, error) {
	version := id.RoomVersion(ev.Version())
	f, err := formatOf(version)
	if err != nil {
		return nil, err
	}
	all, err := parseMembers(ev.JSON(), f.strictNumbers)
	if err != nil {
		return nil, err
	}
	servers, err := members(nil, field(all, "signatures"))
	if err != nil {
		return nil, err
	}
	var keys []member
	if theirs := field(servers, server); theirs != nil {
		if keys, err = members(nil, theirs); err != nil {
			return nil, err
		}
	}
	keys = with(keys, keyID, appendText(nil, signature))
	all = with(all, "signatures", appendObject(nil, with(servers, server, appendObject(nil, keys))))
	return Parse(version, appendObject(nil, all))
}

// SignedWith says whether the event bears a signature of the server under the ID of a key, made with this key.
// Spec: server-server-api/#validating-policy-server-signatures
func SignedWith(ev gomatrixserverlib.PDU, server, keyID string, key ed25519.PublicKey) bool {
	f, err := formatOf(id.RoomVersion(ev.Version()))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return false
	}
	all, err := members(nil, ev.JSON())
	if err != nil {
		return false
	}
	servers, err := members(nil, field(all, "signatures"))
	if err != nil {
		return false
	}
	theirs := field(servers, server)
	if theirs == nil {
		return false
	}
	keys, err := members(nil, theirs)
	if err != nil {
		return false
	}
	encoded, _ := text(field(keys, keyID))
	signature, ok := decodeBase64(encoded)
	if !ok || len(signature) != ed25519.SignatureSize {
		return false
	}
	kept, err := f.redact(all)
	if err != nil {
		return false
	}
	return ed25519.Verify(key, appendObject(nil, kept, "signatures", "unsigned"), signature)
}
