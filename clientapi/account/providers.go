package account

import (
	"errors"
	"net/http"

	"github.com/rs/zerolog"

	"chancery/clientapi/rest"
	"chancery/clientapi/upstream"
)

const (
	// AcceptPath is the form with which somebody accepts the terms for whom an account is to be made.
	AcceptPath = "/_chancery/upstream/accept"
	// LeavePath is the page where somebody signs out here and at the provider.
	LeavePath = "/_chancery/upstream/logout"
)

// Callback handles GET /_chancery/upstream/{provider}/callback, to which a provider sends the browser back.
func (h *Handlers) Callback(r *rest.Request) (any, error) {
	finished, err := h.upstream.Finish(r.HTTP, r.Path("provider"), r.HTTP.URL.Query())
	if err != nil {
		return h.refusal(r, err)
	}
	return h.goOn(r, finished)
}

// goOn sends the browser to where its sign-in leads, or has a newcomer accept the terms first.
func (h *Handlers) goOn(r *rest.Request, finished *upstream.Finished) (any, error) {
	if finished.To == "" {
		return ssoPage{
			Kind: "welcome", User: finished.User, Name: finished.DisplayName, Terms: h.termsFor(r),
			Action: AcceptPath, Fields: []ssoField{{"signin", finished.Pass}},
		}.show(r, http.StatusOK)
	}
	r.Header().Set("Cache-Control", "no-store")
	r.Header().Set("Referrer-Policy", "no-referrer")
	return rest.Redirect(finished.To), nil
}

// AcceptTerms handles POST /_chancery/upstream/accept, the button of the page with the terms.
func (h *Handlers) AcceptTerms(r *rest.Request) (any, error) {
	form, err := r.Form()
	if err != nil {
		return nil, err
	}
	finished, err := h.upstream.Accept(r.HTTP, form.Get("signin"))
	if err != nil {
		return h.refusal(r, err)
	}
	return h.goOn(r, finished)
}

// Backchannel handles POST /_chancery/upstream/{provider}/backchannel, by which a provider tells that a session ended.
// Spec: OpenID Connect Back-Channel Logout 1.0, section 2.8
func (h *Handlers) Backchannel(r *rest.Request) (any, error) {
	r.Header().Set("Cache-Control", "no-store")
	form, err := r.Form()
	if err == nil {
		err = h.upstream.Backchannel(r.Context(), r.Path("provider"), form.Get("logout_token"))
	} else {
		err = errors.Join(upstream.ErrLogout, err)
	}
	if errors.Is(err, upstream.ErrLogout) {
		zerolog.Ctx(r.Context()).Info().Err(err).Msg("Logout by an identity provider refused")
		return rest.Status{Code: http.StatusBadRequest, Body: map[string]string{
			"error": "invalid_request", "error_description": "The logout token is missing, or cannot be believed",
		}}, nil
	}
	return rest.Empty, err
}

// Frontchannel handles GET /_chancery/upstream/{provider}/frontchannel, which a provider has the browser load in a frame.
// Spec: OpenID Connect Front-Channel Logout 1.0, section 2
func (h *Handlers) Frontchannel(r *rest.Request) (any, error) {
	provider, code := r.Path("provider"), http.StatusOK
	p := ssoPage{Kind: "left", Frame: h.upstream.FrameOrigin(provider)}
	err := h.upstream.Frontchannel(r.Context(), provider, r.Query("iss"), r.Query("sid"))
	if errors.Is(err, upstream.ErrLogout) {
		p.Kind, p.Reason, code = "refused", "logout", http.StatusBadRequest
	} else if err != nil {
		return nil, err
	}
	return p.show(r, code)
}

// LeavePage handles GET /_chancery/upstream/logout, where clients send the browser of somebody who logs out.
func (h *Handlers) LeavePage(r *rest.Request) (any, error) {
	session, err := h.upstream.Current(r.HTTP)
	if err != nil {
		return nil, err
	}
	if session == nil {
		return ssoPage{Kind: "left"}.show(r, http.StatusOK)
	}
	return ssoPage{Kind: "leave", User: session.UserID, Provider: h.upstream.Name(session.Provider), Action: LeavePath}.show(r, http.StatusOK)
}

// Leave handles POST /_chancery/upstream/logout, the button of that page. Forms of other sites come without the cookie, and
// end nothing.
// Spec: OpenID Connect RP-Initiated Logout 1.0, section 2
func (h *Handlers) Leave(r *rest.Request) (any, error) {
	to, err := h.upstream.Leave(r.HTTP, "")
	if err != nil {
		return nil, err
	}
	if to == "" {
		return ssoPage{Kind: "left"}.show(r, http.StatusOK)
	}
	r.Header().Set("Cache-Control", "no-store")
	return rest.Redirect(to), nil
}

// LeftPage handles GET /_chancery/upstream/loggedout, where the browser comes when both sides have ended.
func (h *Handlers) LeftPage(r *rest.Request) (any, error) {
	back, err := h.upstream.Left(r.HTTP, r.Query("state"))
	if err != nil {
		return nil, err
	}
	if back != "" {
		return rest.Redirect(back), nil
	}
	return ssoPage{Kind: "left"}.show(r, http.StatusOK)
}
