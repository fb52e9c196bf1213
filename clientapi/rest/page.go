package rest

import (
	"bytes"
	"html/template"
	"net/http"

	"github.com/rs/zerolog"
)

// pageSource is the house's plain page: readable on a phone, in the dark, with a keyboard and by a screen reader.
var pageSource = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="{{.Lang}}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<title>{{.Title}}</title>
<style>
body{margin:0;min-height:100vh;display:flex;align-items:center;justify-content:center;background:#f3f4f6;color:#1b1d22;font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{box-sizing:border-box;width:100%;max-width:28rem;margin:1rem;padding:2rem;background:#fff;border-radius:12px}
h1{margin:0 0 1rem;font-size:1.35rem;line-height:1.3}
p{margin:0 0 1rem;overflow-wrap:anywhere}
button,.button{padding:.75rem 1.5rem;border:0;border-radius:8px;background:#1d4ed8;color:#fff;font:inherit;font-weight:600;cursor:pointer}
button:focus-visible,a:focus-visible{outline:3px solid #93b4ff;outline-offset:2px}
.button{display:block;text-align:center;text-decoration:none}
.choices{margin:0;padding:0;list-style:none}
.choices li+li{margin-top:.75rem}
.note{margin:1.25rem 0 0;font-size:.875rem;opacity:.8}
a{color:#1d4ed8}a.button{color:#fff}
@media (prefers-color-scheme:dark){body{background:#14161a;color:#e8eaee}main{background:#1f2228}a{color:#93b4ff}}
</style>
</head>
<body>
<main>
{{.Body}}
</main>
</body>
</html>
`))

// Page answers with a page for people, in this language. It may load and run nothing, may not be framed, and tells nobody
// whence its reader came. The body comes from an html/template of the caller's.
func Page(code int, lang, title string, body template.HTML) Answer {
	return func(w http.ResponseWriter, r *http.Request) {
		var out bytes.Buffer
		err := pageSource.Execute(&out, struct {
			Lang, Title string
			Body        template.HTML
		}{lang, title, body})
		if err != nil { // a buffer takes everything, and the template is ours
			panic(err)
		}
		head := w.Header()
		head.Set("Content-Type", "text/html; charset=utf-8")
		head.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cache-Control", "no-store")
		w.WriteHeader(code)
		if _, err := w.Write(out.Bytes()); err != nil {
			zerolog.Ctx(r.Context()).Debug().Err(err).Msg("Browser left before the page")
		}
	}
}

// Newcomer is somebody who registers on a page.
type Newcomer struct {
	Name     string
	Password string
	// Token is a registration token, or empty.
	Token string
	// SID and Secret name the proof of an e-mail address, or are empty.
	SID, Secret string
	// Terms: they were accepted.
	Terms bool
}
