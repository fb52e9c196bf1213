package push

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/push/rules"
	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
	"chancery/storage"
)

const (
	// askUsersEvery is how often it is asked who has pushers.
	askUsersEvery = 2 * time.Second
	// tooOld is the age beyond which nobody is notified any more: the server was away, or the gateway.
	tooOld = 15 * time.Minute
	// tooOldForMail is the same for mails, which nobody expects at once.
	tooOldForMail = 24 * time.Hour
	// maxAudiences bounds the rooms whose audience is remembered.
	maxAudiences = 5000
)

// Run follows the stream, judges what is said for those who have pushers, and calls their gateways, until ctx ends. One
// process does, the others stand by.
func (h *Handlers) Run(ctx context.Context) error {
	return h.store.Leases.Hold(ctx, "push", func(ctx context.Context) error {
		f := &follower{
			Handlers: h, gateways: newGateways(h), users: map[id.UserID]bool{}, rooms: map[id.RoomID]*audience{},
			owners: map[id.UserID]*owner{}, unread: map[id.UserID]map[id.RoomID]int{},
		}
		defer f.gateways.wait()
		f.gateways.running.Go(func() { h.sendMails(ctx) })
		return h.store.Follow(ctx, storage.Follower{
			Name:   "push",
			Kinds:  []storage.Kind{storage.EventNews, storage.MembershipNews, storage.ReceiptNews, storage.AccountDataNews, storage.ThreadNews, storage.ValidityNews},
			Handle: f.handle,
		})
	})
}

// follower is the one reader of the stream for push. It belongs to one goroutine.
type follower struct {
	*Handlers
	gateways *gateways

	asked time.Time
	// users have pushers.
	users map[id.UserID]bool
	// rooms remember who in them has pushers; dropped when anybody comes or goes.
	rooms  map[id.RoomID]*audience
	owners map[id.UserID]*owner
	// unread is what came since this process began and was not read: what phones show on the icon.
	unread map[id.UserID]map[id.RoomID]int
}

// audience are those in a room who have pushers.
type audience struct {
	people  []rules.Person
	members int
}

// owner is what judging for a user takes.
type owner struct {
	set     *rules.Set
	ignored map[id.UserID]bool
	invites *policy.Invites
	threads storage.Followed
	// validity: nobody is notified who has expired; nil: that never happens.
	validity *storage.Validity
}

func (f *follower) handle(ctx context.Context, news []storage.Change, _ storage.Position) error {
	if err := f.askUsers(ctx); err != nil {
		return err
	}
	for i := range news {
		c := &news[i]
		switch c.Kind {
		case storage.MembershipNews:
			delete(f.rooms, c.RoomID)
			if c.Membership.Membership == event.MembershipJoin {
				if err := f.carryOver(ctx, c.UserID, c.RoomID); err != nil {
					return err
				}
			}
		case storage.AccountDataNews, storage.ThreadNews, storage.ValidityNews:
			delete(f.owners, c.UserID)
		case storage.ReceiptNews:
			f.read(ctx, c.UserID, c.RoomID)
		case storage.EventNews:
			if len(f.users) == 0 {
				continue
			}
			// One event that cannot be judged must not stop all others.
			if err := f.judge(ctx, c.Event); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				zerolog.Ctx(ctx).Error().Err(err).Stringer("event_id", c.Event.ID).Msg("Nobody is notified of an event")
			}
		}
	}
	return nil
}

func (f *follower) askUsers(ctx context.Context) error {
	if !f.changed.Swap(false) && time.Since(f.asked) < askUsersEvery {
		return nil
	}
	list, err := f.store.Pushers.Users(ctx)
	if err != nil {
		return err
	}
	f.asked = time.Now()
	users := make(map[id.UserID]bool, len(list))
	changed := len(list) != len(f.users)
	for _, u := range list {
		users[u] = true
		changed = changed || !f.users[u]
	}
	if changed {
		clear(f.rooms)
	}
	f.users = users
	return nil
}

// judge asks the rules of each who might be notified, and hands what they say to the gateways.
func (f *follower) judge(ctx context.Context, e *storage.Event) error {
	age := time.Since(time.UnixMilli(e.Timestamp))
	if age > tooOld && (f.mailer == nil || age > tooOldForMail) || e.RedactedBy != "" {
		return nil
	}
	who, err := f.audience(ctx, e.RoomID)
	if err != nil {
		return err
	}
	people := who.people
	var invited id.UserID
	if e.Type == "m.room.member" && e.StateKey != nil && f.users[id.UserID(*e.StateKey)] && gjson.GetBytes(e.JSON, "content.membership").Str == "invite" {
		invited = id.UserID(*e.StateKey)
		people = append(people[:len(people):len(people)], rules.Person{ID: invited})
	}
	judged := &rules.Event{
		Type: e.Type, Sender: e.Sender, RoomID: e.RoomID, EventID: e.ID, StateKey: e.StateKey, JSON: e.JSON,
		Members:         func() int { return who.members },
		SenderMayNotify: func() bool { return f.view.MayNotifyRoom(ctx, e.RoomID, e.Sender) },
	}
	for _, person := range people {
		if person.ID == e.Sender {
			delete(f.unread[person.ID], e.RoomID) // who speaks has read
			continue
		}
		o, err := f.owner(ctx, person.ID)
		if err != nil {
			return err
		}
		if o.validity.Expired(f.now()) || o.ignored[e.Sender] || invited == person.ID && o.unwelcome(invited, e.Sender) {
			continue
		}
		person.Subscribed = o.threads.In(e.RoomID)
		if v := o.set.Judge(judged, person); v.Notify {
			if err := f.notify(ctx, person.ID, e, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *follower) notify(ctx context.Context, user id.UserID, e *storage.Event, v rules.Verdict) error {
	if f.unread[user] == nil {
		f.unread[user] = map[id.RoomID]int{}
	}
	f.unread[user][e.RoomID]++
	pushers, err := f.store.Pushers.Of(ctx, user)
	if err != nil {
		return err
	}
	if err := f.missed(ctx, pushers); err != nil {
		return err
	}
	if time.Since(time.UnixMilli(e.Timestamp)) > tooOld {
		return nil
	}
	return f.gateways.send(ctx, user, pushers, e, v, f.badge(user))
}

// badge counts what the user has not read, in all rooms.
func (f *follower) badge(user id.UserID) int {
	n := 0
	for _, unread := range f.unread[user] {
		n += unread
	}
	return n
}

// read takes a room off the badge, and tells the phones.
func (f *follower) read(ctx context.Context, user id.UserID, room id.RoomID) {
	if f.unread[user][room] == 0 {
		return
	}
	delete(f.unread[user], room)
	pushers, err := f.store.Pushers.Of(ctx, user)
	if err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("The badge is not told")
		return
	}
	f.gateways.sendBadge(ctx, pushers, f.badge(user))
}

func (f *follower) audience(ctx context.Context, room id.RoomID) (*audience, error) {
	if who := f.rooms[room]; who != nil {
		return who, nil
	}
	joined, err := f.store.Memberships.ByRoom(ctx, room, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	who := &audience{members: len(joined)}
	var numbers []int64
	for _, m := range joined {
		if f.users[m.UserID] {
			numbers = append(numbers, m.Event)
		}
	}
	events, err := f.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.StateKey != nil {
			who.people = append(who.people, rules.Person{ID: id.UserID(*e.StateKey), DisplayName: gjson.GetBytes(e.JSON, "content.displayname").Str})
		}
	}
	if len(f.rooms) >= maxAudiences {
		clear(f.rooms)
	}
	f.rooms[room] = who
	return who, nil
}

func (f *follower) owner(ctx context.Context, user id.UserID) (*owner, error) {
	if o := f.owners[user]; o != nil {
		return o, nil
	}
	set, err := f.set(ctx, user)
	if err != nil {
		set = rules.Default(user)
	}
	o := &owner{set: set}
	if o.ignored, err = f.ignored(ctx, user); err != nil {
		return nil, err
	}
	if o.invites, err = f.view.Invites(ctx, user); err != nil {
		return nil, err
	}
	if o.threads, err = f.store.ThreadSubscriptions.Followed(ctx, user); err != nil {
		return nil, err
	}
	if o.validity, err = f.store.Validity.Of(ctx, user); err != nil {
		return nil, err
	}
	if len(f.owners) >= maxAudiences {
		clear(f.owners)
	}
	f.owners[user] = o
	return o, nil
}

// ignored are those of whom the user wants to hear nothing.
func (h *Handlers) ignored(ctx context.Context, user id.UserID) (map[id.UserID]bool, error) {
	list, err := h.store.AccountData.ByType(ctx, user, "", event.AccountDataIgnoredUserList.Type)
	if err != nil || list == nil {
		return nil, err
	}
	ignored := map[id.UserID]bool{}
	gjson.GetBytes(list.Content, "ignored_users").ForEach(func(key, _ gjson.Result) bool {
		ignored[id.UserID(key.Str)] = true
		return true
	})
	return ignored, nil
}

// unwelcome says whether the owner does not hear of invites by sender. The server's own notices are always told.
// Spec: client-server-api/#invite-permission
func (o *owner) unwelcome(user, sender id.UserID) bool {
	return sender != rest.ServerUser(user.Homeserver()) && o.invites.Judge(sender) != policy.InviteAllowed
}

// carryOver gives somebody who joins the successor of a room the rules that they had for its predecessor.
// Spec: client-server-api/#room-upgrades
func (f *follower) carryOver(ctx context.Context, user id.UserID, room id.RoomID) error {
	stored, err := f.store.AccountData.ByType(ctx, user, "", rules.Type)
	if err != nil || stored == nil {
		return err // nobody of ours, or nothing to carry
	}
	create, err := f.store.State.Current(ctx, room, pdu.Key{Type: "m.room.create"})
	if err != nil || create == nil {
		return err
	}
	old := gjson.GetBytes(create.JSON, "content.predecessor.room_id").Str
	if old == "" {
		return nil
	}
	return f.store.Do(ctx, func(ctx context.Context) error {
		set, err := f.set(ctx, user)
		if err != nil || !set.CarryOver(id.RoomID(old), room) {
			return nil // unreadable rules are no reason to stop
		}
		content, err := set.JSON()
		if err != nil {
			return err
		}
		return f.store.AccountData.Put(ctx, storage.AccountData{UserID: user, Type: rules.Type, Content: json.RawMessage(content)})
	})
}
