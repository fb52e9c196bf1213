package upstream

import (
	"crypto/rand"
	"net/http"
	"strings"
)

// The cookie by which a browser is known again. Over HTTPS its name has the prefix that keeps it from being set by
// another host, or for a part of the paths.
const (
	cookieName      = "chancery_browser"
	plainCookieName = "chancery_browser"
	hostCookieName  = "__Host-" + cookieName
)

// cookieOf is the browser's secret, or empty.
func cookieOf(r *http.Request) string {
	for _, name := range []string{hostCookieName, plainCookieName} {
		if cookie, err := r.Cookie(name); err == nil && len(cookie.Value) == len(rand.Text()) {
			return cookie.Value
		}
	}
	return ""
}

// browser is the browser's secret; one that has none gets one. It lives until the browser is closed.
func (p *Providers) browser(r *http.Request, header http.Header) string {
	secure := strings.HasPrefix(p.cfg.PublicURL, "https://")
	name := plainCookieName
	if secure {
		name = hostCookieName
	}
	if cookie, err := r.Cookie(name); err == nil && len(cookie.Value) == len(rand.Text()) {
		return cookie.Value
	}
	// Lax: the provider's way back is a click on a link, and brings it along; a form of another site does not.
	cookie := http.Cookie{Name: name, Value: rand.Text(), Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
	header.Add("Set-Cookie", cookie.String())
	return cookie.Value
}
