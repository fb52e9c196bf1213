package oauth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed pages/style.css
var style []byte

// styleVersion changes with the style: browsers may keep it for ever.
var styleVersion = func() string {
	sum := sha256.Sum256(style)
	return hex.EncodeToString(sum[:6])
}()

// pageTemplates are the pages by name, each with the frame around it.
var pageTemplates = func() map[string]*template.Template {
	all := map[string]*template.Template{}
	frame := template.Must(template.ParseFS(pageFiles, "pages/frame.html"))
	files, err := pageFiles.ReadDir("pages")
	if err != nil { // they are in the binary
		panic(err)
	}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".html")
		if !ok || name == "frame" {
			continue
		}
		all[name] = template.Must(template.Must(frame.Clone()).ParseFS(pageFiles, "pages/"+f.Name()))
	}
	return all
}()

// page is a page for people, and all that the templates may show.
type page struct {
	name  string
	texts map[string]string

	Lang, Server, Style, CSRF string
	// Path is the page's own address, for the choice of language; empty where it cannot be asked for again.
	Path string
	// FormTarget is where the answer to the page's form may lead besides this server.
	FormTarget string
	// User is who is signed in, and Name what they call themselves; empty if nobody is.
	User, Name string
	// Error and Notice are names of texts, Detail more about the error.
	Error, Notice, Detail string
	// Onward is where the browser goes on by itself.
	Onward string
	// Next is where to go after signing in, and Here the page itself.
	Next, Here string

	// Sign-in and registration.
	Typed            string // what was typed before
	Open, CanReset   bool
	Providers        []Provider
	Way, Ways        int
	NeedEmail        bool
	NeedToken        bool
	SID, Secret      string
	Email, TokenText string
	Terms            []term

	// Letting in.
	Client  *client
	Request string
	Device  string
	Grant   *storage.DeviceGrant
	Code    string

	// The account.
	Action      string
	Addresses   []string
	Devices     []deviceRow
	One         *deviceRow
	HasPassword bool
	Until       string
}

// Provider is an identity provider with which people may sign in.
type Provider struct{ Name, URL string }

type term struct{ Title, URL string }

// page begins a page for a visitor.
func (h *Handlers) page(v *visitor, name string) *page {
	return &page{
		name: name, texts: h.texts[v.lang], Lang: v.lang, Server: h.cfg.ServerName, Style: StylePath + "?" + styleVersion, CSRF: v.formToken(),
		User: string(v.user()),
	}
}

// introduce says who is signed in.
func (h *Handlers) introduce(r *rest.Request, p *page) error {
	p.Path = languagePath(r)
	if p.User == "" {
		return nil
	}
	name, err := h.nameOf(r.Context(), p)
	p.Name = name
	return err
}

func (h *Handlers) nameOf(ctx context.Context, p *page) (string, error) {
	fields, err := h.store.Profiles.All(ctx, userOf(p))
	if err != nil {
		return "", err
	}
	var name string
	if raw := fields["displayname"]; raw != nil && json.Unmarshal(raw, &name) == nil && name != "" {
		return name, nil
	}
	return userOf(p).Localpart(), nil
}

// languagePath is the address of the page that is shown, without its language; empty where it was not a GET.
func languagePath(r *rest.Request) string {
	if r.HTTP.Method != http.MethodGet {
		return ""
	}
	q := r.HTTP.URL.Query()
	q.Del("ui_locales")
	return (&url.URL{Path: r.HTTP.URL.Path, RawQuery: q.Encode()}).String()
}

// T is a text in the page's language, with its blanks filled.
func (p *page) T(name string, args ...any) string {
	text, ok := p.texts[name]
	if !ok {
		return name // a test sees to it that there are none
	}
	if len(args) > 0 {
		return fmt.Sprintf(text, args...)
	}
	return text
}

// In is the address of this page in another language.
func (p *page) In(lang string) string {
	u, err := url.Parse(p.Path)
	if err != nil {
		return p.Path
	}
	q := u.Query()
	q.Set("ui_locales", lang)
	u.RawQuery = q.Encode()
	return u.String()
}

// Languages are those that one can choose, with their own names.
func (p *page) Languages() []struct{ Code, Name string } {
	return []struct{ Code, Name string }{{"en", "English"}, {"fr", "Français"}, {"nl", "Nederlands"}, {"de", "Deutsch"}}
}

// Mark is the letter that stands for this server.
func (p *page) Mark() string { return initial(p.Server) }

// Initial is the letter that stands for who is signed in.
func (p *page) Initial() string { return initial(p.Name) }

// ClientInitial is the letter that stands for the client.
func (p *page) ClientInitial() string { return initial(p.Client.Title()) }

func initial(name string) string {
	for _, c := range name {
		return strings.ToUpper(string(c))
	}
	return "·"
}

// Wide pages are those of the account.
func (p *page) Wide() bool { return p.name == "account" }

// Query is the address of the page to sign in or register on, with where to go afterwards.
func (p *page) Query(path string) string {
	if p.Next == "" || p.Next == AccountPath {
		return path
	}
	return path + "?" + url.Values{"next": {p.Next}}.Encode()
}

// Again is the address at which somebody else may sign in.
func (p *page) Again() string {
	return SignInPath + "?" + url.Values{"next": {p.Here}, "again": {"1"}}.Encode()
}

// answer writes the page. It may load its style and nothing else, runs nothing, may not be framed, and tells nobody whence its reader came.
func (p *page) answer(code int) rest.Answer {
	return func(w http.ResponseWriter, r *http.Request) {
		var out bytes.Buffer
		if err := pageTemplates[p.name].ExecuteTemplate(&out, "frame", p); err != nil {
			zerolog.Ctx(r.Context()).Error().Err(err).Str("page", p.name).Msg("Page cannot be made")
			http.Error(w, "Internal server error", http.StatusInternalServerError)
			return
		}
		target := "'self'"
		if p.FormTarget != "" {
			target += " " + p.FormTarget
		}
		head := w.Header()
		head.Del("Access-Control-Allow-Origin") // programs have no business here
		head.Set("Content-Type", "text/html; charset=utf-8")
		head.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action "+target)
		head.Set("X-Frame-Options", "DENY")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cross-Origin-Opener-Policy", "same-origin")
		head.Set("Cache-Control", "no-store")
		if p.Onward != "" {
			head.Set("Refresh", "0; url="+p.Onward)
		}
		w.WriteHeader(code)
		if _, err := w.Write(out.Bytes()); err != nil {
			zerolog.Ctx(r.Context()).Debug().Err(err).Msg("Browser left before the page")
		}
	}
}

// Style handles GET /account/style.css.
func (h *Handlers) Style(*rest.Request) (any, error) {
	return rest.Answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		if _, err := w.Write(style); err != nil {
			zerolog.Ctx(r.Context()).Debug().Err(err).Msg("Browser left before the style")
		}
	}), nil
}

// note is a page that says one thing.
func (h *Handlers) note(v *visitor, text string) rest.Answer {
	p := h.page(v, "note")
	p.Notice = text
	return p.answer(http.StatusOK)
}

// errorPage is a page that says what went wrong; text is the name of a text, with .title and .text behind.
func (h *Handlers) errorPage(v *visitor, code int, text, detail string) rest.Answer {
	p := h.page(v, "note")
	p.Error, p.Detail = text, detail
	return p.answer(code)
}

// trouble shows a page again with what went wrong, if that is for people to know.
func (h *Handlers) trouble(p *page, err error) (any, error) {
	var refused mautrix.RespError
	if !errors.As(err, &refused) {
		return nil, err
	}
	code := refused.StatusCode
	if code == 0 {
		code = http.StatusBadRequest
	}
	// What a refusal means may depend on the page.
	p.Error = p.name + "." + refused.ErrCode
	if !p.says(p.Error) {
		p.Error = "error." + refused.ErrCode
	}
	if !p.says(p.Error) {
		p.Error, p.Detail = "error.other", refused.Err
	}
	show := p.answer(code)
	return rest.Answer(func(w http.ResponseWriter, r *http.Request) {
		for key, value := range refused.ExtraHeader {
			w.Header().Set(key, value)
		}
		show(w, r)
	}), nil
}

// says whether the page has words for this: those of a page that says nothing else have a title.
func (p *page) says(name string) bool {
	if p.name == "note" {
		name += ".title"
	}
	return p.texts[name] != ""
}

// when is a time as the page shows it.
func when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
