package upstream

import (
	"crypto/rand"
	"net/http"
	"strings"
)

// The cookie by which a browser is known again. Over HTTPS its name has the prefix that keeps it from being set by
// another host, or for a part of the paths.
const (
	plainCookieName = "chancery_browser"
	hostCookieName  = "__Host-" + plainCookieName
)

// cookieName is the name under which this server's cookie is set, and looked for: no other is believed.
func (p *Providers) cookieName() string {
	if p.secure() {
		return hostCookieName
	}
	return plainCookieName
}

func (p *Providers) secure() bool { return strings.HasPrefix(p.cfg.PublicURL, "https://") }

// cookieOf is the browser's secret, or empty.
func (p *Providers) cookieOf(r *http.Request) string {
	if cookie, err := r.Cookie(p.cookieName()); err == nil && len(cookie.Value) == len(rand.Text()) {
		return cookie.Value
	}
	return ""
}

// browser is the browser's secret; one that has none gets one. It lives until the browser is closed.
func (p *Providers) browser(r *http.Request, header http.Header) string {
	if secret := p.cookieOf(r); secret != "" {
		return secret
	}
	// Lax: the provider's way back is a click on a link, and brings it along; a form of another site does not.
	cookie := http.Cookie{Name: p.cookieName(), Value: rand.Text(), Path: "/", HttpOnly: true, Secure: p.secure(), SameSite: http.SameSiteLaxMode}
	header.Add("Set-Cookie", cookie.String())
	return cookie.Value
}
