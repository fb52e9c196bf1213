package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"

	"chancery/storage/bus"
)

// writeTime is how long a client may take to read a JSON answer.
const writeTime = 60 * time.Second

func setCORS(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date, If-Match, If-None-Match, Range")
	h.Set("Access-Control-Expose-Headers", "ETag, Location, Retry-After, X-Max-Bytes, Content-Range")
	h.Set("Access-Control-Max-Age", "86400")
}

// respond writes what a handler returned.
func respond(w http.ResponseWriter, r *http.Request, value any, err error) {
	if err != nil {
		WriteError(w, r, err)
		return
	}
	switch v := value.(type) {
	case Answer:
		v(w, r)
	case Status:
		writeJSON(w, r, v.Code, v.Body)
	default:
		writeJSON(w, r, http.StatusOK, value)
	}
}

// WriteError answers with an error in the form that clients read.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	var unconfirmed *Unconfirmed
	if errors.As(err, &unconfirmed) {
		writeJSON(w, r, http.StatusUnauthorized, unconfirmed)
		return
	}
	refusal := asRespError(r.Context(), err)
	for key, value := range refusal.ExtraHeader {
		w.Header().Set(key, value)
	}
	writeJSON(w, r, refusal.StatusCode, &refusal)
}

// asRespError finds what to tell the client, and logs what not to tell.
func asRespError(ctx context.Context, err error) mautrix.RespError {
	var refusal mautrix.RespError
	var pointer *mautrix.RespError
	var refused *bus.Refusal
	switch {
	case errors.As(err, &refusal):
	case errors.As(err, &pointer):
		refusal = *pointer
	case errors.As(err, &refused):
		refusal = mautrix.RespError{ErrCode: refused.Code, Err: refused.Message, StatusCode: refused.Status, ExtraData: refused.Extra}
	case errors.Is(err, context.DeadlineExceeded):
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Request ran out of time")
		return mautrix.MUnknown.WithStatus(http.StatusGatewayTimeout).WithMessage("The request took too long")
	case errors.Is(err, context.Canceled):
		return mautrix.MUnknown.WithStatus(499).WithMessage("The client went away")
	default:
		zerolog.Ctx(ctx).Error().Err(err).Msg("Request failed")
		return mautrix.MUnknown.WithMessage("Internal server error")
	}
	if refusal.StatusCode == 0 {
		refusal.StatusCode = statusOf(refusal.ErrCode)
	}
	return refusal
}

// statusOf gives the usual status of errcodes that mautrix leaves without one.
func statusOf(code string) int {
	switch code {
	case mautrix.MUserDeactivated.ErrCode:
		return http.StatusForbidden
	case mautrix.MUnknown.ErrCode:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// LimitExceeded is the refusal of a request that came too soon.
func LimitExceeded(retryAfter time.Duration) mautrix.RespError {
	ms := max(1, retryAfter.Milliseconds())
	refusal := mautrix.MLimitExceeded.WithMessage("Too many requests").WithExtraField("retry_after_ms", ms)
	refusal.ExtraHeader = map[string]string{"Retry-After": strconv.FormatInt((ms+999)/1000, 10)}
	return refusal
}

func writeJSON(w http.ResponseWriter, r *http.Request, code int, body any) {
	if body == nil {
		body = Empty
	}
	raw, ready := body.(json.RawMessage)
	if !ready {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(body); err != nil {
			zerolog.Ctx(r.Context()).Error().Err(err).Msg("Answer cannot be written as JSON")
			code = http.StatusInternalServerError
			buf.Reset()
			buf.WriteString(`{"errcode":"M_UNKNOWN","error":"Internal server error"}`)
		}
		raw = bytes.TrimRight(buf.Bytes(), "\n")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	// Not every server supports deadlines (a test's recorder does not); then there is none.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
	w.WriteHeader(code)
	if _, err := w.Write(raw); err != nil {
		zerolog.Ctx(r.Context()).Debug().Err(err).Msg("Client left before the answer")
	}
}
