package media

import (
	"bytes"
	"fmt"
	"image/color"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// site serves pages by path: content type and content.
type site struct {
	*httptest.Server
	pages map[string][2]string
	asked atomic.Int32
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{pages: map[string][2]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		p, ok := s.pages[r.URL.Path]
		switch {
		case !ok:
			http.NotFound(w, r)
		case p[0] == "redirect":
			http.Redirect(w, r, p[1], http.StatusFound)
		case p[0] == "slow":
			<-r.Context().Done()
		default:
			w.Header().Set("Content-Type", p[0])
			_, _ = w.Write([]byte(p[1]))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (h *house) preview(link string) said {
	h.Helper()
	return h.do("alice", "GET", "/preview?url="+url.QueryEscape(link), nil)
}

func TestPreviews(t *testing.T) {
	h, s := open(t, nil), newSite(t)
	s.pages["/picture.png"] = [2]string{"image/png", string(png1())}
	s.pages["/photo.html"] = [2]string{"image/jpeg", "<html>"}
	html := func(head, body string) [2]string {
		return [2]string{"text/html; charset=utf-8", "<!doctype html><html><head>" + head + "</head><body>" + body + "</body></html>"}
	}
	s.pages["/graph"] = html(`<title>not this</title><meta property="og:title" content="The &quot;Rock&quot;"><meta property="og:type" content="video.movie">
		<meta property="og:title" content="second"><meta property="og:url" content="http://x/"><meta property="og:image" content="picture.png">
		<meta property="og:image:width" content="9999"><meta property="og:image:secret" content="http://leak/">`, "")
	s.pages["/twitter"] = html(`<meta name="twitter:title" content="Bird"><meta name="twitter:description" content="Sings"><meta name="twitter:image" content="/picture.png">`, "")
	s.pages["/plain"] = html(`<title> A
		page </title><script>var no = "<p>never</p>"</script><style>p{}</style>`,
		`<nav>menu</nav><header>top</header><h1>Heading</h1><p>First words.</p><script>x</script><p>More <b>words</b>.</p><img src="data:x"><img width=1 height=1 src="/count"><img src="picture.png">`)
	s.pages["/based"] = html(`<base href="/deep/"><meta property="og:image" content="../picture.png"><meta name="description" content="Said">`, "<h2>Only a heading</h2>")
	s.pages["/latin"] = [2]string{"text/html; charset=iso-8859-1", "<title>Pr\xe9fecture</title>"}
	s.pages["/meta"] = [2]string{"text/html", "<meta charset=windows-1252><title>\x80uro</title>"}
	s.pages["/lying"] = html(`<title>T</title><meta property="og:image" content="/photo.html">`, "")
	s.pages["/text"] = [2]string{"text/plain", "og:title"}
	s.pages["/empty"] = [2]string{"text/html", ""}
	s.pages["/redirected"] = [2]string{"redirect", "/deep/page"}
	s.pages["/deep/page"] = html(`<meta property="og:image" content="../picture.png"><title>Moved</title>`, "")
	s.pages["/long"] = html(`<title>`+strings.Repeat("word ", 200)+`</title>`, strings.Repeat("<p>text text</p>", 1000))
	s.pages["/controls"] = html("<title>a\x00b\x1bc\u202e\xffd</title>", "")
	s.pages["/deep"] = html("<title>deep</title>", strings.Repeat("<div><svg><template>", 50_000))
	s.pages["/endless"] = html("<title>endless</title>", strings.Repeat("<p>more</p>", 600_000))
	s.pages["/attribute"] = html(`<title>t</title><meta content="`+strings.Repeat("x", 1<<20)+`">`, "")
	for _, c := range []struct {
		path string
		want map[string]any
	}{
		{"/graph", map[string]any{"og:title": `The "Rock"`, "og:type": "video.movie", "og:url": "http://x/", "og:image": "mxc", "og:image:type": "image/png",
			"og:image:width": 40.0, "og:image:height": 20.0, "matrix:image:size": float64(len(png1())), "og:image:secret": nil}},
		{"/twitter", map[string]any{"og:title": "Bird", "og:description": "Sings", "og:image": "mxc"}},
		{"/plain", map[string]any{"og:title": "A page", "og:description": "First words. More words.", "og:image": "mxc"}},
		{"/based", map[string]any{"og:title": "Only a heading", "og:description": "Said", "og:image": "mxc"}},
		{"/latin", map[string]any{"og:title": "Préfecture", "og:image": nil}},
		{"/meta", map[string]any{"og:title": "€uro"}},
		{"/lying", map[string]any{"og:title": "T", "og:image": nil}},
		{"/text", map[string]any{"og:title": nil}},
		{"/empty", map[string]any{"og:title": nil}},
		{"/picture.png", map[string]any{"og:title": nil, "og:image": "mxc", "og:image:width": 40.0}},
		{"/redirected", map[string]any{"og:title": "Moved", "og:image": "mxc"}},
		{"/controls", map[string]any{"og:title": "abcd"}},
		{"/deep", map[string]any{"og:title": "deep"}},
		{"/endless", map[string]any{"og:title": "endless"}},
		{"/attribute", map[string]any{"og:title": "t"}},
	} {
		got := h.preview(s.URL + c.path + "#fragment")
		if got.code != 200 {
			t.Errorf("%s: %d %s", c.path, got.code, got.body)
			continue
		}
		for name, want := range c.want {
			v := got.field(name)
			if uri, _ := v.(string); want == "mxc" && strings.HasPrefix(uri, "mxc://interior/") {
				file := h.do("alice", "GET", "/download/"+strings.TrimPrefix(uri, "mxc://"), nil)
				if file.code != 200 || !bytes.Equal(file.body, png1()) || file.header.Get("Content-Type") != "image/png" {
					t.Errorf("%s: its picture: %d, %d bytes of %s", c.path, file.code, len(file.body), file.header.Get("Content-Type"))
				}
				continue
			}
			if v != want {
				t.Errorf("%s: %s is %v, want %v", c.path, name, v, want)
			}
		}
	}
	got := h.preview(s.URL + "/long")
	title, _ := got.field("og:title").(string)
	description, _ := got.field("og:description").(string)
	if len(title) == 0 || len(title) > maxTitle+3 || len(description) == 0 || len(description) > maxText+3 {
		t.Errorf("a long page: title of %d bytes, description of %d", len(title), len(description))
	}
}

func TestPreviewsAreRefused(t *testing.T) {
	h, s := open(t, func(c *Config) { c.Previews.Timeout, c.Previews.MaxPicture = 500*time.Millisecond, 1000 }), newSite(t)
	elsewhere := strings.Replace(s.URL, "127.0.0.1", "127.0.0.2", 1)
	s.pages["/inward"] = [2]string{"redirect", elsewhere}
	s.pages["/file"] = [2]string{"redirect", "file:///etc/passwd"}
	s.pages["/slow"] = [2]string{"slow", ""}
	s.pages["/inside"] = [2]string{"text/html", `<title>T</title><meta property="og:image" content="` + elsewhere + `/x.png">`}
	s.pages["/large"] = [2]string{"image/png", string(pngOf(noise(50, 50)))}
	for link, want := range map[string]string{
		"": "400 M_MISSING_PARAM", "file:///etc/passwd": "400 M_INVALID_PARAM", "gopher://x/": "400 M_INVALID_PARAM", "http://": "400 M_INVALID_PARAM",
		"nonsense": "400 M_INVALID_PARAM", "http://x/" + strings.Repeat("x", maxURL): "400 M_INVALID_PARAM",
		elsewhere: "403 M_FORBIDDEN", "http://[::ffff:127.0.0.2]/": "403 M_FORBIDDEN", "http://169.254.169.254/latest/": "403 M_FORBIDDEN",
		"http://0.0.0.0:80/": "403 M_FORBIDDEN", "http://100.64.0.1/": "403 M_FORBIDDEN", "http://0x7f.0.0.2/": "502 M_UNKNOWN",
		s.URL + "/inward": "403 M_FORBIDDEN", s.URL + "/file": "502 M_UNKNOWN", s.URL + "/none": "502 M_UNKNOWN", s.URL + "/slow": "504 M_UNKNOWN",
		s.URL + "/inside": "200 <nil>", s.URL + "/large": "200 <nil>",
	} {
		got := h.preview(link)
		if said := fmt.Sprint(got.code, " ", got.field("errcode")); said != want && !(want == "502 M_UNKNOWN" && strings.Contains(link, "0x7f") && said == "403 M_FORBIDDEN") {
			t.Errorf("%.60s: %s (%s), want %s", link, said, got.body, want)
		}
		if got.field("og:image") != nil {
			t.Errorf("%.60s: has a picture: %s", link, got.body)
		}
	}
	if err := h.sweepBlobs(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if n, half := h.onDisk(); n != 0 || half != 0 {
		t.Errorf("%d blobs and %d halves of what was refused", n, half)
	}
	if got := h.do("", "GET", "/preview?url=x", nil); got.code != 401 {
		t.Errorf("without a token: %d", got.code)
	}
	h.cfg.Previews.Enabled = false
	if got := h.preview(s.URL + "/inside"); got.code != 403 || got.field("errcode") != "M_FORBIDDEN" || s.asked.Load() == 0 {
		t.Errorf("switched off: %d %s", got.code, got.body)
	}
}

func TestAPageIsFetchedOnce(t *testing.T) {
	h, s := open(t, nil), newSite(t)
	s.pages["/"] = [2]string{"text/html", "<title>one</title>"}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got := h.preview(s.URL + "/"); got.field("og:title") != "one" {
				t.Errorf("%d %s", got.code, got.body)
			}
		})
	}
	all.Wait()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("fetched %d times for twenty who ask at once, want once", n)
	}
	s.pages["/"] = [2]string{"text/html", "<title>two</title>"}
	before := time.Now().Add(-48 * time.Hour).UnixMilli()
	for _, ts := range []string{"", fmt.Sprintf("&ts=%d", before), "&ts=0", fmt.Sprintf("&ts=%d", time.Now().Add(time.Hour).UnixMilli())} {
		if got := h.do("alice", "GET", "/preview?url="+url.QueryEscape(s.URL+"/")+ts, nil); got.field("og:title") != "one" {
			t.Errorf("within the hour, %q: %d %s, want what is kept", ts, got.code, got.body)
		}
	}
	h.now = func() time.Time { return time.Now().Add(previewSpan + time.Minute) }
	if got := h.preview(s.URL + "/"); got.field("og:title") != "two" || s.asked.Load() != 2 {
		t.Errorf("after an hour: %s, fetched %d times", got.body, s.asked.Load())
	}
	if got := h.do("alice", "GET", "/preview?url=x&ts=soon", nil); got.code != 400 {
		t.Errorf("a time that is none: %d", got.code)
	}
}

func TestRetention(t *testing.T) {
	h, s := open(t, func(c *Config) { c.RemoteRetention, c.LocalRetention = time.Hour, 0 }), newSite(t)
	s.pages["/"] = [2]string{"image/png", string(pngOf(solid(9, 9, color.White)))}
	uri, _ := h.preview(s.URL + "/").field("og:image").(string)
	shown, _ := storage.ParseMXC(uri)
	ours := storage.MXC{Server: "interior", MediaID: h.upload([]byte("ours"), "text/plain")}
	hash, size, err := h.blobs.Put(strings.NewReader("theirs"), 100)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour).UnixMilli()
	copies := []storage.MXC{{Server: "other", MediaID: "old"}, {Server: "other", MediaID: "asked"}}
	for _, f := range copies {
		if _, err := h.store.Media.Add(t.Context(), &storage.File{Server: f.Server, MediaID: f.MediaID, Size: size, Hash: hash, Created: old}); err != nil {
			t.Fatal(err)
		}
	}
	there := func(f storage.MXC) bool {
		got, err := h.store.Media.ByID(t.Context(), f.Server, f.MediaID)
		if err != nil {
			t.Fatal(err)
		}
		return got != nil
	}
	if got := h.do("alice", "GET", "/download/other/asked", nil); got.code != 200 || string(got.body) != "theirs" {
		t.Fatalf("a copy: %d %s", got.code, got.body)
	}
	h.flushAccesses(t.Context())
	if err := h.retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if there(copies[0]) || !there(copies[1]) || !there(ours) || !there(shown) {
		t.Errorf("after an hour: %v %v %v %v, want only the first gone", there(copies[0]), there(copies[1]), there(ours), there(shown))
	}
	h.now = func() time.Time { return time.Now().Add(previewPictures + time.Hour) }
	if err := h.retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if there(copies[1]) || !there(ours) || there(shown) {
		t.Errorf("after a week: %v %v %v, want only ours to stay", there(copies[1]), there(ours), there(shown))
	}
	h.cfg.LocalRetention = time.Hour
	if err := h.retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if there(ours) {
		t.Error("with a retention of our own files, ours stays")
	}
	if _, _, err := h.blobs.Put(strings.NewReader("a stray"), 100); err != nil {
		t.Fatal(err)
	}
	if err := h.findStrays(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.sweepBlobs(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if n, half := h.onDisk(); n != 0 || half != 0 {
		t.Errorf("%d blobs and %d halves, want none", n, half)
	}
}

// M8: with nothing allowed, a page on loopback is not fetched, whatever it is called.
func TestPreviewsReachNothingPrivate(t *testing.T) {
	s := newSite(t)
	s.pages["/"] = [2]string{"text/html", "<title>secret</title>"}
	h := openOn(t, t.TempDir(), rest.OutboundConfig{}, nil)
	port := s.URL[strings.LastIndex(s.URL, ":"):]
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"} {
		if got := h.preview("http://" + host + port + "/"); got.code != 403 {
			t.Errorf("%s: %d %s, want 403", host, got.code, got.body)
		}
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

func FuzzPage(f *testing.F) {
	for _, seed := range []string{
		"<title>x</title>", `<meta property=og:title content=x><base href=/a><img src=b>`, "<svg><title>", "<head><script>", "<p>\xff\x00", "<textarea><plaintext>",
	} {
		f.Add([]byte(seed))
	}
	at, _ := url.Parse("https://example.org/page")
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := readPage(bytes.NewReader(raw))
		found := p.graph()
		if len(found) > maxProperties+3 {
			t.Errorf("%d properties", len(found))
		}
		for name, value := range found {
			if len(value) > maxValue+3 || strings.ContainsAny(value, "\x00\n") {
				t.Errorf("%s is %q", name, value)
			}
		}
		if link := p.picture(at); link != "" && !strings.HasPrefix(link, "http://") && !strings.HasPrefix(link, "https://") {
			t.Errorf("picture at %q", link)
		}
	})
}
