package account

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
)

//go:embed confirm.html
var confirmSource string

// confirmPage is what the links in mails show: all that it says stands in the file, in each language.
var confirmPage = template.Must(template.New("confirm").Parse(confirmSource))

// page is what it shows. Text is register, add or password (with a button), done, or stale.
type page struct {
	Lang, Text          string
	Address, SID, Token string
}

// showPage answers with the page, which may load and run nothing, may not be framed, and tells nobody whence it came.
func showPage(r *rest.Request, code int, p page) rest.Answer {
	p.Lang = mail.Language(r.HTTP.Header.Get("Accept-Language"), "en")
	return func(w http.ResponseWriter, hr *http.Request) {
		var out bytes.Buffer
		if err := confirmPage.Execute(&out, p); err != nil {
			zerolog.Ctx(hr.Context()).Error().Err(err).Msg("Page cannot be written")
			code = http.StatusInternalServerError
		}
		head := w.Header()
		head.Set("Content-Type", "text/html; charset=utf-8")
		head.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cache-Control", "no-store")
		w.WriteHeader(code)
		if _, err := w.Write(out.Bytes()); err != nil {
			zerolog.Ctx(hr.Context()).Debug().Err(err).Msg("Browser left before the page")
		}
	}
}

// validText says whether a form's text can be looked up.
func validText(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }
