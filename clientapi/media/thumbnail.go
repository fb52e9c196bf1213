package media

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

const (
	// pictureMemory is what all pictures that are being decoded may take together, in bytes; one that takes more than
	// largePicture is cleared away at once.
	pictureMemory = 130 << 20
	largePicture  = 16 << 20
	// maxPicture bounds the files, in bytes, of which thumbnails are made.
	maxPicture = 64 << 20
	// makingTime bounds the making of one thumbnail, with its waiting for others.
	makingTime = time.Minute
	// maxShapes bounds the thumbnails of one file that have a shape of their own.
	maxShapes = 24
)

// size is a thumbnail that we make; what clients ask for is rounded up to one of them.
type size struct {
	width, height int
	method        string
}

// frames are what pictures are scaled into, and squares what is cut out of them: the spec's, and larger ones for screens of
// many dots.
// Spec: client-server-api/#thumbnails
var (
	frames  = []size{{320, 240, "scale"}, {640, 480, "scale"}, {800, 600, "scale"}, {1600, 1200, "scale"}, {3200, 2400, "scale"}}
	squares = []int{32, 96, 192, 384, 800}
)

// fitting gives the smallest of our sizes that is not smaller than what was asked for. A cut in a shape of its own is given
// as it is asked for: the spec wants its aspect.
func fitting(width, height int, method string) size {
	if method == "crop" && width == height {
		for _, side := range squares {
			if side >= width {
				return size{side, side, "crop"}
			}
		}
	}
	if method == "crop" && width <= 800 && height <= 800 {
		return size{width, height, "crop"}
	}
	for _, s := range frames {
		if s.width >= width && s.height >= height {
			return s
		}
	}
	return frames[len(frames)-1]
}

// Thumbnail handles GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}.
// Spec: client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid
func (h *Handlers) Thumbnail(r *rest.Request) (any, error) {
	width, err1 := r.Int("width", 0, 0, 4096)
	height, err2 := r.Int("height", 0, 0, 4096)
	if err := errors.Join(err1, err2); err != nil || width <= 0 || height <= 0 {
		return nil, mautrix.MInvalidParam.WithMessage("width and height must be positive numbers")
	}
	method := cmp.Or(r.Query("method"), "scale")
	if method != "crop" && method != "scale" {
		return nil, mautrix.MInvalidParam.WithMessage("method is crop or scale")
	}
	animated, err := r.Bool("animated")
	if err != nil {
		return nil, err
	}
	f, err := h.file(r)
	if err != nil {
		return nil, err
	}
	made, err := h.thumbnail(r.Context(), f, fitting(width, height, method), animated)
	if err != nil {
		return nil, h.noThumbnail(f, err)
	}
	return h.serve(made.Hash, made.ContentType, `inline; filename="thumbnail`+extensions[made.ContentType]+`"`)
}

// OldThumbnail handles GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}: the path without authentication, for what is not frozen.
// Spec: client-server-api/#get_matrixmediav3thumbnailservernamemediaid
func (h *Handlers) OldThumbnail(r *rest.Request) (any, error) {
	if err := h.frozen(r); err != nil {
		return nil, err
	}
	return h.Thumbnail(r)
}

var extensions = map[string]string{"image/jpeg": ".jpg", "image/png": ".png", "image/apng": ".png", "image/gif": ".gif", "image/webp": ".webp"}

// noThumbnail turns what is wrong with a picture into what a client is told; nothing in a file is our own fault.
func (h *Handlers) noThumbnail(f *storage.File, err error) error {
	switch {
	case errors.Is(err, errPixels) && f.Server != h.cfg.ServerName:
		return mautrix.MTooLarge.WithStatus(http.StatusBadGateway).WithMessage("The file is too large for a thumbnail to be made of it")
	case errors.Is(err, errPixels):
		return mautrix.MTooLarge.WithMessage("The file is too large for a thumbnail to be made of it")
	case errors.Is(err, errFormat), errors.Is(err, errBroken):
		return mautrix.MUnknown.WithStatus(http.StatusBadRequest).WithMessage("No thumbnail can be made of this file: %s", err.Error())
	}
	return err
}

// answer makes a thumbnail of one of our files for another component.
func (h *Handlers) answer(ctx context.Context, _ string, q bus.MediaQuestion) (bus.MediaAnswer, error) {
	var answer bus.MediaAnswer
	if q.Thumbnail == nil {
		return answer, bus.Refuse(http.StatusNotFound, "M_UNRECOGNIZED", "Media does not know this question")
	}
	want := q.Thumbnail
	f, err := h.store.Media.ByID(ctx, h.cfg.ServerName, want.MediaID)
	if err != nil {
		return answer, err
	}
	if f == nil || f.Hash == "" || f.Quarantined() {
		return answer, bus.Refuse(http.StatusNotFound, "M_NOT_FOUND", "No such file")
	}
	made, err := h.thumbnail(ctx, f, fitting(want.Width, want.Height, cmp.Or(want.Method, "scale")), want.Animated)
	var refused mautrix.RespError
	if errors.As(h.noThumbnail(f, err), &refused) {
		return answer, bus.Refuse(refused.StatusCode, refused.ErrCode, refused.Err)
	}
	if err != nil {
		return answer, err
	}
	h.noteAccess(f)
	return bus.MediaAnswer{Hash: made.Hash, ContentType: made.ContentType}, nil
}

// thumbnail gives a thumbnail made before, or makes it; who asks for the same meanwhile shares the work.
func (h *Handlers) thumbnail(ctx context.Context, f *storage.File, s size, animated bool) (*storage.Thumbnail, error) {
	want := storage.Thumbnail{Server: f.Server, MediaID: f.MediaID, Width: s.width, Height: s.height, Method: s.method, Animated: animated}
	made, err := h.store.Media.Thumbnail(ctx, want)
	if err != nil || made != nil {
		return made, err
	}
	key := fmt.Sprintf("%s/%s/%v/%v", f.Server, f.MediaID, s, animated)
	result := h.making.DoChan(key, func() (any, error) {
		// Who asks first may go away; others wait for the same picture.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makingTime)
		defer cancel()
		return h.make(ctx, f, want)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case res := <-result:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*storage.Thumbnail), nil
	}
}

// make makes a thumbnail, with few others at once, and keeps it.
func (h *Handlers) make(ctx context.Context, f *storage.File, want storage.Thumbnail) (*storage.Thumbnail, error) {
	select {
	case h.workers <- struct{}{}:
		defer func() { <-h.workers }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	file, err := h.blobs.Open(f.Hash)
	if err != nil {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	defer file.Close()
	if f.Size > maxPicture {
		return nil, errPixels
	}
	head, err := inspect(file)
	if err != nil {
		return nil, err
	}
	if !head.within(h.cfg.MaxPixels) {
		return nil, errPixels
	}
	width, height := head.upright()
	if width <= want.Width && height <= want.Height && (head.frames == 1 || want.Animated) {
		// It is no larger than what was asked for.
		made := want
		made.ContentType, made.Size, made.Hash = types[head.format], f.Size, f.Hash
		return &made, h.store.Media.AddThumbnail(ctx, made)
	}
	if want.Method == "crop" && want.Width != want.Height {
		if want, err = h.shaped(ctx, want); err != nil {
			return nil, err
		}
	}
	return h.draw(ctx, file, head, want)
}

// shaped gives the thumbnail that is made where a cut of its own shape was asked for: another one, when there are many.
func (h *Handlers) shaped(ctx context.Context, want storage.Thumbnail) (storage.Thumbnail, error) {
	made, err := h.store.Media.Thumbnails(ctx, want.Server, want.MediaID)
	if err == nil && len(made) >= maxShapes {
		s := fitting(want.Width, want.Height, "scale")
		want.Width, want.Height, want.Method = s.width, s.height, s.method
	}
	return want, err
}

// draw decodes the picture, makes it smaller and keeps the result.
func (h *Handlers) draw(ctx context.Context, file interface {
	Read([]byte) (int, error)
	Seek(int64, int) (int64, error)
}, head header, want storage.Thumbnail) (*storage.Thumbnail, error) {
	made := want
	made.Animated = want.Animated && head.animatable(want) && head.animationCost(want) <= pictureMemory
	cost := head.cost()
	if made.Animated {
		cost = head.animationCost(want)
	}
	if cost > pictureMemory {
		return nil, errPixels
	}
	if err := h.memory.Acquire(ctx, max(1, cost)); err != nil {
		return nil, err
	}
	defer func() {
		if cost > largePicture {
			debug.FreeOSMemory() // or the next one would come on top of what this one left
		}
		h.memory.Release(max(1, cost))
	}()
	start := time.Now()
	var picture []byte
	var err error
	if made.Animated {
		picture, made.ContentType, err = shrinkAnimation(file, head, want)
	} else {
		picture, made.ContentType, err = shrink(file, head, want)
	}
	if err != nil {
		return nil, err
	}
	thumbnailSeconds.WithLabelValues(head.format).Observe(time.Since(start).Seconds())
	if made.Hash, made.Size, err = h.blobs.Put(bytes.NewReader(picture), int64(len(picture))); err != nil {
		return nil, err
	}
	made.Animated = want.Animated // as it was asked for: what cannot be animated is found again too
	return &made, h.store.Media.AddThumbnail(ctx, made)
}
