package oauth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
	"chancery/storage"
)

const (
	seenEvery = 5 * time.Minute
	maxCookie = 100
)

// visitor is who looks at a page, in which browser.
type visitor struct {
	cookie string           // the browser's secret, ours to know and nobody else's
	signed *storage.Browser // nil: nobody is signed in
	lang   string
}

// user is who is signed in, or "".
func (v *visitor) user() id.UserID {
	if v.signed == nil {
		return ""
	}
	return v.signed.UserID
}

// cookieName keeps other hosts of the same domain from setting it, where browsers come by https.
func (h *Handlers) cookieName() string {
	if h.secure {
		return "__Host-chancery"
	}
	return "chancery"
}

func (h *Handlers) langCookie() string { return h.cookieName() + "-lang" }

// visit finds out who looks. A browser that comes for the first time gets its cookie.
func (h *Handlers) visit(r *rest.Request) (*visitor, error) {
	v := &visitor{lang: h.language(r)}
	if c, err := r.HTTP.Cookie(h.cookieName()); err == nil && len(c.Value) >= 20 && len(c.Value) <= maxCookie {
		v.cookie = c.Value
	}
	if v.cookie == "" {
		v.cookie = newSecret("")
		h.setCookie(r, v.cookie)
		return v, nil
	}
	signed, err := h.store.Browsers.ByCookie(r.Context(), v.cookie)
	if err != nil || signed == nil {
		return v, err
	}
	now := h.now()
	if now.Sub(signed.Seen) > h.cfg.BrowserLifetime {
		return v, nil
	}
	v.signed = signed
	if now.Sub(signed.Seen) < min(seenEvery, h.cfg.BrowserLifetime/2) {
		return v, nil
	}
	h.setCookie(r, v.cookie)
	return v, h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.Browsers.Saw(ctx, v.cookie) })
}

func (h *Handlers) setCookie(r *rest.Request, value string) {
	c := &http.Cookie{
		Name: h.cookieName(), Value: value, Path: "/", MaxAge: int(h.cfg.BrowserLifetime.Seconds()), HttpOnly: true, Secure: h.secure, SameSite: http.SameSiteLaxMode,
	}
	r.Header().Add("Set-Cookie", c.String())
}

// language is what the client or the person asked for, or else what the browser prefers.
// Spec: OpenID Connect Core 1.0, section 3.1.2.1 (ui_locales)
func (h *Handlers) language(r *rest.Request) string {
	wanted := r.Query("ui_locales")
	if next, err := url.Parse(r.Query("next")); wanted == "" && err == nil {
		wanted = next.Query().Get("ui_locales")
	}
	for tag := range strings.FieldsSeq(wanted) {
		if lang := mail.Language(tag, ""); lang != "" {
			c := &http.Cookie{Name: h.langCookie(), Value: lang, Path: "/", HttpOnly: true, Secure: h.secure, SameSite: http.SameSiteLaxMode}
			r.Header().Add("Set-Cookie", c.String())
			return lang
		}
	}
	if c, err := r.HTTP.Cookie(h.langCookie()); err == nil && slices.Contains(languages, c.Value) {
		return c.Value
	}
	return mail.Language(r.HTTP.Header.Get("Accept-Language"), languages[0])
}

// formToken belongs to the browser's cookie: a form that bears it was made for this browser.
func (v *visitor) formToken() string {
	sum := hmac.New(sha256.New, []byte(v.cookie))
	sum.Write([]byte("chancery form"))
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))
}

var errForm = errors.New("oauth: this form was not made for this browser")

// submitted reads a form of a page of ours.
func (h *Handlers) submitted(r *rest.Request, v *visitor) (url.Values, error) {
	values, err := form(r)
	if err != nil {
		return nil, err
	}
	if r.HTTP.Header.Get("Sec-Fetch-Site") == "cross-site" || !hmac.Equal([]byte(values.Get("csrf")), []byte(v.formToken())) {
		return nil, errForm
	}
	return values, nil
}

// enter signs a user in, who has just shown who they are (here, or in a session at an identity provider), under a new cookie: one that somebody planted before is worth nothing.
func (h *Handlers) enter(r *rest.Request, v *visitor, user id.UserID, upstream string) error {
	old := v.cookie
	v.cookie = newSecret("")
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		if err := h.store.Browsers.End(ctx, old); err != nil {
			return err
		}
		return h.store.Browsers.Put(ctx, v.cookie, storage.Browser{UserID: user, Upstream: upstream, Address: r.Address(), Agent: clip(r.HTTP.UserAgent())})
	})
	if err == nil {
		h.setCookie(r, v.cookie)
	}
	return err
}

// leave signs the browser out.
func (h *Handlers) leave(r *rest.Request, v *visitor) error {
	old := v.cookie
	v.cookie, v.signed = newSecret(""), nil
	h.setCookie(r, v.cookie)
	return h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.Browsers.End(ctx, old) })
}

// clip bounds what a browser says of itself, and makes it fit for a text column.
func clip(agent string) string {
	clean := make([]rune, 0, min(len(agent), 250))
	for _, c := range agent {
		if c >= ' ' && c != 0x7f && len(clean) < 250 {
			clean = append(clean, c)
		}
	}
	return string(clean)
}

// local is where to go on after signing in: a page of ours and nothing else.
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || strings.Contains(next, `\`) || !storable(next) || len(next) > 8000 {
		return AccountPath
	}
	switch u.Path {
	case AuthorizePath, AccountPath, LinkPath:
		return (&url.URL{Path: u.Path, RawQuery: u.RawQuery}).String()
	}
	return AccountPath
}

// seeOther sends the browser on with a GET, whatever it came with.
func seeOther(to string) rest.Answer {
	return func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Del("Access-Control-Allow-Origin")
		head.Set("Cache-Control", "no-store")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Location", to)
		w.WriteHeader(http.StatusSeeOther)
	}
}
