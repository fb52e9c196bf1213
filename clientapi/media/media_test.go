package media

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/blobs"
)

func picture(t *testing.T, w, h int) *os.File {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for x := range w {
		for y := range h {
			img.Set(x, y, color.RGBA{uint8(x), uint8(y), 100, 255})
		}
	}
	path := filepath.Join(t.TempDir(), "picture.png")
	var raw bytes.Buffer
	if err := png.Encode(&raw, img); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestThumbnailsFitTheirFrame(t *testing.T) {
	for _, c := range []struct {
		name          string
		width, height int
		want          storage.Thumbnail
		w, h          int // of the result
	}{
		{"wide, scaled", 1000, 500, storage.Thumbnail{Width: 320, Height: 240, Method: "scale"}, 320, 160},
		{"tall, scaled", 500, 1000, storage.Thumbnail{Width: 320, Height: 240, Method: "scale"}, 120, 240},
		{"wide, cropped", 1000, 500, storage.Thumbnail{Width: 96, Height: 96, Method: "crop"}, 96, 96},
		{"a line, scaled", 4000, 1, storage.Thumbnail{Width: 320, Height: 240, Method: "scale"}, 320, 1},
		{"small already", 30, 20, storage.Thumbnail{Width: 320, Height: 240, Method: "scale"}, 30, 20},
		{"cropped from less", 100, 20, storage.Thumbnail{Width: 32, Height: 32, Method: "crop"}, 20, 20},
	} {
		file := picture(t, c.width, c.height)
		head, err := inspect(file)
		if err != nil {
			t.Fatal(err)
		}
		raw, contentType, err := shrink(file, head, c.want)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := png.DecodeConfig(bytes.NewReader(raw))
		if err != nil || got.Width != c.w || got.Height != c.h || contentType != "image/png" {
			t.Errorf("%s: got %dx%d %s (%v), want %dx%d image/png", c.name, got.Width, got.Height, contentType, err, c.w, c.h)
		}
	}
}

func TestNothingThatRunsIsServedInline(t *testing.T) {
	files, err := blobs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	hash, _, err := files.Put(strings.NewReader("0123456789"), 100)
	if err != nil {
		t.Fatal(err)
	}
	h := New(DefaultConfig(), nil, files, nil, nil)
	for _, c := range []struct{ contentType, name, want string }{
		{"image/png", "a.png", `inline; filename=a.png`},
		{"text/html", "", `attachment`},
		{"image/svg+xml", "x.svg", `attachment; filename=x.svg`},
		{"text/plain; charset=utf-8", "", `inline`},
		{"text/plain", "réunion.txt", `inline; filename*=utf-8''r%C3%A9union.txt`},
	} {
		answer, err := h.serve(hash, c.contentType, disposition(c.contentType, c.name))
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", "bytes=2-4")
		answer.(rest.Answer)(w, r)
		if got := w.Header().Get("Content-Disposition"); got != c.want {
			t.Errorf("%s %q: disposition %q, want %q", c.contentType, c.name, got, c.want)
		}
		if w.Code != 206 || w.Body.String() != "234" {
			t.Errorf("range: %d %q, want 206 \"234\"", w.Code, w.Body)
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "sandbox; default-src 'none';") {
			t.Errorf("policy is %q", csp)
		}
	}
}

func TestFileNamesAreCleaned(t *testing.T) {
	for in, want := range map[string]string{"a\r\nX: y": "aX: y", "ok.txt": "ok.txt", "\x00\x7f": ""} {
		if got := cleanName(in); got != want {
			t.Errorf("cleanName(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"image/png": "image/png", "x\r\ny": "application/octet-stream", "": "application/octet-stream"} {
		if got := cleanType(in); got != want {
			t.Errorf("cleanType(%q) = %q, want %q", in, got, want)
		}
	}
}
