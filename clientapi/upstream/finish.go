package upstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// Reason is why somebody could not sign in.
type Reason string

const (
	ReasonUnknown    Reason = "unknown_provider" // there is no such provider
	ReasonState      Reason = "state"            // the sign-in is not this browser's, used, too old, or was never begun
	ReasonDenied     Reason = "denied"           // the provider says no, or its user did
	ReasonProvider   Reason = "provider"         // the provider cannot be reached, or answers what cannot be believed
	ReasonClaims     Reason = "claims"           // the provider does not say what the configuration requires
	ReasonEmail      Reason = "email"            // the provider says no e-mail address, or one that is not proved
	ReasonDomain     Reason = "domain"           // addresses of this domain have no account here
	ReasonClosed     Reason = "closed"           // who has no account gets none this way
	ReasonNameTaken  Reason = "name_taken"       // the name that the account would have is somebody else's
	ReasonOtherLogin Reason = "linked"           // the account is somebody else's at this provider already
	ReasonGone       Reason = "deactivated"      // the account was closed
	ReasonLocked     Reason = "locked"           // the account is locked
)

// Refusal is why somebody could not sign in, for a page to say so. It is no fault.
type Refusal struct {
	Reason   Reason
	Provider string // its name, or empty
	Cause    error  // for the log; nil where the reason says it all
}

func (r *Refusal) Error() string {
	if r.Cause != nil {
		return fmt.Sprintf("upstream: %s: %v", r.Reason, r.Cause)
	}
	return "upstream: " + string(r.Reason)
}

// Unwrap is the cause.
func (r *Refusal) Unwrap() error { return r.Cause }

// Status is the HTTP status of a page that says so.
func (r *Refusal) Status() int {
	switch r.Reason {
	case ReasonUnknown:
		return http.StatusNotFound
	case ReasonState:
		return http.StatusBadRequest
	case ReasonProvider:
		return http.StatusBadGateway
	}
	return http.StatusForbidden
}

// done is what is remembered of a sign-in that came back.
type done struct {
	Provider string    `json:"provider"`
	Session  string    `json:"session"`
	User     id.UserID `json:"user,omitempty"` // empty until a newcomer has accepted the terms
	Return   string    `json:"return"`
	Data     string    `json:"data,omitempty"`

	// Of a newcomer.
	Subject string    `json:"subject,omitempty"`
	SID     string    `json:"sid,omitempty"`
	IDToken string    `json:"id_token,omitempty"`
	New     *newcomer `json:"new,omitempty"`
}

// newcomer is somebody who has no account yet.
type newcomer struct {
	User        id.UserID `json:"user"`
	DisplayName string    `json:"display_name,omitempty"`
	Email       string    `json:"email,omitempty"` // proved, or empty
}

// Finished is a sign-in that came back from the provider.
type Finished struct {
	// To is the path where the browser goes on, with the pass; empty while there are terms to accept.
	To string
	// Pass, User and DisplayName are the newcomer's who has terms to accept before Accept makes the account.
	Pass        string
	User        id.UserID
	DisplayName string
}

// Finish takes the answer of a provider that a browser brings: the query of its callback. A *Refusal says why there is nobody.
func (p *Providers) Finish(r *http.Request, name string, query url.Values) (*Finished, error) {
	one := p.provider(name)
	if one == nil {
		return nil, p.refused(r.Context(), &Refusal{Reason: ReasonUnknown})
	}
	about, err := p.takeBegun(r, one, query.Get("state"))
	if err != nil {
		return nil, p.refused(r.Context(), err)
	}
	who, err := one.answer(r.Context(), query, about)
	if err != nil {
		return nil, p.refused(r.Context(), err)
	}
	finished, err := p.admit(r, one, who, about)
	if err != nil {
		return nil, p.refused(r.Context(), err)
	}
	signIns.WithLabelValues("ok").Inc()
	return finished, nil
}

// refused counts and logs what a page will say.
func (p *Providers) refused(ctx context.Context, err error) error {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	signIns.WithLabelValues(string(refusal.Reason)).Inc()
	event := zerolog.Ctx(ctx).Info()
	if refusal.Reason == ReasonProvider {
		event = zerolog.Ctx(ctx).Warn()
	}
	event.Str("provider", refusal.Provider).Str("reason", string(refusal.Reason)).AnErr("cause", refusal.Cause).Msg("Sign-in with an identity provider refused")
	return err
}

// takeBegun uses up the sign-in of this state, if it began in this browser at this provider.
func (p *Providers) takeBegun(r *http.Request, one *provider, state string) (begun, error) {
	var about begun
	var raw []byte
	err := p.store.Do(r.Context(), func(ctx context.Context) (err error) {
		raw, err = p.store.Upstream.TakePass(ctx, storage.UpstreamBegun, state, p.cookieOf(r))
		return err
	})
	if err != nil {
		return about, err
	}
	if raw == nil || p.cookieOf(r) == "" {
		return about, &Refusal{Reason: ReasonState, Provider: one.cfg.Name}
	}
	if err := json.Unmarshal(raw, &about); err != nil {
		return about, err
	}
	if about.Provider != one.cfg.ID {
		return about, &Refusal{Reason: ReasonState, Provider: one.cfg.Name, Cause: errors.New("another provider answers")}
	}
	return about, nil
}

// answer is whom the provider has let in, by what the browser brings.
// Spec: RFC 6749, section 4.1.2; RFC 9207
func (p *provider) answer(ctx context.Context, query url.Values, about begun) (*identity, error) {
	d, err := p.discover(ctx)
	if err != nil {
		return nil, &Refusal{Reason: ReasonProvider, Provider: p.cfg.Name, Cause: withoutBody(err)}
	}
	if iss := query.Get("iss"); iss != "" && iss != p.cfg.Issuer || iss == "" && d.NamesIss {
		return nil, &Refusal{Reason: ReasonProvider, Provider: p.cfg.Name, Cause: errors.New("the answer is of another issuer")}
	}
	if code := query.Get("error"); code != "" {
		return nil, &Refusal{Reason: ReasonDenied, Provider: p.cfg.Name, Cause: errors.New(errorCode(code))}
	}
	if query.Get("code") == "" {
		return nil, &Refusal{Reason: ReasonProvider, Provider: p.cfg.Name, Cause: errors.New("the answer holds no code")}
	}
	who, err := p.exchange(ctx, query.Get("code"), about)
	if err != nil {
		return nil, &Refusal{Reason: ReasonProvider, Provider: p.cfg.Name, Cause: err}
	}
	return who, nil
}

// errorCode is what the log may hold of a provider's error.
func errorCode(code string) string {
	if len(code) > 64 || strings.ContainsFunc(code, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "an error without a code"
	}
	return code
}

// admit finds or makes the account, and gives the browser its pass.
func (p *Providers) admit(r *http.Request, one *provider, who *identity, about begun) (*Finished, error) {
	person, err := one.person(who)
	if err != nil {
		return nil, err
	}
	browser := p.cookieOf(r)
	d := done{Provider: one.cfg.ID, Session: rand.Text(), Return: about.Return, Data: about.Data}
	pass := rand.Text()
	var finished *Finished
	err = p.store.Do(r.Context(), func(ctx context.Context) error {
		d.User, d.New, d.Subject, d.SID, d.IDToken = "", nil, "", "", ""
		user, fresh, err := p.match(ctx, one, person)
		if err != nil {
			return err
		}
		switch {
		case user != "":
			d.User = user
		case p.cfg.TermsWanted:
			d.New, d.Subject, d.SID, d.IDToken = fresh, who.subject, who.sid, who.idToken
		default:
			if err := p.register(ctx, one, who.subject, fresh); err != nil {
				return err
			}
			d.User = fresh.User
		}
		if d.User != "" {
			if err := p.putSession(ctx, d, who.subject, who.sid, who.idToken, browser); err != nil {
				return err
			}
		}
		finished, err = p.putDone(ctx, d, pass, browser)
		return err
	})
	return finished, err
}

func (p *Providers) putSession(ctx context.Context, d done, subject, sid, idToken, browser string) error {
	return p.store.Upstream.Put(ctx, storage.UpstreamSession{
		Session: d.Session, Provider: d.Provider, Subject: subject, SID: sid, UserID: d.User, IDToken: idToken,
	}, browser)
}

// putDone gives the browser the pass, inside Do.
func (p *Providers) putDone(ctx context.Context, d done, pass, browser string) (*Finished, error) {
	content, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	_, err = p.store.Upstream.PutPass(ctx, storage.UpstreamPass{
		Kind: storage.UpstreamDone, Secret: pass, Browser: browser, Content: content, Expires: p.now().Add(doneAge),
	})
	if err != nil {
		return nil, err
	}
	if d.New != nil {
		return &Finished{Pass: pass, User: d.New.User, DisplayName: d.New.DisplayName}, nil
	}
	return &Finished{To: withPass(d.Return, pass)}, nil
}

// withPass is the path with the pass in its query.
func withPass(path, pass string) string {
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	return path + separator + "signin=" + pass
}

// Accept makes the account of a newcomer who has accepted the terms. A *Refusal says why not.
func (p *Providers) Accept(r *http.Request, pass string) (*Finished, error) {
	browser, next := p.cookieOf(r), rand.Text()
	var finished *Finished
	err := p.store.Do(r.Context(), func(ctx context.Context) error {
		raw, err := p.store.Upstream.TakePass(ctx, storage.UpstreamDone, pass, browser)
		if err != nil {
			return err
		}
		var d done
		if raw == nil || json.Unmarshal(raw, &d) != nil || d.New == nil {
			return &Refusal{Reason: ReasonState}
		}
		one := p.provider(d.Provider)
		if one == nil {
			return &Refusal{Reason: ReasonUnknown}
		}
		if err := p.register(ctx, one, d.Subject, d.New); err != nil {
			return err
		}
		d.User, d.New = d.New.User, nil
		if err := p.putSession(ctx, d, d.Subject, d.SID, d.IDToken, browser); err != nil {
			return err
		}
		d.Subject, d.SID, d.IDToken = "", "", ""
		finished, err = p.putDone(ctx, d, next, browser)
		return err
	})
	if err != nil {
		return nil, p.refused(r.Context(), err)
	}
	return finished, nil
}
