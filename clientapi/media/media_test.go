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
		w, h          int // of the result; 0 where the original is served
	}{
		{"wide, scaled", 1000, 500, storage.Thumbnail{Width: 320, Height: 240, Method: "scale"}, 320, 160},
		{"tall, scaled", 500, 1000, storage.Thumbnail{Width: 320, Height: 240, Method: "scale"}, 120, 240},
		{"wide, cropped", 1000, 500, storage.Thumbnail{Width: 96, Height: 96, Method: "crop"}, 96, 96},
		{"a line, scaled", 4000, 1, storage.Thumbnail{Width: 320, Height: 240, Method: "scale"}, 320, 1},
		{"small already", 30, 20, storage.Thumbnail{Width: 32, Height: 32, Method: "crop"}, 0, 0},
	} {
		raw, contentType, err := shrink(picture(t, c.width, c.height), c.want, 32_000_000)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.w == 0 {
			if raw != nil {
				t.Errorf("%s: a thumbnail was made of a picture that is small enough", c.name)
			}
			continue
		}
		got, err := png.DecodeConfig(bytes.NewReader(raw))
		if err != nil || got.Width != c.w || got.Height != c.h || contentType != "image/png" {
			t.Errorf("%s: got %dx%d %s (%v), want %dx%d image/png", c.name, got.Width, got.Height, contentType, err, c.w, c.h)
		}
	}
}

func TestPicturesAreBounded(t *testing.T) {
	want := storage.Thumbnail{Width: 32, Height: 32, Method: "crop"}
	if _, _, err := shrink(picture(t, 100, 100), want, 9_999); err != errPixels {
		t.Errorf("10,000 pixels with a limit of 9,999: %v, want %v", err, errPixels)
	}
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte("<svg>"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := shrink(f, want, 1000); err != errFormat {
		t.Errorf("not a picture: %v, want %v", err, errFormat)
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
	h := New(DefaultConfig(), nil, files, nil)
	for _, c := range []struct{ contentType, name, want string }{
		{"image/png", "a.png", `inline; filename=a.png`},
		{"text/html", "", `attachment`},
		{"image/svg+xml", "x.svg", `attachment; filename=x.svg`},
		{"text/plain; charset=utf-8", "", `inline`},
		{"text/plain", "réunion.txt", `inline; filename*=utf-8''r%C3%A9union.txt`},
	} {
		answer, err := h.serve(hash, c.contentType, c.name)
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

func FuzzShrink(f *testing.F) {
	f.Add([]byte("\x89PNG\r\n\x1a\n"))
	f.Add([]byte("GIF89a"))
	f.Add([]byte("RIFF....WEBPVP8 "))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "p")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		_, _, _ = shrink(file, storage.Thumbnail{Width: 32, Height: 32, Method: "crop"}, 1_000_000)
	})
}
