package account

import (
	"context"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// seenEvery is how often a device's activity is written down at most.
const seenEvery = 5 * time.Minute

// Sessions tells the doors who holds which access token.
type Sessions struct {
	store *storage.Store
	now   func() time.Time
}

// NewSessions makes it.
func NewSessions(store *storage.Store) *Sessions { return &Sessions{store: store, now: time.Now} }

// ByToken is who holds the token; nil, nil if nobody does. An expired one is M_UNKNOWN_TOKEN with soft_logout: the
// client may refresh, and lose nothing.
// Spec: client-server-api/#soft-logout
func (s *Sessions) ByToken(ctx context.Context, token, address, agent string) (*rest.Requester, error) {
	session, err := s.store.Tokens.Session(ctx, token)
	if err != nil || session == nil {
		return nil, err
	}
	now := s.now()
	if !session.Expires.IsZero() && !now.Before(session.Expires) {
		return nil, mautrix.MUnknownToken.WithMessage("The access token has expired").WithExtraField("soft_logout", true)
	}
	if session.Fresh || now.Sub(session.Seen) > seenEvery {
		if err := s.note(ctx, session, token, address, agent); err != nil {
			return nil, err
		}
	}
	by := &rest.Requester{
		User: session.UserID, Device: session.DeviceID, Admin: session.Admin,
		Locked: session.Locked, Suspended: session.Suspended, Shadowed: session.Shadowed, OAuth: session.OAuth,
		Expired: session.Expired(now), Until: session.Until,
	}
	if own := session.Rate; own != nil {
		by.Rate = &rest.Rate{PerSecond: float64(own.PerSecond), Burst: int(own.Burst)}
	}
	return by, nil
}

func (s *Sessions) note(ctx context.Context, session *storage.Session, token, address, agent string) error {
	return s.store.Do(ctx, func(ctx context.Context) error {
		if session.Fresh {
			if err := s.store.Tokens.Confirm(ctx, token); err != nil {
				return err
			}
		}
		return s.store.Devices.Saw(ctx, session.UserID, session.DeviceID, address, clipAgent(agent))
	})
}

// clipAgent bounds what a client says of itself, and makes it fit for a text column.
func clipAgent(agent string) string {
	clean := make([]rune, 0, len(agent))
	for _, c := range agent {
		if c >= ' ' && c != 0x7f && len(clean) < 250 {
			clean = append(clean, c)
		}
	}
	return string(clean)
}
