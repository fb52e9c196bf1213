package oauth

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/clientapi/upstream"
)

// SignInPage handles GET /account/login.
func (h *Handlers) SignInPage(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	if pass := r.Query("signin"); pass != "" {
		return h.fromProvider(r, v, pass)
	}
	next := local(r.Query("next"))
	if v.signed != nil && r.Query("again") == "" {
		return seeOther(next), nil
	}
	p, err := h.signInPage(r, v, next)
	if err != nil {
		return nil, err
	}
	p.Typed = hinted(next)
	if p.Typed == "" && v.signed != nil {
		p.Typed = v.user().Localpart()
	}
	return p.answer(http.StatusOK), nil
}

func (h *Handlers) signInPage(r *rest.Request, v *visitor, next string) (*page, error) {
	p := h.page(v, "signin")
	p.User, p.Next, p.Path = "", next, languagePath(r)
	ways, err := h.register.Ways(r.Context())
	p.Open = len(ways) > 0
	if h.upstream != nil {
		for _, one := range h.upstream.List() {
			q := url.Values{"next": {next}}
			if r.Query("again") != "" {
				q.Set("again", "1")
			}
			p.Providers = append(p.Providers, Provider{Name: one.Name, URL: providerPath + url.PathEscape(one.ID) + "?" + q.Encode()})
		}
	}
	if u, err := url.Parse(next); err == nil && u.Path == AuthorizePath {
		if p.Client, err = h.client(r.Context(), u.Query().Get("client_id")); err != nil {
			return nil, err
		}
	}
	return p, err
}

// hinted is whom the client thinks it speaks with.
// Spec: OpenID Connect Core 1.0, section 3.1.2.1 (login_hint)
func hinted(next string) string {
	u, err := url.Parse(next)
	if err != nil {
		return ""
	}
	hint := u.Query().Get("login_hint")
	if user, ok := strings.CutPrefix(hint, "mxid:"); ok {
		hint = user
	}
	if !storable(hint) || len(hint) > 255 {
		return ""
	}
	return hint
}

// SignIn handles POST /account/login.
func (h *Handlers) SignIn(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	values, err := h.submitted(r, v)
	if err != nil {
		return h.refuse(v, err)
	}
	next := local(values.Get("next"))
	p, err := h.signInPage(r, v, next)
	if err != nil {
		return nil, err
	}
	p.Typed = clip(values.Get("username"))
	if p.Typed == "" || values.Get("password") == "" {
		p.Error = "signin.empty"
		return p.answer(http.StatusBadRequest), nil
	}
	if err := r.Limits.Take(rest.LimitLogin, r.Address()); err != nil {
		return h.trouble(p, err)
	}
	user, err := h.accounts.SignIn(r, p.Typed, values.Get("password"))
	count("signin", err)
	if err != nil {
		return h.trouble(p, err)
	}
	if err := h.enter(r, v, user, ""); err != nil {
		return nil, err
	}
	return seeOther(next), nil
}

// SignOut handles POST /account/logout: this browser's sign-in ends, the clients' sessions do not.
func (h *Handlers) SignOut(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	if _, err := h.submitted(r, v); err != nil {
		return h.refuse(v, err)
	}
	provided := v.signed != nil && v.signed.Upstream != ""
	if err := h.leave(r, v); err != nil {
		return nil, err
	}
	if provided && h.upstream != nil {
		// A page between, since the form's answer may not lead elsewhere.
		to, err := h.upstream.Leave(r.HTTP, SignInPath)
		if err != nil {
			return nil, err
		}
		if to != "" {
			p := h.page(v, "note")
			p.Notice, p.Onward = "signout", to
			return p.answer(http.StatusOK), nil
		}
	}
	return seeOther(SignInPath), nil
}

// providerPath is ProviderPath without its end.
const providerPath = "/account/provider/"

// Provider handles GET /account/provider/{provider}: off to the identity provider.
func (h *Handlers) Provider(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	if h.upstream == nil {
		return nil, mautrix.MNotFound.WithMessage("There is no such identity provider")
	}
	next := local(r.Query("next"))
	to, err := h.upstream.Start(r.HTTP, r.Header(), upstream.Wish{
		Provider: r.Path("provider"), Return: SignInPath, Data: next, LoginHint: hinted(next), Locales: v.lang, Fresh: r.Query("again") != "",
	})
	var refused *upstream.Refusal
	if errors.As(err, &refused) {
		return h.errorPage(v, refused.Status(), "error.provider", string(refused.Reason)), nil
	}
	if err != nil {
		return nil, err
	}
	return seeOther(to), nil
}

// fromProvider signs in whom an identity provider has sent back, with a pass that is good once and in this browser.
func (h *Handlers) fromProvider(r *rest.Request, v *visitor, pass string) (any, error) {
	if h.upstream == nil {
		return seeOther(SignInPath), nil
	}
	who, err := h.upstream.Take(r.HTTP, pass)
	if err != nil {
		return nil, err
	}
	if who == nil {
		return h.errorPage(v, http.StatusBadRequest, "error.provider", string(upstream.ReasonState)), nil
	}
	if err := h.accounts.MayEnter(r.Context(), who.User); err != nil {
		return h.trouble(h.page(v, "note"), err)
	}
	if err := h.enter(r, v, who.User, who.Session); err != nil {
		return nil, err
	}
	return seeOther(local(who.Data)), nil
}

// SignUpPage handles GET /account/register.
// Spec: client-server-api/#user-registration
func (h *Handlers) SignUpPage(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	p, err := h.signUpPage(r, v, url.Values{"next": {r.Query("next")}, "way": {r.Query("way")}})
	if err != nil {
		return nil, err
	}
	return p.answer(http.StatusOK), nil
}

// signUpPage is the page with what the chosen way to register asks for.
func (h *Handlers) signUpPage(r *rest.Request, v *visitor, values url.Values) (*page, error) {
	p := h.page(v, "signup")
	p.User, p.Next, p.Path = "", local(values.Get("next")), languagePath(r)
	ways, err := h.register.Ways(r.Context())
	if err != nil || len(ways) == 0 {
		return p, err
	}
	p.Open, p.Ways = true, len(ways)
	if values.Get("way") == "1" && len(ways) > 1 {
		p.Way = 1
	}
	way := ways[p.Way]
	p.NeedToken, p.NeedEmail = slices.Contains(way, rest.StageRegistrationToken), slices.Contains(way, rest.StageEmail)
	if slices.Contains(way, rest.StageTerms) {
		for _, document := range h.cfg.Terms {
			p.Terms = append(p.Terms, document.in(p.Lang))
		}
	}
	p.Typed, p.TokenText = clip(values.Get("username")), clip(values.Get("token"))
	if !p.NeedEmail || values.Get("sid") == "" {
		return p, nil
	}
	address, err := h.register.ProvedEmail(r.Context(), values.Get("sid"), values.Get("secret"))
	p.SID, p.Secret, p.Email = values.Get("sid"), values.Get("secret"), address
	return p, err
}

// in is the document in this language, or else in one that it has.
func (d Document) in(lang string) term {
	if d.URLs[lang] == "" {
		lang = languages[0]
	}
	if d.URLs[lang] == "" {
		for other := range d.URLs {
			lang = max(lang, other)
		}
	}
	return term{d.Titles[lang], d.URLs[lang]}
}

// SignUp handles POST /account/register: first the address, where one is to be proved, then the rest.
// Spec: client-server-api/#user-registration
func (h *Handlers) SignUp(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	values, err := h.submitted(r, v)
	if err != nil {
		return h.refuse(v, err)
	}
	p, err := h.signUpPage(r, v, values)
	if err != nil {
		return nil, err
	}
	if !p.Open {
		return p.answer(http.StatusForbidden), nil
	}
	if err := r.Limits.Take(rest.LimitRegister, r.Address()); err != nil {
		return h.trouble(p, err)
	}
	switch {
	case p.NeedEmail && p.SID == "":
		return h.sendProof(r, p, values.Get("email"))
	case p.NeedEmail && p.Email == "":
		p.Error = "signup.unproved"
		return p.answer(http.StatusForbidden), nil
	case values.Get("step") == "email": // proved: now the rest
		return p.answer(http.StatusOK), nil
	case values.Get("password") != values.Get("again"):
		p.Error = "signup.differ"
		return p.answer(http.StatusBadRequest), nil
	case len(p.Terms) > 0 && values.Get("terms") == "":
		p.Error = "signup.noterms"
		return p.answer(http.StatusBadRequest), nil
	}
	user, err := h.register.SignUp(r, rest.Newcomer{
		Name: p.Typed, Password: values.Get("password"), Token: p.TokenText, SID: p.SID, Secret: p.Secret, Terms: values.Get("terms") != "",
	})
	count("signup", err)
	if err != nil {
		return h.trouble(p, err)
	}
	if err := h.enter(r, v, user, ""); err != nil {
		return nil, err
	}
	return seeOther(p.Next), nil
}

// sendProof has the mail sent, and says so.
func (h *Handlers) sendProof(r *rest.Request, p *page, address string) (any, error) {
	sid, secret, err := h.register.BeginEmail(r, address)
	if err != nil {
		return h.trouble(p, err)
	}
	p.SID, p.Secret = sid, secret
	return p.answer(http.StatusOK), nil
}
