package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"net/mail"
	"strings"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

const mediumEmail = "email"

// person is what the configuration makes of a provider's claims.
type person struct {
	subject     string
	email       string // proved, in its canonical form; or empty
	localpart   string
	displayName string
}

// person maps the claims. A *Refusal says what is missing in them.
func (p *provider) person(who *identity) (*person, error) {
	for name, value := range p.cfg.Require {
		if !who.claims.holds(name, value) {
			return nil, &Refusal{Reason: ReasonClaims, Provider: p.cfg.Name, Cause: errors.New("claim " + name)}
		}
	}
	said, err := fill(p.names.email, who.claims)
	if err != nil {
		return nil, err
	}
	one := &person{subject: who.subject, email: address(said)}
	if !p.cfg.TrustEmail && who.claims["email_verified"] != "true" {
		one.email = ""
	}
	if one.email == "" && !p.cfg.EmailOptional {
		return nil, &Refusal{Reason: ReasonEmail, Provider: p.cfg.Name}
	}
	// Names are made of the address as it is kept, whatever claim it came from, and never of one that is not proved.
	who.claims["email"] = one.email
	if one.localpart, err = fill(p.names.localpart, who.claims); err != nil {
		return nil, err
	}
	one.localpart = strings.ToLower(one.localpart)
	one.displayName, err = fill(p.names.displayName, who.claims)
	if utf8.RuneCountInString(one.displayName) > maxName {
		one.displayName = ""
	}
	return one, err
}

// address is an e-mail address as it is kept: alone, in small letters; empty for what is none.
func address(text string) string {
	text = strings.ToLower(strings.TrimSpace(text))
	parsed, err := mail.ParseAddress(text)
	if err != nil || len(text) > 254 || parsed.Name != "" || parsed.Address != text || strings.Count(text, "@") != 1 || strings.ContainsAny(text, "<>()\",;: \\") {
		return ""
	}
	return text
}

// match is whose account it is, or else who is to get one, inside Do: first by who they are at the provider, then by a
// proved e-mail address. Never by a username: whoever finds the own one taken has to speak with an administrator.
func (p *Providers) match(ctx context.Context, one *provider, who *person) (id.UserID, *newcomer, error) {
	user, err := p.store.ExternalIDs.User(ctx, storage.ExternalID{Provider: one.cfg.ID, ExternalID: who.subject})
	if err != nil {
		return "", nil, err
	}
	if user != "" {
		if err := p.comeBack(ctx, one, who, &user); err != nil {
			return "", nil, err
		}
		return user, nil, p.open(ctx, one, user)
	}
	if user, err = p.byEmail(ctx, one, who); err != nil {
		return "", nil, err
	}
	if user == "" {
		if err := p.comeBack(ctx, one, who, &user); err != nil {
			return "", nil, err
		}
	}
	if user == "" {
		fresh, err := p.newcomer(ctx, one, who)
		return "", fresh, err
	}
	if err := p.open(ctx, one, user); err != nil {
		return "", nil, err
	}
	return user, nil, p.link(ctx, one, who.subject, user)
}

// open refuses accounts that nobody may come into.
func (p *Providers) open(ctx context.Context, one *provider, user id.UserID) error {
	account, err := p.store.Accounts.ByID(ctx, user)
	switch {
	case err != nil:
		return err
	case account == nil || account.Deactivated:
		return &Refusal{Reason: ReasonGone, Provider: one.cfg.Name}
	case account.Locked:
		return &Refusal{Reason: ReasonLocked, Provider: one.cfg.Name}
	}
	return nil
}

// comeBack opens a closed account again whose address the person has proved, inside Do: that of the user, or where there is none, whose it was.
func (p *Providers) comeBack(ctx context.Context, one *provider, who *person, user *id.UserID) error {
	if who.email == "" || !*one.cfg.MatchEmail {
		return nil
	}
	back, err := p.back(ctx, who.email, *user)
	if err != nil || back == "" {
		return err
	}
	*user = back
	if who.displayName == "" {
		who.displayName = back.Localpart()
	}
	name, err := json.Marshal(who.displayName)
	if err != nil {
		return err
	}
	if err := p.store.Profiles.Put(ctx, back, "displayname", name); err != nil {
		return err
	}
	// The address went when the account was closed; it is free, or it would be somebody's.
	_, err = p.store.ThreePIDs.Put(ctx, storage.ThreePID{UserID: back, Medium: mediumEmail, Address: who.email, Validated: p.now()})
	return err
}

// byEmail is whose address it is, or one of those that the operator's rules make of it; empty if it is nobody's.
func (p *Providers) byEmail(ctx context.Context, one *provider, who *person) (id.UserID, error) {
	if who.email == "" || !*one.cfg.MatchEmail {
		return "", nil
	}
	for _, candidate := range rewritten(who.email, one.cfg.Rewrite) {
		known, err := p.store.ThreePIDs.ByAddress(ctx, mediumEmail, candidate)
		if err != nil || known != nil {
			return holder(known), err
		}
	}
	return "", nil
}

func holder(known *storage.ThreePID) id.UserID {
	if known == nil {
		return ""
	}
	return known.UserID
}

// rewritten are the addresses to look for, in their order.
func rewritten(email string, rules []RewriteRule) []string {
	all := []string{email}
	for _, rule := range rules {
		if match := strings.ToLower(rule.Match); strings.Contains(email, match) {
			if other := address(strings.ReplaceAll(email, match, strings.ToLower(rule.Search))); other != "" {
				all = append(all, other)
			}
		}
	}
	return all
}

// link remembers, inside Do, who the user is at the provider.
func (p *Providers) link(ctx context.Context, one *provider, subject string, user id.UserID) error {
	if one.cfg.OnConflict != "add" {
		known, err := p.store.ExternalIDs.Of(ctx, user)
		if err != nil {
			return err
		}
		for _, e := range known {
			if e.Provider == one.cfg.ID && one.cfg.OnConflict == "refuse" {
				return &Refusal{Reason: ReasonOtherLogin, Provider: one.cfg.Name}
			}
		}
		if err := p.store.ExternalIDs.Unlink(ctx, user, one.cfg.ID); err != nil {
			return err
		}
	}
	mine, err := p.store.ExternalIDs.Link(ctx, user, storage.ExternalID{Provider: one.cfg.ID, ExternalID: subject})
	if err == nil && !mine {
		err = &Refusal{Reason: ReasonOtherLogin, Provider: one.cfg.Name}
	}
	return err
}

// newcomer is the account that is to be made, if one may be.
func (p *Providers) newcomer(ctx context.Context, one *provider, who *person) (*newcomer, error) {
	if !one.cfg.Registration {
		return nil, &Refusal{Reason: ReasonClosed, Provider: one.cfg.Name}
	}
	if len(p.cfg.EmailDomains) > 0 && !p.cfg.EmailDomains.Allow(who.email) {
		return nil, &Refusal{Reason: ReasonDomain, Provider: one.cfg.Name}
	}
	user := id.NewUserID(who.localpart, p.cfg.ServerName)
	if !validLocalpart(who.localpart) || len(user) > 255 {
		return nil, &Refusal{Reason: ReasonClaims, Provider: one.cfg.Name, Cause: errors.New("no username can be made of the claims")}
	}
	account, err := p.store.Accounts.ByID(ctx, user)
	if err != nil {
		return nil, err
	}
	if account != nil || p.refuses(user) {
		return nil, &Refusal{Reason: ReasonNameTaken, Provider: one.cfg.Name}
	}
	return &newcomer{User: user, DisplayName: who.displayName, Email: who.email}, nil
}

// validLocalpart says whether somebody may be called so. Numbers are guests'.
// Spec: appendices/#user-identifiers
func validLocalpart(name string) bool {
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._=-/+", c) >= 0) {
			return false
		}
	}
	return strings.Trim(name, "0123456789") != ""
}

// register makes the account, inside Do.
func (p *Providers) register(ctx context.Context, one *provider, subject string, fresh *newcomer) error {
	made, err := p.store.Accounts.Create(ctx, &storage.Account{UserID: fresh.User})
	if err != nil {
		return err
	}
	if !made {
		return &Refusal{Reason: ReasonNameTaken, Provider: one.cfg.Name}
	}
	if err := p.date(ctx, fresh.User); err != nil {
		return err
	}
	if fresh.DisplayName == "" {
		fresh.DisplayName = fresh.User.Localpart()
	}
	name, err := json.Marshal(fresh.DisplayName)
	if err != nil {
		return err
	}
	if err := p.store.Profiles.Put(ctx, fresh.User, "displayname", name); err != nil {
		return err
	}
	if fresh.Email != "" {
		mine, err := p.store.ThreePIDs.Put(ctx, storage.ThreePID{UserID: fresh.User, Medium: mediumEmail, Address: fresh.Email, Validated: p.now()})
		// Somebody else's: they have it (only where accounts are not found by address).
		if err != nil || !mine && *one.cfg.MatchEmail {
			return errors.Join(err, &Refusal{Reason: ReasonNameTaken, Provider: one.cfg.Name})
		}
	}
	return p.link(ctx, one, subject, fresh.User)
}
