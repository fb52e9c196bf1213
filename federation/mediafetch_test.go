package federation_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"chancery/federation/remote"
	"chancery/storage"
	"chancery/storage/bus"
)

// M7: what another server answers is bounded, and what is wrong with it is no fault of ours.
func TestMediaFromHostileServers(t *testing.T) {
	w := newTown(t, "interior.example", "evil.example")
	w.change = func(c *config) { c.MaxMedia = 1 << 20 }
	interior, evil := w.open("interior.example"), w.stranger("evil.example")
	const parts = "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n"
	answers := map[string]func(http.ResponseWriter){
		"good":    func(rw http.ResponseWriter) { io.WriteString(rw, parts+"Content-Type: text/html\r\n\r\nfile\r\n--b--") },
		"cut":     func(rw http.ResponseWriter) { io.WriteString(rw, parts+"Content-Type: text/html\r\n\r\nfi") },
		"onepart": func(rw http.ResponseWriter) { io.WriteString(rw, "--b\r\n\r\n{}\r\n--b--") },
		"nothing": func(http.ResponseWriter) {},
		"untyped": func(rw http.ResponseWriter) { io.WriteString(rw, parts+"\r\nx\r\n--b--") },
		"loopback": func(rw http.ResponseWriter) {
			io.WriteString(rw, parts+"Location: http://127.0.0.1/x\r\n\r\n\r\n--b--")
		},
		"metadata": func(rw http.ResponseWriter) {
			io.WriteString(rw, parts+"Location: https://169.254.169.254/x\r\n\r\n\r\n--b--")
		},
		"localfile": func(rw http.ResponseWriter) {
			io.WriteString(rw, parts+"Location: file:///etc/passwd\r\n\r\n\r\n--b--")
		},
		"endless": func(rw http.ResponseWriter) {
			io.WriteString(rw, parts+"\r\n")
			block := strings.Repeat("x", 1<<20)
			for range 4 {
				if _, err := io.WriteString(rw, block); err != nil {
					return
				}
			}
		},
		"preamble": func(rw http.ResponseWriter) {
			block := strings.Repeat("-\r\n", 1<<18)
			for range 4 {
				if _, err := io.WriteString(rw, block); err != nil {
					return
				}
			}
		},
		"page": func(rw http.ResponseWriter) {
			rw.Header().Set("Content-Type", "text/html")
			io.WriteString(rw, "<html>")
		},
		"refused": func(rw http.ResponseWriter) { rw.WriteHeader(500) },
	}
	var asked atomic.Int32
	evil.mux.HandleFunc("GET /_matrix/federation/v1/media/download/{mediaId}", func(rw http.ResponseWriter, r *http.Request) {
		answer := answers[r.PathValue("mediaId")]
		if answer == nil {
			asked.Add(1)
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(404)
			io.WriteString(rw, `{"errcode":"M_NOT_FOUND","error":"no"}`)
			return
		}
		rw.Header().Set("Content-Type", "multipart/mixed; boundary=b")
		answer(rw)
	})
	fetch := func(media string) (int, string) {
		t.Helper()
		_, err := interior.federate(bus.FederationQuestion{FetchMedia: &bus.FetchMedia{Server: evil.name, MediaID: media, Authenticated: true}})
		if err == nil {
			return 200, ""
		}
		var refused *bus.Refusal
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v, want a refusal", media, err)
			return 500, ""
		}
		return refused.Status, refused.Code
	}
	for _, c := range []struct {
		media  string
		status int
		code   string
	}{
		{"good", 200, ""}, {"cut", 502, "M_UNKNOWN"}, {"onepart", 502, "M_UNKNOWN"}, {"nothing", 502, "M_UNKNOWN"}, {"untyped", 200, ""},
		{"loopback", 502, "M_UNKNOWN"}, {"metadata", 502, "M_UNKNOWN"}, {"localfile", 502, "M_UNKNOWN"}, {"endless", 502, "M_TOO_LARGE"},
		{"preamble", 502, "M_UNKNOWN"}, {"page", 502, "M_UNKNOWN"}, {"refused", 502, "M_UNKNOWN"}, {"absent", 404, "M_NOT_FOUND"}, {"absent", 404, "M_NOT_FOUND"},
	} {
		if status, code := fetch(c.media); status != c.status || code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", c.media, status, code, c.status, c.code)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("a file that is not there was asked for %d times in a row, want once", n)
	}
	for media, kind := range map[string]string{"good": "text/html", "untyped": "application/octet-stream"} {
		f, err := interior.store.Media.ByID(t.Context(), evil.name, media)
		if err != nil || f == nil || f.ContentType != kind || !f.Authenticated {
			t.Errorf("%s: kept as %+v (%v), want %s for those with a token", media, f, err, kind)
		}
	}
}

// A thumbnail is made on request, by whoever answers media.do.
func TestThumbnailForAnotherServer(t *testing.T) {
	w := newTown(t, "interior.example", "finance.example")
	interior, finance := w.open("interior.example"), w.stranger("finance.example")
	keep := func(content string) string {
		t.Helper()
		hash, size, err := interior.blobs.Put(strings.NewReader(content), 100)
		if err == nil {
			_, err = interior.store.Media.Add(t.Context(), &storage.File{
				Server: interior.name, MediaID: content, ContentType: "image/png", Size: size, Hash: hash})
		}
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	keep("picture")
	small := keep("small")
	stop, err := bus.Answer(t.Context(), interior.bus, bus.MediaDo, func(_ context.Context, _ string, q bus.MediaQuestion) (bus.MediaAnswer, error) {
		if want := (bus.MakeThumbnail{MediaID: "picture", Width: 32, Height: 24, Method: "scale", Animated: true}); *q.Thumbnail != want {
			return bus.MediaAnswer{}, bus.Refuse(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "too large")
		}
		return bus.MediaAnswer{Hash: small, ContentType: "image/gif"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for query, want := range map[string]string{
		"picture?width=32&height=24&method=scale&animated=true": "200 small", "picture?width=33&height=24": "413 M_TOO_LARGE",
		"picture?width=0&height=24": "400 M_INVALID_PARAM", "picture?width=32&height=24&method=stretch": "400 M_INVALID_PARAM",
		"picture?width=x": "400 M_INVALID_PARAM", "none?width=32&height=24": "404 M_NOT_FOUND",
	} {
		if got := finance.thumbnail(interior, query); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
}

// thumbnail asks for a thumbnail, and gives the status with the picture's bytes or the errcode.
func (s *stranger) thumbnail(of *house, query string) string {
	s.Helper()
	media, query, _ := strings.Cut(query, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := s.client.Open(s.Context(), remote.Request{
		Server: of.name, Method: http.MethodGet, Path: []string{"v1", "media", "thumbnail", media}, Query: values,
	})
	if said, ok := remote.Refused(err); ok {
		return fmt.Sprint(said.StatusCode, " ", said.ErrCode)
	}
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		s.Fatal(err)
	}
	parts := multipart.NewReader(resp.Body, params["boundary"])
	if _, err = parts.NextPart(); err != nil {
		s.Fatal(err)
	}
	picture, err := parts.NextPart()
	if err != nil {
		s.Fatal(err)
	}
	raw, err := io.ReadAll(picture)
	if err != nil || picture.Header.Get("Content-Type") != "image/gif" {
		s.Errorf("%s: %v, of type %q", query, err, picture.Header.Get("Content-Type"))
	}
	return fmt.Sprint(resp.StatusCode, " ", string(raw))
}
