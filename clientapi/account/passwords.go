package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
	"chancery/storage"
)

// Argon2 is the cost of a password's hash.
type Argon2 struct {
	// MemoryKiB is the memory of one hash. Default 19456.
	MemoryKiB uint32 `yaml:"memory_kib"`
	// Passes over that memory. Default 2.
	Passes uint32 `yaml:"passes"`
	// Lanes that work at once on one hash. Default 1.
	Lanes uint8 `yaml:"lanes"`
}

func (a Argon2) validate() error {
	if a.MemoryKiB < 8 || a.MemoryKiB > 1<<22 || a.Passes < 1 || a.Passes > 100 || a.Lanes < 1 {
		return errors.New("account: password_hash needs memory_kib of 8 to 4194304, 1 to 100 passes and at least one lane")
	}
	return nil
}

// maxPassword bounds a password in bytes: nobody may buy work with length.
const maxPassword = 512

// Passwords hashes passwords and checks them.
type Passwords struct {
	store  *storage.Store
	server string
	cfg    Config
	cost   Argon2
	cores  *semaphore.Weighted
	dummy  string // the hash that is checked when there is no user to check
	// imported is about accounts whose hash another server made.
	imported imported
	hashed   atomic.Int64 // how many hashes were made: what tests compare in place of time
}

// NewPasswords makes it.
func NewPasswords(cfg Config, store *storage.Store) *Passwords {
	p := &Passwords{store: store, server: cfg.ServerName, cfg: cfg, cost: cfg.PasswordHash, cores: semaphore.NewWeighted(int64(runtime.NumCPU()))}
	p.dummy = p.encode(make([]byte, 16), make([]byte, 32))
	return p
}

// Hash makes the text that is stored. It waits for a free core.
func (p *Passwords) Hash(ctx context.Context, password string) (string, error) {
	if err := p.cores.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer p.cores.Release(1)
	p.hashed.Add(1)
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	return p.encode(salt, argon2.IDKey([]byte(password), salt, p.cost.Passes, p.cost.MemoryKiB, p.cost.Lanes, 32)), nil
}

func (p *Passwords) encode(salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return p.prefix() + b64.EncodeToString(salt) + "$" + b64.EncodeToString(key)
}

// prefix is what hashes of the present cost begin with.
func (p *Passwords) prefix() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$", argon2.Version, p.cost.MemoryKiB, p.cost.Passes, p.cost.Lanes)
}

// argon2Hash is a stored hash, taken apart.
type argon2Hash struct {
	cost      Argon2
	salt, key []byte
}

func parseArgon2(hash string) (h argon2Hash, err error) {
	parts := strings.Split(hash, "$")
	var version int
	if len(parts) != 6 || parts[1] != "argon2id" {
		return h, errors.New("password hash is not argon2id")
	}
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &version, &h.cost.MemoryKiB, &h.cost.Passes, &h.cost.Lanes); err != nil {
		return h, fmt.Errorf("password hash: %w", err)
	}
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	if err := errors.Join(err1, err2, h.cost.validate()); err != nil || version != argon2.Version || len(h.key) < 16 {
		return h, fmt.Errorf("password hash is damaged: %w", err)
	}
	return h, nil
}

// matches says whether the password makes this hash. It waits for a free core.
func (p *Passwords) matches(ctx context.Context, hash, password string) (bool, error) {
	if isBcrypt(hash) {
		return p.matchesBcrypt(ctx, hash, password)
	}
	stored, err := parseArgon2(hash)
	if err != nil {
		return false, fmt.Errorf("stored %w", err)
	}
	if err := p.cores.Acquire(ctx, 1); err != nil {
		return false, err
	}
	defer p.cores.Release(1)
	p.hashed.Add(1)
	got := argon2.IDKey([]byte(password), stored.salt, stored.cost.Passes, stored.cost.MemoryKiB, stored.cost.Lanes, uint32(len(stored.key)))
	return subtle.ConstantTimeCompare(got, stored.key) == 1, nil
}

var errWrongPassword = mautrix.MForbidden.WithMessage("Invalid username or password")

// Check returns the account if this is its password, and the same M_FORBIDDEN for everything else: wrong password,
// unknown user, closed account. Failed attempts are counted by account and by address.
func (p *Passwords) Check(r *rest.Request, user id.UserID, password string) (*storage.Account, error) {
	byUser, byAddress := string(user), r.Address()
	// Taken before the work and given back after success, so that parallel attempts cannot slip through together.
	if err := r.Limits.Take(rest.LimitFailed, byUser); err != nil {
		return nil, err
	}
	if err := r.Limits.Take(rest.LimitFailedAddress, byAddress); err != nil {
		r.Limits.Return(rest.LimitFailed, byUser)
		return nil, err
	}
	if err := r.Limits.Take(rest.LimitFailedTotal, ""); err != nil {
		r.Limits.Return(rest.LimitFailed, byUser)
		r.Limits.Return(rest.LimitFailedAddress, byAddress)
		return nil, err
	}
	account, err := p.store.Accounts.ByID(r.Context(), user)
	if err != nil {
		return nil, err
	}
	known := account != nil && !account.Deactivated && account.Password != ""
	hash, err := p.dummyFor(r.Context(), user)
	if err != nil {
		return nil, err
	}
	if known {
		hash = account.Password
	}
	if len(password) > maxPassword {
		return nil, errWrongPassword
	}
	good, err := p.matches(r.Context(), hash, password)
	if err != nil {
		return nil, fmt.Errorf("check password: %w", err)
	}
	if !good || !known {
		return nil, errWrongPassword
	}
	r.Limits.Return(rest.LimitFailed, byUser)
	r.Limits.Return(rest.LimitFailedAddress, byAddress)
	r.Limits.Return(rest.LimitFailedTotal, "")
	return account, p.renew(r.Context(), account, password)
}

// renew hashes a right password anew if it was stored at another cost than the present one.
func (p *Passwords) renew(ctx context.Context, account *storage.Account, password string) error {
	if strings.HasPrefix(account.Password, p.prefix()) {
		return nil
	}
	hash, err := p.Hash(ctx, password)
	if err != nil {
		return err
	}
	return p.store.Do(ctx, func(ctx context.Context) error {
		return p.store.Accounts.RenewPassword(ctx, account.UserID, account.Password, hash)
	})
}

// identifier is how a client names a user.
// Spec: client-server-api/#identifier-types
type identifier struct {
	Type string `json:"type"`
	User string `json:"user"`
	// Medium and Address are those of m.id.thirdparty.
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

// holder is whose address a client names; empty if it is nobody's.
func (p *Passwords) holder(ctx context.Context, medium, address string) (id.UserID, error) {
	if medium == mediumEmail {
		var err error
		if address, err = mail.Address(address); err != nil {
			return "", nil
		}
	}
	known, err := p.store.ThreePIDs.ByAddress(ctx, medium, address)
	if err != nil || known == nil {
		return "", err
	}
	return known.UserID, nil
}

// Stage is m.login.password in user-interactive authentication: the asking user's own password.
// Spec: client-server-api/#password-based
func (p *Passwords) Stage(r *rest.Request, _ *storage.Confirmation, auth json.RawMessage) error {
	var given struct {
		Identifier identifier `json:"identifier"`
		User       string     `json:"user"` // before identifiers, and still sent
		Password   string     `json:"password"`
	}
	if err := rest.Decode(auth, &given); err != nil {
		return err
	}
	name := given.Identifier.User
	if name == "" {
		name = given.User
	}
	user := r.By.User
	if given.Identifier.Type == thirdParty {
		holder, err := p.holder(r.Context(), given.Identifier.Medium, given.Identifier.Address)
		if err != nil {
			return err
		}
		if name = string(holder); name == "" {
			name = "nobody"
		}
	}
	if name != "" && !strings.EqualFold(name, string(user)) && !strings.EqualFold(name, user.Localpart()) {
		return mautrix.MForbidden.WithMessage("This is not your own user")
	}
	_, err := p.Check(r, user, given.Password)
	if errors.Is(err, errWrongPassword) {
		return errWrongPassword.WithStatus(http.StatusUnauthorized)
	}
	return err
}
