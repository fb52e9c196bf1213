package oauth

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"time"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// codeAge is how long a client may take to trade a code.
const codeAge = time.Minute

// request is what a client asks for, with the person's browser.
type request struct {
	client    *client
	redirect  string
	state     string
	mode      string
	challenge string
	prompt    string
	hint      string
	scope     scope
}

// refusal is a failure that the client is told by way of the browser.
type refusal struct {
	*failure
	to string
}

func (e *refusal) Unwrap() error { return e.failure }

// Authorize handles GET /oauth2/authorize: whoever is not signed in signs in first, and then decides.
// Spec: client-server-api/#authorisation-code-flow
func (h *Handlers) Authorize(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	asked, err := h.asked(r, r.HTTP.URL.Query())
	if err != nil {
		return h.refuse(v, err)
	}
	here := r.HTTP.URL.Query()
	here.Del("prompt")
	next := url.Values{"next": {AuthorizePath + "?" + here.Encode()}}
	switch {
	case asked.prompt == "create":
		return seeOther(SignUpPath + "?" + next.Encode()), nil
	case asked.prompt == "none" && v.signed == nil:
		return seeOther(h.toClient(asked, url.Values{"error": {loginRequired}})), nil
	case asked.prompt == "none":
		return seeOther(h.toClient(asked, url.Values{"error": {"consent_required"}})), nil
	case asked.prompt == "login":
		next.Set("again", "1")
		return seeOther(SignInPath + "?" + next.Encode()), nil
	case v.signed == nil:
		return seeOther(SignInPath + "?" + next.Encode()), nil
	}
	return h.consent(r, v, asked, here.Encode())
}

// consent shows what the client asks for.
func (h *Handlers) consent(r *rest.Request, v *visitor, asked *request, query string) (any, error) {
	p := h.page(v, "consent")
	p.FormTarget = formTarget(asked.redirect)
	p.Client, p.Request, p.Here = asked.client, query, AuthorizePath+"?"+query
	p.Device = string(asked.scope.device)
	if err := h.introduce(r, p); err != nil {
		return nil, err
	}
	return p.answer(http.StatusOK), nil
}

// Decide handles POST /oauth2/authorize: the buttons of that page.
// Spec: client-server-api/#authorisation-code-flow
func (h *Handlers) Decide(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	values, err := h.submitted(r, v)
	if err != nil {
		return h.refuse(v, err)
	}
	query, err := url.ParseQuery(values.Get("request"))
	if err != nil {
		return h.refuse(v, errForm)
	}
	asked, err := h.asked(r, query)
	if err != nil {
		return h.refuse(v, err)
	}
	if v.signed == nil || string(v.user()) != values.Get("user") { // signed out or over to somebody else meanwhile
		return seeOther(AuthorizePath + "?" + query.Encode()), nil
	}
	if values.Get("decision") != "allow" {
		return seeOther(h.toClient(asked, url.Values{"error": {accessDenied}, "error_description": {"The user did not let the client in"}})), nil
	}
	code := newSecret("chc_")
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.OAuth.PutCode(ctx, code, storage.Code{
			ClientID: asked.client.ID, UserID: v.user(), DeviceID: asked.scope.device, RedirectURI: asked.redirect, Scope: asked.scope.text,
			Challenge: asked.challenge, Upstream: v.signed.Upstream, Expires: h.now().Add(codeAge),
		})
	})
	if err != nil {
		return nil, err
	}
	return seeOther(h.toClient(asked, url.Values{"code": {code}})), nil
}

// toClient is the client's address with an answer for it.
func (h *Handlers) toClient(asked *request, values url.Values) string {
	if asked.state != "" {
		values.Set("state", asked.state)
	}
	values.Set("iss", h.at("/"))
	return withAnswer(asked.redirect, asked.mode, values)
}

// asked reads and judges a request. Until client and address are known, what is wrong is said on a page; then to the client.
func (h *Handlers) asked(r *rest.Request, query url.Values) (*request, error) {
	for _, all := range query {
		if len(all) > 1 {
			return nil, fail(invalidRequest, "A parameter is there twice")
		}
	}
	c, err := h.client(r.Context(), query.Get("client_id"))
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, unknownClient()
	}
	asked := &request{
		client: c, redirect: query.Get("redirect_uri"), state: query.Get("state"), mode: query.Get("response_mode"), challenge: query.Get("code_challenge"),
		prompt: query.Get("prompt"), hint: query.Get("login_hint"),
	}
	if !c.comesBackTo(asked.redirect) {
		return nil, fail(invalidRedirect, "The client did not register this address to come back to")
	}
	mode := asked.mode
	if mode != "fragment" {
		asked.mode = "query"
	}
	if err := asked.check(query, mode); err != nil {
		var f *failure
		if errors.As(err, &f) {
			return nil, &refusal{f, h.toClient(asked, url.Values{"error": {f.Code}, "error_description": {f.Text}})}
		}
		return nil, err
	}
	return asked, nil
}

func (asked *request) check(query url.Values, mode string) (err error) {
	switch {
	case query.Get("request") != "":
		return fail("request_not_supported", "Requests come as parameters only")
	case query.Get("request_uri") != "":
		return fail("request_uri_not_supported", "Requests come as parameters only")
	case query.Get("response_type") == "":
		return fail(invalidRequest, "response_type is missing")
	case query.Get("response_type") != "code":
		return fail(unsupportedResponse, "response_type has to be code")
	case !asked.client.may(grantCode):
		return fail(unauthorizedClient, "The client did not register for the authorization code grant")
	case mode != "" && mode != "query" && mode != "fragment":
		return fail(invalidRequest, "response_mode is query or fragment")
	case asked.challenge == "":
		return fail(invalidRequest, "code_challenge is missing: PKCE is needed")
	case query.Get("code_challenge_method") != "S256":
		return fail(invalidRequest, "code_challenge_method has to be S256")
	case len(asked.state) > 4096:
		return fail(invalidRequest, "state is too long")
	}
	if raw, err := base64.RawURLEncoding.DecodeString(asked.challenge); err != nil || len(raw) != 32 {
		return fail(invalidRequest, "code_challenge is not a SHA-256 in base64url")
	}
	asked.scope, err = parseScope(query.Get("scope"))
	return err
}

// refuse says to a client or to a person why it goes no further.
func (h *Handlers) refuse(v *visitor, err error) (any, error) {
	var told *refusal
	if errors.As(err, &told) {
		return seeOther(told.to), nil
	}
	var f *failure
	switch {
	case errors.Is(err, errForm):
		return h.errorPage(v, http.StatusForbidden, "error.form", ""), nil
	case errors.As(err, &f) && f.Code == invalidClient:
		return h.errorPage(v, http.StatusBadRequest, "error.client", f.Code+": "+f.Text), nil
	case errors.As(err, &f) && f.Code == invalidRedirect:
		return h.errorPage(v, http.StatusBadRequest, "error.redirect", f.Code+": "+f.Text), nil
	case errors.As(err, &f):
		return h.errorPage(v, http.StatusBadRequest, "error.request", f.Code+": "+f.Text), nil
	}
	return nil, err
}
