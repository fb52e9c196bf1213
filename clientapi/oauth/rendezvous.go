package oauth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// Bounds of meeting places.
const (
	rendezvousAge = 5 * time.Minute
	// MaxRendezvous is how many bytes a message has at most.
	MaxRendezvous  = 4096
	mostRendezvous = 1000
)

var (
	errNoRendezvous = mautrix.MNotFound.WithMessage("There is no such meeting place, or not any more")
	errTooLong      = mautrix.MTooLarge.WithStatus(http.StatusRequestEntityTooLarge).WithMessage("The message has more than %d bytes", MaxRendezvous)
)

// meet opens a meeting place.
func (h *Handlers) meet(ctx context.Context, content []byte) (*storage.Rendezvous, error) {
	place := &storage.Rendezvous{ID: rand.Text(), Content: content, Sequence: 1, Changed: h.now(), Expires: h.now().Add(rendezvousAge)}
	return place, h.store.Do(ctx, func(ctx context.Context) error { return h.store.Rendezvous.Create(ctx, *place, mostRendezvous) })
}

// place finds the meeting place that the path names.
func (h *Handlers) place(r *rest.Request) (*storage.Rendezvous, error) {
	place, err := h.store.Rendezvous.ByID(r.Context(), r.Path("id"))
	if err == nil && place == nil {
		err = errNoRendezvous
	}
	return place, err
}

// replace leaves another message in the place of the one that was seen; false if that is not the one which is there.
func (h *Handlers) replace(ctx context.Context, place *storage.Rendezvous, content []byte) (bool, error) {
	done := false
	err := h.store.Do(ctx, func(ctx context.Context) (err error) {
		done, err = h.store.Rendezvous.Replace(ctx, place.ID, place.Sequence, content)
		return err
	})
	return done, err
}

func (h *Handlers) part(r *rest.Request) error {
	found := false
	err := h.store.Do(r.Context(), func(ctx context.Context) (err error) {
		found, err = h.store.Rendezvous.Delete(ctx, r.Path("id"))
		return err
	})
	if err == nil && !found {
		err = errNoRendezvous
	}
	return err
}

// plain reads a message of MSC4108, which is text and nothing else.
func plain(r *rest.Request) ([]byte, error) {
	given := r.HTTP.Header.Get("Content-Type")
	if given == "" {
		return nil, mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}.WithMessage("Content-Type is missing")
	}
	if kind, _, err := mime.ParseMediaType(given); err != nil || kind != "text/plain" {
		return nil, mautrix.MInvalidParam.WithMessage("Content-Type has to be text/plain")
	}
	return r.Body()
}

// marks sets the headers by which clients of MSC4108 know what they have seen.
func marks(head http.Header, place *storage.Rendezvous) {
	head.Set("ETag", etag(place))
	head.Set("Expires", place.Expires.UTC().Format(http.TimeFormat))
	head.Set("Last-Modified", place.Changed.UTC().Format(http.TimeFormat))
	head.Set("Cache-Control", "no-store, no-transform")
	head.Set("Pragma", "no-cache")
}

func etag(place *storage.Rendezvous) string { return `"` + strconv.FormatInt(place.Sequence, 10) + `"` }

// OpenPlain handles POST /_matrix/client/unstable/org.matrix.msc4108/rendezvous.
// Spec: MSC4108
func (h *Handlers) OpenPlain(r *rest.Request) (any, error) {
	content, err := plain(r)
	if err != nil {
		return nil, err
	}
	place, err := h.meet(r.Context(), content)
	if err != nil {
		return nil, err
	}
	marks(r.Header(), place)
	return rest.Status{Code: http.StatusCreated, Body: map[string]string{"url": h.at(rendezvousPath + "/" + place.ID)}}, nil
}

// ReadPlain handles GET /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}.
// Spec: MSC4108
func (h *Handlers) ReadPlain(r *rest.Request) (any, error) {
	place, err := h.place(r)
	if err != nil {
		return nil, err
	}
	marks(r.Header(), place)
	if names(r.HTTP.Header.Get("If-None-Match"), etag(place)) {
		return rest.Answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }), nil
	}
	return rest.Answer(func(w http.ResponseWriter, _ *http.Request) {
		head := w.Header()
		head.Set("Content-Type", "text/plain") // matrix-js-sdk 43 wants just this
		head.Set("Content-Length", strconv.Itoa(len(place.Content)))
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Content-Security-Policy", "sandbox; default-src 'none'")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(place.Content) // the client left; it will ask again
	}), nil
}

// names says whether a header of entity tags names this one.
func names(header, tag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimPrefix(strings.TrimSpace(part), "W/"); part == tag || part == "*" {
			return true
		}
	}
	return false
}

// WritePlain handles PUT /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}.
// Spec: MSC4108
func (h *Handlers) WritePlain(r *rest.Request) (any, error) {
	content, err := plain(r)
	if err != nil {
		return nil, err
	}
	seen := r.HTTP.Header.Get("If-Match")
	if seen == "" {
		return nil, mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}.WithMessage("If-Match is missing")
	}
	place, err := h.place(r)
	if err != nil {
		return nil, err
	}
	marks(r.Header(), place)
	done := false
	if names(seen, etag(place)) {
		if done, err = h.replace(r.Context(), place, content); err != nil {
			return nil, err
		}
	}
	if !done {
		return nil, mautrix.MUnknown.WithStatus(http.StatusPreconditionFailed).WithMessage("Somebody else was faster").
			WithExtraField("org.matrix.msc4108.errcode", "M_CONCURRENT_WRITE")
	}
	place.Sequence, place.Changed = place.Sequence+1, h.now()
	marks(r.Header(), place)
	return rest.Answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }), nil
}

// ClosePlain handles DELETE /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}.
// Spec: MSC4108
func (h *Handlers) ClosePlain(r *rest.Request) (any, error) {
	if err := h.part(r); err != nil {
		return nil, err
	}
	return rest.Answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }), nil
}

// message reads the data of MSC4388's bodies, and the sequence token.
func message(r *rest.Request) (data []byte, token string, err error) {
	raw, err := r.Object()
	if err != nil {
		return nil, "", err
	}
	var body struct {
		Data  *json.RawMessage `json:"data"`
		Token *json.RawMessage `json:"sequence_token"`
	}
	var text string
	if json.Unmarshal(raw, &body) != nil || body.Data == nil || string(*body.Data) == "null" || json.Unmarshal(*body.Data, &text) != nil {
		return nil, "", mautrix.MInvalidParam.WithMessage("data has to be a string")
	}
	if body.Token != nil && json.Unmarshal(*body.Token, &token) != nil {
		return nil, "", mautrix.MInvalidParam.WithMessage("sequence_token has to be a string")
	}
	if len(text) > MaxRendezvous {
		return nil, "", errTooLong
	}
	return []byte(text), token, nil
}

// safe refuses browsers that were led here by a link, a picture or a frame: only programs read meeting places.
func safe(r *rest.Request) error {
	head := r.HTTP.Header
	dest, mode, site := head.Get("Sec-Fetch-Dest"), head.Get("Sec-Fetch-Mode"), head.Get("Sec-Fetch-Site")
	if dest != "" && dest != "empty" || mode == "navigate" || head.Get("Sec-Fetch-User") != "" || site == "none" {
		return mautrix.MForbidden.WithMessage("This is for programs")
	}
	return nil
}

// left is how long the meeting place will be there.
func (h *Handlers) left(place *storage.Rendezvous) int64 {
	return max(0, place.Expires.Sub(h.now()).Milliseconds())
}

func sequenceToken(sequence int64) string { return strconv.FormatInt(sequence, 10) }

// MayOpen handles GET /_matrix/client/unstable/io.element.msc4388/rendezvous.
// Spec: MSC4388
func (h *Handlers) MayOpen(*rest.Request) (any, error) {
	return map[string]bool{"create_available": true}, nil
}

// Open handles POST /_matrix/client/unstable/io.element.msc4388/rendezvous.
// Spec: MSC4388
func (h *Handlers) Open(r *rest.Request) (any, error) {
	data, _, err := message(r)
	if err != nil {
		return nil, err
	}
	place, err := h.meet(r.Context(), data)
	if err != nil {
		return nil, err
	}
	return map[string]any{"id": place.ID, "sequence_token": sequenceToken(place.Sequence), "expires_in_ms": h.left(place)}, nil
}

// Read handles GET /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}.
// Spec: MSC4388
func (h *Handlers) Read(r *rest.Request) (any, error) {
	if err := safe(r); err != nil {
		return nil, err
	}
	place, err := h.place(r)
	if err != nil {
		return nil, err
	}
	return map[string]any{"data": string(place.Content), "sequence_token": sequenceToken(place.Sequence), "expires_in_ms": h.left(place)}, nil
}

// Write handles PUT /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}, and …/{id}/{txnId}, as newer clients send it. Who says
// the same once more, since the answer was lost, gets the same answer.
// Spec: MSC4388
func (h *Handlers) Write(r *rest.Request) (any, error) {
	data, token, err := message(r)
	if err != nil {
		return nil, err
	}
	if token == "" {
		return nil, mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}.WithMessage("sequence_token is missing")
	}
	place, err := h.place(r)
	if err != nil {
		return nil, err
	}
	done := token == sequenceToken(place.Sequence-1) && string(place.Content) == string(data)
	if !done && token == sequenceToken(place.Sequence) {
		if done, err = h.replace(r.Context(), place, data); err != nil {
			return nil, err
		}
		place.Sequence++
	}
	if !done {
		return nil, mautrix.RespError{ErrCode: "IO_ELEMENT_MSC4388_CONCURRENT_WRITE", StatusCode: http.StatusConflict}.WithMessage("Somebody else was faster")
	}
	return map[string]string{"sequence_token": sequenceToken(place.Sequence)}, nil
}

// Close handles DELETE /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}.
// Spec: MSC4388
func (h *Handlers) Close(r *rest.Request) (any, error) {
	return rest.Empty, h.part(r)
}
