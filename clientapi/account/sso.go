package account

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/clientapi/upstream"
	"chancery/storage"
)

// Paths of our own pages, to which a browser comes back.
const (
	// SSOContinuePath is where a browser goes on to the client for which its user has signed in.
	SSOContinuePath = "/_chancery/sso/continue"
	// SSOConfirmedPath is where it goes when its user has confirmed something by signing in.
	SSOConfirmedPath = "/_chancery/sso/confirmed"
)

// maxRedirect bounds the addresses to which clients want the browser back.
const maxRedirect = 4096

// SSORedirect handles GET /_matrix/client/v3/login/sso/redirect and …/redirect/{idpId}. Who names no provider chooses one on a
// page, if there are several.
// Spec: client-server-api/#get_matrixclientv3loginssoredirect
func (h *Handlers) SSORedirect(r *rest.Request) (any, error) {
	target := r.Query("redirectUrl")
	if target == "" {
		return nil, errMissing.WithMessage("redirectUrl is missing")
	}
	if _, err := clientURL(target); err != nil {
		return nil, err
	}
	providers := h.upstream.List()
	provider := r.Path("idpId")
	switch {
	case len(providers) == 0:
		return nil, mautrix.MNotFound.WithMessage("This server has no identity provider to sign in with; sign in with a password")
	case provider == "" && len(providers) > 1:
		return h.chooser(r, providers)
	case provider == "":
		provider = providers[0].ID
	}
	return h.signIn(r, upstream.Wish{Provider: provider, Return: SSOContinuePath, Data: target, LoginHint: r.Query("login_hint")})
}

// signIn sends the browser to a provider.
func (h *Handlers) signIn(r *rest.Request, wish upstream.Wish) (any, error) {
	wish.Locales = r.HTTP.Header.Get("Accept-Language")
	to, err := h.upstream.Start(r.HTTP, r.Header(), wish)
	if err != nil {
		return h.refusal(r, err)
	}
	r.Header().Set("Cache-Control", "no-store")
	return rest.Redirect(to), nil
}

// chooser is the page on which somebody chooses a provider. Each is a link to the same address with its name.
func (h *Handlers) chooser(r *rest.Request, providers []upstream.Info) (any, error) {
	p := ssoPage{Kind: "choose"}
	for _, one := range providers {
		query := url.Values{"redirectUrl": {r.Query("redirectUrl")}}
		if hint := r.Query("login_hint"); hint != "" {
			query.Set("login_hint", hint)
		}
		p.Links = append(p.Links, ssoLink{Name: one.Name, URL: "/_matrix/client/v3/login/sso/redirect/" + url.PathEscape(one.ID) + "?" + query.Encode()})
	}
	return p.show(r, http.StatusOK)
}

// clientURL is where a client wants the browser back. What a browser would run or show by itself is no such place.
func clientURL(text string) (*url.URL, error) {
	to, err := url.Parse(text)
	if err != nil || len(text) > maxRedirect || to.Scheme == "" || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return nil, mautrix.MInvalidParam.WithMessage("redirectUrl is not an address")
	}
	switch strings.ToLower(to.Scheme) {
	case "javascript", "data", "vbscript", "file", "blob", "about", "filesystem", "view-source", "mailto", "tel":
		return nil, mautrix.MInvalidParam.WithMessage("A client cannot be at such an address")
	case "http", "https":
		if to.Host == "" {
			return nil, mautrix.MInvalidParam.WithMessage("redirectUrl names no host")
		}
	}
	return to, nil
}

// withLoginToken is the address with the token in its query, in place of any that it had.
// Spec: client-server-api/#handling-the-callback-from-the-authentication-server
func withLoginToken(to *url.URL, token string) string {
	var kept []string
	for pair := range strings.SplitSeq(to.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); pair == "" || err == nil && plain == "loginToken" {
			continue
		}
		kept = append(kept, pair)
	}
	with := *to
	with.RawQuery = strings.Join(append(kept, "loginToken="+token), "&")
	return with.String()
}

// SSOContinuePage handles GET /_chancery/sso/continue, where somebody arrives who has signed in at a provider: it asks
// whether the client at that address may have the account, unless the operator trusts it.
func (h *Handlers) SSOContinuePage(r *rest.Request) (any, error) {
	pass := r.Query("signin")
	who, err := h.upstream.Peek(r.HTTP, pass)
	if err != nil {
		return nil, err
	}
	if who == nil {
		return h.refusal(r, &upstream.Refusal{Reason: upstream.ReasonState})
	}
	to, err := clientURL(who.Data)
	if err != nil {
		return nil, err
	}
	if h.upstream.Trusted(to) {
		return h.handOver(r, pass)
	}
	return ssoPage{Kind: "continue", Place: place(to), User: who.User, Action: SSOContinuePath, Fields: []ssoField{{"signin", pass}}}.show(r, http.StatusOK)
}

// place is what people read of an address: its host, or the app's own scheme.
func place(to *url.URL) string {
	if to.Scheme == "http" || to.Scheme == "https" {
		return to.Host
	}
	return to.Scheme
}

// SSOContinue handles POST /_chancery/sso/continue, the button of that page.
func (h *Handlers) SSOContinue(r *rest.Request) (any, error) {
	form, err := r.Form()
	if err != nil {
		return nil, err
	}
	return h.handOver(r, form.Get("signin"))
}

// handOver gives the client at the address a login token, by way of the browser.
func (h *Handlers) handOver(r *rest.Request, pass string) (any, error) {
	who, err := h.upstream.Take(r.HTTP, pass)
	if err != nil {
		return nil, err
	}
	if who == nil {
		return h.refusal(r, &upstream.Refusal{Reason: upstream.ReasonState})
	}
	to, err := clientURL(who.Data)
	if err != nil {
		return nil, err
	}
	token, until := newToken("chl_"), h.now().Add(loginPassAge)
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		if err := h.store.Tokens.PutPass(ctx, storage.LoginPass, token, who.User, "", until); err != nil {
			return err
		}
		_, err := h.store.Upstream.PutPass(ctx, storage.UpstreamPass{Kind: storage.UpstreamLogin, Secret: token, Content: []byte(who.Session), Expires: until})
		return err
	})
	if err != nil {
		return nil, err
	}
	zerolog.Ctx(r.Context()).Info().Stringer("user_id", who.User).Str("provider", who.Provider).Msg("User signed in with an identity provider")
	r.Header().Set("Cache-Control", "no-store")
	r.Header().Set("Referrer-Policy", "no-referrer")
	return rest.Redirect(withLoginToken(to, token)), nil
}

// refusal is the page that tells why somebody could not sign in. Other errors stay errors.
func (h *Handlers) refusal(r *rest.Request, err error) (any, error) {
	var refused *upstream.Refusal
	if !errors.As(err, &refused) {
		return nil, err
	}
	return ssoPage{Kind: "refused", Reason: string(refused.Reason), Provider: refused.Provider}.show(r, refused.Status())
}

// operations are what clients have confirmed, by the end of the path; the words stand in the texts.
var operations = map[string]string{
	"/account/deactivate":         "deactivate",
	"/account/password":           "password",
	"/delete_devices":             "devices",
	"/keys/device_signing/upload": "keys",
	"/login/get_token":            "session",
	"/account/3pid/add":           "address",
	"/account/3pid":               "address",
}

// operation is the word for what a session of user-interactive authentication is about.
func operation(of string) string {
	method, path, _ := strings.Cut(of, " ")
	for end, word := range operations {
		if strings.HasSuffix(path, end) {
			return word
		}
	}
	if method == http.MethodDelete && strings.Contains(path, "/devices/") {
		return "devices"
	}
	return "something"
}

// ConfirmPage handles GET /_matrix/client/v3/auth/{authType}/fallback/web, for clients that do not know a stage of
// user-interactive authentication themselves: m.login.sso and m.login.terms.
// Spec: client-server-api/#fallback
func (h *Handlers) ConfirmPage(r *rest.Request) (any, error) {
	session, err := h.asked(r, r.Query("session"))
	if err != nil || session == nil {
		return h.stale(r, err)
	}
	p := ssoPage{Action: r.HTTP.URL.Path, Fields: []ssoField{{"session", session.Session}}}
	switch r.Path("authType") {
	case rest.StageSSO:
		provider, err := h.upstream.ProviderOf(r.Context(), session.UserID)
		if err != nil || provider == "" {
			return h.stale(r, err)
		}
		p.Kind, p.Provider, p.User, p.Reason = "confirm", h.upstream.Name(provider), session.UserID, operation(session.Operation)
	case rest.StageTerms:
		p.Kind, p.Terms = "terms", h.termsFor(r)
	default:
		return nil, mautrix.MUnrecognized.WithStatus(http.StatusNotFound).WithMessage("There is no page for this stage")
	}
	return p.show(r, http.StatusOK)
}

// stale is the page for a session that is over, unless there was another fault.
func (h *Handlers) stale(r *rest.Request, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return h.refusal(r, &upstream.Refusal{Reason: upstream.ReasonState})
}

// asked is the session of user-interactive authentication, if it can still be passed; else nil.
func (h *Handlers) asked(r *rest.Request, name string) (*storage.Confirmation, error) {
	session, err := h.store.Confirmations.BySession(r.Context(), name)
	if err != nil || session == nil || h.now().Sub(session.Created) > rest.ConfirmationAge {
		return nil, err
	}
	return session, nil
}

// Confirm handles POST /_matrix/client/v3/auth/{authType}/fallback/web, the button of that page.
// Spec: client-server-api/#fallback
func (h *Handlers) Confirm(r *rest.Request) (any, error) {
	form, err := r.Form()
	if err != nil {
		return nil, err
	}
	session, err := h.asked(r, form.Get("session"))
	if err != nil || session == nil {
		return h.stale(r, err)
	}
	switch r.Path("authType") {
	case rest.StageSSO:
		provider, err := h.upstream.ProviderOf(r.Context(), session.UserID)
		if err != nil || provider == "" {
			return h.stale(r, err)
		}
		// Anew: whoever sits at a browser that is signed in already has confirmed nothing.
		return h.signIn(r, upstream.Wish{Provider: provider, Return: SSOConfirmedPath, Data: session.Session, Fresh: true})
	case rest.StageTerms:
		return h.passed(r, session, rest.StageTerms)
	}
	return nil, mautrix.MUnrecognized.WithStatus(http.StatusNotFound).WithMessage("There is no page for this stage")
}

// SSOConfirmed handles GET /_chancery/sso/confirmed, where somebody arrives who has confirmed something by signing in anew.
// Spec: client-server-api/#sso-during-user-interactive-authentication
func (h *Handlers) SSOConfirmed(r *rest.Request) (any, error) {
	who, err := h.upstream.Take(r.HTTP, r.Query("signin"))
	if err != nil || who == nil {
		return h.stale(r, err)
	}
	session, err := h.asked(r, who.Data)
	if err != nil || session == nil {
		return h.stale(r, err)
	}
	if session.UserID != who.User {
		return ssoPage{Kind: "refused", Reason: "other_user"}.show(r, http.StatusForbidden)
	}
	return h.passed(r, session, rest.StageSSO)
}

// passed notes that a stage was passed, and shows the page that tells the client's window.
func (h *Handlers) passed(r *rest.Request, session *storage.Confirmation, stage string) (any, error) {
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		now, err := h.store.Confirmations.BySession(ctx, session.Session)
		if err != nil || now == nil {
			return err
		}
		now.Passed = append(now.Passed, stage)
		return h.store.Confirmations.Put(ctx, now)
	})
	if err != nil {
		return nil, err
	}
	return ssoPage{Kind: "passed"}.show(r, http.StatusOK)
}

// SSOStage is m.login.sso in user-interactive authentication. It is passed on the page of ConfirmPage; who only names it has
// not passed it.
// Spec: client-server-api/#sso-during-user-interactive-authentication
func SSOStage(*rest.Request, *storage.Confirmation, json.RawMessage) error {
	return mautrix.MForbidden.WithStatus(http.StatusUnauthorized).WithMessage("Sign in on the page of this stage first")
}
