package account

import (
	_ "embed"
	"fmt"
	"html/template"
	"strings"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
)

//go:embed sso.html
var ssoSource string

// ssoTemplate is what the pages of sign-in with identity providers show; the words are in ssotexts.go.
var ssoTemplate = template.Must(template.New("sso").Parse(ssoSource))

// authDone tells the window of a client that a stage was passed, as the specification words it.
// Spec: client-server-api/#fallback
const authDone = `if (window.onAuthDone) { window.onAuthDone(); } else if (window.opener && window.opener.postMessage) { window.opener.postMessage("authDone", "*"); }`

// ssoPage is one such page. Kind is choose, continue, confirm, welcome, terms, passed, leave, left or refused.
type ssoPage struct {
	Kind     string
	Reason   string // why refused, or what is to be confirmed
	Provider string
	Place    string // where the client is
	User     id.UserID
	Name     string
	Terms    []TermsText
	Links    []ssoLink
	Action   string // where the form goes; empty: there is no form
	Fields   []ssoField
	Frame    string // who may frame it
	lang     string
}

type ssoLink struct{ Name, URL string }

type ssoField struct{ Name, Value string }

// Say gives words in the page's language, with what they speak of.
func (p ssoPage) Say(key string) string {
	words, ok := ssoTexts[key]
	if !ok {
		words = ssoTexts["refused.other"]
	}
	text := words[0]
	for i, lang := range mail.Languages {
		if lang == p.lang {
			text = words[i]
		}
	}
	return strings.NewReplacer("{provider}", p.providerName(), "{place}", p.Place, "{user}", string(p.User)).Replace(text)
}

func (p ssoPage) providerName() string {
	if p.Provider == "" {
		return "?"
	}
	return p.Provider
}

// Title is the page's.
func (p ssoPage) Title() string { return p.Say(p.Kind + ".title") }

// Text is its first sentence.
func (p ssoPage) Text() string {
	switch p.Kind {
	case "refused":
		return p.Say("refused." + p.Reason)
	case "confirm":
		return p.Say("confirm." + p.Reason)
	}
	return p.Say(p.Kind + ".text")
}

// Note is what stands small beneath, or empty.
func (p ssoPage) Note() string {
	if _, ok := ssoTexts[p.Kind+".note"]; !ok {
		return ""
	}
	return p.Say(p.Kind + ".note")
}

// Button is what stands on it.
func (p ssoPage) Button() string { return p.Say(p.Kind + ".button") }

// show answers with the page, in a language of its reader.
func (p ssoPage) show(r *rest.Request, code int) (any, error) {
	p.lang = mail.Language(r.HTTP.Header.Get("Accept-Language"), "en")
	var body strings.Builder
	if err := ssoTemplate.Execute(&body, p); err != nil {
		return nil, fmt.Errorf("page %s: %w", p.Kind, err)
	}
	document := rest.Document{
		Code: code, Lang: p.lang, Title: p.Title(), Frame: p.Frame,
		Body: template.HTML(body.String()), //nolint:gosec // made by a template just now
	}
	if p.Kind == "passed" {
		document.Script = authDone
	}
	return document.Answer(), nil
}

// termsFor are the documents to accept, each in the reader's language, or else in the operator's first.
func (h *Handlers) termsFor(r *rest.Request) []TermsText {
	wanted := mail.Language(r.HTTP.Header.Get("Accept-Language"), "en")
	texts := make([]TermsText, 0, len(h.cfg.Terms))
	for _, t := range h.cfg.Terms {
		texts = append(texts, t.in(wanted))
	}
	return texts
}
