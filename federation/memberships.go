package federation

// What other servers ask about memberships; federation/membership answers, and asks.

func (f *Federation) makeJoin(r *request) (any, error) {
	return f.membership.MakeJoin(r.Context(), r.origin, r.roomID(), r.userID(), r.query["ver"])
}

func (f *Federation) sendJoin(r *request) (any, error) {
	return f.membership.SendJoin(r.Context(), r.origin, r.roomID(), r.eventID(), r.body, r.query.Get("omit_members") == "true")
}

// sendJoinV1 handles PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}.
// Spec: server-server-api/#put_matrixfederationv1send_joinroomideventid
func (f *Federation) sendJoinV1(r *request) (any, error) {
	room, err := f.membership.SendJoin(r.Context(), r.origin, r.roomID(), r.eventID(), r.body, false)
	return []any{200, room}, err
}

func (f *Federation) makeKnock(r *request) (any, error) {
	return f.membership.MakeKnock(r.Context(), r.origin, r.roomID(), r.userID(), r.query["ver"])
}

func (f *Federation) sendKnock(r *request) (any, error) {
	return f.membership.SendKnock(r.Context(), r.origin, r.roomID(), r.eventID(), r.body)
}

func (f *Federation) makeLeave(r *request) (any, error) {
	return f.membership.MakeLeave(r.Context(), r.origin, r.roomID(), r.userID())
}

func (f *Federation) sendLeave(r *request) (any, error) {
	return f.membership.SendLeave(r.Context(), r.origin, r.roomID(), r.eventID(), r.body)
}

// sendLeaveV1 handles PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}.
// Spec: server-server-api/#put_matrixfederationv1send_leaveroomideventid
func (f *Federation) sendLeaveV1(r *request) (any, error) {
	nothing, err := f.membership.SendLeave(r.Context(), r.origin, r.roomID(), r.eventID(), r.body)
	return []any{200, nothing}, err
}

func (f *Federation) invite(r *request) (any, error) {
	return f.membership.ReceiveInvite(r.Context(), r.origin, r.roomID(), r.eventID(), r.body)
}

func (f *Federation) inviteV1(r *request) (any, error) {
	return f.membership.ReceiveInviteV1(r.Context(), r.origin, r.roomID(), r.eventID(), r.body)
}

func (f *Federation) exchangeThirdPartyInvite(r *request) (any, error) {
	return f.membership.Exchange(r.Context(), r.origin, r.roomID(), r.body)
}

func (f *Federation) bound(r *request) (any, error) {
	return f.membership.Bound(r.Context(), r.body)
}
