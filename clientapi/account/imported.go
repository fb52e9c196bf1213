package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/storage"
)

// Bounds on the cost of a bcrypt hash that is brought along: nobody may buy work with it.
const (
	bcryptMin = 4
	bcryptMax = 15
	// bcryptBytes are what bcrypt looks at of a password.
	bcryptBytes = 72
)

func isBcrypt(hash string) bool { return strings.HasPrefix(hash, "$2") }

// matchesBcrypt says whether the password makes this hash, which another server made. The first login puts one of ours in
// its place.
func (p *Passwords) matchesBcrypt(ctx context.Context, hash, password string) (bool, error) {
	if err := checkBcrypt(hash); err != nil {
		return false, err
	}
	if err := p.cores.Acquire(ctx, 1); err != nil {
		return false, err
	}
	defer p.cores.Release(1)
	p.hashed.Add(1)
	// As the servers did from which such hashes come.
	text := []byte(norm.NFKC.String(password) + p.cfg.ImportedPepper)
	err := bcrypt.CompareHashAndPassword([]byte(hash), text[:min(len(text), bcryptBytes)])
	if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, nil
	}
	return err == nil, err
}

func checkBcrypt(hash string) error {
	cost, err := bcrypt.Cost([]byte(hash))
	if err != nil {
		return fmt.Errorf("password hash: %w", err)
	}
	if cost < bcryptMin || cost > bcryptMax || len(hash) != 60 {
		return fmt.Errorf("password hash: a cost of %d, want %d to %d", cost, bcryptMin, bcryptMax)
	}
	return nil
}

// imported remembers whether there are accounts whose hash another server made.
type imported struct {
	mu    sync.Mutex
	dummy string // a hash of the same kind, that no password makes; empty while there are none
	salt  string
	until time.Time
}

// importedAge is how long it is believed.
const importedAge = 10 * time.Minute

// dummyFor is the hash that is checked in place of a user's who cannot log in. While there are hashes of another server's
// making, which take another time, half of those names are checked against one of that kind, always the same ones: so the time
// tells nobody which names are known.
func (p *Passwords) dummyFor(ctx context.Context, user id.UserID) (string, error) {
	p.imported.mu.Lock()
	defer p.imported.mu.Unlock()
	if now := time.Now(); now.After(p.imported.until) {
		hash, err := p.store.Accounts.AnImportedHash(ctx)
		if err != nil {
			return "", err
		}
		p.imported.dummy, p.imported.until = "", now.Add(importedAge)
		if checkBcrypt(hash) == nil {
			p.imported.dummy = hash[:29] + strings.Repeat(".", 31) // its cost and salt, and a result that none has
		}
		if p.imported.salt == "" {
			p.imported.salt = rand.Text()
		}
	}
	if sum := sha256.Sum256([]byte(p.imported.salt + string(user))); p.imported.dummy != "" && sum[0]&1 == 1 {
		return p.imported.dummy, nil
	}
	return p.dummy, nil
}

// Imported is an account that moves here from another server.
type Imported struct {
	// Name is its localpart here.
	Name string `json:"name"`
	// PasswordHash is bcrypt's or argon2id's text; empty: nobody can log in with a password.
	PasswordHash string `json:"password_hash,omitempty"`
	DisplayName  string `json:"display_name,omitempty"`
	// Emails are addresses that were proved there.
	Emails []string `json:"emails,omitempty"`
	// ExternalIDs are who it is at identity providers, by the provider's id.
	ExternalIDs map[string]string `json:"external_ids,omitempty"`
	Admin       bool              `json:"admin,omitempty"`
}

// Import makes the account, complete or not at all. IsTaken says of its error that there is an account of this name already.
func (h *Handlers) Import(ctx context.Context, a Imported) (id.UserID, error) {
	user, err := h.newUser(ctx, a.Name)
	if err != nil {
		return "", err
	}
	if err := checkHash(a.PasswordHash); err != nil {
		return "", err
	}
	if a.DisplayName == "" {
		a.DisplayName = user.Localpart()
	}
	name, err := json.Marshal(a.DisplayName)
	if err != nil {
		return "", err
	}
	made := false
	err = h.store.Do(ctx, func(ctx context.Context) (err error) {
		if made, err = h.store.Accounts.Create(ctx, &storage.Account{UserID: user, Password: a.PasswordHash, Admin: a.Admin}); err != nil || !made {
			return err
		}
		if err := h.cfg.Date(ctx, h.store, user); err != nil {
			return err
		}
		if err := h.store.Profiles.Put(ctx, user, fieldDisplayName, name); err != nil {
			return err
		}
		return h.importAddresses(ctx, user, a)
	})
	if err == nil && !made {
		err = errTaken
	}
	return user, err
}

// importAddresses gives the account its addresses and who it is elsewhere, inside Do.
func (h *Handlers) importAddresses(ctx context.Context, user id.UserID, a Imported) error {
	for _, text := range a.Emails {
		address, err := mail.Address(text)
		if err != nil {
			return mautrix.MInvalidParam.WithMessage("%q is not an e-mail address", text)
		}
		mine, err := h.store.ThreePIDs.Put(ctx, storage.ThreePID{UserID: user, Medium: mediumEmail, Address: address, Validated: h.now()})
		if err != nil {
			return err
		}
		if !mine {
			return errInUse.WithMessage("%s is another account's already", address)
		}
	}
	for provider, subject := range a.ExternalIDs {
		mine, err := h.store.ExternalIDs.Link(ctx, user, storage.ExternalID{Provider: provider, ExternalID: subject})
		if err != nil {
			return err
		}
		if !mine {
			return mautrix.MInvalidParam.WithMessage("Another account is %s of %s already", subject, provider)
		}
	}
	return nil
}

// checkHash refuses hashes that could never be checked.
func checkHash(hash string) error {
	var err error
	switch {
	case hash == "":
	case isBcrypt(hash):
		err = checkBcrypt(hash)
	default:
		_, err = parseArgon2(hash)
	}
	if err != nil {
		return mautrix.MInvalidParam.WithMessage("%v", err)
	}
	return nil
}
