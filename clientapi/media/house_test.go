package media

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// names holds the users whose token is their name.
type names struct{}

func (names) ByToken(_ context.Context, token, _, _ string) (*rest.Requester, error) {
	return &rest.Requester{User: id.NewUserID(token, "interior"), Device: "DEVICE"}, nil
}

// house is a content repository behind its door.
type house struct {
	*testing.T
	*Handlers
	dir string
	url string
}

// open makes a repository; change may alter its configuration first.
func open(t *testing.T, change func(*Config)) *house {
	t.Helper()
	return openOn(t, t.TempDir(), rest.OutboundConfig{AllowedNetworks: []string{"127.0.0.1/32"}}, change)
}

func openOn(t *testing.T, dir string, outbound rest.OutboundConfig, change func(*Config)) *house {
	t.Helper()
	messages, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(dir, "test.db")}, messages)
	if err != nil {
		t.Fatal(err)
	}
	files, err := blobs.Open(filepath.Join(dir, "media"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.NewOutbound(outbound)
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.ServerName, cfg.MinFree, cfg.Previews.Enabled = "interior", 0, true
	if change != nil {
		change(&cfg)
	}
	m := New(cfg, store, files, messages, client)
	limits := rest.DefaultLimits()
	limits.Enabled = false
	door := httptest.NewServer(rest.NewMux([]rest.Route{
		{Method: "POST", Path: "/upload", Handler: m.Upload, Auth: rest.User, MaxBody: -1},
		{Method: "POST", Path: "/create", Handler: m.Create, Auth: rest.User},
		{Method: "PUT", Path: "/fill/{serverName}/{mediaId}", Handler: m.Fill, Auth: rest.User, MaxBody: -1},
		{Method: "GET", Path: "/download/{serverName}/{mediaId}", Handler: m.Download, Auth: rest.User},
		{Method: "GET", Path: "/old/{serverName}/{mediaId}", Handler: m.OldDownload},
		{Method: "GET", Path: "/oldthumb/{serverName}/{mediaId}", Handler: m.OldThumbnail},
		{Method: "GET", Path: "/thumbnail/{serverName}/{mediaId}", Handler: m.Thumbnail, Auth: rest.User},
		{Method: "GET", Path: "/preview", Handler: m.Preview, Auth: rest.User},
	}, rest.Options{Config: rest.Config{Limits: limits}, Log: zerolog.Nop(), Tokens: names{}}))
	t.Cleanup(func() {
		door.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		messages.Close()
	})
	return &house{T: t, Handlers: m, dir: dir, url: door.URL}
}

// said is an answer.
type said struct {
	code   int
	header http.Header
	body   []byte
}

// field is a part of a JSON answer.
func (s said) field(name string) any {
	var v map[string]any
	_ = json.Unmarshal(s.body, &v)
	return v[name]
}

func (h *house) do(user, method, path string, body io.Reader, headers ...string) said {
	h.Helper()
	req, err := http.NewRequestWithContext(h.Context(), method, h.url+path, body)
	if err != nil {
		h.Fatal(err)
	}
	if user != "" {
		req.Header.Set("Authorization", "Bearer "+user)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		h.Fatal(err)
	}
	return said{resp.StatusCode, resp.Header, raw}
}

// upload gives the media ID of a file that alice uploads.
func (h *house) upload(content []byte, contentType string) string {
	h.Helper()
	got := h.do("alice", "POST", "/upload", bytes.NewReader(content), "Content-Type", contentType)
	uri, _ := got.field("content_uri").(string)
	if got.code != 200 || !strings.HasPrefix(uri, "mxc://interior/") {
		h.Fatalf("upload: %d %s", got.code, got.body)
	}
	return strings.TrimPrefix(uri, "mxc://interior/")
}

// onDisk counts the blobs, and what is half-written.
func (h *house) onDisk() (whole, half int) {
	h.Helper()
	err := filepath.WalkDir(filepath.Join(h.dir, "media"), func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
		case strings.Contains(path, "incoming"):
			half++
		default:
			whole++
		}
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
	return whole, half
}

// until waits for it to come true.
func (h *house) until(what string, true func() bool) {
	h.Helper()
	deadline := time.After(10 * time.Second)
	for !true() {
		select {
		case <-deadline:
			h.Fatalf("did not come true: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
