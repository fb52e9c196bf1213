package push

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/clientapi/push/rules"
	"chancery/storage"
)

// Bounds of one mail.
const (
	mailSpan   = 500_000 // positions that are looked through
	mailEvents = 2000    // events that are judged
	mailRoomsN = 12      // rooms and threads that are shown
	mailLines  = 5       // messages of each
	mailText   = 300     // characters of a message
)

// unreadFor is what the pusher's user was notified of since the last mail, and has not read.
func (h *Handlers) unreadFor(ctx context.Context, p *storage.Pusher) (rooms []mail.Room, count int, err error) {
	s := &search{Handlers: h, rooms: map[id.RoomID]*searched{}}
	s.by.User = p.UserID
	if s.set, err = h.set(ctx, p.UserID); err != nil {
		s.set = rules.Default(p.UserID)
	}
	var found mailRooms
	before, judged := h.store.Head()+1, 0
	end := max(p.Mail.Cursor, before-mailSpan)
	u := unread{search: s}
	if u.ignored, err = h.ignored(ctx, p.UserID); err != nil {
		return nil, 0, err
	}
	if u.spoke, err = h.store.Events.Spoke(ctx, p.UserID, end); err != nil {
		return nil, 0, err
	}
	for judged < mailEvents {
		events, err := h.store.Events.NewsFor(ctx, p.UserID, end, before, searchBatch)
		if err != nil {
			return nil, 0, err
		}
		for _, e := range events {
			before = e.Position
			judged++
			missed, err := u.judge(ctx, e)
			if err != nil {
				return nil, 0, err
			}
			if missed {
				thread := id.EventID("")
				if e.RelType == "m.thread" {
					thread = e.RelatesTo
				}
				found.add(e.RoomID, thread, e)
				count++
			}
		}
		if len(events) < searchBatch {
			break
		}
	}
	zone := h.zone(ctx, p.UserID)
	for _, room := range found.list[:min(len(found.list), mailRoomsN)] {
		shown, err := h.mailRoom(ctx, p.UserID, room, zone)
		if err != nil {
			return nil, 0, err
		}
		rooms = append(rooms, shown)
	}
	invites, err := h.mailInvites(ctx, p, zone)
	return append(rooms, invites...), count + len(invites), err
}

// unread judges what a user has not read.
type unread struct {
	*search
	ignored map[id.UserID]bool
	// spoke is where the user said something last, by room: who speaks has read.
	spoke map[id.RoomID]storage.Place
}

// judge says whether the user was notified of the event, may see it, and has not read it.
func (s *unread) judge(ctx context.Context, e *storage.Event) (bool, error) {
	if e.Type == event.StateMember.Type { // invites that are still open are told otherwise
		return false, nil
	}
	room, err := s.room(ctx, e.RoomID)
	if err != nil || e.RedactedBy != "" {
		return false, err
	}
	thread := "main"
	if e.RelType == "m.thread" {
		thread = string(e.RelatesTo)
	}
	if e.Place <= max(room.read[""], room.read[thread], s.spoke[e.RoomID]) || s.ignored[e.Sender] {
		return false, nil
	}
	v := s.set.Judge(&rules.Event{
		Type: e.Type, Sender: e.Sender, RoomID: e.RoomID, EventID: e.ID, StateKey: e.StateKey, JSON: e.JSON,
		Members:         func() int { return room.members },
		SenderMayNotify: func() bool { return s.view.MayNotifyRoom(ctx, e.RoomID, e.Sender) },
	}, room.person)
	if !v.Notify {
		return false, nil
	}
	seen, err := s.view.Visible(ctx, s.by.User, []*storage.Event{e})
	return len(seen) > 0, err
}

// mailRoom shows a room with its newest messages, the oldest of them first.
func (h *Handlers) mailRoom(ctx context.Context, user id.UserID, room *mailRoom, zone *time.Location) (mail.Room, error) {
	shown := mail.Room{Link: h.mailer.RoomLink(string(room.id), string(room.thread)), More: max(0, len(room.events)-mailLines)}
	var err error
	if shown.Name, shown.Direct, err = h.roomName(ctx, room.id, user); err != nil {
		return shown, err
	}
	for _, e := range slices.Backward(room.events[:min(len(room.events), mailLines)]) {
		sender, err := h.nameIn(ctx, room.id, e.Sender)
		if err != nil {
			return shown, err
		}
		kind, text := lineOf(e)
		shown.Lines = append(shown.Lines, mail.Line{Sender: sender, Time: time.UnixMilli(e.Timestamp).In(zone).Format("2.1. 15:04"), Kind: kind, Text: text})
	}
	return shown, nil
}

// lineOf is what a mail says of an event. What is encrypted stays so: the server could not read it, and would not.
func lineOf(e *storage.Event) (kind, text string) {
	content := gjson.GetBytes(e.JSON, "content")
	switch e.Type {
	case event.EventEncrypted.Type:
		return "encrypted", ""
	case event.EventMessage.Type:
	default:
		return "other", ""
	}
	switch msgtype := content.Get("msgtype").Str; msgtype {
	case "m.text", "m.notice", "m.emote":
		text := strings.Join(strings.Fields(content.Get("body").Str), " ")
		if runes := []rune(text); len(runes) > mailText {
			text = string(runes[:mailText]) + "…"
		}
		if msgtype == "m.emote" {
			text = "* " + text
		}
		return "text", text
	case "m.image", "m.video", "m.audio", "m.file":
		return strings.TrimPrefix(msgtype, "m."), ""
	}
	return "other", ""
}

// mailInvites are invites since the last mail that are still open.
func (h *Handlers) mailInvites(ctx context.Context, p *storage.Pusher, zone *time.Location) ([]mail.Room, error) {
	open, err := h.store.Memberships.ByUser(ctx, p.UserID, event.MembershipInvite)
	if err != nil {
		return nil, err
	}
	wishes, err := h.view.Invites(ctx, p.UserID)
	if err != nil {
		return nil, err
	}
	who := &owner{invites: wishes}
	var rooms []mail.Room
	for _, m := range open {
		if m.Position <= p.Mail.Cursor || len(rooms) >= mailRoomsN || who.unwelcome(p.UserID, m.Sender) {
			continue
		}
		name := strippedName(m.Stripped)
		if name == "" {
			if name, _, err = h.roomName(ctx, m.RoomID, p.UserID); err != nil {
				return nil, err
			}
		}
		rooms = append(rooms, mail.Room{
			Name: name, Link: h.mailer.RoomLink(string(m.RoomID), ""),
			Lines: []mail.Line{{Sender: string(m.Sender), Time: h.now().In(zone).Format("2.1. 15:04"), Kind: "invite"}},
		})
	}
	return rooms, nil
}

// strippedName is the name of a room that we are not in, as its invite says.
func strippedName(state []json.RawMessage) string {
	for _, raw := range state {
		if gjson.GetBytes(raw, "type").Str == event.StateRoomName.Type {
			return gjson.GetBytes(raw, "content.name").Str
		}
	}
	return ""
}

// roomName is what the user knows the room by: its name, its alias, or who else is in it.
func (h *Handlers) roomName(ctx context.Context, room id.RoomID, user id.UserID) (name string, direct bool, err error) {
	summary, err := h.view.Summary(ctx, room)
	if err != nil {
		return "", false, err
	}
	if summary != nil {
		if summary.Name != "" {
			return summary.Name, false, nil
		}
		if summary.CanonicalAlias != "" {
			return string(summary.CanonicalAlias), false, nil
		}
	}
	members, err := h.store.Memberships.ByRoom(ctx, room, event.MembershipJoin, event.MembershipInvite)
	if err != nil {
		return "", false, err
	}
	var names []string
	for _, m := range members {
		if m.UserID == user {
			continue
		}
		if len(names) == 3 {
			names = append(names, "…")
			break
		}
		other, err := h.nameIn(ctx, room, m.UserID)
		if err != nil {
			return "", false, err
		}
		names = append(names, other)
	}
	if len(names) == 0 {
		return string(room), false, nil
	}
	return strings.Join(names, ", "), len(names) == 1, nil
}

// nameIn is somebody's display name in a room, or else the user ID.
func (h *Handlers) nameIn(ctx context.Context, room id.RoomID, user id.UserID) (string, error) {
	m, err := h.store.Memberships.Of(ctx, room, user)
	if err != nil || m == nil {
		return string(user), err
	}
	events, err := h.store.Events.ByNumbers(ctx, []int64{m.Event})
	if err != nil || len(events) == 0 {
		return string(user), err
	}
	if name := gjson.GetBytes(events[0].JSON, "content.displayname").Str; name != "" {
		return name, nil
	}
	return string(user), nil
}

// ownName is the name in the user's profile.
func (h *Handlers) ownName(ctx context.Context, user id.UserID) (string, error) {
	raw, err := h.store.Profiles.Field(ctx, user, "displayname")
	return gjson.ParseBytes(raw).Str, err
}

// zone is the user's time zone, if the profile says one.
func (h *Handlers) zone(ctx context.Context, user id.UserID) *time.Location {
	raw, err := h.store.Profiles.Field(ctx, user, "m.tz")
	if err != nil {
		return time.UTC
	}
	zone, err := time.LoadLocation(gjson.ParseBytes(raw).Str)
	if err != nil {
		return time.UTC
	}
	return zone
}
