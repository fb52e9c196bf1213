package main

import (
	"errors"
	"fmt"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// TestTwoHouses lets people of two servers meet in one room, as bots would: invited, joined, heard in both directions, and
// heard again after one of the servers was away.
func TestTwoHouses(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		houses := openHouses(t, database, "interior.test", "finance.test")
		anna, claire := houses[0].person("anna"), houses[1].person("claire")
		atAnna, atClaire := listen(t, anna), listen(t, claire)

		room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{
			Preset: "private_chat", Name: "Joint desk", Invite: []id.UserID{claire.UserID},
		}))(t, "create room").RoomID
		atClaire.untilMember(room, claire.UserID, event.MembershipInvite)
		must(claire.JoinRoomByID(t.Context(), room))(t, "join by invite")
		atAnna.untilMember(room, claire.UserID, event.MembershipJoin)

		for i := range 5 {
			fromAnna, fromClaire := fmt.Sprintf("anna %d", i), fmt.Sprintf("claire %d", i)
			must(anna.SendText(t.Context(), room, fromAnna))(t, "send from anna")
			must(claire.SendText(t.Context(), room, fromClaire))(t, "send from claire")
			atClaire.untilText(room, fromAnna)
			atAnna.untilText(room, fromClaire)
		}

		// What is said while a server is away arrives when it is back: hearing from it wakes its queue.
		houses[1].close()
		must(anna.SendText(t.Context(), room, "while you were out"))(t, "send to an absent server")
		houses[1].open()
		must(claire.SendText(t.Context(), room, "back again"))(t, "send after a restart")
		atClaire.untilText(room, "while you were out")

		// Who is removed hears of it, and can say no more.
		if _, err := anna.KickUser(t.Context(), room, &mautrix.ReqKickUser{UserID: claire.UserID, Reason: "closing time"}); err != nil {
			t.Fatalf("kick: %v", err)
		}
		atClaire.untilMember(room, claire.UserID, event.MembershipLeave)
		if _, err := claire.SendText(t.Context(), room, "still here?"); !isCode(err, mautrix.MForbidden) {
			t.Errorf("a message by somebody removed: got error %v, want M_FORBIDDEN", err)
		}
	})
}

// TestPublicRoom joins by alias through the other server, and reads what was said before.
func TestPublicRoom(t *testing.T) {
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	anna, claire := houses[0].person("anna"), houses[1].person("claire")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat", RoomAliasName: "hall"}))(t, "create room").RoomID
	must(anna.SendText(t.Context(), room, "before you came"))(t, "send")
	joined := must(claire.JoinRoom(t.Context(), "#hall:interior.test", nil))(t, "join by alias")
	if joined.RoomID != room {
		t.Fatalf("joined %s, want %s", joined.RoomID, room)
	}
	atClaire := listen(t, claire)
	must(anna.SendText(t.Context(), room, "after you came"))(t, "send")
	atClaire.untilText(room, "after you came")
	page := must(claire.Messages(t.Context(), room, "", "", mautrix.DirectionBackward, nil, 50))(t, "read history")
	found := false
	for _, ev := range page.Chunk {
		if ev.Type == event.EventMessage {
			_ = ev.Content.ParseRaw(ev.Type)
			found = found || ev.Content.AsMessage().Body == "before you came"
		}
	}
	if !found {
		t.Errorf("history at the joining server holds %d events, none of them the message sent before the join", len(page.Chunk))
	}
}

// isCode says whether a client's error carries the errcode.
func isCode(err error, want mautrix.RespError) bool {
	code, _ := errcode(err)
	return code == want.ErrCode
}

// errcode reads errcode and HTTP status out of a client's error.
func errcode(err error) (code string, status int) {
	var failed mautrix.HTTPError
	if err == nil || !errors.As(err, &failed) {
		return "", 0
	}
	if failed.RespError != nil {
		code = failed.RespError.ErrCode
	}
	if failed.Response != nil {
		status = failed.Response.StatusCode
	}
	return code, status
}
