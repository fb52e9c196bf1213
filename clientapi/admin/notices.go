package admin

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

type noticeRequest struct {
	UserID   id.UserID       `json:"user_id"`
	Content  json.RawMessage `json:"content"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key"`
}

// SendNotice handles POST /_synapse/admin/v1/send_server_notice, and PUT of the same with a transaction ID behind it.
// Spec: client-server-api/#server-notices
func (h *Handlers) SendNotice(r *rest.Request) (any, error) {
	var body noticeRequest
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Type == "" {
		body.Type = event.EventMessage.Type
	}
	switch {
	case body.UserID == "" || len(body.Content) == 0:
		return nil, missing.WithMessage("user_id and content are needed")
	case !gjson.ParseBytes(body.Content).IsObject():
		return nil, mautrix.MBadJSON.WithMessage("content is not an object")
	case body.UserID.Homeserver() != h.server:
		return nil, mautrix.MInvalidParam.WithMessage("Notices go to users of this server alone")
	}
	ctx := r.Context()
	account, err := h.store.Accounts.ByID(ctx, body.UserID)
	if err != nil {
		return nil, err
	}
	if account == nil || account.Deactivated {
		return nil, noSuchUser
	}
	room, err := h.noticeRoom(ctx, body.UserID)
	if err != nil {
		return nil, err
	}
	p := bus.Proposal{Sender: rest.ServerUser(h.server), Type: body.Type, StateKey: body.StateKey, Content: body.Content}
	if txn := r.Path("txnId"); txn != "" {
		p.Device, p.Path, p.TransactionID = r.By.Device, "PUT send_server_notice "+string(r.By.User), txn
	}
	eventID, err := h.propose(ctx, room, p)
	if err != nil {
		return nil, err
	}
	return map[string]id.EventID{"event_id": eventID}, nil
}

// noticeRoom is the room in which the user gets notices: the one that is there, or else a new one. Who has left it is
// invited again.
func (h *Handlers) noticeRoom(ctx context.Context, user id.UserID) (id.RoomID, error) {
	h.noticing.Lock()
	defer h.noticing.Unlock()
	server := rest.ServerUser(h.server)
	rooms, err := h.store.Memberships.With(ctx, server, user)
	if err != nil {
		return "", err
	}
	if len(rooms) == 0 {
		return h.makeNoticeRoom(ctx, server, user)
	}
	m := rooms[0]
	if m.Membership != event.MembershipLeave {
		return m.RoomID, nil
	}
	_, err = h.propose(ctx, m.RoomID, state(server, event.StateMember.Type, string(user), map[string]any{"membership": "invite"}))
	return m.RoomID, err
}

// makeNoticeRoom makes a room in which the server alone speaks, and marks it in the user's account data.
func (h *Handlers) makeNoticeRoom(ctx context.Context, server, user id.UserID) (id.RoomID, error) {
	err := h.store.Do(ctx, func(ctx context.Context) error {
		_, err := h.store.Accounts.Create(ctx, &storage.Account{UserID: server})
		return err
	})
	if err != nil {
		return "", err
	}
	created, err := bus.Ask[bus.Create, bus.Created](ctx, h.bus, bus.CreateRoom, bus.Create{
		Version: id.RoomV11, Content: json.RawMessage("{}"), Sender: server,
		Events: []bus.Proposal{
			state(server, event.StateMember.Type, string(server), map[string]any{"membership": "join", "displayname": "Server notices"}),
			state(server, event.StatePowerLevels.Type, "", map[string]any{
				"users": map[id.UserID]int{server: 100}, "users_default": -10, "events_default": 0, "state_default": 50,
				"invite": 50, "kick": 50, "ban": 50, "redact": 50,
			}),
			state(server, event.StateJoinRules.Type, "", map[string]any{"join_rule": "invite"}),
			state(server, event.StateHistoryVisibility.Type, "", map[string]any{"history_visibility": "shared"}),
			state(server, event.StateRoomName.Type, "", map[string]any{"name": "Server notices"}),
			state(server, event.StateMember.Type, string(user), map[string]any{"membership": "invite"}),
		},
	})
	if err != nil {
		return "", err
	}
	return created.RoomID, h.store.Do(ctx, func(ctx context.Context) error {
		return h.store.AccountData.Put(ctx, storage.AccountData{
			UserID: user, RoomID: created.RoomID, Type: "m.tag", Content: json.RawMessage(`{"tags":{"m.server_notice":{}}}`),
		})
	})
}

func state(sender id.UserID, typ, key string, content any) bus.Proposal {
	raw, err := json.Marshal(content)
	if err != nil { // maps of plain values can always be written
		panic(err)
	}
	return bus.Proposal{Sender: sender, Type: typ, StateKey: &key, Content: raw}
}

// propose has a room make an event.
func (h *Handlers) propose(ctx context.Context, room id.RoomID, p bus.Proposal) (id.EventID, error) {
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, h.bus, bus.RoomDo(room), bus.RoomQuestion{Propose: &p})
	if err != nil {
		return "", err
	}
	if len(answer.Outcomes) != 1 {
		return "", fmt.Errorf("room gave %d outcomes, not one", len(answer.Outcomes))
	}
	o := answer.Outcomes[0]
	if o.Verdict == bus.Rejected {
		return "", mautrix.MForbidden.WithMessage("%s", o.Reason)
	}
	return o.EventID, nil
}
