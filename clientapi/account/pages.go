package account

import (
	_ "embed"
	"html/template"
	"strings"
	"unicode/utf8"

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

func showPage(r *rest.Request, code int, p page) (any, error) {
	p.Lang = mail.Language(r.HTTP.Header.Get("Accept-Language"), "en")
	var title, body strings.Builder
	if err := confirmPage.ExecuteTemplate(&title, "title", p); err != nil {
		return nil, err
	}
	if err := confirmPage.Execute(&body, p); err != nil {
		return nil, err
	}
	return rest.Page(code, p.Lang, strings.TrimSpace(title.String()), template.HTML(body.String())), nil //nolint:gosec // made by a template just now
}

// validText says whether a form's text can be looked up.
func validText(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }
