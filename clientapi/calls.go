package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

const (
	// msc4195 is where clients ask for tokens of call foci, their own server's and others'.
	msc4195 = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit"
	// callPatience is how long a focus may take, ours or another server's.
	callPatience = 15 * time.Second
	maxCallName  = 1024
)

// callRequest is the body of both routes. Older drafts name the member by an object.
type callRequest struct {
	Server   string    `json:"server_name"`
	URL      string    `json:"url"`
	RoomID   id.RoomID `json:"room_id"`
	Slot     string    `json:"slot_id"`
	MemberID string    `json:"member_id"`
	Member   *struct {
		ID     string      `json:"id"`
		Device id.DeviceID `json:"claimed_device_id"`
	} `json:"member"`
	DelayID string `json:"delay_id"`
}

// callRoutes are those that a server without a focus does not know: clients take any other answer to mean that it works.
func (s *Server) callRoutes() []rest.Route {
	if len(s.cfg.Foci) == 0 {
		return nil
	}
	return []rest.Route{
		{Method: "POST", Path: msc4195 + "/get_token", Handler: s.callToken, Auth: rest.User, Limit: rest.LimitCall},
		{Method: "POST", Path: msc4195 + "/delegate_delayed_leave", Handler: s.delegateLeave, Auth: rest.User, Limit: rest.LimitCall},
		{Method: "POST", Path: "/_matrix/client/v1/rtc/livekit/get_token", Handler: s.callToken, Auth: rest.User, Limit: rest.LimitCall},
		{Method: "POST", Path: "/_matrix/client/v1/rtc/livekit/delegate_delayed_leave", Handler: s.delegateLeave, Auth: rest.User, Limit: rest.LimitCall},
	}
}

// callRequest reads the body, and says whom it names.
func (s *Server) callRequest(r *rest.Request) (req callRequest, member bus.CallMember, err error) {
	if err := r.JSON(&req); err != nil {
		return req, member, err
	}
	member = bus.CallMember{RoomID: req.RoomID, Slot: req.Slot, MemberID: req.MemberID, UserID: r.By.User, DeviceID: r.By.Device, URL: req.URL}
	if req.MemberID == "" && req.Member != nil {
		member.MemberID, member.Claimed = req.Member.ID, req.Member.Device
	}
	for name, field := range map[string]string{"room_id": string(member.RoomID), "slot_id": member.Slot, "member_id": member.MemberID} {
		if field == "" || len(field) > maxCallName {
			return req, member, mautrix.MBadJSON.WithMessage("%s is missing", name)
		}
	}
	return req, member, nil
}

// callToken handles POST /_matrix/client/unstable/io.element.msc4195/rtc/livekit/get_token, and its stable path.
// Spec: MSC4195
func (s *Server) callToken(r *rest.Request) (any, error) {
	req, member, err := s.callRequest(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), callPatience)
	defer cancel()
	if req.Server != "" && req.Server != s.cfg.ServerName {
		return s.remoteCallToken(ctx, &req, &member)
	}
	answer, err := bus.Ask[bus.CallsQuestion, bus.CallsAnswer](ctx, s.bus, bus.CallsDo, bus.CallsQuestion{Token: &bus.CallToken{CallMember: member}})
	if err != nil {
		return nil, err
	}
	return map[string]string{"jwt": answer.JWT, "url": answer.URL}, nil
}

// remoteCallToken asks the server whose focus is meant, for a user who is in the room and whose account stands: that server cannot
// know the latter.
func (s *Server) remoteCallToken(ctx context.Context, req *callRequest, member *bus.CallMember) (any, error) {
	if !pdu.ValidServerName(req.Server) {
		return nil, mautrix.MInvalidParam.WithMessage("server_name is no server's name")
	}
	joined, err := s.store.Memberships.Joined(ctx, member.RoomID, member.UserID)
	if err != nil {
		return nil, err
	}
	if !joined {
		return nil, mautrix.MForbidden.WithMessage("You are not a member of the room").WithStatus(http.StatusForbidden)
	}
	barred, err := s.store.Accounts.Barred(ctx, []id.UserID{member.UserID})
	if err != nil {
		return nil, err
	}
	if len(barred) > 0 {
		return nil, mautrix.MForbidden.WithMessage("Your account may not be in calls now").WithStatus(http.StatusForbidden)
	}
	body := map[string]any{
		"user_id": member.UserID, "url": req.URL, "room_id": member.RoomID, "slot_id": member.Slot, "member_id": member.MemberID,
	}
	if member.Claimed != "" {
		delete(body, "member_id")
		body["member"] = map[string]any{"id": member.MemberID, "claimed_user_id": member.UserID, "claimed_device_id": member.Claimed}
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	answer, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, s.bus, bus.FederationDo, bus.FederationQuestion{
		CallToken: &bus.RemoteCallToken{Server: req.Server, Body: raw},
	})
	if err != nil {
		return nil, err
	}
	var said struct {
		JWT string `json:"jwt"`
		URL string `json:"url,omitempty"`
	}
	if json.Unmarshal(answer.Body, &said) != nil || said.JWT == "" {
		return nil, mautrix.MUnknown.WithMessage("The other server gives no token").WithStatus(http.StatusBadGateway)
	}
	if said.URL == "" {
		said.URL = req.URL
	}
	return said, nil
}

// delegateLeave handles POST /_matrix/client/unstable/io.element.msc4195/rtc/livekit/delegate_delayed_leave, and its stable path.
// Spec: MSC4195
func (s *Server) delegateLeave(r *rest.Request) (any, error) {
	req, member, err := s.callRequest(r)
	if err != nil {
		return nil, err
	}
	if req.DelayID == "" || len(req.DelayID) > maxCallName {
		return nil, mautrix.MBadJSON.WithMessage("delay_id is missing")
	}
	ctx, cancel := context.WithTimeout(r.Context(), callPatience)
	defer cancel()
	_, err = bus.Ask[bus.CallsQuestion, bus.CallsAnswer](ctx, s.bus, bus.CallsDo, bus.CallsQuestion{
		Delegate: &bus.CallDelegate{CallMember: member, DelayID: req.DelayID},
	})
	return rest.Empty, err
}
