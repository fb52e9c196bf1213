package account

import (
	"context"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// ComeBack opens the closed account again whose e-mail address this was, inside Do, if Reactivation lets it; empty if there is none. The address
// has to be proved. Where whose is not empty, only that account is opened. An open account that has the address now wins: nothing is opened
// beside it. An administrator comes back as somebody like others.
func (c Config) ComeBack(ctx context.Context, store *storage.Store, address string, whose id.UserID) (id.UserID, error) {
	if !c.Reactivation || address == "" {
		return "", nil
	}
	holder, err := store.ThreePIDs.ByAddress(ctx, mediumEmail, address)
	if err != nil || holder != nil {
		return "", err
	}
	user, err := store.FormerAddresses.Holder(ctx, address)
	if err != nil || user == "" || whose != "" && whose != user {
		return "", err
	}
	account, err := store.Accounts.ByID(ctx, user)
	if err != nil || account == nil || !account.Deactivated {
		return "", err
	}
	if err := store.Accounts.Reopen(ctx, user); err != nil {
		return "", err
	}
	if account.Admin {
		account.Admin = false
		if err := store.Accounts.SetStanding(ctx, account); err != nil {
			return "", err
		}
	}
	zerolog.Ctx(ctx).Info().Stringer("user_id", user).Msg("Closed account opened again by who proved its address")
	return user, c.Date(ctx, store, user)
}
