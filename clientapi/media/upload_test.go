package media

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

func TestSameBytesAreKeptOnce(t *testing.T) {
	h := open(t, nil)
	a, b := h.upload([]byte("the same"), "text/plain"), h.upload([]byte("the same"), "text/plain")
	if n, half := h.onDisk(); n != 1 || half != 0 || a == b {
		t.Fatalf("%d blobs and %d halves, media IDs %s and %s, want one, none, and two", n, half, a, b)
	}
	if _, err := h.store.Media.Delete(t.Context(), []storage.MXC{{Server: "interior", MediaID: a}}); err != nil {
		t.Fatal(err)
	}
	if err := h.sweepBlobs(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := h.do("alice", "GET", "/download/interior/"+a, nil); got.code != 404 || got.field("errcode") != "M_NOT_FOUND" {
		t.Errorf("the deleted one: %d %s, want 404", got.code, got.body)
	}
	if got := h.do("alice", "GET", "/download/interior/"+b, nil); got.code != 200 || string(got.body) != "the same" {
		t.Errorf("the other: %d %q, want it still there", got.code, got.body)
	}
	if _, err := h.store.Media.Delete(t.Context(), []storage.MXC{{Server: "interior", MediaID: b}}); err != nil {
		t.Fatal(err)
	}
	if err := h.sweepBlobs(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if n, _ := h.onDisk(); n != 1 {
		t.Errorf("within its grace: %d blobs, want it kept", n)
	}
	if err := h.sweepBlobs(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if n, _ := h.onDisk(); n != 0 {
		t.Errorf("after both are deleted: %d blobs, want none", n)
	}
}

func TestUploadBounds(t *testing.T) {
	h := open(t, func(c *Config) { c.MaxUpload, c.Quota, c.QuotaInfo = 100, 250, "" })
	large := bytes.Repeat([]byte("x"), 101)
	for name, body := range map[string]io.Reader{"with a length": bytes.NewReader(large), "chunked": io.MultiReader(bytes.NewReader(large))} {
		if got := h.do("alice", "POST", "/upload", body); got.code != 413 || got.field("errcode") != "M_TOO_LARGE" {
			t.Errorf("too large, %s: %d %s, want 413 M_TOO_LARGE", name, got.code, got.body)
		}
	}
	var several sync.WaitGroup
	for i := range 8 {
		several.Go(func() { h.do("bob", "POST", "/upload", bytes.NewReader(bytes.Repeat([]byte{byte(i)}, 100))) })
	}
	several.Wait()
	if n, used, err := h.store.Media.Usage(t.Context(), "@bob:interior"); err != nil || n != 2 || used != 200 {
		t.Errorf("eight at once with a quota for two: %d files of %d bytes (%v)", n, used, err)
	}
	if got := h.do("bob", "POST", "/upload", strings.NewReader(strings.Repeat("x", 51))); got.code != 403 || got.field("errcode") != "M_FORBIDDEN" {
		t.Errorf("beyond the quota: %d %s, want 403 M_FORBIDDEN", got.code, got.body)
	}
	if got := h.do("bob", "POST", "/upload", strings.NewReader(strings.Repeat("y", 50))); got.code != 200 {
		t.Errorf("up to the quota: %d %s", got.code, got.body)
	}
	h.cfg.QuotaInfo = "https://interior/quota"
	if got := h.do("bob", "POST", "/upload", strings.NewReader("z")); got.code != 403 || got.field("errcode") != "M_USER_LIMIT_EXCEEDED" ||
		got.field("info_uri") != "https://interior/quota" {
		t.Errorf("beyond the quota, with a page about it: %d %s", got.code, got.body)
	}
	h.cfg.MinFree = 1 << 60
	if got := h.do("carol", "POST", "/upload", strings.NewReader("z")); got.code != 507 || got.field("errcode") != "M_LIMIT_EXCEEDED" {
		t.Errorf("with a disk that is nearly full: %d %s, want 507 M_LIMIT_EXCEEDED", got.code, got.body)
	}
	if _, half := h.onDisk(); half != 0 {
		t.Errorf("%d half-written files are left", half)
	}
}

func TestBrokenUploadLeavesNothing(t *testing.T) {
	h := open(t, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST /upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\nContent-Length: 1000000\r\n\r\nhalf"); err != nil {
		t.Fatal(err)
	}
	h.until("half a file", func() bool { _, half := h.onDisk(); return half == 1 })
	conn.Close()
	h.until("no half file", func() bool { _, half := h.onDisk(); return half == 0 })
	if n, _ := h.onDisk(); n != 0 {
		t.Errorf("%d blobs of an upload that broke off", n)
	}
}

func TestReservedUpload(t *testing.T) {
	h := open(t, func(c *Config) { c.Reservations = 2 })
	reserve := func() string {
		t.Helper()
		got := h.do("alice", "POST", "/create", nil)
		uri, _ := got.field("content_uri").(string)
		if until, _ := got.field("unused_expires_at").(float64); got.code != 200 || until <= float64(time.Now().UnixMilli()) {
			t.Fatalf("create: %d %s", got.code, got.body)
		}
		return strings.TrimPrefix(uri, "mxc://")
	}
	first, second := reserve(), reserve()
	if got := h.do("alice", "POST", "/create", nil); got.code != 429 || got.field("errcode") != "M_LIMIT_EXCEEDED" {
		t.Errorf("a third of two: %d %s", got.code, got.body)
	}
	if got := h.do("alice", "GET", "/download/"+first+"?timeout_ms=1", nil); got.code != 504 || got.field("errcode") != "M_NOT_YET_UPLOADED" {
		t.Errorf("before it is uploaded: %d %s", got.code, got.body)
	}
	waiting := make(chan said)
	go func() { waiting <- h.do("bob", "GET", "/download/"+first+"?timeout_ms=9000", nil) }()
	for _, c := range []struct {
		user, path string
		code       int
		errcode    any
	}{
		{"bob", first, 403, "M_FORBIDDEN"},
		{"alice", "elsewhere/abc", 403, "M_FORBIDDEN"},
		{"alice", "interior/abc", 404, "M_NOT_FOUND"},
		{"alice", "interior/..%2f..", 404, "M_NOT_FOUND"},
		{"alice", first, 200, nil},
		{"alice", first, 409, "M_CANNOT_OVERWRITE_MEDIA"},
	} {
		if got := h.do(c.user, "PUT", "/fill/"+c.path, strings.NewReader("content"), "Content-Type", "text/plain"); got.code != c.code || got.field("errcode") != c.errcode {
			t.Errorf("%s fills %s: %d %s, want %d %v", c.user, c.path, got.code, got.body, c.code, c.errcode)
		}
	}
	if got := <-waiting; got.code != 200 || string(got.body) != "content" {
		t.Errorf("who waited: %d %q", got.code, got.body)
	}
	h.now = func() time.Time { return time.Now().Add(reservation + time.Minute) }
	if got := h.do("alice", "PUT", "/fill/"+second, strings.NewReader("late")); got.code != 404 || got.field("errcode") != "M_NOT_FOUND" {
		t.Errorf("after its time: %d %s", got.code, got.body)
	}
}

func TestFrozenPaths(t *testing.T) {
	h := open(t, func(c *Config) { c.Unauthenticated = true })
	before := h.upload(png1(), "image/png")
	h.cfg.Unauthenticated = false // the freeze
	after := h.upload(append(png1(), 0), "image/png")
	for path, want := range map[string]int{
		"/old/interior/" + before: 200, "/oldthumb/interior/" + before + "?width=1&height=1": 200,
		"/old/interior/" + after: 404, "/oldthumb/interior/" + after + "?width=1&height=1": 404, "/old/elsewhere/abc": 404, "/old/interior/none": 404,
	} {
		if got := h.do("", "GET", path, nil); got.code != want || want == 404 && got.field("errcode") != "M_NOT_FOUND" {
			t.Errorf("%s: %d %.100s, want %d", path, got.code, got.body, want)
		}
	}
	if got := h.do("", "GET", "/download/interior/"+before, nil); got.code != 401 || got.field("errcode") != "M_MISSING_TOKEN" {
		t.Errorf("without a token: %d %s, want 401", got.code, got.body)
	}
	h.cfg.Unauthenticated = true
	if got := h.do("", "GET", "/old/interior/"+after, nil); got.code != 404 {
		t.Errorf("switched on again: %d, want what came under the freeze kept behind a token", got.code)
	}
}

func TestQuarantinedFilesAreOutOfSight(t *testing.T) {
	h := open(t, nil)
	media := h.upload(png1(), "image/png")
	if _, err := h.store.Media.Quarantine(t.Context(), "@admin:interior", []storage.MXC{{Server: "interior", MediaID: media}}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/download/interior/" + media, "/thumbnail/interior/" + media + "?width=10&height=10"} {
		if got := h.do("alice", "GET", path, nil); got.code != 404 || got.field("errcode") != "M_NOT_FOUND" {
			t.Errorf("%s: %d %.100s, want 404", path, got.code, got.body)
		}
	}
}

func TestALostCopyIsFetchedAgain(t *testing.T) {
	h := open(t, nil)
	keep := func() string {
		t.Helper()
		hash, size, err := h.blobs.Put(strings.NewReader("theirs"), 100)
		if err == nil {
			_, err = h.store.Media.Add(t.Context(), &storage.File{Server: "other", MediaID: "abc", Size: size, Hash: hash, ContentType: "text/plain"})
		}
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	if gone, err := h.blobs.Sweep(keep(), 0); err != nil || !gone {
		t.Fatal(gone, err)
	}
	stop, err := bus.Answer(t.Context(), h.bus, bus.FederationDo, func(_ context.Context, _ string, q bus.FederationQuestion) (bus.FederationAnswer, error) {
		if q.FetchMedia == nil || q.FetchMedia.Server != "other" || q.FetchMedia.MediaID != "abc" || !q.FetchMedia.Authenticated {
			t.Errorf("asked %+v", q.FetchMedia)
		}
		keep()
		return bus.FederationAnswer{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if got := h.do("alice", "GET", "/download/other/abc", nil); got.code != 200 || string(got.body) != "theirs" {
		t.Errorf("%d %s, want it fetched", got.code, got.body)
	}
	if got := h.do("alice", "GET", "/download/other/none?allow_remote=false", nil); got.code != 404 {
		t.Errorf("with allow_remote=false: %d, want 404", got.code)
	}
}

func TestDownloadHeaders(t *testing.T) {
	h := open(t, nil)
	got := h.do("alice", "POST", "/upload?filename="+url.QueryEscape("../é\"\r\n.txt"), strings.NewReader("0123456789"), "Content-Type", "text/plain")
	uri, _ := got.field("content_uri").(string)
	path := "/download/" + strings.TrimPrefix(uri, "mxc://")
	got = h.do("alice", "GET", path, nil)
	for name, want := range map[string]string{
		"Content-Type": "text/plain", "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "cross-origin",
		"Content-Disposition": `inline; filename*=utf-8''..%2F%C3%A9%22.txt`, "Accept-Ranges": "bytes", "Access-Control-Allow-Origin": "*",
		"Cache-Control": "private, max-age=31536000, immutable",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
		}
	}
	etag := got.header.Get("ETag")
	for _, c := range []struct {
		name, method string
		headers      []string
		code         int
		body         string
	}{
		{"whole", "GET", nil, 200, "0123456789"},
		{"head", "HEAD", nil, 200, ""},
		{"range", "GET", []string{"Range", "bytes=2-4"}, 206, "234"},
		{"from the end", "GET", []string{"Range", "bytes=-3"}, 206, "789"},
		{"open", "GET", []string{"Range", "bytes=8-"}, 206, "89"},
		{"beyond", "GET", []string{"Range", "bytes=10-"}, 416, ""},
		{"nonsense", "GET", []string{"Range", "bytes=4-2"}, 416, ""},
		{"if it is the same", "GET", []string{"Range", "bytes=0-0", "If-Range", etag}, 206, "0"},
		{"if it is another", "GET", []string{"Range", "bytes=0-0", "If-Range", `"other"`}, 200, "0123456789"},
		{"several", "GET", []string{"Range", "bytes=0-0,2-2"}, 200, "0123456789"},
		{"known", "GET", []string{"If-None-Match", etag}, 304, ""},
	} {
		got := h.do("alice", c.method, path, nil, c.headers...)
		if got.code != c.code || c.code < 300 && string(got.body) != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.name, got.code, got.body, c.code, c.body)
		}
	}
}

func FuzzRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-1", "bytes=-5,1-2,3-", "bytes=9999999999999999999-", "units=1", "bytes=0-0,0-0,0-0", "bytes=-0,-0,-0,-0,-0,-0,-0,-0"} {
		f.Add(seed)
	}
	files, err := blobs.Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	const content = "0123456789"
	hash, _, err := files.Put(strings.NewReader(content), 100)
	if err != nil {
		f.Fatal(err)
	}
	h := New(DefaultConfig(), nil, files, nil, nil)
	f.Fuzz(func(t *testing.T, header string) {
		answer, err := h.serve(hash, "text/plain", "inline")
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", header)
		w := httptest.NewRecorder()
		answer.(rest.Answer)(w, r)
		if w.Code != 200 && w.Code != 206 && w.Code != 416 {
			t.Errorf("Range %q: %d, want 200, 206 or 416", header, w.Code)
		}
		if w.Code < 300 && w.Body.Len() > len(content) {
			t.Errorf("Range %q: %d bytes of %d", header, w.Body.Len(), len(content))
		}
	})
}
