package media

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/html/charset"
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// PreviewsConfig is what an operator may say about previews of links. What they may reach is said by client.outbound.
type PreviewsConfig struct {
	// Enabled gives previews. Default false: the server then tells nobody which pages its users speak of.
	Enabled bool `yaml:"enabled"`
	// MaxPicture is the largest picture of a page, in bytes. Default 10 MiB.
	MaxPicture int64 `yaml:"max_picture"`
	// Timeout bounds the fetching of a page with its picture. Default 15s.
	Timeout time.Duration `yaml:"timeout"`
	// Languages are asked of pages that have several, in the form of HTTP's Accept-Language. Default "en".
	Languages string `yaml:"languages"`
}

const (
	maxURL = 4096
	// maxPage is how much of a page is read. What a page says of itself stands at its beginning.
	maxPage = 2 << 20
	// maxFetches bounds the pages that are fetched at once.
	maxFetches = 16
	// previewSpan is the span of time in which a page is fetched once, and for which a preview is kept.
	previewSpan = time.Hour
	agent       = "Mozilla/5.0 (compatible; Matrix URL preview; Chancery)"
)

// Preview handles GET /_matrix/client/v1/media/preview_url.
// Spec: client-server-api/#get_matrixclientv1mediapreview_url
func (h *Handlers) Preview(r *rest.Request) (any, error) {
	if !h.cfg.Previews.Enabled {
		return nil, mautrix.MForbidden.WithMessage("This server gives no previews of links")
	}
	link, err := readLink(r.Query("url"))
	if err != nil {
		return nil, err
	}
	now := h.now()
	at := now.UnixMilli()
	if ts := r.Query("ts"); ts != "" {
		asked, err := strconv.ParseInt(ts, 10, 64)
		if err != nil {
			return nil, mautrix.MInvalidParam.WithMessage("ts is not a number")
		}
		at = min(at, max(0, asked))
	}
	// A preview of then, or else the newest.
	for _, bucket := range []int64{at / previewSpan.Milliseconds(), now.UnixMilli() / previewSpan.Milliseconds()} {
		known, err := h.store.Previews.At(r.Context(), link.String(), bucket, now.UnixMilli())
		if err != nil {
			return nil, err
		}
		if known != nil {
			return known.Answer, nil
		}
	}
	return h.look(r.Context(), link)
}

// readLink takes addresses of the web only, and takes out what is no business of the page's server.
func readLink(text string) (*url.URL, error) {
	if text == "" {
		return nil, errMissing.WithMessage("url is missing")
	}
	link, err := url.Parse(strings.TrimSpace(text))
	if err != nil || len(text) > maxURL || link.Hostname() == "" || link.Scheme != "http" && link.Scheme != "https" {
		return nil, mautrix.MInvalidParam.WithMessage("url is not the address of a page")
	}
	link.Fragment, link.RawFragment, link.User = "", "", nil
	return link, nil
}

// look fetches a page once for all who ask for it at the same time.
func (h *Handlers) look(ctx context.Context, link *url.URL) (any, error) {
	result := h.looking.DoChan(link.String(), func() (any, error) {
		// Who asks first may go away; others wait for the same page.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.Previews.Timeout)
		defer cancel()
		select {
		case h.fetches <- struct{}{}:
			defer func() { <-h.fetches }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		found, err := h.visit(ctx, link)
		if err != nil {
			previewed.WithLabelValues("error").Inc()
			return nil, err
		}
		previewed.WithLabelValues("ok").Inc()
		answer, err := json.Marshal(found)
		if err != nil {
			return nil, err
		}
		now := h.now()
		return json.RawMessage(answer), h.store.Previews.Put(context.WithoutCancel(ctx), &storage.Preview{
			URL: link.String(), Bucket: now.UnixMilli() / previewSpan.Milliseconds(), Expires: now.Add(previewSpan).UnixMilli(), Answer: answer,
		})
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case res := <-result:
		if res.Err != nil {
			return nil, notSeen(ctx, res.Err)
		}
		return res.Val, nil
	}
}

// errStatus says that a page's server has no page for us.
var errStatus = errors.New("the page is not there")

// notSeen tells a client why there is no preview. Which addresses are refused, and what is behind them, is not told apart from
// what cannot be reached.
func notSeen(ctx context.Context, err error) error {
	zerolog.Ctx(ctx).Debug().Err(err).Msg("No preview")
	switch {
	case errors.Is(err, rest.ErrAddressRefused):
		return mautrix.MForbidden.WithMessage("This server does not fetch that page")
	case errors.Is(err, context.DeadlineExceeded):
		return mautrix.MUnknown.WithStatus(http.StatusGatewayTimeout).WithMessage("The page did not come in time")
	}
	return mautrix.MUnknown.WithStatus(http.StatusBadGateway).WithMessage("The page cannot be fetched")
}

// open begins to fetch an address. The caller closes the body, and bounds what is read of it.
func (h *Handlers) open(ctx context.Context, link, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", accept)
	if h.cfg.Previews.Languages != "" {
		req.Header.Set("Accept-Language", h.cfg.Previews.Languages)
	}
	resp, err := h.outbound.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: status %d", errStatus, resp.StatusCode)
	}
	return resp, nil
}

// visit fetches what is behind a link, and says what it finds; nothing where it is neither a page nor a picture.
func (h *Handlers) visit(ctx context.Context, link *url.URL) (map[string]any, error) {
	resp, err := h.open(ctx, link.String(), "text/html, application/xhtml+xml, image/*;q=0.8, */*;q=0.1")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	found := map[string]any{}
	switch {
	case err == nil && strings.HasPrefix(kind, "image/"):
		h.attach(ctx, found, resp)
		return found, nil
	case kind != "text/html" && kind != "application/xhtml+xml":
		return found, nil
	}
	decoded, err := charset.NewReader(io.LimitReader(resp.Body, maxPage), resp.Header.Get("Content-Type"))
	if errors.Is(err, io.EOF) {
		return found, nil // an empty page
	}
	if err != nil {
		return nil, err
	}
	// What did not come whole may still say enough; but nothing says that it did not come.
	raw, err := io.ReadAll(io.LimitReader(decoded, 2*maxPage))
	if err != nil {
		return nil, err
	}
	p := readPage(bytes.NewReader(raw))
	for name, value := range p.graph() {
		found[name] = value
	}
	if picture := p.picture(resp.Request.URL); picture != "" {
		h.fetchPicture(ctx, found, picture)
	}
	return found, nil
}

// fetchPicture adds a page's picture; a page whose picture cannot be had is shown without.
func (h *Handlers) fetchPicture(ctx context.Context, found map[string]any, picture string) {
	resp, err := h.open(ctx, picture, "image/webp, image/png, image/jpeg, image/gif, image/*;q=0.5")
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("No picture for a preview")
		return
	}
	defer resp.Body.Close()
	h.attach(ctx, found, resp)
}

// attach keeps a picture as a file of ours, and says in found where and how large it is.
func (h *Handlers) attach(ctx context.Context, found map[string]any, resp *http.Response) {
	f, head, err := h.keepPicture(ctx, resp)
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("No picture for a preview")
		return
	}
	width, height := head.upright()
	found["og:image"], found["og:image:type"] = h.uri(f.MediaID), f.ContentType
	found["og:image:width"], found["og:image:height"] = width, height
	found["matrix:image:size"] = f.Size
}

func (h *Handlers) keepPicture(ctx context.Context, resp *http.Response) (*storage.File, header, error) {
	if resp.ContentLength > h.cfg.Previews.MaxPicture {
		return nil, header{}, errPixels
	}
	if free, err := h.blobs.Free(); err == nil && free-h.cfg.Previews.MaxPicture < h.cfg.MinFree {
		return nil, header{}, errFull
	}
	hash, size, err := h.blobs.Put(resp.Body, h.cfg.Previews.MaxPicture)
	if err != nil {
		return nil, header{}, err
	}
	f := &storage.File{
		Server: h.cfg.ServerName, MediaID: rand.Text(), Name: cleanName(fileName(resp.Request.URL)), Size: size, Hash: hash,
		Created: h.now().UnixMilli(), Authenticated: !h.cfg.Unauthenticated,
	}
	head, err := h.headerOf(hash)
	if err == nil {
		f.ContentType = types[head.format]
		_, err = h.store.Media.Add(ctx, f)
	}
	if err != nil {
		return nil, head, errors.Join(err, h.store.Media.Discard(context.WithoutCancel(ctx), hash))
	}
	return f, head, nil
}

// headerOf reads a kept picture's header.
func (h *Handlers) headerOf(hash string) (header, error) {
	file, err := h.blobs.Open(hash)
	if err != nil {
		return header{}, err
	}
	defer file.Close()
	head, err := inspect(file)
	if err == nil && !head.within(h.cfg.MaxPixels) {
		err = errPixels
	}
	return head, err
}

func fileName(link *url.URL) string {
	if name := path.Base(link.Path); name != "." && name != "/" {
		return name
	}
	return ""
}
