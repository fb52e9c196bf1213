package syncing

import (
	"context"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/storage"
)

// planAccountData copies the user's account data from the memory, where it reaches back. mu is held.
func (a *answer) planAccountData() {
	if a.covered && a.since >= a.u.accountFrom {
		a.account = within(a.u.account, a.since, a.to, func(d *storage.AccountData) storage.Position { return d.Position })
		return
	}
	a.account = nil
}

// roomAccountData reads what the memory does not hold, and deals the rooms' notes out to their rooms.
func (a *answer) roomAccountData(ctx context.Context) error {
	a.s.mu.RLock()
	held := a.covered && a.since >= a.u.accountFrom
	a.s.mu.RUnlock()
	if !held {
		var err error
		if a.account, err = a.s.store.AccountData.Between(ctx, a.u.id, a.since, a.to); err != nil {
			return err
		}
	}
	if len(a.account) == 0 && a.q.since != nil {
		return a.accountDataOfNew(ctx)
	}
	byRoom := map[id.RoomID][]*storage.AccountData{}
	for _, d := range a.account {
		if d.RoomID != "" && !(d.Deleted && a.q.since == nil) {
			byRoom[d.RoomID] = append(byRoom[d.RoomID], d)
		}
	}
	for _, p := range a.rooms {
		p.account = byRoom[p.id]
	}
	return a.accountDataOfNew(ctx)
}

// accountDataOfNew gives rooms that the user joined since all their notes: they may be older than the join.
func (a *answer) accountDataOfNew(ctx context.Context) error {
	if a.q.since == nil {
		return nil
	}
	var all []*storage.AccountData
	for _, p := range a.rooms {
		if p.stay.membership != "join" || p.stay.position <= a.since {
			continue
		}
		if all == nil {
			var err error
			if all, err = a.s.store.AccountData.Between(ctx, a.u.id, 0, a.to); err != nil {
				return err
			}
		}
		p.account = nil
		for _, d := range all {
			if d.RoomID == p.id && (!d.Deleted || d.Position > a.since) {
				p.account = append(p.account, d)
			}
		}
	}
	return nil
}

// appendAccountData writes the room's account data.
func (a *answer) appendAccountData(b []byte, p *roomPlan) []byte {
	part := &a.q.filter.Room.AccountData
	if !part.room(p.id) {
		return b
	}
	n := 0
	for _, d := range p.account {
		if part.kind(d.Type, "") {
			b = appendNote(b, n, d.Type, d.Content)
			n++
		}
	}
	return b
}

// globalAccountData writes the user's global account data. A first sync is told the push rules even where they were never changed.
func (a *answer) globalAccountData(ctx context.Context) ([]byte, error) {
	part := &a.q.filter.AccountData
	var b []byte
	n, pushRules := 0, false
	for _, d := range a.account {
		if d.RoomID != "" || d.Deleted && a.q.since == nil {
			continue
		}
		content := d.Content
		if d.Type == rules.Type {
			pushRules = true
			set, err := rules.Parse(a.u.id, d.Content)
			if err != nil {
				continue
			}
			if content, err = set.JSON(); err != nil {
				return nil, err
			}
		}
		if part.kind(d.Type, "") {
			b = appendNote(b, n, d.Type, content)
			n++
		}
	}
	if a.q.since == nil && !pushRules && part.kind(rules.Type, "") {
		content, err := rules.Default(a.u.id).JSON()
		if err != nil {
			return nil, err
		}
		b = appendNote(b, n, rules.Type, content)
	}
	return b, nil
}

func appendNote(b []byte, n int, typ string, content []byte) []byte {
	if n > 0 {
		b = append(b, ',')
	}
	b = appendText(append(b, `{"type":`...), typ)
	return append(append(append(b, `,"content":`...), content...), '}')
}
