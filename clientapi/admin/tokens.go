package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"math/big"
	"strings"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// tokenLetters are those of which a registration token may consist.
const tokenLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-"

const maxTokenLength = 64

type shownToken struct {
	Token     string `json:"token"`
	Allowed   *int64 `json:"uses_allowed"`
	Pending   int64  `json:"pending"`
	Completed int64  `json:"completed"`
	Expires   *int64 `json:"expiry_time"`
}

func showToken(t *storage.RegistrationToken) shownToken {
	s := shownToken{Token: t.Token, Pending: t.Pending, Completed: t.Completed}
	if t.Allowed >= 0 {
		s.Allowed = &t.Allowed
	}
	if !t.Expires.IsZero() {
		ms := t.Expires.UnixMilli()
		s.Expires = &ms
	}
	return s
}

// RegistrationTokens handles GET /_synapse/admin/v1/registration_tokens.
func (h *Handlers) RegistrationTokens(r *rest.Request) (any, error) {
	valid, err := flag(r, "valid")
	if err != nil {
		return nil, err
	}
	shown := []shownToken{}
	now := time.Now()
	for after := ""; ; {
		tokens, err := h.store.RegistrationTokens.Page(r.Context(), after, maxPage)
		if err != nil {
			return nil, err
		}
		for _, t := range tokens {
			if after = t.Token; valid == nil || t.Valid(now) == *valid {
				shown = append(shown, showToken(t))
			}
		}
		if len(tokens) < maxPage {
			return map[string]any{"registration_tokens": shown}, nil
		}
	}
}

// registrationToken finds {token}.
func (h *Handlers) registrationToken(r *rest.Request) (*storage.RegistrationToken, error) {
	t, err := h.store.RegistrationTokens.ByToken(r.Context(), r.Path("token"))
	if err == nil && t == nil {
		err = mautrix.MNotFound.WithMessage("There is no such registration token")
	}
	return t, err
}

// RegistrationToken handles GET /_synapse/admin/v1/registration_tokens/{token}.
func (h *Handlers) RegistrationToken(r *rest.Request) (any, error) {
	t, err := h.registrationToken(r)
	if err != nil {
		return nil, err
	}
	return showToken(t), nil
}

// tokenBounds are what both making and changing a token may name; null is no bound, absent leaves it.
type tokenBounds struct {
	Allowed json.RawMessage `json:"uses_allowed"`
	Expires json.RawMessage `json:"expiry_time"`
}

// bind writes the bounds into the token.
func (b tokenBounds) bind(t *storage.RegistrationToken, now time.Time) error {
	if len(b.Allowed) > 0 {
		var n *int64
		if err := json.Unmarshal(b.Allowed, &n); err != nil || n != nil && *n < 0 {
			return invalid("uses_allowed is a number, not a negative one, or null")
		}
		if t.Allowed = -1; n != nil {
			t.Allowed = *n
		}
	}
	if len(b.Expires) > 0 {
		var ms *int64
		if err := json.Unmarshal(b.Expires, &ms); err != nil {
			return invalid("expiry_time is a number of milliseconds, or null")
		}
		if t.Expires = (time.Time{}); ms != nil {
			if t.Expires = time.UnixMilli(*ms); t.Expires.Before(now) {
				return invalid("expiry_time has passed")
			}
		}
	}
	return nil
}

// NewRegistrationToken handles POST /_synapse/admin/v1/registration_tokens/new.
func (h *Handlers) NewRegistrationToken(r *rest.Request) (any, error) {
	var body struct {
		tokenBounds
		Token  *string `json:"token"`
		Length *int    `json:"length"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	length := 16
	if body.Length != nil {
		length = *body.Length
	}
	t := &storage.RegistrationToken{Allowed: -1}
	switch {
	case body.Token != nil:
		if t.Token = *body.Token; t.Token == "" || len(t.Token) > maxTokenLength || strings.Trim(t.Token, tokenLetters) != "" {
			return nil, invalid("A token has 1 to 64 of the letters A-Za-z0-9._~-")
		}
	case length < 1 || length > maxTokenLength:
		return nil, invalid("length is from 1 to 64")
	default:
		t.Token = randomToken(length)
	}
	if err := body.bind(t, time.Now()); err != nil {
		return nil, err
	}
	return showToken(t), h.store.Do(r.Context(), func(ctx context.Context) error {
		known, err := h.store.RegistrationTokens.ByToken(ctx, t.Token)
		if err != nil {
			return err
		}
		if known != nil {
			return invalid("There is such a token already")
		}
		return h.store.RegistrationTokens.Put(ctx, *t)
	})
}

func randomToken(length int) string {
	token := make([]byte, length)
	for i := range token {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(tokenLetters))))
		if err != nil { // the system's source of chance never fails
			panic(err)
		}
		token[i] = tokenLetters[n.Int64()]
	}
	return string(token)
}

// PutRegistrationToken handles PUT /_synapse/admin/v1/registration_tokens/{token}.
func (h *Handlers) PutRegistrationToken(r *rest.Request) (any, error) {
	t, err := h.registrationToken(r)
	if err != nil {
		return nil, err
	}
	var body tokenBounds
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if err := body.bind(t, time.Now()); err != nil {
		return nil, err
	}
	return showToken(t), h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.RegistrationTokens.Put(ctx, *t) })
}

// DeleteRegistrationToken handles DELETE /_synapse/admin/v1/registration_tokens/{token}.
func (h *Handlers) DeleteRegistrationToken(r *rest.Request) (any, error) {
	t, err := h.registrationToken(r)
	if err != nil {
		return nil, err
	}
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.RegistrationTokens.Delete(ctx, t.Token) })
}
