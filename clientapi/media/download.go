package media

import (
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// Download handles GET /_matrix/client/v1/media/download/{serverName}/{mediaId} and the same with a file name.
// Spec: client-server-api/#get_matrixclientv1mediadownloadservernamemediaid
func (h *Handlers) Download(r *rest.Request) (any, error) {
	f, err := h.file(r)
	if err != nil {
		return nil, err
	}
	name := f.Name
	if asked := cleanName(r.Path("fileName")); asked != "" {
		name = asked
	}
	return h.serve(f.Hash, f.ContentType, disposition(f.ContentType, name))
}

// OldDownload handles GET /_matrix/media/v3/download/{serverName}/{mediaId}: the path without authentication, for what is not frozen.
// Spec: client-server-api/#get_matrixmediav3downloadservernamemediaid
func (h *Handlers) OldDownload(r *rest.Request) (any, error) {
	if err := h.frozen(r); err != nil {
		return nil, err
	}
	return h.Download(r)
}

// frozen refuses, on the old paths, what is served to those with a token only: all that came while they were switched off.
// Spec: client-server-api/#content-repo-client-behaviour
func (h *Handlers) frozen(r *rest.Request) error {
	server, media := r.Path("serverName"), r.Path("mediaId")
	refused := mautrix.MNotFound.WithMessage("Media are served to clients with a token only")
	if !mediaID.MatchString(media) || !pdu.ValidServerName(server) {
		return refused
	}
	f, err := h.store.Media.ByID(r.Context(), server, media)
	switch {
	case err != nil:
		return err
	case f != nil && f.Authenticated, f == nil && !h.cfg.Unauthenticated:
		return refused
	}
	return nil
}

// file finds the file that the path names; a remote one is fetched, one that is being uploaded is waited for.
func (h *Handlers) file(r *rest.Request) (*storage.File, error) {
	server, media := r.Path("serverName"), r.Path("mediaId")
	if !mediaID.MatchString(media) || !pdu.ValidServerName(server) {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	patience, err := r.Int("timeout_ms", 20_000, 0, 60_000)
	if err != nil {
		return nil, err
	}
	f, err := h.store.Media.ByID(r.Context(), server, media)
	if err != nil {
		return nil, err
	}
	if f != nil && server != h.cfg.ServerName && !f.Quarantined() && !h.blobs.Has(f.Hash) {
		// A copy that was lost, with a disk, say, is fetched again.
		if _, err := h.store.Media.Delete(r.Context(), []storage.MXC{{Server: server, MediaID: media}}); err != nil {
			return nil, err
		}
		f = nil
	}
	if f == nil && server != h.cfg.ServerName {
		if remote, err := r.Bool("allow_remote"); r.Query("allow_remote") != "" && (err != nil || !remote) {
			return nil, mautrix.MNotFound.WithMessage("The file is on another server")
		}
		if f, err = h.fetch(r, server, media, patience); err != nil {
			return nil, err
		}
	}
	if f != nil && f.Hash == "" && f.Expires > h.now().UnixMilli() {
		if f, err = h.await(r, f, patience); err != nil {
			return nil, err
		}
	}
	if f == nil || f.Hash == "" || f.Quarantined() {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	h.noteAccess(f)
	return f, nil
}

// fetch has federation bring another server's file.
func (h *Handlers) fetch(r *rest.Request, server, media string, patience int) (*storage.File, error) {
	_, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](r.Context(), h.bus, bus.FederationDo,
		bus.FederationQuestion{FetchMedia: &bus.FetchMedia{
			Server: server, MediaID: media, Timeout: int64(patience), Authenticated: !h.cfg.Unauthenticated,
		}})
	if err != nil {
		return nil, err
	}
	return h.store.Media.ByID(r.Context(), server, media)
}

// await waits for the content of a reserved file.
func (h *Handlers) await(r *rest.Request, f *storage.File, patience int) (*storage.File, error) {
	deadline := time.NewTimer(time.Duration(patience) * time.Millisecond)
	defer deadline.Stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-deadline.C:
			return nil, errNotYetUploaded.WithMessage("The file is not yet uploaded")
		case <-look.C:
		}
		now, err := h.store.Media.ByID(r.Context(), f.Server, f.MediaID)
		if err != nil || now == nil || now.Hash != "" {
			return now, err
		}
	}
}

// inline are the types that browsers may show in place. They cannot run anything.
// Spec: client-server-api/#serving-inline-content
var inline = []string{
	"text/css", "text/plain", "text/csv", "application/json", "application/ld+json",
	"image/jpeg", "image/gif", "image/png", "image/apng", "image/webp", "image/avif",
	"video/mp4", "video/webm", "video/ogg", "video/quicktime",
	"audio/mp4", "audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wav",
	"audio/flac", "audio/x-flac",
}

// serve streams a blob with the headers that keep it harmless. A range is answered; who asks for several at once gets the whole, since
// many small ones would make an answer far greater than the file.
// Spec: RFC 9110, section 14.2
func (h *Handlers) serve(hash, contentType, disposition string) (any, error) {
	f, err := h.blobs.Open(hash)
	if err != nil {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	return rest.Answer(func(w http.ResponseWriter, r *http.Request) {
		defer f.Close()
		header := w.Header()
		header.Set("Content-Type", contentType)
		header.Set("Content-Disposition", disposition)
		header.Set("Content-Security-Policy", "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; media-src 'self'; object-src 'self';")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cross-Origin-Resource-Policy", "cross-origin")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "private, max-age=31536000, immutable")
		header.Set("ETag", strconv.Quote(hash))
		if strings.Contains(r.Header.Get("Range"), ",") {
			r.Header.Del("Range")
		}
		// A large file may take its time, but each hour must see its end.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour))
		http.ServeContent(w, r, "", time.Time{}, io.ReadSeeker(f))
	}), nil
}

// disposition says whether a browser may show it in place, and its name in the form of RFC 6266.
func disposition(contentType, name string) string {
	kind := "attachment"
	if bare, _, err := mime.ParseMediaType(contentType); err == nil && slices.Contains(inline, bare) {
		kind = "inline"
	}
	if name == "" {
		return kind
	}
	if formatted := mime.FormatMediaType(kind, map[string]string{"filename": name}); formatted != "" {
		return formatted
	}
	return kind
}
