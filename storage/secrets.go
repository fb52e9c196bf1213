package storage

import (
	"context"
	"crypto/rand"
	"fmt"
)

// Secrets are what all processes of this server share and nobody else may know.
type Secrets struct{ s *Store }

const (
	secretByName = "SELECT secret FROM secrets WHERE name = $1"
	secretInsert = "INSERT INTO secrets (name, secret) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING"
)

// Shared is the secret of this name, the same for every process; the first who asks makes it, of 260 random bits.
func (t *Secrets) Shared(ctx context.Context, name string) (string, error) {
	return t.first(ctx, name, rand.Text()+rand.Text())
}

// ServerName is whose database this is: the name that the first who asked gave. It lies with the secrets, though it is none.
func (t *Secrets) ServerName(ctx context.Context, mine string) (string, error) {
	return t.first(ctx, "server name", mine)
}

// first is what was kept under this name, or else the given value, which then is.
func (t *Secrets) first(ctx context.Context, name, value string) (string, error) {
	secret, err := one(ctx, t.s, column[string], secretByName, name)
	if err != nil || secret != "" {
		return secret, err
	}
	err = t.s.Do(ctx, func(ctx context.Context) error {
		if _, err := t.s.exec(ctx, secretInsert, name, value); err != nil {
			return fmt.Errorf("keep secret %s: %w", name, err)
		}
		secret, err = one(ctx, t.s, column[string], secretByName, name)
		return err
	})
	return secret, err
}
