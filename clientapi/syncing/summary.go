package syncing

import (
	"context"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// maxHeroes is how many members name a room that has no name.
const maxHeroes = 5

// summary is what is told of a room's members, the same for all but for the viewer among the heroes.
type summary struct {
	members         storage.Position // as of the change of membership at this position
	joined, invited int
	heroes          []id.UserID
}

// summary gives the room's, from the memory where no membership has changed since it was made.
func (a *answer) summary(ctx context.Context, p *roomPlan) (*summary, error) {
	if p.room != nil {
		a.s.mu.RLock()
		known, members := p.room.summary, p.room.members
		a.s.mu.RUnlock()
		if known != nil && known.members == members {
			return known, nil
		}
	}
	made := &summary{members: p.members}
	var err error
	if made.joined, made.invited, err = a.s.store.Memberships.Counts(ctx, p.id); err != nil {
		return nil, err
	}
	// One more than is shown: the viewer is not a hero.
	if made.heroes, err = a.s.store.Memberships.Heroes(ctx, p.id, maxHeroes+1); err != nil {
		return nil, err
	}
	if p.room != nil {
		a.s.mu.Lock()
		p.room.summary = made
		a.s.mu.Unlock()
	}
	return made, nil
}

// heroes are the members by whom the viewer may call the room.
func (a *answer) heroes(ctx context.Context, p *roomPlan) []id.UserID {
	sum, err := a.summary(ctx, p)
	if err != nil {
		return nil // the summary itself will say so
	}
	heroes := make([]id.UserID, 0, maxHeroes)
	for _, user := range sum.heroes {
		if user != a.u.id && len(heroes) < maxHeroes {
			heroes = append(heroes, user)
		}
	}
	return heroes
}

// appendSummary writes ,"summary":{...}.
func (a *answer) appendSummary(ctx context.Context, b []byte, p *roomPlan) ([]byte, error) {
	sum, err := a.summary(ctx, p)
	if err != nil {
		return nil, err
	}
	b = append(b, `,"summary":{"m.heroes":[`...)
	for i, user := range a.heroes(ctx, p) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, string(user))
	}
	b = appendInt(b, `],"m.joined_member_count":`, sum.joined)
	b = appendInt(b, `,"m.invited_member_count":`, sum.invited)
	return append(b, '}'), nil
}
