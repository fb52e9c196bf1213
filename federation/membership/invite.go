package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
	"chancery/storage/bus"
)

// maxStripped bounds the stripped state that goes along with an invite or a knock, in bytes.
const maxStripped = 64 << 10

// stripped keeps the entries of foreign stripped state that are what they should be, until there are too many.
// Spec: client-server-api/#stripped-state
func stripped(entries []json.RawMessage) []json.RawMessage {
	var good []json.RawMessage
	size := 0
	for _, raw := range entries {
		e := gjson.ParseBytes(raw)
		if !e.IsObject() || e.Get("type").Type != gjson.String || e.Get("state_key").Type != gjson.String ||
			!pdu.ValidUserID(e.Get("sender").Str) || !e.Get("content").IsObject() || pdu.CheckJSON(raw, false) != nil {
			continue
		}
		if size += len(raw); size > maxStripped {
			break
		}
		good = append(good, raw)
	}
	return good
}

// Invite has an invite of ours co-signed by the server of the invited user. Body of the answer is the event with both signatures.
// Spec: server-server-api/#inviting-to-a-room
func (m *Membership) Invite(ctx context.Context, q *bus.InviteRemote) (bus.FederationAnswer, error) {
	ours, err := pdu.Trusted(q.Version, "", q.Event)
	if err != nil {
		return bus.FederationAnswer{}, fmt.Errorf("invite: %w", err)
	}
	if ours.StateKey() == nil {
		return bus.FederationAnswer{}, errors.New("invite: not a state event")
	}
	server := id.UserID(*ours.StateKey()).Homeserver()
	state := q.Stripped
	if state == nil {
		state = []json.RawMessage{}
	}
	path := []string{"v2", "invite", string(pdu.RoomIDOf(ours)), ours.EventID()}
	var answer struct {
		Event json.RawMessage `json:"event"`
	}
	err = m.client.Ask(ctx, remote.Request{Server: server, Method: http.MethodPut, Path: path, Timeout: askTime, Body: struct {
		Version id.RoomVersion    `json:"room_version"`
		Event   json.RawMessage   `json:"event"`
		State   []json.RawMessage `json:"invite_room_state"`
	}{q.Version, ours.JSON(), state}}, &answer)
	if said, ok := remote.Refused(err); ok && said.ErrCode == "M_UNRECOGNIZED" && (q.Version == id.RoomV1 || q.Version == id.RoomV2) {
		answer.Event, err = m.inviteV1(ctx, server, ours, state)
	}
	if err != nil {
		return bus.FederationAnswer{}, refusal(err)
	}
	signed, err := pdu.Parse(q.Version, answer.Event)
	if err != nil || signed.EventID() != ours.EventID() || signed.Redacted() {
		return bus.FederationAnswer{}, bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The invited user's server gave back another event")
	}
	if err := m.signedBy(ctx, server, signed); err != nil {
		return bus.FederationAnswer{}, bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The invited user's server did not sign the invite")
	}
	return bus.FederationAnswer{RoomID: pdu.RoomIDOf(ours), EventID: id.EventID(ours.EventID()), Body: signed.JSON()}, nil
}

// inviteV1 invites in the old form, for the first two room versions.
// Spec: server-server-api/#put_matrixfederationv1inviteroomideventid
func (m *Membership) inviteV1(ctx context.Context, server string, ours gomatrixserverlib.PDU, state []json.RawMessage) (json.RawMessage, error) {
	with, err := ours.SetUnsigned(map[string]any{"invite_room_state": state})
	if err != nil {
		return nil, err
	}
	var answer []json.RawMessage
	err = m.client.Ask(ctx, remote.Request{
		Server: server, Method: http.MethodPut, Path: []string{"v1", "invite", string(pdu.RoomIDOf(ours)), ours.EventID()},
		Body: json.RawMessage(with.JSON()), Timeout: askTime,
	}, &answer)
	if err != nil {
		return nil, err
	}
	if len(answer) != 2 {
		return nil, errors.New("invite: the answer is no pair")
	}
	return json.RawMessage(gjson.GetBytes(answer[1], "event").Raw), nil
}

// signedBy checks that the server has signed the event, whoever sent it.
func (m *Membership) signedBy(ctx context.Context, server string, ev gomatrixserverlib.PDU) error {
	redacted, err := pdu.Redact(id.RoomVersion(ev.Version()), ev.JSON())
	if err != nil {
		return err
	}
	results, err := m.ring.VerifyJSONs(ctx, []gomatrixserverlib.VerifyJSONRequest{{
		ServerName: spec.ServerName(server), AtTS: ev.OriginServerTS(), Message: redacted, ValidityCheckingFunc: gomatrixserverlib.NoStrictValidityCheck,
	}})
	if err != nil {
		return err
	}
	return results[0].Error
}

// ReceiveInvite answers PUT /_matrix/federation/v2/invite/{roomId}/{eventId}.
// Spec: server-server-api/#put_matrixfederationv2inviteroomideventid
func (m *Membership) ReceiveInvite(ctx context.Context, origin string, room id.RoomID, eventID id.EventID, body []byte) (any, error) {
	var q struct {
		Version id.RoomVersion    `json:"room_version"`
		Event   json.RawMessage   `json:"event"`
		State   []json.RawMessage `json:"invite_room_state"`
	}
	if json.Unmarshal(body, &q) != nil || len(q.Event) == 0 {
		return nil, mautrix.MBadJSON.WithMessage("The body is no invite")
	}
	signed, err := m.invited(ctx, origin, room, eventID, q.Version, q.Event, q.State)
	if err != nil {
		return nil, err
	}
	return map[string]json.RawMessage{"event": signed}, nil
}

// ReceiveInviteV1 answers PUT /_matrix/federation/v1/invite/{roomId}/{eventId}.
// Spec: server-server-api/#put_matrixfederationv1inviteroomideventid
func (m *Membership) ReceiveInviteV1(ctx context.Context, origin string, room id.RoomID, eventID id.EventID, body []byte) (any, error) {
	var state []json.RawMessage
	for _, item := range gjson.GetBytes(body, "unsigned.invite_room_state").Array() {
		state = append(state, json.RawMessage(item.Raw))
	}
	version := id.RoomV1
	if v := strippedVersion(state); v == id.RoomV2 {
		version = v
	}
	signed, err := m.invited(ctx, origin, room, eventID, version, body, state)
	if err != nil {
		return nil, err
	}
	return []any{200, map[string]json.RawMessage{"event": signed}}, nil
}

// invited checks an invite of one of our users, notes it, and gives it back with our signature. It is signed only after every
// field that matters was looked at.
func (m *Membership) invited(ctx context.Context, origin string, room id.RoomID, eventID id.EventID, version id.RoomVersion, raw json.RawMessage, state []json.RawMessage) (json.RawMessage, error) {
	if !pdu.Known(version) {
		refusal := mautrix.MIncompatibleRoomVersion.WithMessage("This server does not know room version %q", version)
		refusal.StatusCode = http.StatusBadRequest
		refusal.ExtraData = map[string]any{"room_version": string(version)}
		return nil, refusal
	}
	ev, err := pdu.Parse(version, raw)
	if err != nil {
		return nil, malformed(err)
	}
	if err := m.isInvite(ctx, origin, room, eventID, ev); err != nil {
		return nil, err
	}
	events, errs := m.ring.Believe(ctx, version, room, []json.RawMessage{raw})
	if errs[0] != nil {
		return nil, mautrix.MForbidden.WithMessage("The invite's signature could not be verified")
	}
	signed, err := pdu.Sign(version, events[0].JSON(), m.client.Keys().Signer())
	if err != nil {
		return nil, fmt.Errorf("sign invite: %w", err)
	}
	outcome, err := m.askRoom(ctx, room, bus.RoomQuestion{Receive: &bus.Received{
		Origin: origin, Version: version, PDUs: []json.RawMessage{signed}, Stripped: stripped(state),
	}})
	if err != nil {
		return nil, err
	}
	// Where we are in the room, an invite whose parents have not come yet comes again with its sender's transaction.
	if outcome.Verdict == bus.Rejected || outcome.Verdict == bus.SoftFailed {
		return nil, mautrix.MForbidden.WithMessage("The invite is not allowed: %s", outcome.Reason)
	}
	return signed, nil
}

func (m *Membership) isInvite(ctx context.Context, origin string, room id.RoomID, eventID id.EventID, ev gomatrixserverlib.PDU) error {
	membership, _ := ev.Membership()
	switch {
	case ev.Redacted():
		return mautrix.MBadJSON.WithMessage("The invite's content hash is wrong")
	case ev.Type() != "m.room.member" || ev.StateKey() == nil || membership != string(event.MembershipInvite):
		return mautrix.MBadJSON.WithMessage("Not an invite")
	case pdu.RoomIDOf(ev) != room || id.EventID(ev.EventID()) != eventID:
		return mautrix.MBadJSON.WithMessage("Room or event ID are not those in the path")
	case pdu.Sender(ev).Homeserver() != origin:
		return mautrix.MForbidden.WithMessage("The sender is not a user of %s", origin)
	}
	user := id.UserID(*ev.StateKey())
	if user.Homeserver() != m.name || !pdu.ValidUserID(string(user)) {
		return mautrix.MForbidden.WithMessage("The invited user is not one of this server")
	}
	account, err := m.store.Accounts.ByID(ctx, user)
	if err != nil {
		return err
	}
	if account == nil || account.Deactivated {
		return mautrix.MForbidden.WithMessage("There is no such user")
	}
	// Spec: client-server-api/#invite-permission
	wishes, err := m.view.Invites(ctx, user)
	if err != nil {
		return err
	}
	if wishes.Judge(pdu.Sender(ev)) == policy.InviteBlocked {
		return mautrix.RespError{ErrCode: "M_INVITE_BLOCKED", StatusCode: http.StatusForbidden, Err: string(user) + " does not accept this invite"}
	}
	acl, err := m.view.ACL(ctx, room)
	if err != nil {
		return err
	}
	if !acl.Allows(origin) {
		return mautrix.MForbidden.WithMessage("%s is banned from this room by its server ACL", origin)
	}
	return nil
}
