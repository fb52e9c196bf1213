package account

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
	"chancery/storage"
)

// mediumEmail is the one medium that this server can prove.
const mediumEmail = "email"

// What an address is proved for. They are the names of the mails, too.
const (
	forRegistration = "register"
	forAddition     = "add"
	forPassword     = "password"
)

// How long the link in a mail is good, and then the proof.
const (
	linkAge       = 24 * time.Hour
	passwordAge   = time.Hour
	validationAge = 24 * time.Hour
)

// The spec's errors about addresses, which mautrix has no values for.
var (
	errMedium     = mautrix.RespError{ErrCode: "M_THREEPID_MEDIUM_NOT_SUPPORTED", StatusCode: http.StatusBadRequest}
	errDenied     = mautrix.RespError{ErrCode: "M_THREEPID_DENIED", StatusCode: http.StatusForbidden}
	errInUse      = mautrix.RespError{ErrCode: "M_THREEPID_IN_USE", StatusCode: http.StatusBadRequest}
	errAuthFailed = mautrix.RespError{ErrCode: "M_THREEPID_AUTH_FAILED", StatusCode: http.StatusForbidden}
	errNoMail     = errMedium.WithMessage("This server sends no e-mail")
)

// tokenRequest asks that a token be sent to an address.
type tokenRequest struct {
	ClientSecret string `json:"client_secret"`
	Email        string `json:"email"`
	Attempt      *int64 `json:"send_attempt"`
	NextLink     string `json:"next_link"`
}

func validSecret(secret string) bool {
	if secret == "" || len(secret) > 255 {
		return false
	}
	for _, c := range []byte(secret) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(".=_-", c) >= 0) {
			return false
		}
	}
	return true
}

// RegisterEmailToken handles POST /_matrix/client/v3/register/email/requestToken.
// Spec: client-server-api/#post_matrixclientv3registeremailrequesttoken
func (h *Handlers) RegisterEmailToken(r *rest.Request) (any, error) {
	flows, err := h.flows(r.Context())
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(flows, func(stages []string) bool { return slices.Contains(stages, rest.StageEmail) }) {
		return nil, errDenied.WithMessage("Nobody registers with an e-mail address here")
	}
	return h.requestToken(r, forRegistration, h.newcomersMail)
}

// newcomersMail is which mail is due to somebody who wants to register with this address.
func (h *Handlers) newcomersMail(_, address string, holder *storage.ThreePID) (string, error) {
	if !h.cfg.EmailDomains.Allow(address) {
		return "", errDenied.WithMessage("Addresses of this domain cannot register here")
	}
	if holder != nil {
		return "taken", nil
	}
	return forRegistration, nil
}

// AddEmailToken handles POST /_matrix/client/v3/account/3pid/email/requestToken.
// Spec: client-server-api/#post_matrixclientv3account3pidemailrequesttoken
func (h *Handlers) AddEmailToken(r *rest.Request) (any, error) {
	if !h.cfg.AddressChanges {
		return nil, errDenied.WithMessage("Addresses are not changed here")
	}
	return h.requestToken(r, forAddition, func(_, address string, holder *storage.ThreePID) (string, error) {
		switch {
		case !h.cfg.EmailDomains.Allow(address):
			return "", errDenied.WithMessage("Addresses of this domain are not taken here")
		case holder != nil && holder.UserID == r.By.User:
			return "", errInUse.WithMessage("This address is yours already")
		case holder != nil:
			return "taken", nil
		}
		return forAddition, nil
	})
}

// PasswordEmailToken handles POST /_matrix/client/v3/account/password/email/requestToken.
// Spec: client-server-api/#post_matrixclientv3accountpasswordemailrequesttoken
func (h *Handlers) PasswordEmailToken(r *rest.Request) (any, error) {
	return h.requestToken(r, forPassword, func(_, _ string, holder *storage.ThreePID) (string, error) {
		if holder == nil {
			return "", nil // nobody to write to; the answer is the same
		}
		return forPassword, nil
	})
}

// requestToken opens a proof of an address, and has a mail sent. which says what mail is due, none if empty; whether
// somebody has the address already shows neither in the answer nor in the time that it takes.
func (h *Handlers) requestToken(r *rest.Request, purpose string, which func(secret, address string, holder *storage.ThreePID) (string, error)) (any, error) {
	var body tokenRequest
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	sid, err := h.prove(r, purpose, body, which)
	if err != nil {
		return nil, err
	}
	return map[string]string{"sid": sid}, nil
}

// prove is requestToken once the request is read; it gives the name of the proof.
func (h *Handlers) prove(r *rest.Request, purpose string, body tokenRequest, which func(secret, address string, holder *storage.ThreePID) (string, error)) (string, error) {
	if body.Email == "" || body.ClientSecret == "" || body.Attempt == nil {
		return "", errMissing.WithMessage("email, client_secret and send_attempt are needed")
	}
	if !validSecret(body.ClientSecret) {
		return "", mautrix.MInvalidParam.WithMessage("client_secret has 1 to 255 of 0-9, a-z, A-Z and .=_-")
	}
	address, err := mail.Address(body.Email)
	if err != nil {
		return "", mautrix.MInvalidParam.WithMessage("This is not an e-mail address")
	}
	if h.mailer == nil {
		return "", errNoMail
	}
	ctx := r.Context()
	holder, err := h.store.ThreePIDs.ByAddress(ctx, mediumEmail, address)
	if err != nil {
		return "", err
	}
	template, err := which(body.ClientSecret, address, holder)
	if err != nil {
		return "", err
	}
	v := storage.Validation{Purpose: purpose, Medium: mediumEmail, Address: address, UserID: r.By.User, NextLink: h.nextLink(body.NextLink)}
	token, sid, send := rand.Text(), "", false
	err = h.store.Do(ctx, func(ctx context.Context) (err error) {
		sid, send, err = h.store.Validations.Begin(ctx, v, body.ClientSecret, token, *body.Attempt)
		if err == nil && send {
			err = r.Limits.Take(rest.LimitMail, address) // what is refused has not been attempted
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if send {
		h.sendToken(r, template, address, sid, token, holder)
	}
	return sid, nil
}

// sendToken queues the mail. The reader learns whose account it is about, and nobody else does.
func (h *Handlers) sendToken(r *rest.Request, template, address, sid, token string, holder *storage.ThreePID) {
	if template == "" {
		return
	}
	msg := mail.Message{To: address, Lang: r.HTTP.Header.Get("Accept-Language"), Template: template, Data: mail.Data{User: string(r.By.User)}}
	if holder != nil {
		msg.Data.User = string(holder.UserID)
	}
	if template != "taken" {
		msg.Data.Link = h.cfg.PublicURL + SubmitPath + "?" + url.Values{"sid": {sid}, "token": {token}}.Encode()
	}
	// A full queue is logged and counted there; the client asks again with the next attempt.
	_ = h.mailer.Queue(msg)
}

// nextLink is where the browser may go after the proof: only to hosts that the operator named, or to this one. A link
// to elsewhere is forgotten.
func (h *Handlers) nextLink(link string) string {
	to, err := url.Parse(link)
	if err != nil || to.Host == "" || to.Scheme != "https" && to.Scheme != "http" || len(link) > 2000 {
		return ""
	}
	own, err := url.Parse(h.cfg.PublicURL)
	if slices.Contains(h.cfg.NextLinkHosts, to.Host) || err == nil && own.Host == to.Host {
		return link
	}
	return ""
}

// NoPhone handles the requestToken endpoints of telephone numbers: POST /_matrix/client/v3/register/msisdn/requestToken,
// /_matrix/client/v3/account/3pid/msisdn/requestToken and /_matrix/client/v3/account/password/msisdn/requestToken.
// Spec: client-server-api/#post_matrixclientv3account3pidmsisdnrequesttoken
func (h *Handlers) NoPhone(*rest.Request) (any, error) {
	return nil, errMedium.WithMessage("This server does not send text messages: telephone numbers cannot be proved")
}

// SubmitPath is where the links in mails lead.
const SubmitPath = "/_matrix/client/unstable/email/submit_token"

// SubmitPage handles GET /_matrix/client/unstable/email/submit_token, to which the links in our mails lead. It proves
// nothing yet: programs that look at links in mails would otherwise do so in the reader's stead.
func (h *Handlers) SubmitPage(r *rest.Request) (any, error) {
	sid, token := r.Query("sid"), r.Query("token")
	v, err := h.sent(r, sid, token)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return showPage(r, http.StatusBadRequest, page{Text: "stale"})
	}
	return showPage(r, http.StatusOK, page{Text: v.Purpose, Address: v.Address, SID: sid, Token: token})
}

// Submit handles POST /_matrix/client/unstable/email/submit_token: the button of that page, or a client with JSON.
// Spec: identity-service-api/#post_matrixidentityv2validateemailsubmittoken
func (h *Handlers) Submit(r *rest.Request) (any, error) {
	sid, token, form, err := submitted(r)
	if err != nil {
		return nil, err
	}
	v, err := h.sent(r, sid, token)
	if err != nil {
		return nil, err
	}
	if v != nil {
		if err := h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.Validations.Done(ctx, v.SID) }); err != nil {
			return nil, err
		}
	}
	switch {
	case !form:
		return map[string]bool{"success": v != nil}, nil
	case v == nil:
		return showPage(r, http.StatusBadRequest, page{Text: "stale"})
	case v.NextLink != "":
		return rest.Redirect(v.NextLink), nil
	}
	return showPage(r, http.StatusOK, page{Text: "done"})
}

// submitted reads the token from a form or from JSON.
func submitted(r *rest.Request) (sid, token string, form bool, err error) {
	kind, _, _ := mime.ParseMediaType(r.HTTP.Header.Get("Content-Type"))
	if kind != "application/x-www-form-urlencoded" {
		var body struct {
			SID   string `json:"sid"`
			Token string `json:"token"`
		}
		err = r.JSON(&body)
		return body.SID, body.Token, false, err
	}
	raw, err := r.Body()
	if err != nil {
		return "", "", true, err
	}
	values, err := url.ParseQuery(string(raw))
	if err != nil || !validText(values.Get("sid")+values.Get("token")) {
		return "", "", true, mautrix.MInvalidParam.WithMessage("The form cannot be read")
	}
	return values.Get("sid"), values.Get("token"), true, nil
}

// sent finds the proof whose token this is, if it is not too old. Wrong ones are counted.
func (h *Handlers) sent(r *rest.Request, sid, token string) (*storage.Validation, error) {
	if err := r.Limits.Take(rest.LimitFailedAddress, r.Address()); err != nil {
		return nil, err
	}
	v, err := h.store.Validations.ByToken(r.Context(), sid, token)
	if err != nil || v == nil {
		return nil, err
	}
	r.Limits.Return(rest.LimitFailedAddress, r.Address())
	age := linkAge
	if v.Purpose == forPassword {
		age = passwordAge
	}
	if h.now().Sub(v.Begun) > age {
		return nil, nil
	}
	return v, nil
}

// credentials name a proof.
type credentials struct {
	SID          string `json:"sid"`
	ClientSecret string `json:"client_secret"`
}

// proof is the address that was proved for this purpose, by this user; nil if it was not, or too long ago.
func proof(ctx context.Context, store *storage.Store, now time.Time, c credentials, purpose string, user id.UserID) (*storage.Validation, error) {
	v, err := store.Validations.BySID(ctx, c.SID, c.ClientSecret)
	if err != nil || v == nil || v.Purpose != purpose || v.UserID != user {
		return nil, err
	}
	if v.Validated.IsZero() || now.Sub(v.Validated) > validationAge {
		return nil, nil
	}
	return v, nil
}

// EmailStage is m.login.email.identity in user-interactive authentication: at registration a new address, at the change
// of a password that of an account.
// Spec: client-server-api/#email-based-identity--homeserver
func EmailStage(store *storage.Store) rest.Stage {
	return func(r *rest.Request, session *storage.Confirmation, auth json.RawMessage) error {
		var given struct {
			Credentials credentials `json:"threepid_creds"`
			Old         credentials `json:"threepidCreds"` // before r0.5, and still sent
		}
		if err := rest.Decode(auth, &given); err != nil {
			return err
		}
		if given.Credentials.SID == "" {
			given.Credentials = given.Old
		}
		purpose := forRegistration
		if strings.HasSuffix(session.Operation, "/account/password") {
			purpose = forPassword
		}
		v, err := proof(r.Context(), store, time.Now(), given.Credentials, purpose, r.By.User)
		if err != nil {
			return err
		}
		if v == nil {
			return mautrix.RespError{ErrCode: "M_UNAUTHORIZED", StatusCode: http.StatusUnauthorized}.
				WithMessage("The address is not confirmed yet: follow the link in the e-mail")
		}
		session.Validation, session.Address = v.SID, v.Address
		return nil
	}
}
