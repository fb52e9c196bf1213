package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/policy"
	"chancery/storage"
)

// roomsAtOnce is how many rooms of one answer are read side by side, where they have to be read.
const roomsAtOnce = 6

// answer is one answer in the making. What comes from the memory was copied from it at one moment: the plan.
type answer struct {
	s    *Syncing
	q    *question
	u    *user
	look look

	since, to storage.Position // from < position <= to is news; since is 0 for an initial sync
	mark      int64            // of typing and presence
	// covered: the memory holds everything after since that concerns the user.
	covered bool
	ignored map[id.UserID]bool
	rooms   []*roomPlan

	account       []*storage.AccountData
	toDevice      device
	changed, left []id.UserID
	present       []*presence

	changesOnce sync.Once
	changes     map[id.RoomID][]storage.StateChange
	changesErr  error

	receiptsOnce sync.Once
	receiptsIn   map[id.RoomID][]*storage.Receipt
	receiptsErr  error

	ownOnce sync.Once
	own     map[id.RoomID][]*storage.Receipt
	ownErr  error

	stickOnce sync.Once
	sticking  map[id.RoomID]bool
	stickErr  error

	invitesOnce sync.Once
	invites     *policy.Invites
	invitesErr  error
}

// roomPlan is what an answer takes from the memory for one room.
type roomPlan struct {
	id   id.RoomID
	stay stay
	// live: the room is in the memory; the slices reach back to the positions beside them.
	live, bottom                          bool
	snapshot                              storage.Snapshot
	eventsFrom, changesFrom, receiptsFrom storage.Position
	events                                []*entry
	changes                               []storage.StateChange
	receipts                              []*storage.Receipt
	members                               storage.Position
	room                                  *room
	typing                                []id.UserID
	typed, counted                        bool
	threadless                            bool // nothing in the room is in a thread; false where that is not known
	account                               []*storage.AccountData
}

// answer makes the answer up to what the memory holds now. empty: there is nothing in it that was worth waiting for.
func (s *Syncing) answer(ctx context.Context, u *user, q *question) (body json.RawMessage, empty bool, err error) {
	a := &answer{s: s, q: q, u: u, since: q.sincePosition()}
	a.look = look{user: q.by.User, device: q.by.Device, filter: q.filter, now: s.now().UnixMilli()}
	touched, err := a.touched(ctx)
	if err != nil {
		return nil, false, err
	}
	a.plan(touched)
	parts, err := a.sections(ctx)
	if err != nil {
		return nil, false, err
	}
	toDevice, next, err := a.messages(ctx)
	if err != nil {
		return nil, false, err
	}
	keys, err := s.keyCounts(ctx, q.by)
	if err != nil {
		return nil, false, err
	}
	account, err := a.globalAccountData(ctx)
	if err != nil {
		return nil, false, err
	}
	if err := a.deviceLists(ctx); err != nil {
		return nil, false, err
	}
	empty = parts.empty() && len(toDevice) == 0 && len(account) == 0 && len(a.changed) == 0 && len(a.left) == 0 && len(a.present) == 0
	token := storage.Token{Incarnation: s.store.Incarnation(), Position: a.to, ToDevice: next, Ephemeral: a.mark, Process: s.process}
	b := make([]byte, 0, parts.size()+len(account)+len(toDevice)*512+1024)
	b = append(b, `{"next_batch":`...)
	b = appendText(b, token.String())
	b = parts.append(b)
	if len(account) > 0 {
		b = append(append(append(b, `,"account_data":{"events":[`...), account...), `]}`...)
	}
	if len(toDevice) > 0 {
		b = append(b, `,"to_device":{"events":[`...)
		for i, m := range toDevice {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, m.JSON...)
		}
		b = append(b, `]}`...)
	}
	b = a.appendPresence(b)
	b = appendLists(b, a.changed, a.left)
	b = append(b, keys...)
	b = append(b, '}')
	if !empty {
		s.mu.Lock()
		u.device(q.by.Device).answered = s.now()
		s.mu.Unlock()
	}
	return b, empty, nil
}

// touched gives, where the memory does not reach back to since, the joined rooms in which something happened since.
func (a *answer) touched(ctx context.Context) (map[id.RoomID]bool, error) {
	a.s.mu.RLock()
	a.covered = a.q.since != nil && a.since >= a.u.from
	a.s.mu.RUnlock()
	if a.covered || a.q.since == nil {
		return nil, nil
	}
	rooms, err := a.s.store.Rooms.Touched(ctx, a.u.id, a.since)
	if err != nil {
		return nil, fmt.Errorf("rooms touched since %d: %w", a.since, err)
	}
	touched := make(map[id.RoomID]bool, len(rooms))
	for _, r := range rooms {
		touched[r] = true
	}
	return touched, nil
}

// plan copies from the memory, at one moment, what the answer needs of it.
func (a *answer) plan(touched map[id.RoomID]bool) {
	s, u := a.s, a.u
	s.mu.RLock()
	defer s.mu.RUnlock()
	a.to, a.mark, a.ignored = storage.Position(s.applied.Load()), s.mark, u.ignored
	a.to = max(a.to, a.since)
	if d := u.devices[a.q.by.Device]; d != nil {
		a.toDevice = *d
	}
	typedSince := int64(-1) // another process's mark, or none: the present typing is told
	if a.q.since != nil && a.q.since.Process == s.process {
		typedSince = a.q.since.Ephemeral
	}
	everything := a.q.since == nil || a.q.fullState
	for roomID, st := range u.stays {
		if !a.q.filter.room(roomID) || st.position > a.to {
			continue
		}
		happened := everything || u.touched[roomID] > a.since || touched[roomID] || (!a.covered && st.position > a.since)
		typed := u.typed[roomID] > typedSince && typedSince >= 0
		if typedSince < 0 && s.typing[roomID].busy() {
			typed = true
		}
		counted := u.counted[roomID] > typedSince && typedSince >= 0
		if !happened && !typed && !counted {
			continue
		}
		if st.membership != event.MembershipJoin && st.position <= a.since && !everything {
			continue
		}
		plan := s.planRoom(u, roomID, st, typed)
		plan.counted = counted
		a.rooms = append(a.rooms, plan)
	}
	slices.SortFunc(a.rooms, func(x, y *roomPlan) int {
		if x.id < y.id {
			return -1
		}
		return 1
	})
	a.planAccountData()
	if a.covered {
		a.changed, a.left = newer(u.changed, a.since), newer(u.left, a.since)
	}
	a.planPresence(typedSince)
}

func (s *Syncing) planRoom(u *user, roomID id.RoomID, st *stay, typed bool) *roomPlan {
	p := &roomPlan{id: roomID, stay: *st, typed: typed}
	if typed {
		p.typing = s.typing[roomID].list()
	}
	if r := s.rooms[roomID]; r != nil {
		p.live, p.room = true, r
		p.events, p.changes, p.receipts = r.events, r.changes, r.receipts
		p.eventsFrom, p.changesFrom, p.receiptsFrom, p.members = r.eventsFrom, r.changesFrom, r.receiptsFrom, r.members
		p.bottom, p.snapshot = r.bottom, r.snapshot
	}
	return p
}

func newer(marks map[id.UserID]storage.Position, since storage.Position) []id.UserID {
	var users []id.UserID
	for user, at := range marks {
		if at > since {
			users = append(users, user)
		}
	}
	slices.Sort(users)
	return users
}

// sections makes the rooms' parts of the answer.
func (a *answer) sections(ctx context.Context) (*sections, error) {
	if err := a.roomAccountData(ctx); err != nil {
		return nil, err
	}
	parts := &sections{}
	// Each room asks for the user's own membership event: read them at once.
	if err := a.readStays(ctx); err != nil {
		return nil, err
	}
	if len(a.rooms) <= 1 {
		return parts, a.together(ctx, a.rooms, parts)
	}
	// A first answer reads many rooms, some dozens in one question each; of later ones most is at hand.
	together := 1
	if a.q.since == nil {
		together = roomsTogether
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(roomsAtOnce)
	for plans := range slices.Chunk(a.rooms, together) {
		group.Go(func() error { return a.together(ctx, plans, parts) })
	}
	return parts, group.Wait()
}

// readStays brings the membership events of the rooms to hand.
func (a *answer) readStays(ctx context.Context) error {
	if len(a.rooms) < 2 {
		return nil
	}
	numbers := make([]int64, 0, len(a.rooms))
	for _, p := range a.rooms {
		if p.stay.event != 0 {
			numbers = append(numbers, p.stay.event)
		}
	}
	_, err := a.s.byNumbers(ctx, numbers)
	return err
}

func (a *answer) section(ctx context.Context, p *roomPlan, into *sections) error {
	switch p.stay.membership {
	case event.MembershipJoin:
		b, err := a.joined(ctx, p)
		into.add(&into.join, p.id, b)
		return err
	case event.MembershipInvite:
		if a.ignored[p.stay.sender] || (p.stay.position <= a.since && !a.q.fullState) {
			return nil
		}
		if hidden, err := a.unwelcome(ctx, p.stay.sender); err != nil || hidden {
			return err
		}
		b, err := a.offered(ctx, p, "invite_state")
		into.add(&into.invite, p.id, b)
		return err
	case event.MembershipKnock:
		b, err := a.offered(ctx, p, "knock_state")
		into.add(&into.knock, p.id, b)
		return err
	}
	if a.q.since == nil || p.stay.position <= a.since {
		// Who was thrown out is told so, even at first sight: nobody else would say why the room is gone.
		if !a.q.filter.Room.IncludeLeave && p.stay.sender == a.u.id {
			return nil
		}
		// Forgetting is no news: the row knows.
		now, err := a.s.store.Memberships.Of(ctx, p.id, a.u.id)
		if err != nil || now == nil || now.Forgotten {
			return err
		}
	}
	if hidden, err := a.neverShown(ctx, p); err != nil || hidden {
		return err
	}
	b, err := a.departed(ctx, p)
	into.add(&into.leave, p.id, b)
	return err
}

// sections are the rooms of an answer, by kind, each already written.
type sections struct {
	mu                         sync.Mutex
	join, invite, knock, leave []byte
}

func (s *sections) add(to *[]byte, room id.RoomID, body []byte) {
	if len(body) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(*to) > 0 {
		*to = append(*to, ',')
	}
	*to = append(append(appendText(*to, string(room)), ':'), body...)
}

func (s *sections) empty() bool { return s.size() == 0 }

func (s *sections) size() int { return len(s.join) + len(s.invite) + len(s.knock) + len(s.leave) }

func (s *sections) append(b []byte) []byte {
	if s.empty() {
		return b
	}
	b = append(b, `,"rooms":{`...)
	first := true
	for _, part := range []struct {
		name string
		body []byte
	}{{"join", s.join}, {"invite", s.invite}, {"knock", s.knock}, {"leave", s.leave}} {
		if len(part.body) == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(append(append(append(append(b, '"'), part.name...), `":{`...), part.body...), '}')
	}
	return append(b, '}')
}
