package federation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix"

	"chancery/federation/remote"
)

// mUnauthorized is what a request without a valid signature gets.
var mUnauthorized = mautrix.RespError{ErrCode: "M_UNAUTHORIZED", StatusCode: http.StatusUnauthorized}

// maxAuthorization bounds the Authorization headers of one request; a server signs with one or two keys.
const (
	maxAuthorization     = 4096
	maxAuthorizationKeys = 8
)

// xMatrix is one Authorization header of the scheme X-Matrix.
type xMatrix struct {
	origin, destination, key, signature string
}

var errXMatrix = errors.New("malformed X-Matrix header")

// parseXMatrix reads the parameters of an X-Matrix header. ok is false if the header is of another scheme.
// Spec: server-server-api/#request-authentication
func parseXMatrix(header string) (x xMatrix, ok bool, err error) {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "X-Matrix") {
		return x, false, nil
	}
	if len(header) > maxAuthorization || !utf8.ValidString(header) {
		return x, true, errXMatrix
	}
	seen := make(map[string]bool)
	for {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			break
		}
		name, value, remaining, err := parseParameter(rest)
		if err != nil {
			return x, true, err
		}
		if seen[name] {
			return x, true, fmt.Errorf("%w: %s appears twice", errXMatrix, name)
		}
		seen[name] = true
		switch name {
		case "origin":
			x.origin = value
		case "destination":
			x.destination = value
		case "key":
			x.key = value
		case "sig", "signature":
			x.signature = value
		}
		rest = strings.TrimLeft(remaining, " \t")
		if rest == "" {
			break
		}
		if rest[0] != ',' {
			return x, true, fmt.Errorf("%w: want a comma after %s", errXMatrix, name)
		}
		rest = rest[1:]
	}
	if x.origin == "" || x.key == "" || x.signature == "" {
		return x, true, fmt.Errorf("%w: origin, key or sig is missing", errXMatrix)
	}
	return x, true, nil
}

// parseParameter reads name=value or name="value" from the beginning of s, and gives what follows. Unquoted values may hold
// what tokens may and, for older servers, colons and base64's signs.
func parseParameter(s string) (name, value, rest string, err error) {
	name, rest, found := strings.Cut(s, "=")
	name = strings.ToLower(strings.TrimRight(name, " \t"))
	if !found || name == "" || strings.ContainsAny(name, " \t,\"") {
		return "", "", "", fmt.Errorf("%w: want name=value", errXMatrix)
	}
	rest = strings.TrimLeft(rest, " \t")
	if !strings.HasPrefix(rest, `"`) {
		end := strings.IndexAny(rest, ", \t\"")
		if end < 0 {
			end = len(rest)
		}
		return name, rest[:end], rest[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '"':
			return name, b.String(), rest[i+1:], nil
		case '\\':
			i++
			if i < len(rest) {
				b.WriteByte(rest[i])
			}
		default:
			b.WriteByte(rest[i])
		}
	}
	return "", "", "", fmt.Errorf("%w: %s is not closed", errXMatrix, name)
}

// authenticate checks who sent the request, and reads its body. The order: form of the header, names, policy, limits, keys, body,
// signature; so that nothing is fetched for a malformed or unwelcome origin, and nothing read that cannot be checked.
func (d *door) authenticate(w http.ResponseWriter, r *http.Request, limit int64) (origin string, body []byte, err error) {
	headers, err := xMatrixHeaders(r)
	if err != nil {
		return "", nil, err
	}
	origin = headers[0].origin
	if err := d.admit(headers); err != nil {
		return "", nil, err
	}
	if err := d.guests.welcome(origin); err != nil {
		return "", nil, err
	}
	keyIDs := make([]string, len(headers))
	for i, h := range headers {
		keyIDs[i] = h.key
	}
	if !d.ring.Prepare(r.Context(), origin, keyIDs) { // no use in reading what cannot be checked
		return "", nil, mUnauthorized.WithMessage("The keys of %s are not known", origin)
	}
	done, err := d.guests.pay(r.Context(), r, origin, limit)
	if err != nil {
		return "", nil, err
	}
	defer done()
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // where there is no connection there is no deadline
	if body, err = readBody(r, limit); err != nil {
		return "", nil, err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	signatures := make(map[string]string, len(headers))
	for _, h := range headers {
		signatures[h.key] = h.signature
	}
	signed := struct {
		Method      string                       `json:"method"`
		URI         string                       `json:"uri"`
		Origin      string                       `json:"origin"`
		Destination string                       `json:"destination"`
		Content     json.RawMessage              `json:"content,omitempty"`
		Signatures  map[string]map[string]string `json:"signatures"`
	}{r.Method, r.URL.RequestURI(), origin, d.name, body, map[string]map[string]string{origin: signatures}}
	message, err := json.Marshal(signed)
	if err != nil {
		return "", nil, mautrix.MNotJSON.WithMessage("The body is not JSON")
	}
	results, err := d.ring.VerifyJSONs(r.Context(), []gomatrixserverlib.VerifyJSONRequest{{
		ServerName:           spec.ServerName(origin),
		AtTS:                 spec.AsTimestamp(time.Now()),
		Message:              message,
		ValidityCheckingFunc: gomatrixserverlib.StrictValiditySignatureCheck,
	}})
	if err != nil {
		return "", nil, fmt.Errorf("check signature of %s: %w", origin, err)
	}
	if results[0].Error != nil {
		return "", nil, mUnauthorized.WithMessage("The signature of %s could not be verified", origin)
	}
	return origin, body, nil
}

// xMatrixHeaders gives at least one header, all of the same origin and destination.
func xMatrixHeaders(r *http.Request) ([]xMatrix, error) {
	var headers []xMatrix
	for _, value := range r.Header.Values("Authorization") {
		x, ok, err := parseXMatrix(value)
		if !ok {
			continue
		}
		if err != nil {
			return nil, mUnauthorized.WithMessage("Invalid Authorization header")
		}
		headers = append(headers, x)
		if x.origin != headers[0].origin || x.destination != headers[0].destination || len(headers) > maxAuthorizationKeys {
			return nil, mUnauthorized.WithMessage("Authorization headers that contradict each other")
		}
	}
	if len(headers) == 0 {
		return nil, mUnauthorized.WithMessage("Missing X-Matrix Authorization header")
	}
	return headers, nil
}

// admit looks at the names in the headers, before anything is read or fetched.
func (d *door) admit(headers []xMatrix) error {
	origin, destination := headers[0].origin, headers[0].destination
	if !remote.ValidServerName(origin) {
		return mUnauthorized.WithMessage("Invalid origin")
	}
	if origin == d.name {
		return mUnauthorized.WithMessage("Requests in our own name are not accepted")
	}
	if destination != "" && destination != d.name {
		return mUnauthorized.WithMessage("This is not the destination of the request")
	}
	for _, h := range headers {
		if !strings.HasPrefix(h.key, "ed25519:") {
			return mUnauthorized.WithMessage("Unknown kind of key")
		}
	}
	if !d.remote.Allows(origin) {
		return mautrix.MForbidden.WithMessage("This server does not federate with %s", origin)
	}
	return nil
}

// readBody reads at most limit bytes. A body must be a JSON object, except that GET has none.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, mautrix.MTooLarge.WithMessage("The body is larger than %d bytes", limit)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, mautrix.MNotJSON.WithMessage("The body could not be read")
	}
	if int64(len(body)) > limit {
		return nil, mautrix.MTooLarge.WithMessage("The body is larger than %d bytes", limit)
	}
	if len(body) == 0 {
		if r.Method == http.MethodPut || r.Method == http.MethodPost {
			return nil, mautrix.MNotJSON.WithMessage("The body is missing")
		}
		return nil, nil
	}
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, mautrix.MNotJSON.WithMessage("The body is not JSON")
	}
	for _, c := range body {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		case '{':
			return body, nil
		}
		break
	}
	return nil, mautrix.MBadJSON.WithMessage("The body is not a JSON object")
}
