// Package signal is the LiveKit signalling protocol as the call focus speaks it:
// the messages, the WebSocket that carries them, and the join request in a query.
//
// It owns the socket and nothing else: what a message means is decided in calls.
// The messages live in signal.proto, a subset of our own with the wire's field numbers.
//
// What holds here:
//   - every byte that comes in has a bound: frames by Limits, a decompressed join by maxJoin;
//   - Send never blocks: a socket whose reader is slow is closed, and its client resumes;
//   - messages leave in the order of Send.
package signal

//go:generate protoc --go_out=. --go_opt=paths=source_relative signal.proto service.proto

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/proto"
)

// Protocol is the newest version of the client protocol that we speak.
const Protocol = 16

// maxJoin bounds a decompressed join request.
const maxJoin = 1 << 20

// ErrBadJoin is wrapped by every refusal of a join request.
var ErrBadJoin = errors.New("signal: bad join request")

// ParseJoin reads the join request of /rtc/v1: URL-safe base64 of a WrappedJoin in the parameter join_request.
func ParseJoin(query url.Values) (*Join, error) {
	raw, err := decodeBase64(query.Get("join_request"))
	if err != nil {
		return nil, fmt.Errorf("%w: base64: %v", ErrBadJoin, err)
	}
	var wrapped WrappedJoin
	if err := proto.Unmarshal(raw, &wrapped); err != nil {
		return nil, fmt.Errorf("%w: envelope: %v", ErrBadJoin, err)
	}
	body := wrapped.JoinRequest
	switch wrapped.Compression {
	case WrappedJoin_NONE:
	case WrappedJoin_GZIP:
		if body, err = gunzip(body); err != nil {
			return nil, fmt.Errorf("%w: gzip: %v", ErrBadJoin, err)
		}
	default:
		return nil, fmt.Errorf("%w: compression %d", ErrBadJoin, wrapped.Compression)
	}
	var join Join
	if err := proto.Unmarshal(body, &join); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadJoin, err)
	}
	return &join, nil
}

// sdks are the kinds of clients, as the parameter sdk names them. (LiveKit 1.13.5: ParseClientInfo)
var sdks = map[string]uint32{
	"js": 1, "swift": 2, "ios": 2, "android": 3, "flutter": 4, "go": 5, "unity": 6, "reactnative": 7,
	"rust": 8, "python": 9, "cpp": 10, "unityweb": 11, "node": 12, "esp32": 14,
}

// ParseLegacyJoin reads the parameters of /rtc, where each setting is a parameter of its own. Attributes that cannot be read are none.
func ParseLegacyJoin(query url.Values) *Join {
	number := func(name string) int32 {
		n, _ := strconv.ParseInt(query.Get(name), 10, 32)
		return int32(n)
	}
	flag := func(name string) bool {
		v, _ := strconv.ParseBool(query.Get(name))
		return v
	}
	settings := &ConnectionSettings{
		AutoSubscribe:  query.Get("auto_subscribe") == "" || flag("auto_subscribe"),
		AdaptiveStream: flag("adaptive_stream"),
		DisableIceLite: flag("disable_ice_lite"),
	}
	if query.Has("subscriber_allow_pause") {
		allow := flag("subscriber_allow_pause")
		settings.SubscriberAllowPause = &allow
	}
	return &Join{
		ClientInfo: &ClientInfo{
			Sdk:            sdks[query.Get("sdk")],
			Version:        query.Get("version"),
			Protocol:       number("protocol"),
			ClientProtocol: number("client_protocol"),
			Os:             query.Get("os"),
			Browser:        query.Get("browser"),
			Network:        query.Get("network"),
		},
		ConnectionSettings: settings,
		Reconnect:          flag("reconnect"),
		ParticipantSid:     query.Get("sid"),

		ParticipantAttributes: legacyAttributes(query.Get("attributes")),
	}
}

// legacyAttributes reads a JSON object of strings in base64.
func legacyAttributes(encoded string) (attributes map[string]string) {
	if len(encoded) > maxJoin {
		return nil
	}
	data, err := decodeBase64(encoded)
	if err != nil || json.Unmarshal(data, &attributes) != nil {
		return nil
	}
	return attributes
}

func gunzip(in []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, maxJoin+1))
	if err != nil {
		return nil, err
	}
	if len(out) > maxJoin {
		return nil, fmt.Errorf("more than %d bytes", maxJoin)
	}
	return out, nil
}

// decodeBase64 takes the URL-safe alphabet with or without padding.
func decodeBase64(s string) ([]byte, error) {
	for len(s) > 0 && s[len(s)-1] == '=' {
		s = s[:len(s)-1]
	}
	return base64.RawURLEncoding.DecodeString(s)
}
