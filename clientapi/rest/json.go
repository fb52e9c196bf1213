package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"maunium.net/go/mautrix"

	"chancery/roomserver/pdu"
)

// maxDepth is how deep a body may nest.
const maxDepth = 100

// bodyTime is how long a client may take to send a body that is read as a whole.
const bodyTime = 30 * time.Second

// JSON decodes the body, which has to be there.
func (r *Request) JSON(into any) error {
	raw, err := r.Body()
	if err != nil {
		return err
	}
	return Decode(raw, into)
}

// OptionalJSON decodes the body, and leaves into alone when there is none.
func (r *Request) OptionalJSON(into any) error {
	raw, err := r.Body()
	if err != nil || len(bytes.TrimSpace(raw)) == 0 {
		return err
	}
	return Decode(raw, into)
}

// Object is the body as it came, once it is sure that it is a JSON object.
func (r *Request) Object() (json.RawMessage, error) {
	raw, err := r.Body()
	if err != nil {
		return nil, err
	}
	if err := CheckJSON(raw); err != nil {
		return nil, err
	}
	raw = bytes.TrimSpace(raw)
	if raw[0] != '{' {
		return nil, mautrix.MBadJSON.WithMessage("The body has to be a JSON object")
	}
	return raw, nil
}

// Body is the whole body, at most as long as the route allows; read once, and the same on each call.
func (r *Request) Body() ([]byte, error) {
	if r.read {
		return r.body, nil
	}
	limit := r.maxBody
	if limit == 0 {
		limit = defaultMaxBody
	}
	if limit > 0 && r.HTTP.ContentLength > limit {
		return nil, tooLarge
	}
	// The server may not support deadlines (a test's recorder); then there is none.
	_ = http.NewResponseController(r.writer).SetReadDeadline(time.Now().Add(bodyTime))
	body := io.Reader(r.HTTP.Body)
	if limit > 0 {
		body = http.MaxBytesReader(r.writer, r.HTTP.Body, limit)
	}
	raw, err := io.ReadAll(body)
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return nil, tooLarge
	}
	if err != nil {
		return nil, mautrix.MNotJSON.WithMessage("The body did not arrive whole")
	}
	_ = http.NewResponseController(r.writer).SetReadDeadline(time.Time{})
	r.body, r.read = raw, true
	return raw, nil
}

var tooLarge = mautrix.MTooLarge.WithMessage("The body is too large")

// Decode checks foreign JSON strictly and decodes it. What is not JSON is M_NOT_JSON, what has another shape M_BAD_JSON.
func Decode(raw []byte, into any) error {
	if err := CheckJSON(raw); err != nil {
		return err
	}
	if string(bytes.TrimSpace(raw)) == "null" { // which encoding/json takes for every shape
		return mautrix.MBadJSON.WithMessage("The body is null")
	}
	if err := json.Unmarshal(raw, into); err != nil {
		var shape *json.UnmarshalTypeError
		if errors.As(err, &shape) && shape.Field != "" {
			return mautrix.MBadJSON.WithMessage("%s has the wrong type", clip(shape.Field))
		}
		return mautrix.MBadJSON.WithMessage("The JSON does not have the shape it should have")
	}
	return nil
}

// CheckJSON refuses what is not one JSON value, is not UTF-8, nests too deep, holds a NUL, or can be read in two ways.
func CheckJSON(raw []byte) error {
	if !utf8.Valid(raw) {
		return mautrix.MNotJSON.WithMessage("The body is not UTF-8")
	}
	if tooDeep(raw) {
		return mautrix.MBadJSON.WithMessage("The JSON nests too deep")
	}
	if !json.Valid(raw) {
		return mautrix.MNotJSON.WithMessage("The body is not JSON")
	}
	if hasNUL(raw) {
		return mautrix.MBadJSON.WithMessage("The JSON holds a NUL character")
	}
	if pdu.CheckJSON(raw, false) != nil {
		return mautrix.MBadJSON.WithMessage("The JSON names a key twice in one object, or holds half a character")
	}
	return nil
}

// tooDeep counts brackets outside strings, before any recursive parser sees them.
func tooDeep(raw []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// hasNUL finds the escape \u0000 in valid JSON, not mistaking \\u0000 for it.
func hasNUL(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		if bytes.HasPrefix(raw[i:], []byte(`\u0000`)) {
			return true
		}
		i++
	}
	return false
}
