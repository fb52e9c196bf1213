package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/storage/bus"
)

const (
	// msc4195 is where servers ask one another for tokens of their call foci.
	msc4195        = "/_matrix/federation/unstable/io.element.msc4195/rtc/livekit/get_token"
	callTokenTime  = 10 * time.Second
	maxCallName    = 1024
	maxTokenAnswer = 64 << 10
)

// callToken handles POST /_matrix/federation/unstable/io.element.msc4195/rtc/livekit/get_token, and its stable path.
// Spec: MSC4195
func (f *Federation) callToken(r *request) (any, error) {
	if !f.calls {
		return nil, mautrix.MUnrecognized.WithMessage("This server has no call focus").WithStatus(http.StatusNotFound)
	}
	var q struct {
		UserID   id.UserID `json:"user_id"`
		URL      string    `json:"url"`
		RoomID   id.RoomID `json:"room_id"`
		Slot     string    `json:"slot_id"`
		MemberID string    `json:"member_id"`
		// Member is the older form of MemberID.
		Member struct {
			ID     string      `json:"id"`
			Device id.DeviceID `json:"claimed_device_id"`
			User   id.UserID   `json:"claimed_user_id"`
		} `json:"member"`
	}
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if q.MemberID == "" {
		q.MemberID = q.Member.ID
	} else {
		q.Member.Device = ""
	}
	for _, field := range []string{string(q.UserID), string(q.RoomID), q.Slot, q.MemberID} {
		if field == "" || len(field) > maxCallName {
			return nil, mautrix.MBadJSON.WithMessage("user_id, room_id, slot_id or member_id is missing")
		}
	}
	if _, server, err := q.UserID.Parse(); err != nil || server != r.origin {
		return nil, mautrix.MForbidden.WithMessage("You are not a member of the room").WithStatus(http.StatusForbidden)
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTokenTime)
	defer cancel()
	answer, err := bus.Ask[bus.CallsQuestion, bus.CallsAnswer](ctx, f.bus, bus.CallsDo, bus.CallsQuestion{Token: &bus.CallToken{
		CallMember: bus.CallMember{RoomID: q.RoomID, Slot: q.Slot, MemberID: q.MemberID, Claimed: q.Member.Device, UserID: q.UserID, URL: q.URL},
		Guest:      true,
	}})
	if err != nil {
		return nil, err
	}
	return map[string]string{"jwt": answer.JWT, "url": answer.URL}, nil
}

// askCallToken asks another server for a token of its focus. Only what that server says of the request itself is passed on.
// Spec: MSC4195
func (f *Federation) askCallToken(ctx context.Context, q *bus.RemoteCallToken) (json.RawMessage, error) {
	var raw json.RawMessage
	for _, path := range [][]string{{"unstable", "io.element.msc4195", "rtc", "livekit", "get_token"}, {"v1", "rtc", "livekit", "get_token"}} {
		err := f.remote.Ask(ctx, remote.Request{
			Server: q.Server, Method: http.MethodPost, Path: path, Body: q.Body, Limit: maxTokenAnswer, Timeout: callTokenTime,
		}, &raw)
		if err == nil {
			return raw, nil
		}
		said, refused := remote.Refused(err)
		switch {
		case refused && said.StatusCode == http.StatusForbidden && said.ErrCode == mautrix.MForbidden.ErrCode,
			refused && said.StatusCode == http.StatusBadRequest && said.ErrCode == mautrix.MInvalidParam.ErrCode:
			return nil, bus.Refuse(said.StatusCode, said.ErrCode, said.Err)
		case refused && said.StatusCode == http.StatusNotFound:
			continue // the older, or the newer, name of the path
		case errors.Is(err, remote.ErrNotAllowed):
			return nil, bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", "This server does not federate with that one")
		}
		break
	}
	return nil, bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The other server gives no token")
}

// delayedLeave restarts or sends a delayed event of another server's user at that server's client API, whose address is found
// by the server's name alone.
// Spec: MSC4195
func (f *Federation) delayedLeave(ctx context.Context, q *bus.DelayedLeave) error {
	if q.Look {
		_, err := f.remote.ClientBase(ctx, q.Server)
		return err
	}
	if q.Action != bus.DelayedRestart && q.Action != bus.DelayedSend {
		return bus.Refuse(http.StatusBadRequest, "M_INVALID_PARAM", "There is no such action")
	}
	err := f.remote.PostClient(ctx, q.Server, "unstable", "org.matrix.msc4140", "delayed_events", q.DelayID, string(q.Action))
	var said mautrix.RespError
	if errors.As(err, &said) {
		return &bus.Refusal{Status: said.StatusCode, Code: said.ErrCode, Message: said.Err, Extra: said.ExtraData}
	}
	return err
}
