package media

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"os"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// size is a thumbnail that we make; what clients ask for is rounded up to one of them.
type size struct {
	width, height int
	method        string
}

// Spec: client-server-api/#thumbnails
var sizes = []size{{32, 32, "crop"}, {96, 96, "crop"}, {320, 240, "scale"}, {640, 480, "scale"}, {800, 600, "scale"}}

// fitting gives the smallest of our sizes that is not smaller than what was asked for.
func fitting(width, height int, method string) size {
	for _, s := range sizes {
		if s.width >= width && s.height >= height && (s.method == method || (method == "scale" && s.width > 96) || method == "") {
			return s
		}
	}
	if method == "crop" && width <= 800 && height <= 600 {
		return size{width, height, "crop"}
	}
	return sizes[len(sizes)-1]
}

// Thumbnail handles GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}.
// Spec: client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid
func (h *Handlers) Thumbnail(r *rest.Request) (any, error) {
	width, err1 := r.Int("width", 0, 1, 4096)
	height, err2 := r.Int("height", 0, 1, 4096)
	if err := errors.Join(err1, err2); err != nil || width == 0 || height == 0 {
		return nil, mautrix.MInvalidParam.WithMessage("width and height must be positive numbers")
	}
	method := r.Query("method")
	if method != "" && method != "crop" && method != "scale" {
		return nil, mautrix.MInvalidParam.WithMessage("method is crop or scale")
	}
	f, err := h.file(r)
	if err != nil {
		return nil, err
	}
	s := fitting(width, height, method)
	want := storage.Thumbnail{Server: f.Server, MediaID: f.MediaID, Width: s.width, Height: s.height, Method: s.method}
	made, err := h.store.Media.Thumbnail(r.Context(), want)
	if err != nil {
		return nil, err
	}
	if made == nil {
		if made, err = h.make(r, f, want); err != nil {
			return nil, err
		}
	}
	if made.Hash == f.Hash {
		return h.serve(f.Hash, f.ContentType, f.Name)
	}
	return h.serve(made.Hash, made.ContentType, "thumbnail"+extension(made.ContentType))
}

// OldThumbnail handles GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}: the path without authentication, where it is switched on.
// Spec: client-server-api/#get_matrixmediav3thumbnailservernamemediaid
func (h *Handlers) OldThumbnail(r *rest.Request) (any, error) {
	if !h.cfg.Unauthenticated {
		return nil, mautrix.MNotFound.WithMessage("Media are served to clients with a token only")
	}
	return h.Thumbnail(r)
}

func extension(contentType string) string {
	if contentType == "image/jpeg" {
		return ".jpg"
	}
	return ".png"
}

// make makes a thumbnail, with few others at once, and keeps it.
func (h *Handlers) make(r *rest.Request, f *storage.File, want storage.Thumbnail) (*storage.Thumbnail, error) {
	select {
	case h.workers <- struct{}{}:
		defer func() { <-h.workers }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	file, err := h.blobs.Open(f.Hash)
	if err != nil {
		return nil, mautrix.MNotFound.WithMessage("No such file")
	}
	defer file.Close()
	picture, contentType, err := shrink(file, want, h.cfg.MaxPixels)
	if err != nil {
		return nil, mautrix.MUnknown.WithStatus(400).WithMessage("No thumbnail can be made of this file: %s", err.Error())
	}
	made := want
	if picture == nil {
		// It is no larger than what was asked for.
		made.ContentType, made.Size, made.Hash = f.ContentType, f.Size, f.Hash
	} else {
		made.ContentType = contentType
		if made.Hash, made.Size, err = h.blobs.Put(bytes.NewReader(picture), int64(len(picture))); err != nil {
			return nil, err
		}
	}
	return &made, h.store.Media.AddThumbnail(r.Context(), made)
}

var (
	errFormat = errors.New("not a JPEG, PNG, GIF or WebP picture")
	errPixels = errors.New("the picture has too many pixels")
)

// shrink makes a thumbnail of a picture; nil if it is small enough as it is. A decoder's panic is an error.
func shrink(file *os.File, want storage.Thumbnail, maxPixels int) (picture []byte, contentType string, err error) {
	defer func() {
		if p := recover(); p != nil {
			picture, err = nil, fmt.Errorf("the picture is damaged: %v", p)
		}
	}()
	decode, config, format, err := sniff(file)
	if err != nil {
		return nil, "", err
	}
	if config.Width <= 0 || config.Height <= 0 || config.Width > maxPixels/config.Height {
		return nil, "", errPixels
	}
	if config.Width <= want.Width && config.Height <= want.Height {
		return nil, "", nil
	}
	source, err := decode(file)
	if err != nil {
		return nil, "", fmt.Errorf("the picture is damaged: %w", err)
	}
	small := scaled(source, want)
	var out bytes.Buffer
	if format == "jpeg" {
		err = jpeg.Encode(&out, small, &jpeg.Options{Quality: 80})
		return out.Bytes(), "image/jpeg", err
	}
	err = png.Encode(&out, small)
	return out.Bytes(), "image/png", err
}

// sniff finds the decoder by the file's first bytes, and reads the dimensions alone.
func sniff(file io.ReadSeeker) (decode func(io.Reader) (image.Image, error), config image.Config, format string, err error) {
	head := make([]byte, 16)
	n, _ := io.ReadFull(file, head)
	head = head[:n]
	var dimensions func(io.Reader) (image.Config, error)
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xd8\xff")):
		decode, dimensions, format = jpeg.Decode, jpeg.DecodeConfig, "jpeg"
	case bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n")):
		decode, dimensions, format = png.Decode, png.DecodeConfig, "png"
	case bytes.HasPrefix(head, []byte("GIF8")):
		decode, dimensions, format = gif.Decode, gif.DecodeConfig, "gif"
	case len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP":
		decode, dimensions, format = webp.Decode, webp.DecodeConfig, "webp"
	default:
		return nil, config, "", errFormat
	}
	if _, err = file.Seek(0, io.SeekStart); err != nil {
		return nil, config, "", err
	}
	if config, err = dimensions(file); err != nil {
		return nil, config, "", fmt.Errorf("the picture is damaged: %w", err)
	}
	_, err = file.Seek(0, io.SeekStart)
	return decode, config, format, err
}

// scaled fits the picture into the wanted frame, or fills the frame and cuts off what stands over.
func scaled(source image.Image, want storage.Thumbnail) image.Image {
	from := source.Bounds()
	w, h := from.Dx(), from.Dy()
	if want.Method == "crop" {
		cut := from
		if w*want.Height > h*want.Width {
			width := max(1, h*want.Width/want.Height)
			cut.Min.X += (w - width) / 2
			cut.Max.X = cut.Min.X + width
		} else {
			height := max(1, w*want.Height/want.Width)
			cut.Min.Y += (h - height) / 2
			cut.Max.Y = cut.Min.Y + height
		}
		to := image.NewRGBA(image.Rect(0, 0, want.Width, want.Height))
		draw.CatmullRom.Scale(to, to.Bounds(), source, cut, draw.Src, nil)
		return to
	}
	width, height := want.Width, max(1, h*want.Width/w)
	if height > want.Height {
		width, height = max(1, w*want.Height/h), want.Height
	}
	to := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.CatmullRom.Scale(to, to.Bounds(), source, from, draw.Src, nil)
	return to
}
