// Package media is the content repository: upload, download, thumbnails.
//
// Files are streamed to and from disk (storage/blobs), never whole in memory; rows in storage
// say what they are. Remote files are fetched by federation on request. Truths to keep:
//
//   - what a browser might run is never served inline: a short list of harmless types is, all else is an attachment in a sandbox;
//   - pictures are decoded only after their dimensions were read and found bounded, by few workers at once, and a decoder's panic is a 400;
//   - identifiers come from the path and are checked for form; file names on disk are hashes.
package media

import (
	"crypto/rand"
	"errors"
	"io"
	"mime"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// Config of the content repository.
type Config struct {
	// ServerName is the own server's name. cmd fills it in.
	ServerName string `yaml:"-"`
	// MaxUpload is the largest file in bytes, uploads and remote files alike. Default 100 MiB.
	MaxUpload int64 `yaml:"max_upload"`
	// MaxPixels bounds the pictures of which thumbnails are made. Default 32 million.
	MaxPixels int `yaml:"max_pixels"`
	// Unauthenticated serves the old download paths, which ask for no token, as well. Default false; turned on
	// where old clients or bridges cannot do otherwise.
	Unauthenticated bool `yaml:"unauthenticated"`
	// Reservations is how many files a user may reserve and not yet have uploaded. Default 20.
	Reservations int `yaml:"reservations"`
}

// DefaultConfig has the defaults named above.
func DefaultConfig() Config {
	return Config{MaxUpload: 100 << 20, MaxPixels: 32_000_000, Reservations: 20}
}

// Handlers are the endpoints of the content repository.
type Handlers struct {
	cfg     Config
	store   *storage.Store
	blobs   *blobs.Store
	bus     *bus.Bus
	workers chan struct{} // as many thumbnails at once as it holds
}

// New makes the handlers, complete.
func New(cfg Config, store *storage.Store, files *blobs.Store, b *bus.Bus) *Handlers {
	return &Handlers{cfg: cfg, store: store, blobs: files, bus: b, workers: make(chan struct{}, max(1, runtime.NumCPU()/2))}
}

var (
	errCannotOverwrite = mautrix.RespError{ErrCode: "M_CANNOT_OVERWRITE_MEDIA", StatusCode: http.StatusConflict}
	errNotYetUploaded  = mautrix.RespError{ErrCode: "M_NOT_YET_UPLOADED", StatusCode: http.StatusGatewayTimeout}
	mediaID            = regexp.MustCompile(`^[A-Za-z0-9_=-]{1,255}$`)
)

// Limits handles GET /_matrix/client/v1/media/config.
// Spec: client-server-api/#get_matrixclientv1mediaconfig
func (h *Handlers) Limits(*rest.Request) (any, error) {
	return map[string]int64{"m.upload.size": h.cfg.MaxUpload}, nil
}

type uploaded struct {
	ContentURI string `json:"content_uri"`
	Unused     int64  `json:"unused_expires_at,omitempty"`
}

func (h *Handlers) uri(mediaID string) string { return "mxc://" + h.cfg.ServerName + "/" + mediaID }

// Upload handles POST /_matrix/media/v3/upload.
// Spec: client-server-api/#post_matrixmediav3upload
func (h *Handlers) Upload(r *rest.Request) (any, error) {
	f, err := h.take(r)
	if err != nil {
		return nil, err
	}
	f.MediaID = rand.Text()
	if _, err := h.store.Media.Add(r.Context(), f); err != nil {
		return nil, err
	}
	return uploaded{ContentURI: h.uri(f.MediaID)}, nil
}

// take streams the request's body to disk.
func (h *Handlers) take(r *rest.Request) (*storage.File, error) {
	tooLarge := mautrix.MTooLarge.WithMessage("The file is larger than %d bytes", h.cfg.MaxUpload)
	if r.HTTP.ContentLength > h.cfg.MaxUpload {
		return nil, tooLarge
	}
	hash, size, err := h.blobs.Put(r.HTTP.Body, h.cfg.MaxUpload)
	if errors.Is(err, blobs.ErrTooLarge) {
		return nil, tooLarge
	}
	if err != nil {
		return nil, err
	}
	return &storage.File{
		Server: h.cfg.ServerName, User: r.By.User, ContentType: cleanType(r.HTTP.Header.Get("Content-Type")), Name: cleanName(r.Query("filename")),
		Size: size, Hash: hash, Created: time.Now().UnixMilli(), Authenticated: !h.cfg.Unauthenticated,
	}, nil
}

// reservation is how long a reserved file may wait for its content.
const reservation = 24 * time.Hour

// Create handles POST /_matrix/media/v1/create.
// Spec: client-server-api/#post_matrixmediav1create
func (h *Handlers) Create(r *rest.Request) (any, error) {
	n, err := h.store.Media.Reserved(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	if n >= h.cfg.Reservations {
		return nil, rest.LimitExceeded(time.Minute)
	}
	now := time.Now()
	f := &storage.File{
		Server: h.cfg.ServerName, MediaID: rand.Text(), User: r.By.User, ContentType: "application/octet-stream",
		Created: now.UnixMilli(), Expires: now.Add(reservation).UnixMilli(),
	}
	if _, err := h.store.Media.Add(r.Context(), f); err != nil {
		return nil, err
	}
	return uploaded{ContentURI: h.uri(f.MediaID), Unused: f.Expires}, nil
}

// Fill handles PUT /_matrix/media/v3/upload/{serverName}/{mediaId}.
// Spec: client-server-api/#put_matrixmediav3uploadservernamemediaid
func (h *Handlers) Fill(r *rest.Request) (any, error) {
	if r.Path("serverName") != h.cfg.ServerName {
		return nil, mautrix.MForbidden.WithMessage("That is another server's file")
	}
	f, err := h.store.Media.ByID(r.Context(), h.cfg.ServerName, r.Path("mediaId"))
	if err != nil {
		return nil, err
	}
	switch {
	case f == nil || (f.Hash == "" && f.Expires < time.Now().UnixMilli()):
		return nil, mautrix.MNotFound.WithMessage("No such file is reserved")
	case f.User != r.By.User:
		return nil, mautrix.MForbidden.WithMessage("Somebody else reserved this file")
	case f.Hash != "":
		return nil, errCannotOverwrite.WithMessage("The file was uploaded before")
	}
	content, err := h.take(r)
	if err != nil {
		return nil, err
	}
	content.MediaID = f.MediaID
	filled, err := h.store.Media.Fill(r.Context(), content)
	if err != nil {
		return nil, err
	}
	if !filled {
		return nil, errCannotOverwrite.WithMessage("The file was uploaded before")
	}
	return rest.Empty, nil
}

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
	return h.serve(f.Hash, f.ContentType, name)
}

// OldDownload handles GET /_matrix/media/v3/download/{serverName}/{mediaId}: the path without authentication, where it is switched on.
// Spec: client-server-api/#get_matrixmediav3downloadservernamemediaid
func (h *Handlers) OldDownload(r *rest.Request) (any, error) {
	if !h.cfg.Unauthenticated {
		return nil, mautrix.MNotFound.WithMessage("Media are served to clients with a token only")
	}
	return h.Download(r)
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
	if f == nil && server != h.cfg.ServerName {
		if remote, err := r.Bool("allow_remote"); r.Query("allow_remote") != "" && (err != nil || !remote) {
			return nil, mautrix.MNotFound.WithMessage("The file is on another server")
		}
		if f, err = h.fetch(r, server, media, patience); err != nil {
			return nil, err
		}
	}
	if f != nil && f.Hash == "" && f.Expires > time.Now().UnixMilli() {
		if f, err = h.await(r, f, patience); err != nil {
			return nil, err
		}
	}
	if f == nil || f.Hash == "" || f.Quarantined() {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	return f, nil
}

// fetch has federation bring another server's file.
func (h *Handlers) fetch(r *rest.Request, server, media string, patience int) (*storage.File, error) {
	_, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](r.Context(), h.bus, bus.FederationDo,
		bus.FederationQuestion{FetchMedia: &bus.FetchMedia{Server: server, MediaID: media, Timeout: int64(patience), Authenticated: !h.cfg.Unauthenticated}})
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

// inline lists the types that a browser may show by itself.
// Spec: client-server-api/#serving-inline-content
var inline = []string{
	"text/css", "text/plain", "text/csv", "application/json", "application/ld+json",
	"image/jpeg", "image/gif", "image/png", "image/apng", "image/webp", "image/avif",
	"video/mp4", "video/webm", "video/ogg", "video/quicktime",
	"audio/mp4", "audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wav",
	"audio/flac", "audio/x-flac",
}

// serve streams a blob with the headers that keep it harmless. Ranges are answered.
func (h *Handlers) serve(hash, contentType, name string) (any, error) {
	f, err := h.blobs.Open(hash)
	if err != nil {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	return rest.Answer(func(w http.ResponseWriter, r *http.Request) {
		defer f.Close()
		header := w.Header()
		header.Set("Content-Type", contentType)
		header.Set("Content-Disposition", disposition(contentType, name))
		header.Set("Content-Security-Policy", "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; media-src 'self'; object-src 'self';")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cross-Origin-Resource-Policy", "cross-origin")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "private, max-age=31536000, immutable")
		header.Set("ETag", strconv.Quote(hash))
		// A large file may take its time, but each hour must see its end.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour))
		http.ServeContent(w, r, "", time.Time{}, io.ReadSeeker(f))
	}), nil
}

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

// cleanType gives a content type that can stand in a header.
func cleanType(v string) string {
	if len(v) > 255 || strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "application/octet-stream"
	}
	if _, _, err := mime.ParseMediaType(v); err != nil {
		return "application/octet-stream"
	}
	return v
}

// cleanName takes control characters and all but the last part of a path out of a file name.
func cleanName(v string) string {
	v = strings.ToValidUTF8(v, "")
	v = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, v)
	if len(v) > 255 {
		v = strings.ToValidUTF8(v[:255], "")
	}
	return v
}

// Previews handles GET /_matrix/client/v1/media/preview_url while previews are switched off.
// Spec: client-server-api/#get_matrixclientv1mediapreview_url
func (h *Handlers) Previews(*rest.Request) (any, error) {
	return nil, mautrix.MForbidden.WithMessage("This server gives no previews of links")
}
