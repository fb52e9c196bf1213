package rest

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"maunium.net/go/mautrix"
)

// Document is a page that needs more than [Page] gives.
type Document struct {
	Code        int
	Lang, Title string
	Body        template.HTML
	// Script is run by the page, and nothing else is; empty: none.
	Script string
	// Frame is the origin of who may show the page in a frame; empty: nobody.
	Frame string
}

// Answer shows the document.
func (d Document) Answer() Answer {
	body := d.Body
	policy := "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors "
	if d.Frame != "" {
		policy += d.Frame
	} else {
		policy += "'none'"
	}
	if d.Script != "" {
		sum := sha256.Sum256([]byte(d.Script))
		policy += "; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
		body += template.HTML("<script>" + d.Script + "</script>") //nolint:gosec // the caller's own, no text of anybody's
	}
	page := Page(d.Code, d.Lang, d.Title, body)
	return func(w http.ResponseWriter, r *http.Request) {
		page(policyWriter{w, policy}, r)
	}
}

// policyWriter puts another policy in place of the page's.
type policyWriter struct {
	http.ResponseWriter
	policy string
}

func (w policyWriter) WriteHeader(code int) {
	w.Header().Set("Content-Security-Policy", w.policy)
	w.ResponseWriter.WriteHeader(code)
}

// Form reads the body as a form of a page.
func (r *Request) Form() (url.Values, error) {
	unreadable := mautrix.MInvalidParam.WithMessage("The form cannot be read")
	kind, _, _ := strings.Cut(r.HTTP.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		return nil, unreadable
	}
	raw, err := r.Body()
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, unreadable
	}
	for _, all := range values {
		for _, value := range all {
			if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
				return nil, unreadable
			}
		}
	}
	return values, nil
}
