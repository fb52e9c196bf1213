package view

import (
	"context"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/policy"
)

// Invites gives what a user of ours wishes about invites, as the account data stand now.
// Spec: client-server-api/#invite-permission
func (r *Reader) Invites(ctx context.Context, user id.UserID) (*policy.Invites, error) {
	var contents [2][]byte
	for i, typ := range []string{policy.InvitesType, policy.FilterType} {
		data, err := r.store.AccountData.ByType(ctx, user, "", typ)
		if err != nil {
			return nil, err
		}
		if data != nil {
			contents[i] = data.Content
		}
	}
	return policy.ParseInvites(contents[0], contents[1]), nil
}
