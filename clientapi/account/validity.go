package account

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// ValidityConfig is until when accounts are good. Who has expired is refused everything but to renew the account; their
// sessions stay, and all is as before once it is renewed.
type ValidityConfig struct {
	// Period is how long an account is good after it was made, or renewed. Turn it on where people leave without anybody
	// telling this server. Accounts that exist by then end in the last tenth of it, each at a moment of its own. Default 0: for ever.
	Period time.Duration `yaml:"period"`
	// Reminders are how long before the end e-mails ask whether the account is still needed. They need client.mail.
	// Default 672h, 168h, 24h: four weeks, a week, a day.
	Reminders []time.Duration `yaml:"reminders"`
	// Links has the mails bring a link that renews the account for whoever follows it. Otherwise they bring a code of eight
	// digits, for the client in which its user is signed in. Default true.
	Links bool `yaml:"links"`
	// Never are parts of the user IDs of those whose accounts do not expire. Those of application services never do. Default none.
	Never policy.Exempt `yaml:"never"`
	// CloseAfter is how long after its end an account is closed for ever. What its user wrote stays. Default 0: it never is.
	CloseAfter time.Duration `yaml:"close_after"`
}

func (c ValidityConfig) validate() error {
	if c.Period < 0 || c.CloseAfter < 0 {
		return errors.New("account.validity: period and close_after are not less than nothing")
	}
	for _, before := range c.Reminders {
		if before <= 0 {
			return fmt.Errorf("account.validity.reminders: %s is not before the end", before)
		}
		if c.Period > 0 && before >= c.Period {
			return fmt.Errorf("account.validity.reminders: %s is as long as the period, or longer", before)
		}
	}
	return c.Never.Validate()
}

// On says whether accounts expire at all.
func (c ValidityConfig) On() bool { return c.Period > 0 }

// expires says whether this user's account does, if any does.
func (c Config) expires(user id.UserID) bool {
	return !c.Validity.Never.Names(user) && user != rest.ServerUser(c.ServerName)
}

// Date gives a new account the moment at which it expires, inside Do, if it is one that does.
func (c Config) Date(ctx context.Context, store *storage.Store, user id.UserID) error {
	if !c.Validity.On() || !c.expires(user) {
		return nil
	}
	return store.Validity.Begin(ctx, map[id.UserID]time.Time{user: time.Now().Add(c.Validity.Period)})
}

// The routes of renewal, and the names under which clients knew them before.
const (
	SendRenewalPath    = "/_synapse/client/email_account_validity/send_mail"
	OldSendRenewalPath = "/_matrix/client/unstable/account_validity/send_mail"
	RenewPath          = "/_synapse/client/email_account_validity/renew"
	OldRenewPath       = "/_matrix/client/unstable/account_validity/renew"
	SetValidityPath    = "/_synapse/client/email_account_validity/admin"
	OldSetValidityPath = "/_synapse/admin/v1/account_validity/validity"
)

// RenewalAuth is what it takes to renew: a link is good by itself, a code together with its user's session.
func (h *Handlers) RenewalAuth() rest.Auth {
	if h.cfg.Validity.Links {
		return rest.Open
	}
	return rest.User
}

// SendRenewal handles POST /_synapse/client/email_account_validity/send_mail, and its older name: the mail that renews the
// account, again. Who has no address hears nothing; an administrator can renew the account.
func (h *Handlers) SendRenewal(r *rest.Request) (any, error) {
	if h.mailer == nil {
		return nil, errNoMail
	}
	if err := r.Limits.Take(rest.LimitMail, string(r.By.User)); err != nil {
		return nil, err
	}
	v, err := h.store.Validity.Of(r.Context(), r.By.User)
	if err != nil || v == nil {
		return rest.Empty, err
	}
	mails, err := h.renewalMails(r.Context(), v)
	if err != nil {
		return nil, err
	}
	for _, msg := range mails {
		msg.Lang = r.HTTP.Header.Get("Accept-Language")
		// A full queue is logged and counted there; the client asks again.
		_ = h.mailer.Queue(msg)
	}
	return rest.Empty, nil
}

// renewalMails makes a token that renews the account, in place of the one before, and the mails that bring it: none to who
// has no address.
func (h *Handlers) renewalMails(ctx context.Context, v *storage.Validity) ([]mail.Message, error) {
	addresses, err := h.Addresses(ctx, v.UserID)
	if err != nil || len(addresses) == 0 {
		return nil, err
	}
	token, err := h.renewalToken()
	if err != nil {
		return nil, err
	}
	dated := false
	err = h.store.Do(ctx, func(ctx context.Context) (err error) {
		dated, err = h.store.Validity.PutToken(ctx, v.UserID, token, !h.cfg.Validity.Links)
		return err
	})
	if err != nil || !dated {
		return nil, err
	}
	name, err := h.store.Profiles.Field(ctx, v.UserID, fieldDisplayName)
	if err != nil {
		return nil, err
	}
	data := mail.Data{Name: gjson.ParseBytes(name).Str, User: string(v.UserID), Until: day(v.Until), Days: daysLeft(v.Until.Sub(h.now()))}
	if h.cfg.Validity.Links {
		data.Link = h.cfg.PublicURL + RenewPath + "?" + url.Values{"token": {token}}.Encode()
	} else {
		data.Code = token
	}
	mails := make([]mail.Message, len(addresses))
	for i, address := range addresses {
		mails[i] = mail.Message{To: address, Template: "renew", Data: data}
	}
	return mails, nil
}

// day is how a date is written for everybody.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// daysLeft counts a day that has begun; 0 if nothing is left.
func daysLeft(left time.Duration) int {
	if left <= 0 {
		return 0
	}
	return int((left + 24*time.Hour - 1) / (24 * time.Hour))
}

const (
	tokenLetters  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	tokenLength   = 32
	codeDigits    = "0123456789"
	codeLength    = 8
	maxTokenBytes = 100
)

func (h *Handlers) renewalToken() (string, error) {
	if h.cfg.Validity.Links {
		return random(tokenLetters, tokenLength)
	}
	return random(codeDigits, codeLength)
}

// random is a word of so many of the letters, drawn evenly.
func random(letters string, length int) (string, error) {
	word := make([]byte, length)
	for i := range word {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			return "", err
		}
		word[i] = letters[n.Int64()]
	}
	return string(word), nil
}

//go:embed renewed.html
var renewedSource string

// renewedPage is what somebody sees who has followed the link, or their client who has sent the code.
var renewedPage = template.Must(template.New("renewed").Parse(renewedSource))

// Renew handles GET /_synapse/client/email_account_validity/renew, and its older name. Following the link is enough: the mails
// of other servers did so, and clients that send a code read nothing but the status. Programs that only ask with HEAD what is
// there renew nothing.
func (h *Handlers) Renew(r *rest.Request) (any, error) {
	kind, key := rest.LimitFailedAddress, r.Address()
	if !h.cfg.Validity.Links {
		kind, key = rest.LimitFailed, "renew:"+string(r.By.User)
	}
	if err := r.Limits.Take(kind, key); err != nil {
		return nil, err
	}
	token := r.Query("token")
	if token == "" || r.HTTP.Method == http.MethodHead || len(token) > maxTokenBytes {
		return h.renewed(r, http.StatusBadRequest, "stale", time.Time{})
	}
	until, used, err := h.renewBy(r.Context(), r.By.User, strings.TrimSpace(token))
	switch {
	case err != nil:
		return nil, err
	case until.IsZero():
		return h.renewed(r, http.StatusBadRequest, "stale", until)
	}
	r.Limits.Return(kind, key)
	if used {
		return h.renewed(r, http.StatusOK, "already", until)
	}
	return h.renewed(r, http.StatusOK, "renewed", until)
}

// renewBy renews the account whose token this is; whose is the user to whom it is bound, or empty. It gives until when the account is
// good now, and whether the token had renewed it before; the zero time if it is nobody's.
func (h *Handlers) renewBy(ctx context.Context, whose id.UserID, token string) (until time.Time, used bool, err error) {
	err = h.store.Do(ctx, func(ctx context.Context) error {
		var user id.UserID
		until = time.Time{}
		if user, used, err = h.store.Validity.TakeToken(ctx, whose, token); err != nil || user == "" {
			return err
		}
		if used {
			v, err := h.store.Validity.Of(ctx, user)
			if v != nil {
				until = v.Until
			}
			return err
		}
		until = h.now().Add(h.cfg.Validity.Period)
		return h.store.Validity.Put(ctx, storage.Validity{UserID: user, Until: until, Reminders: true})
	})
	return until, used, err
}

func (h *Handlers) renewed(r *rest.Request, code int, text string, until time.Time) (any, error) {
	shown := struct{ Lang, Text, Until string }{mail.Language(r.HTTP.Header.Get("Accept-Language"), "en"), text, day(until)}
	var title, body strings.Builder
	if err := errors.Join(renewedPage.ExecuteTemplate(&title, "title", shown), renewedPage.Execute(&body, shown)); err != nil {
		return nil, err
	}
	return rest.Page(code, shown.Lang, strings.TrimSpace(title.String()), template.HTML(body.String())), nil //nolint:gosec // made by a template just now
}

// SetValidity handles POST /_synapse/client/email_account_validity/admin and /_synapse/admin/v1/account_validity/validity: until
// when an account is good. Without a time it is the period from now.
func (h *Handlers) SetValidity(r *rest.Request) (any, error) {
	var body struct {
		UserID    id.UserID `json:"user_id"`
		Until     *int64    `json:"expiration_ts"`
		Reminders *bool     `json:"enable_renewal_emails"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.UserID == "" {
		return nil, errMissing.WithMessage("user_id is missing")
	}
	var until time.Time
	if body.Until != nil {
		if *body.Until < 0 || *body.Until > 1<<52 {
			return nil, mautrix.MInvalidParam.WithMessage("expiration_ts is no time")
		}
		until = time.UnixMilli(*body.Until)
	}
	until, err := h.Validate(r.Context(), body.UserID, until, body.Reminders == nil || *body.Reminders)
	return map[string]int64{"expiration_ts": until.UnixMilli()}, err
}

// ErrNoValidity is what Validate says where accounts do not expire.
var ErrNoValidity = mautrix.MUnrecognized.WithStatus(http.StatusBadRequest).WithMessage("Accounts do not expire here: client.account.validity.period is 0")

// Validate says until when an account of this server is good; the zero time: the period from now. It gives what holds now.
func (h *Handlers) Validate(ctx context.Context, user id.UserID, until time.Time, reminders bool) (time.Time, error) {
	if !h.cfg.Validity.On() {
		return until, ErrNoValidity
	}
	if until.IsZero() {
		until = h.now().Add(h.cfg.Validity.Period)
	}
	account, err := h.store.Accounts.ByID(ctx, user)
	if err != nil {
		return until, err
	}
	if account == nil || account.Deactivated {
		return until, mautrix.MNotFound.WithMessage("There is no such account")
	}
	return until, h.store.Do(ctx, func(ctx context.Context) error {
		return h.store.Validity.Put(ctx, storage.Validity{UserID: user, Until: until, Reminders: reminders})
	})
}
