package sfu

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"sync"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/prf"
	"github.com/pion/dtls/v3/pkg/protocol/extension"
	"github.com/pion/dtls/v3/pkg/protocol/handshake"
	"github.com/pion/srtp/v3"
	"github.com/pion/webrtc/v4"
)

// keys listens to a DTLS handshake of which we are the server, and makes of it what SRTP is keyed with (RFC 5764, section
// 4.2), a second time beside Pion, which keeps its own to itself. What it hears is forgotten when the keys are made. A
// handshake of another kind gives none: then Pion carries the media.
type keys struct {
	made func(in, out *srtp.Context)

	mu     sync.Mutex // guards what follows
	random []byte     // the server's
	hash   func() hash.Hash
	srtp   srtp.ProtectionProfile
}

const (
	exporterLabel = "EXTRACTOR-dtls_srtp"
	keyLogLabel   = "CLIENT_RANDOM"
	replayWindow  = 512 // packets: repairs come late
)

// listen has the settings of one peer connection tell.
func (k *keys) listen(s *webrtc.SettingEngine) {
	s.SetDTLSServerHelloMessageHook(k.hello)
	s.SetDTLSKeyLogWriter(k)
}

// hello notes what the server says first, and says it.
func (k *keys) hello(m handshake.MessageServerHello) handshake.Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	random := m.Random.MarshalFixed()
	k.random, k.hash, k.srtp = random[:], sha256.New, 0
	if m.CipherSuiteID != nil {
		switch dtls.CipherSuiteID(*m.CipherSuiteID) {
		case dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
			k.hash = sha512.New384
		}
	}
	for _, e := range m.Extensions {
		if use, ok := e.(*extension.UseSRTP); ok && len(use.ProtectionProfiles) == 1 {
			k.srtp = srtp.ProtectionProfile(use.ProtectionProfiles[0])
		}
	}
	return &m
}

// Write takes a line of the key log: a label, the client's random bytes, the secret.
func (k *keys) Write(line []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	parts := bytes.Fields(line)
	if len(parts) != 3 || string(parts[0]) != keyLogLabel || k.random == nil || k.srtp == 0 {
		return len(line), nil
	}
	client, err1 := hex.DecodeString(string(parts[1]))
	secret, err2 := hex.DecodeString(string(parts[2]))
	if err1 != nil || err2 != nil {
		return len(line), nil
	}
	if in, out, err := k.contexts(secret, client); err == nil {
		k.made(in, out)
	}
	clear(secret)
	k.random = nil
	return len(line), nil
}

func (k *keys) contexts(secret, client []byte) (in, out *srtp.Context, err error) {
	config := srtp.Config{Profile: k.srtp}
	if err = config.ExtractSessionKeysFromDTLS(&exporter{secret: secret, seed: append(client, k.random...), hash: k.hash}, false); err != nil {
		return nil, nil, err
	}
	in, err = srtp.CreateContext(config.Keys.RemoteMasterKey, config.Keys.RemoteMasterSalt, k.srtp,
		srtp.SRTPReplayProtection(replayWindow), srtp.SRTCPReplayProtection(replayWindow))
	if err != nil {
		return nil, nil, err
	}
	out, err = srtp.CreateContext(config.Keys.LocalMasterKey, config.Keys.LocalMasterSalt, k.srtp)
	return in, out, err
}

// exporter is RFC 5705 without a context.
type exporter struct {
	secret, seed []byte
	hash         func() hash.Hash
}

// ExportKeyingMaterial is for srtp.
func (e *exporter) ExportKeyingMaterial(label string, _ []byte, length int) ([]byte, error) {
	return prf.PHash(e.secret, append([]byte(label), e.seed...), length, e.hash)
}
