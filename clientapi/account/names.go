package account

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/policy"
)

// maxNamesakes bounds how many people of one name are looked through.
const maxNamesakes = 1000

// givesNames says whether everybody who registers in one of these ways gets a name, and chooses none.
func (h *Handlers) givesNames(flows [][]string) bool {
	return h.cfg.NamesFromEmail && len(flows) > 0 && !slices.ContainsFunc(flows, func(stages []string) bool {
		return !slices.Contains(stages, rest.StageEmail)
	})
}

// nameOf is the username and the display name of somebody who has proved this address. Of two of one name, the second has
// a number behind it.
func (h *Handlers) nameOf(ctx context.Context, address string) (local, display string, err error) {
	display = policy.DisplayName(address, h.cfg.NameSuffixes)
	local = policy.Localpart(address)
	for range maxNamesakes {
		user := id.NewUserID(local, h.cfg.ServerName)
		if local == "" || len(user) > 255 {
			break
		}
		known, err := h.store.Accounts.ByID(ctx, user)
		if err != nil {
			return "", "", err
		}
		if known == nil && !h.exclusive(user) && !h.cfg.Reserved(local) {
			return local, display, nil
		}
		local = numbered(local)
	}
	return "", "", mautrix.MInvalidUsername.WithMessage("No username can be made of this address")
}

// numbered is the name with the next number at its end.
func numbered(name string) string {
	base := strings.TrimRight(name, "0123456789")
	n, err := strconv.ParseUint(name[len(base):], 10, 32)
	if err != nil { // none, or a long one
		return name + "1"
	}
	return base + strconv.FormatUint(n+1, 10)
}
