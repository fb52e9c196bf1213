package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"maunium.net/go/mautrix"

	"chancery/federation/remote"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

var mediaID = regexp.MustCompile(`^[A-Za-z0-9_=-]{1,255}$`)

// fetches lets each remote file be fetched once at a time, and one that is not there not again at once.
type fetches struct {
	most   int64
	flight singleflight.Group

	mu     sync.Mutex
	absent map[string]time.Time // until when it is not asked for again
}

const (
	absentTime = 10 * time.Second
	maxAbsent  = 1000
)

// known says that the file was looked for just now, and was not there.
func (m *fetches) known(file string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.absent[file])
}

// note remembers what came of looking for a file.
func (m *fetches) note(file string, err error) {
	var refused *bus.Refusal
	if !errors.As(err, &refused) || refused.Status != http.StatusNotFound {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.absent == nil || len(m.absent) >= maxAbsent {
		m.absent = map[string]time.Time{}
	}
	m.absent[file] = time.Now().Add(absentTime)
}

const (
	mediaTime   = 5 * time.Minute
	maxFileName = 255
	// maxMediaJSON is what an answer may hold besides the file.
	maxMediaJSON = 1 << 20
	maxBoundary  = 200
)

// download handles GET /_matrix/federation/v1/media/download/{mediaId}.
// Spec: server-server-api/#get_matrixfederationv1mediadownloadmediaid
func (f *Federation) download(r *request) (any, error) {
	file, err := f.ownFile(r)
	if err != nil {
		return nil, err
	}
	return f.multipart(file.Hash, file.ContentType, file.Name)
}

// thumbnailTime bounds the wait for a thumbnail. Where no process makes any, the picture itself is given, which the asker can
// make smaller as well as we.
const thumbnailTime = 20 * time.Second

// thumbnail handles GET /_matrix/federation/v1/media/thumbnail/{mediaId}.
// Spec: server-server-api/#get_matrixfederationv1mediathumbnailmediaid
func (f *Federation) thumbnail(r *request) (any, error) {
	file, err := f.ownFile(r)
	if err != nil {
		return nil, err
	}
	want := &bus.MakeThumbnail{MediaID: file.MediaID, Method: r.query.Get("method"), Animated: r.query.Get("animated") == "true"}
	var err1, err2 error
	want.Width, err1 = strconv.Atoi(r.query.Get("width"))
	want.Height, err2 = strconv.Atoi(r.query.Get("height"))
	if err1 != nil || err2 != nil || want.Width <= 0 || want.Height <= 0 || want.Method != "" && want.Method != "crop" && want.Method != "scale" {
		return nil, mautrix.MInvalidParam.WithMessage("width and height must be positive numbers, and method crop or scale")
	}
	want.Width, want.Height = min(want.Width, 4096), min(want.Height, 4096)
	ctx, cancel := context.WithTimeout(r.Context(), thumbnailTime)
	defer cancel()
	made, err := bus.Ask[bus.MediaQuestion, bus.MediaAnswer](ctx, f.bus, bus.MediaDo, bus.MediaQuestion{Thumbnail: want})
	var refused *bus.Refusal
	switch {
	case errors.As(err, &refused):
		return nil, mautrix.RespError{ErrCode: refused.Code, Err: refused.Message, StatusCode: refused.Status}
	case errors.Is(err, context.DeadlineExceeded) && r.Context().Err() == nil && strings.HasPrefix(file.ContentType, "image/"):
		return f.multipart(file.Hash, file.ContentType, file.Name)
	case err != nil:
		return nil, err
	}
	return f.multipart(made.Hash, made.ContentType, "")
}

func (f *Federation) ownFile(r *request) (*storage.File, error) {
	file, err := f.store.Media.ByID(r.Context(), f.name, r.PathValue("mediaId"))
	if err != nil {
		return nil, err
	}
	if file == nil || file.Quarantined() || file.Hash == "" && file.Expires < time.Now().UnixMilli() {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	if file.Hash == "" {
		return nil, mautrix.RespError{ErrCode: "M_NOT_YET_UPLOADED", Err: "The file is not yet uploaded", StatusCode: http.StatusGatewayTimeout}
	}
	return file, nil
}

// multipart gives a blob in the form that servers want: JSON metadata, of which there is none yet, and the file.
func (f *Federation) multipart(hash, contentType, name string) (any, error) {
	blob, err := f.blobs.Open(hash)
	if err != nil {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	return stream(func(w http.ResponseWriter) {
		defer blob.Close()
		parts := multipart.NewWriter(w)
		w.Header().Set("Content-Type", "multipart/mixed; boundary="+parts.Boundary())
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(mediaTime))
		meta, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json"}})
		if err == nil {
			_, err = meta.Write([]byte("{}"))
		}
		header := textproto.MIMEHeader{"Content-Type": {contentType}}
		if name != "" {
			header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
		}
		var file io.Writer
		if err == nil {
			file, err = parts.CreatePart(header)
		}
		if err == nil {
			_, err = io.Copy(file, blob)
		}
		if err == nil {
			_ = parts.Close() // whoever has gone away meanwhile needs no end
		}
	}), nil
}

// fetchMedia brings another server's file into our store.
func (f *Federation) fetchMedia(ctx context.Context, q *bus.FetchMedia) error {
	if !mediaID.MatchString(q.MediaID) || !remote.ValidServerName(q.Server) {
		return bus.Refuse(http.StatusBadRequest, "M_INVALID_PARAM", "Malformed media ID or server name")
	}
	known, err := f.store.Media.ByID(ctx, q.Server, q.MediaID)
	if err != nil || known != nil {
		return err
	}
	file := q.Server + "/" + q.MediaID
	if f.media.known(file) {
		return errNoSuchFile
	}
	answer := f.media.flight.DoChan(file, func() (any, error) {
		// Who asks first may go away; others wait for the same file.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mediaTime)
		defer cancel()
		err := f.bring(ctx, q)
		f.media.note(file, err)
		return nil, err
	})
	select {
	case res := <-answer:
		return res.Err
	case <-ctx.Done():
		return refusal(ctx.Err())
	}
}

func (f *Federation) bring(ctx context.Context, q *bus.FetchMedia) error {
	query := url.Values{}
	if q.Timeout > 0 {
		query.Set("timeout_ms", strconv.FormatInt(q.Timeout, 10))
	}
	resp, err := f.remote.Open(ctx, remote.Request{
		Server: q.Server, Method: http.MethodGet, Path: []string{"v1", "media", "download", q.MediaID}, Query: query,
	})
	if err == nil {
		defer resp.Body.Close()
		return f.takeMultipart(ctx, q, resp)
	}
	said, ok := remote.Refused(err)
	if ok && said.ErrCode == "M_NOT_YET_UPLOADED" {
		return &bus.Refusal{Status: http.StatusGatewayTimeout, Code: said.ErrCode, Message: said.Err}
	}
	if ok && (said.ErrCode == "M_UNRECOGNIZED" || said.ErrCode == mautrix.MUnknown.ErrCode && said.StatusCode < 500) {
		return f.bringOld(ctx, q) // a server, or a proxy before it, that does not know the path
	}
	return notHad(err)
}

var errNoSuchFile = bus.Refuse(http.StatusNotFound, "M_NOT_FOUND", "The other server has no such file")

// notHad tells a client why a file cannot be had: it is not there, or its server cannot be asked.
func notHad(err error) error {
	said, ok := remote.Refused(err)
	switch {
	case !ok:
		return refusal(err)
	case said.ErrCode == "M_TOO_LARGE":
		return fmt.Errorf("%w (%w)", bus.Refuse(http.StatusBadGateway, "M_TOO_LARGE", "The file is too large"), err)
	case said.StatusCode == http.StatusTooManyRequests || said.StatusCode >= 500:
		return fmt.Errorf("%w (%w)", bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The other server cannot give the file now"), err)
	}
	return errNoSuchFile
}

// bringOld asks a server in the way of before Matrix 1.11.
// Spec: client-server-api/#get_matrixmediav3downloadservernamemediaid
func (f *Federation) bringOld(ctx context.Context, q *bus.FetchMedia) error {
	resp, err := f.remote.Open(ctx, remote.Request{
		Server: q.Server, Method: http.MethodGet, Path: []string{"v3", "download", q.Server, q.MediaID}, Media: true, Unsigned: true,
		Query: url.Values{"allow_remote": {"false"}},
	})
	if err != nil {
		return notHad(err)
	}
	defer resp.Body.Close()
	return f.keepFile(ctx, q, textproto.MIMEHeader(resp.Header), resp.Body)
}

// takeMultipart reads the two parts: metadata, and the file or the place where it is.
func (f *Federation) takeMultipart(ctx context.Context, q *bus.FetchMedia, resp *http.Response) error {
	file, err := filePart(resp.Header.Get("Content-Type"), io.LimitReader(resp.Body, f.media.most+maxMediaJSON))
	if err != nil {
		return fmt.Errorf("%w (%w)", bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The other server's answer is broken"), err)
	}
	where := file.Header.Get("Location")
	if where == "" {
		return f.keepFile(ctx, q, file.Header, file)
	}
	elsewhere, err := f.remote.Fetch(ctx, where)
	if err != nil {
		return fmt.Errorf("%w (%w)", bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The file cannot be fetched from where it is"), err)
	}
	defer elsewhere.Body.Close()
	if elsewhere.StatusCode != http.StatusOK {
		return bus.Refuse(http.StatusNotFound, "M_NOT_FOUND", "The file is not where it should be")
	}
	return f.keepFile(ctx, q, textproto.MIMEHeader(elsewhere.Header), elsewhere.Body)
}

// filePart finds the second part of an answer, which is the file or names its place.
func filePart(contentType string, body io.Reader) (*multipart.Part, error) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, err
	}
	if kind != "multipart/mixed" || params["boundary"] == "" || len(params["boundary"]) > maxBoundary {
		return nil, fmt.Errorf("%q is not multipart", kind)
	}
	parts := multipart.NewReader(body, params["boundary"])
	if _, err := parts.NextPart(); err != nil {
		return nil, err
	}
	return parts.NextPart()
}

func (f *Federation) keepFile(ctx context.Context, q *bus.FetchMedia, header textproto.MIMEHeader, content io.Reader) error {
	hash, size, err := f.blobs.Put(content, f.media.most)
	if errors.Is(err, blobs.ErrTooLarge) {
		return bus.Refuse(http.StatusBadGateway, "M_TOO_LARGE", "The file is too large")
	}
	if errors.Is(err, blobs.ErrFull) {
		return fmt.Errorf("%w (%w)", bus.Refuse(http.StatusInsufficientStorage, "M_LIMIT_EXCEEDED", "The server has no room for this file"), err)
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The file did not come through"), err)
	}
	kind, name := described(header)
	added, err := f.store.Media.Add(ctx, &storage.File{
		Server: q.Server, MediaID: q.MediaID, ContentType: kind, Name: name, Size: size, Hash: hash, Created: time.Now().UnixMilli(),
		Authenticated: q.Authenticated,
	})
	if err == nil && !added {
		err = f.store.Media.Discard(ctx, hash)
	}
	return err
}

// described gives a file's type and name as its sender has them, in a form that can stand in a header of ours.
func described(header textproto.MIMEHeader) (kind, name string) {
	kind = header.Get("Content-Type")
	if _, _, err := mime.ParseMediaType(kind); err != nil || len(kind) > maxFileName || strings.ContainsFunc(kind, func(c rune) bool { return c < ' ' || c > '~' }) {
		kind = "application/octet-stream"
	}
	if _, params, err := mime.ParseMediaType(header.Get("Content-Disposition")); err == nil {
		name = cleanName(params["filename"])
	}
	return kind, name
}

// cleanName takes what cannot be in a file name, or in a header, out of it.
func cleanName(name string) string {
	name = strings.ToValidUTF8(name, "")
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, name)
	if len(name) > maxFileName {
		name = strings.ToValidUTF8(name[:maxFileName], "")
	}
	return name
}
