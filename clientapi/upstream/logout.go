package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"time"

	"chancery/storage"
)

// maxLogoutToken bounds the tokens with which providers tell that a session ended.
const maxLogoutToken = 16 << 10

// logoutAge is how old such a token may be, and how long it is remembered.
const logoutAge = 10 * time.Minute

// ErrLogout says that a provider's word about the end of a session cannot be believed.
var ErrLogout = errors.New("upstream: this logout cannot be believed")

// Backchannel ends the sessions that a provider says have ended, by the token that it posts. ErrLogout, wrapped, says that
// the token is no good.
// Spec: OpenID Connect Back-Channel Logout 1.0, section 2.6
func (p *Providers) Backchannel(ctx context.Context, name, token string) error {
	one := p.provider(name)
	if one == nil || !*one.cfg.BackchannelLogout || token == "" || len(token) > maxLogoutToken {
		return ErrLogout
	}
	asking, cancel := context.WithTimeout(ctx, providerTime)
	defer cancel()
	d, err := one.discover(asking)
	if err != nil {
		return err
	}
	said, err := d.verifier.VerifyLogout(asking, token)
	if err != nil {
		return errors.Join(ErrLogout, withoutBody(err))
	}
	now := p.now()
	if said.IssuedAt.Before(now.Add(-logoutAge)) || said.IssuedAt.After(now.Add(time.Minute)) {
		return errors.Join(ErrLogout, errors.New("it is too old, or of tomorrow"))
	}
	ended := 0
	err = p.store.Do(ctx, func(ctx context.Context) error {
		ended = 0
		first, err := p.store.Upstream.PutPass(ctx, storage.UpstreamPass{
			Kind: storage.UpstreamLogout, Secret: "logout " + name + " " + said.TokenID, Expires: now.Add(2 * logoutAge),
		})
		if err != nil {
			return err
		}
		if !first {
			return errors.Join(ErrLogout, errors.New("it was heard before"))
		}
		sessions, err := p.meant(ctx, name, said.SessionID, said.Subject)
		for _, session := range sessions {
			if _, endErr := p.store.Upstream.End(ctx, session); endErr != nil {
				return endErr
			}
			ended++
		}
		return err
	})
	if err == nil {
		logouts.WithLabelValues("backchannel").Add(float64(ended))
	}
	return err
}

// meant are the sessions that a logout is about: that of the name, or all of the subject where no name is said.
func (p *Providers) meant(ctx context.Context, provider, sid, subject string) ([]*storage.UpstreamSession, error) {
	if sid == "" {
		return p.store.Upstream.OfSubject(ctx, provider, subject)
	}
	named, err := p.store.Upstream.BySID(ctx, provider, sid)
	if err != nil || subject == "" {
		return named, err
	}
	sessions := named[:0]
	for _, session := range named {
		if session.Subject == subject {
			sessions = append(sessions, session)
		}
	}
	return sessions, nil
}

// Frontchannel ends the sessions of which a provider has the browser say that they ended, by issuer and name of the session: both
// have to be said, since anybody can have a browser load a page.
// Spec: OpenID Connect Front-Channel Logout 1.0, section 2
func (p *Providers) Frontchannel(ctx context.Context, name, issuer, sid string) error {
	one := p.provider(name)
	if one == nil || !*one.cfg.FrontchannelLogout || issuer != one.cfg.Issuer || sid == "" || len(sid) > maxSubject {
		return ErrLogout
	}
	ended := 0
	err := p.store.Do(ctx, func(ctx context.Context) error {
		ended = 0
		sessions, err := p.store.Upstream.BySID(ctx, name, sid)
		for _, session := range sessions {
			if _, endErr := p.store.Upstream.End(ctx, session); endErr != nil {
				return endErr
			}
			ended++
		}
		return err
	})
	if err == nil {
		logouts.WithLabelValues("frontchannel").Add(float64(ended))
	}
	return err
}

// FrameOrigin is who may frame the page that Frontchannel answers: the provider; empty if there is no such provider.
func (p *Providers) FrameOrigin(name string) string {
	one := p.provider(name)
	if one == nil {
		return ""
	}
	issuer, err := url.Parse(one.cfg.Issuer)
	if err != nil {
		return ""
	}
	return issuer.Scheme + "://" + issuer.Host
}

// Current is the session that began last in this browser, and lasts; nil if there is none.
func (p *Providers) Current(r *http.Request) (*storage.UpstreamSession, error) {
	return p.store.Upstream.Newest(r.Context(), p.cookieOf(r))
}

// Leave ends this browser's session, all devices that came of it, and gives the URL where the provider ends its own. From
// there the browser comes to LeftPath, where Left tells where it goes on: to back, a path of this server. Empty: there is no
// such URL, and nothing more to do.
// Spec: OpenID Connect RP-Initiated Logout 1.0, section 2
func (p *Providers) Leave(r *http.Request, back string) (string, error) {
	session, err := p.Current(r)
	if err != nil || session == nil {
		return "", err
	}
	state := rand.Text()
	err = p.store.Do(r.Context(), func(ctx context.Context) error {
		if _, err := p.store.Upstream.End(ctx, session); err != nil {
			return err
		}
		_, err := p.store.Upstream.PutPass(ctx, storage.UpstreamPass{
			Kind: storage.UpstreamLeaving, Secret: state, Browser: p.cookieOf(r), Content: []byte(back), Expires: p.now().Add(doneAge),
		})
		return err
	})
	if err != nil {
		return "", err
	}
	logouts.WithLabelValues("leave").Inc()
	return p.endSession(r.Context(), session, state)
}

// Left is where a browser goes on that a provider has sent to LeftPath with this state; empty where nothing was said, or
// by another browser.
func (p *Providers) Left(r *http.Request, state string) (back string, err error) {
	err = p.store.Do(r.Context(), func(ctx context.Context) error {
		raw, err := p.store.Upstream.TakePass(ctx, storage.UpstreamLeaving, state, p.cookieOf(r))
		back = string(raw)
		return err
	})
	return back, err
}

// endSession is the URL where a provider ends a session; empty where it offers none, or cannot be reached.
func (p *Providers) endSession(ctx context.Context, session *storage.UpstreamSession, state string) (string, error) {
	one := p.provider(session.Provider)
	if one == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, providerTime)
	defer cancel()
	d, err := one.discover(ctx)
	if err != nil || d.EndSession == "" {
		return "", nil //nolint:nilerr // our side has ended; there is nothing better to do
	}
	to, err := url.Parse(d.EndSession)
	if err != nil || to.Scheme != "https" && to.Scheme != "http" {
		return "", nil //nolint:nilerr // the same
	}
	query := to.Query()
	query.Set("client_id", one.cfg.ClientID)
	if session.IDToken != "" {
		query.Set("id_token_hint", session.IDToken)
	}
	query.Set("post_logout_redirect_uri", p.cfg.PublicURL+LeftPath)
	query.Set("state", state)
	to.RawQuery = query.Encode()
	return to.String(), nil
}
