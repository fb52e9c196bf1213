package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// edus says how each type of EDU is taken in. An error drops that EDU and nothing else.
var edus = map[string]func(r *Receiver, ctx context.Context, origin string, content json.RawMessage) error{
	"m.typing":             (*Receiver).takeTyping,
	"m.receipt":            (*Receiver).takeReceipts,
	"m.presence":           (*Receiver).takePresence,
	"m.direct_to_device":   (*Receiver).takeToDevice,
	"m.device_list_update": (*Receiver).takeDeviceList,
	"m.signing_key_update": (*Receiver).takeSigningKeys,
}

// errNotKept is wrapped by the error of an EDU that must not be lost, where our storage did not take it.
var errNotKept = errors.New("not kept")

// takeEDUs takes the EDUs of a transaction in, in their order. Its error wraps errNotKept.
func (r *Receiver) takeEDUs(ctx context.Context, origin string, list []edu) error {
	for _, e := range list {
		take, ok := edus[e.Type]
		if !ok {
			receivedEDUs.WithLabelValues("other", "no").Inc()
			continue
		}
		if err := take(r, ctx, origin, e.Content); errors.Is(err, errNotKept) {
			return err
		} else if err != nil {
			receivedEDUs.WithLabelValues(e.Type, "no").Inc()
			zerolog.Ctx(ctx).Debug().Err(err).Str("origin", origin).Str("type", e.Type).Msg("EDU dropped")
			continue
		}
		receivedEDUs.WithLabelValues(e.Type, "yes").Inc()
	}
	return nil
}

// kept runs a transaction whose EDU the origin shall send again if it fails.
func (r *Receiver) kept(ctx context.Context, do func(ctx context.Context) error) error {
	if err := r.store.Do(ctx, do); err != nil {
		return fmt.Errorf("%w: %w", errNotKept, err)
	}
	return nil
}

// ours checks that an EDU speaks for a user of its origin.
func ours(origin string, user id.UserID) error {
	if !pdu.ValidUserID(string(user)) || user.Homeserver() != origin {
		return fmt.Errorf("%q is not a user of %s", user, origin)
	}
	return nil
}

// inRoom checks that the user is joined to the room, and that the room's ACL admits the origin.
func (r *Receiver) inRoom(ctx context.Context, origin string, room id.RoomID, user id.UserID) error {
	if err := ours(origin, user); err != nil {
		return err
	}
	joined, err := r.store.Memberships.Joined(ctx, room, user)
	if err != nil {
		return err
	}
	if !joined {
		return fmt.Errorf("%s is not in %s", user, room)
	}
	return r.checkACL(ctx, room, origin)
}

// typingTime is how long a user types who is not said to have stopped.
const typingTime = 30 * time.Second

// takeTyping: m.typing.
// Spec: server-server-api/#typing-notifications
func (r *Receiver) takeTyping(ctx context.Context, origin string, content json.RawMessage) error {
	var t struct {
		RoomID id.RoomID `json:"room_id"`
		UserID id.UserID `json:"user_id"`
		Typing bool      `json:"typing"`
	}
	if err := json.Unmarshal(content, &t); err != nil {
		return err
	}
	if err := r.inRoom(ctx, origin, t.RoomID, t.UserID); err != nil {
		return err
	}
	return bus.Tell(r.bus, bus.TypingIn(t.RoomID), bus.Typing{
		RoomID: t.RoomID, UserID: t.UserID, Typing: t.Typing, Until: r.now().Add(typingTime).UnixMilli(),
	})
}

// maxReceipts bounds one EDU.
const maxReceipts = 1000

// takeReceipts: m.receipt.
// Spec: server-server-api/#receipts
func (r *Receiver) takeReceipts(ctx context.Context, origin string, content json.RawMessage) error {
	var rooms map[id.RoomID]map[string]map[id.UserID]struct {
		Data struct {
			Timestamp int64  `json:"ts"`
			Thread    string `json:"thread_id"`
		} `json:"data"`
		EventIDs []id.EventID `json:"event_ids"`
	}
	if err := json.Unmarshal(content, &rooms); err != nil {
		return err
	}
	var receipts []storage.Receipt
	for room, types := range rooms {
		for user, read := range types[storage.ReceiptRead] {
			if r.inRoom(ctx, origin, room, user) != nil || len(read.EventIDs) == 0 || len(read.Data.Thread) > pdu.MaxIDLength {
				continue
			}
			receipts = append(receipts, storage.Receipt{
				RoomID: room, UserID: user, Type: storage.ReceiptRead, Thread: read.Data.Thread,
				EventID: read.EventIDs[len(read.EventIDs)-1], Timestamp: read.Data.Timestamp,
			})
		}
	}
	if len(receipts) > maxReceipts {
		return fmt.Errorf("%d receipts", len(receipts))
	}
	receipts, err := r.ofKnownEvents(ctx, receipts)
	if err != nil || len(receipts) == 0 {
		return err
	}
	return r.store.Do(ctx, func(ctx context.Context) error {
		for _, receipt := range receipts {
			if _, err := r.store.Receipts.Put(ctx, &receipt); err != nil {
				return err
			}
		}
		return nil
	})
}

// ofKnownEvents leaves out receipts of events that we do not have in that room: they tell nobody anything.
func (r *Receiver) ofKnownEvents(ctx context.Context, receipts []storage.Receipt) ([]storage.Receipt, error) {
	ids := make([]id.EventID, len(receipts))
	for i, receipt := range receipts {
		ids[i] = receipt.EventID
	}
	events, err := r.store.Events.ByIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	rooms := make(map[id.EventID]id.RoomID, len(events))
	for _, e := range events {
		if e.Standing == storage.Accepted {
			rooms[e.ID] = e.RoomID
		}
	}
	return slices.DeleteFunc(receipts, func(receipt storage.Receipt) bool { return rooms[receipt.EventID] != receipt.RoomID }), nil
}

// takePresence: m.presence.
// Spec: server-server-api/#presence
func (r *Receiver) takePresence(_ context.Context, origin string, content json.RawMessage) error {
	var p struct {
		Push []struct {
			UserID          id.UserID `json:"user_id"`
			Presence        string    `json:"presence"`
			StatusMessage   string    `json:"status_msg"`
			LastActiveAgo   int64     `json:"last_active_ago"`
			CurrentlyActive bool      `json:"currently_active"`
		} `json:"push"`
	}
	if err := json.Unmarshal(content, &p); err != nil {
		return err
	}
	for _, u := range p.Push {
		if ours(origin, u.UserID) != nil {
			continue
		}
		switch u.Presence {
		case "online", "offline", "unavailable":
		default:
			continue
		}
		err := bus.Tell(r.bus, bus.PresenceOf(u.UserID), bus.Presence{
			UserID: u.UserID, Presence: u.Presence, StatusMessage: u.StatusMessage,
			LastActive: r.now().UnixMilli() - max(u.LastActiveAgo, 0), CurrentlyActive: u.CurrentlyActive,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Bounds of one m.direct_to_device.
const (
	maxToDevice  = 2000
	maxMessageID = 255
)

// takeToDevice: m.direct_to_device.
// Spec: server-server-api/#send-to-device-messaging
func (r *Receiver) takeToDevice(ctx context.Context, origin string, content json.RawMessage) error {
	var m struct {
		Sender    id.UserID                                     `json:"sender"`
		Type      string                                        `json:"type"`
		MessageID string                                        `json:"message_id"`
		Messages  map[id.UserID]map[id.DeviceID]json.RawMessage `json:"messages"`
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return err
	}
	if err := ours(origin, m.Sender); err != nil {
		return err
	}
	if m.MessageID == "" || len(m.MessageID) > maxMessageID || strings.ContainsRune(m.MessageID, 0) || m.Type == "" {
		return fmt.Errorf("message without ID or type")
	}
	messages, err := r.addressed(ctx, m.Sender, m.Type, m.Messages)
	if err != nil || len(messages) == 0 {
		return err
	}
	return r.kept(ctx, func(ctx context.Context) error {
		fresh, err := r.store.ToDevice.Once(ctx, origin, m.MessageID)
		if err != nil || !fresh {
			return err
		}
		if err := r.store.ToDevice.Put(ctx, messages); err != nil {
			return err
		}
		for _, to := range messages {
			if _, err := r.store.ToDevice.Trim(ctx, to.UserID, to.DeviceID); err != nil {
				return err
			}
		}
		return nil
	})
}

// addressed gives one message for each device of ours that is meant; "*" means all of a user's.
func (r *Receiver) addressed(ctx context.Context, sender id.UserID, typ string, to map[id.UserID]map[id.DeviceID]json.RawMessage) ([]storage.ToDeviceMessage, error) {
	var messages []storage.ToDeviceMessage
	for user, devices := range to {
		if user.Homeserver() != r.client.ServerName() {
			continue
		}
		has, err := r.store.Devices.All(ctx, user)
		if err != nil {
			return nil, err
		}
		for _, device := range has {
			content, ok := devices[device.DeviceID]
			if !ok {
				content, ok = devices["*"]
			}
			if !ok {
				continue
			}
			raw, err := json.Marshal(struct {
				Sender  id.UserID       `json:"sender"`
				Type    string          `json:"type"`
				Content json.RawMessage `json:"content"`
			}{sender, typ, content})
			if err != nil {
				return nil, err
			}
			messages = append(messages, storage.ToDeviceMessage{UserID: user, DeviceID: device.DeviceID, JSON: raw})
			if len(messages) > maxToDevice {
				return nil, fmt.Errorf("more than %d devices addressed", maxToDevice)
			}
		}
	}
	return messages, nil
}

// deviceUpdate is the content of an m.device_list_update.
type deviceUpdate struct {
	UserID   id.UserID       `json:"user_id"`
	DeviceID id.DeviceID     `json:"device_id"`
	Name     string          `json:"device_display_name"`
	Deleted  bool            `json:"deleted"`
	Keys     json.RawMessage `json:"keys"`
}

// takeDeviceList: m.device_list_update. The copy that we have is marked stale and fetched apart; but an update that says
// what we know (as after a join) is no news.
// Spec: server-server-api/#device-management
func (r *Receiver) takeDeviceList(ctx context.Context, origin string, content json.RawMessage) error {
	var u deviceUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return err
	}
	if err := ours(origin, u.UserID); err != nil {
		return err
	}
	r.lists.doubt(u.UserID)
	if known, err := r.lists.holds(ctx, &u); err != nil || known {
		return err
	}
	return r.staleList(ctx, origin, u.UserID, u.Deleted || len(u.Keys) > 0)
}

// takeSigningKeys: m.signing_key_update.
// Spec: server-server-api/#end-to-end-encryption
func (r *Receiver) takeSigningKeys(ctx context.Context, origin string, content json.RawMessage) error {
	var u struct {
		UserID id.UserID `json:"user_id"`
	}
	if err := json.Unmarshal(content, &u); err != nil {
		return err
	}
	return r.staleList(ctx, origin, u.UserID, true)
}

// staleList notes that a user's devices or keys changed, and tells the clients. Only those who share a room with one of ours
// concern us; a copy is kept of those whose keys somebody here has asked for, or who came into an encrypted room. A device without keys, where there is no
// copy, is news to nobody.
func (r *Receiver) staleList(ctx context.Context, origin string, user id.UserID, keys bool) error {
	if err := ours(origin, user); err != nil {
		return err
	}
	r.lists.doubt(user)
	rooms, err := r.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	if err != nil {
		return err
	}
	if len(rooms) == 0 {
		return fmt.Errorf("%s is in no room of ours", user)
	}
	known, err := r.store.DeviceLists.Remote(ctx, user)
	if err != nil {
		return err
	}
	if known == nil && !keys {
		return nil
	}
	err = r.kept(ctx, func(ctx context.Context) error {
		if known != nil {
			stale := storage.RemoteDeviceList{UserID: user, StreamID: known.StreamID, Stale: true}
			if err := r.store.DeviceLists.PutRemote(ctx, stale); err != nil {
				return err
			}
		}
		return r.store.DeviceLists.Change(ctx, user, "")
	})
	if err == nil && known != nil {
		r.lists.want(user)
	}
	return err
}
