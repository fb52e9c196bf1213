package media

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/blobs"
)

const (
	// reservation is how long a reserved file may wait for its content.
	reservation = 24 * time.Hour
	// idle is how long an upload may stand still.
	idle = time.Minute
)

type uploaded struct {
	ContentURI string `json:"content_uri"`
	Unused     int64  `json:"unused_expires_at,omitempty"`
}

// Upload handles POST /_matrix/media/v3/upload.
// Spec: client-server-api/#post_matrixmediav3upload
func (h *Handlers) Upload(r *rest.Request) (any, error) {
	f, err := h.take(r)
	if err != nil {
		return nil, err
	}
	f.MediaID = rand.Text()
	err = h.keep(r.Context(), f, func(ctx context.Context) error {
		_, err := h.store.Media.Add(ctx, f)
		return err
	})
	if err != nil {
		return nil, err
	}
	return uploaded{ContentURI: h.uri(f.MediaID)}, nil
}

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
	now := h.now()
	f := &storage.File{
		Server: h.cfg.ServerName, MediaID: rand.Text(), User: r.By.User, ContentType: "application/octet-stream",
		Created: now.UnixMilli(), Expires: now.Add(reservation).UnixMilli(), Authenticated: !h.cfg.Unauthenticated,
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
	if !mediaID.MatchString(r.Path("mediaId")) {
		return nil, mautrix.MNotFound.WithMessage("No such file is reserved")
	}
	f, err := h.store.Media.ByID(r.Context(), h.cfg.ServerName, r.Path("mediaId"))
	if err != nil {
		return nil, err
	}
	switch {
	case f == nil || (f.Hash == "" && f.Expires < h.now().UnixMilli()):
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
	err = h.keep(r.Context(), content, func(ctx context.Context) error {
		filled, err := h.store.Media.Fill(ctx, content)
		if err == nil && !filled {
			err = errCannotOverwrite.WithMessage("The file was uploaded before")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return rest.Empty, nil
}

// take streams the request's body to disk.
func (h *Handlers) take(r *rest.Request) (*storage.File, error) {
	announced := max(0, r.HTTP.ContentLength)
	if err := h.mayTake(r, announced); err != nil {
		return nil, err
	}
	hash, size, err := h.blobs.Put(&steady{r, r.HTTP.Body}, h.cfg.MaxUpload)
	r.KeepReading(0)
	switch {
	case errors.Is(err, blobs.ErrTooLarge):
		return nil, h.tooLarge()
	case errors.Is(err, blobs.ErrFull):
		zerolog.Ctx(r.Context()).Error().Err(err).Msg("No room for an upload")
		return nil, errFull.WithMessage("The server has no room for this file")
	case err != nil && broken(err):
		return nil, mautrix.MUnknown.WithStatus(http.StatusBadRequest).WithMessage("The upload broke off")
	case err != nil:
		return nil, err
	}
	uploadedBytes.Add(float64(size))
	return &storage.File{
		Server: h.cfg.ServerName, User: r.By.User, ContentType: cleanType(r.HTTP.Header.Get("Content-Type")), Name: cleanName(r.Query("filename")),
		Size: size, Hash: hash, Created: h.now().UnixMilli(), Authenticated: !h.cfg.Unauthenticated,
	}, nil
}

func (h *Handlers) tooLarge() error {
	return mautrix.MTooLarge.WithMessage("The file is larger than %d bytes", h.cfg.MaxUpload)
}

// mayTake refuses what is known to be too much before it is read.
func (h *Handlers) mayTake(r *rest.Request, size int64) error {
	if size > h.cfg.MaxUpload {
		return h.tooLarge()
	}
	if h.cfg.MinFree > 0 {
		free, err := h.blobs.Free()
		if err != nil {
			zerolog.Ctx(r.Context()).Warn().Err(err).Msg("Free space is not known")
		} else if free-size < h.cfg.MinFree {
			zerolog.Ctx(r.Context()).Error().Int64("free", free).Msg("Too little space for uploads")
			return errFull.WithMessage("The server has no room for this file")
		}
	}
	return h.withinQuota(r.Context(), &storage.File{User: r.By.User, Size: size})
}

// withinQuota refuses a file that would go beyond what the user may have.
func (h *Handlers) withinQuota(ctx context.Context, f *storage.File) error {
	if h.cfg.Quota <= 0 {
		return nil
	}
	_, used, err := h.store.Media.Usage(ctx, f.User)
	if err != nil || used+f.Size <= h.cfg.Quota {
		return err
	}
	const said = "You may keep %d bytes of files on this server, and have %d"
	if h.cfg.QuotaInfo == "" {
		return mautrix.MForbidden.WithMessage(said, h.cfg.Quota, used)
	}
	limit := mautrix.RespError{ErrCode: "M_USER_LIMIT_EXCEEDED", StatusCode: http.StatusForbidden}
	return limit.WithMessage(said, h.cfg.Quota, used).WithExtraField("info_uri", h.cfg.QuotaInfo)
}

// keep writes the file's row with write, if the quota still allows. Otherwise the content is given up.
func (h *Handlers) keep(ctx context.Context, f *storage.File, write func(ctx context.Context) error) error {
	err := h.store.Do(ctx, func(ctx context.Context) error {
		if err := h.withinQuota(ctx, f); err != nil {
			return err
		}
		return write(ctx)
	})
	if err != nil {
		if discarded := h.store.Media.Discard(context.WithoutCancel(ctx), f.Hash); discarded != nil {
			zerolog.Ctx(ctx).Debug().Err(discarded).Msg("Blob not discarded; the next round finds it")
		}
	}
	return err
}

// errBody marks what the client's side of an upload is to blame for.
var errBody = errors.New("read upload")

// broken says whether the client stopped sending.
func broken(err error) bool { return errors.Is(err, errBody) }

// steady reads the body of a request as long as it keeps coming.
type steady struct {
	r    *rest.Request
	body io.Reader
}

func (s *steady) Read(b []byte) (int, error) {
	s.r.KeepReading(idle)
	n, err := s.body.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", errBody, err)
	}
	return n, err
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

// unprintable are controls, and what turns the direction of writing.
func unprintable(c rune) bool {
	return c < ' ' || c >= 0x7f && c <= 0x9f || c == '\u2028' || c == '\u2029' || c >= '\u202a' && c <= '\u202e' || c >= '\u2066' && c <= '\u2069'
}

// cleanName takes what cannot stand in a file name out of it.
func cleanName(v string) string {
	v = strings.ToValidUTF8(v, "")
	v = strings.Map(func(c rune) rune {
		if unprintable(c) {
			return -1
		}
		return c
	}, v)
	if len(v) > 255 {
		v = strings.ToValidUTF8(v[:255], "")
	}
	return v
}
