package clientapi

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/synapseadmin"

	"chancery/storage"
)

// until asks again and again, until the answer is as it should be.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come to be", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// room makes a room, and gives its ID.
func (u *user) room(body string) string {
	u.t.Helper()
	return u.do("POST", v3+"/createRoom", body).ok().str("room_id")
}

func TestAdminListsRooms(t *testing.T) {
	s := start(t, testConfig())
	root, alice, bob := s.administrator("root"), s.register("alice"), s.register("bob")
	hall := alice.room(`{"preset":"public_chat","visibility":"public","name":"Hall","room_alias_name":"the_hall","topic":"Talk"}`)
	attic := alice.room(`{"name":"attic","room_version":"10","initial_state":[{"type":"m.room.encryption","state_key":"","content":{"algorithm":"m.megolm.v1.aes-sha2"}}]}`)
	space := alice.room(`{"name":"Zoo","creation_content":{"type":"m.space","m.federate":false}}`)
	nameless := alice.room(`{}`)
	bob.do("POST", v3+"/rooms/"+hall+"/join", "{}").ok()
	alice.do("POST", v3+"/rooms/"+nameless+"/leave", "{}").ok()
	names := map[string]string{hall: "hall", attic: "attic", space: "space", nameless: "nameless"}
	for _, c := range []struct{ query, want string }{
		{"", "attic hall space nameless"},
		{"order_by=name&dir=b", "nameless space hall attic"},
		{"order_by=alphabetical", "attic hall space nameless"},
		{"order_by=joined_members&limit=1", "hall"},
		{"order_by=size&limit=1", "hall"},
		{"order_by=joined_local_members&dir=b&limit=1", "nameless"},
		{"order_by=state_events&limit=1", "hall"},
		{"order_by=version&limit=1&dir=b", "attic"},
		{"order_by=canonical_alias&limit=1", "hall"},
		{"order_by=encryption&limit=1", "attic"},
		{"order_by=federatable&limit=1", "space"},
		{"order_by=public&dir=b&limit=1", "hall"},
		{"order_by=join_rules&dir=b&limit=1", "hall"},
		{"search_term=HAL", "hall"},
		{"search_term=the_h", "hall"},
		{"search_term=" + strings.ReplaceAll(attic, "!", "%21"), "attic"},
		{"search_term=nothing", ""},
		{"public_rooms=true", "hall"},
		{"public_rooms=false", "attic space nameless"},
		{"empty_rooms=true", "nameless"},
		{"empty_rooms=false&limit=2&from=1", "hall space"},
		{"order_by=creator&limit=0", ""},
		{"order_by=guest_access&from=9", ""},
		{"order_by=history_visibility&limit=0", ""},
	} {
		var got []string
		for _, r := range root.do("GET", adminAPI+"/v1/rooms?"+c.query, nil).ok().body.Get("rooms.#.room_id").Array() {
			got = append(got, names[r.Str])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %v, want %s", c.query, got, c.want)
		}
	}
	for _, bad := range []string{"order_by=x", "dir=x", "from=-1", "search_term=", "public_rooms=x"} {
		root.do("GET", adminAPI+"/v1/rooms?"+bad, nil).fails(400, "M_INVALID_PARAM")
	}
	tool := root.tool()
	page, err := tool.ListRooms(t.Context(), synapseadmin.ReqListRoom{From: 1, Limit: 2, Direction: mautrix.DirectionForward})
	if err != nil || page.TotalRooms != 4 || page.NextBatch != 3 || page.Offset != 1 || len(page.Rooms) != 2 {
		t.Errorf("a page: got %+v, %v", page, err)
	}
	r := page.Rooms[0]
	if r.Name != "Hall" || r.CanonicalAlias != "#the_hall:interior" || r.JoinedMembers != 2 || r.JoinedLocalMembers != 2 || r.Creator != alice.ID ||
		!r.Federatable || !r.Public || r.JoinRules != "public" || r.HistoryVisibility != "shared" || r.StateEvents < 8 || r.Version != "11" {
		t.Errorf("the hall: got %+v", r)
	}
	info, err := tool.RoomInfo(t.Context(), id.RoomID(space))
	if err != nil || info.RoomType != "m.space" || info.Federatable {
		t.Errorf("the space: got %+v, %v", info, err)
	}
	if a := root.do("GET", adminAPI+"/v1/rooms/"+hall, nil).ok(); a.str("topic") != "Talk" || a.body.Get("joined_local_devices").Int() != 2 || a.body.Get("forgotten").Bool() || a.body.Get("avatar").Raw != "null" {
		t.Errorf("the hall by itself: got %s", a.body.Raw)
	}
	members, err := tool.RoomMembers(t.Context(), id.RoomID(hall))
	if err != nil || members.Total != 2 || members.Members[0] != alice.ID {
		t.Errorf("the members: got %+v, %v", members, err)
	}
	if a := root.do("GET", adminAPI+"/v1/rooms/"+hall+"/state?type=m.room.member", nil).ok(); a.body.Get("state.#").Int() != 2 || a.str("state.0.type") != "m.room.member" {
		t.Errorf("the state: got %s", a.body.Raw)
	}
	for _, what := range []string{"", "/members", "/state", "/messages", "/context/$x", "/forward_extremities"} {
		root.do("GET", adminAPI+"/v1/rooms/!nothing:interior"+what, nil).fails(404, "M_NOT_FOUND")
		root.do("GET", adminAPI+"/v1/rooms/nothing"+what, nil).fails(400, "M_INVALID_PARAM")
	}
	if a := root.do("GET", adminAPI+"/v1/rooms/%23the_hall:interior/forward_extremities", nil).ok(); a.body.Get("count").Int() != 1 {
		t.Errorf("forward extremities: got %s", a.body.Raw)
	}
	root.do("DELETE", adminAPI+"/v1/rooms/"+hall+"/forward_extremities", nil).ok()
}

func TestAdminReadsRooms(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	room := alice.room(`{"preset":"private_chat"}`)
	first := alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/1", `{"msgtype":"m.text","body":"one"}`).ok().str("event_id")
	alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/2", `{"msgtype":"m.text","body":"two"}`).ok()
	root.do("GET", v3+"/rooms/"+room+"/messages?dir=b", nil).fails(403, "M_FORBIDDEN")
	last, err := root.tool().RoomMessages(t.Context(), id.RoomID(room), "", "", mautrix.DirectionBackward, nil, 1)
	if err != nil || len(last.Chunk) != 1 || last.Chunk[0].Content.Raw["body"] != "two" {
		t.Errorf("the newest: got %+v, %v", last, err)
	}
	if a := root.do("GET", adminAPI+"/v1/rooms/"+room+"/context/"+first+"?limit=2", nil).ok(); a.str("event.content.body") != "one" || a.str("events_after.0.content.body") != "two" {
		t.Errorf("the context: got %s", a.body.Raw)
	}
	if a := root.do("GET", adminAPI+"/v1/fetch_event/"+first, nil).ok(); a.str("event.content.body") != "one" || a.str("event.event_id") != first || !a.body.Get("event.signatures").Exists() {
		t.Errorf("the event: got %s", a.body.Raw)
	}
	if a := root.do("GET", fmt.Sprintf("%s/v1/rooms/%s/timestamp_to_event?ts=%d&dir=b", adminAPI, room, time.Now().UnixMilli()+1000), nil).ok(); a.str("event_id") == "" {
		t.Errorf("by time: got %s", a.body.Raw)
	}
	root.do("GET", adminAPI+"/v1/fetch_event/$nothing", nil).fails(404, "M_NOT_FOUND")
	root.do("GET", adminAPI+"/v1/rooms/"+room+"/context/$nothing", nil).fails(404, "M_NOT_FOUND")
}

func TestAdminBlocksRooms(t *testing.T) {
	s := start(t, testConfig())
	root, alice, bob := s.administrator("root"), s.register("alice"), s.register("bob")
	room := alice.room(`{"preset":"public_chat"}`)
	tool := root.tool()
	if err := tool.BlockRoom(t.Context(), id.RoomID(room), synapseadmin.ReqBlockRoom{Block: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := tool.GetRoomBlockStatus(t.Context(), id.RoomID(room)); err != nil || !got.Block || got.UserID != root.ID {
		t.Errorf("blocked: got %+v, %v", got, err)
	}
	bob.do("POST", v3+"/rooms/"+room+"/join", "{}").fails(403, "M_FORBIDDEN")
	if err := tool.BlockRoom(t.Context(), id.RoomID(room), synapseadmin.ReqBlockRoom{}); err != nil {
		t.Fatal(err)
	}
	bob.do("POST", v3+"/rooms/"+room+"/join", "{}").ok()
	root.do("PUT", adminAPI+"/v1/rooms/!unknown:elsewhere/block", `{"block":true}`).ok()
	root.do("PUT", adminAPI+"/v1/rooms/"+room+"/block", `{}`).fails(400, "M_MISSING_PARAM")
	root.do("PUT", adminAPI+"/v1/rooms/nothing/block", `{"block":true}`).fails(400, "M_INVALID_PARAM")
}

func TestAdminDeletesRooms(t *testing.T) {
	s := start(t, testConfig())
	root, alice, bob := s.administrator("root"), s.register("alice"), s.register("bob")
	tool := root.tool()
	room := alice.room(`{"preset":"public_chat","room_alias_name":"bad","visibility":"public"}`)
	in := v3 + "/rooms/" + room
	bob.do("POST", in+"/join", "{}").ok()
	for i := range 30 {
		alice.do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", in, i), `{"msgtype":"m.text","body":"bad"}`).ok()
	}
	before := bob.do("GET", v3+"/sync", nil).ok().str("next_batch")
	begun, err := tool.DeleteRoom(t.Context(), id.RoomID(room), synapseadmin.ReqDeleteRoom{Block: true, Purge: true, NewRoomUserID: "@warden:interior", RoomName: "Gone", Message: "It was bad"})
	if err != nil {
		t.Fatal(err)
	}
	var status synapseadmin.RespDeleteRoomStatus
	until(t, "the end of the deletion", func() bool {
		status, err = tool.DeleteRoomStatus(t.Context(), begun.DeleteID)
		return err != nil || status.Status == "complete" || status.Status == "failed"
	})
	if err != nil || status.Status != "complete" || len(status.ShutdownRoom.KickedUsers) != 2 || len(status.ShutdownRoom.LocalAliases) != 1 {
		t.Fatalf("the deletion: got %+v, %v", status, err)
	}
	next := string(status.ShutdownRoom.NewRoomID)
	if a := root.do("GET", adminAPI+"/v2/rooms/"+room+"/delete_status", nil).ok(); a.str("results.0.delete_id") != begun.DeleteID || a.str("results.0.room_id") != room {
		t.Errorf("by room: got %s", a.body.Raw)
	}
	if a := bob.do("GET", v3+"/joined_rooms", nil).ok(); a.str("joined_rooms.0") != next || a.body.Get("joined_rooms.#").Int() != 1 {
		t.Errorf("bob's rooms: got %s, want %s", a.body.Raw, next)
	}
	if a := bob.do("GET", v3+"/rooms/"+next+"/messages?dir=b", nil).ok(); !strings.Contains(a.body.Raw, "It was bad") {
		t.Errorf("the next room: got %s", a.body.Raw)
	}
	bob.do("PUT", v3+"/rooms/"+next+"/send/m.room.message/1", `{"msgtype":"m.text","body":"why"}`).fails(403, "M_FORBIDDEN")
	if a := bob.do("GET", v3+"/directory/room/%23bad:interior", nil).ok(); a.str("room_id") != next {
		t.Errorf("the alias: got %s", a.body.Raw)
	}
	// A client that was asleep, and one that begins anew.
	for _, since := range []string{"?since=" + before, ""} {
		if a := bob.do("GET", v3+"/sync"+since, nil).ok(); a.body.Get("rooms.join." + strings.ReplaceAll(room, ".", `\.`)).Exists() {
			t.Errorf("sync%s still shows the room: %s", since, a.body.Get("rooms").Raw)
		}
	}
	bob.do("POST", in+"/join", "{}").fails(403, "M_FORBIDDEN")
	bob.do("GET", in+"/messages?dir=b", nil).fails(403, "M_FORBIDDEN")
	root.do("GET", adminAPI+"/v1/rooms/"+room, nil).fails(404, "M_NOT_FOUND")
	root.do("DELETE", adminAPI+"/v2/rooms/"+room, `{}`).fails(404, "M_NOT_FOUND")
	root.do("DELETE", adminAPI+"/v2/rooms/nothing", `{}`).fails(400, "M_INVALID_PARAM")
	root.do("GET", adminAPI+"/v2/rooms/delete_status/nothing", nil).fails(404, "M_NOT_FOUND")
	root.do("GET", adminAPI+"/v2/rooms/!nothing:interior/delete_status", nil).fails(404, "M_NOT_FOUND")

	// At once, and without purging: the room stays, with nobody in it.
	other := alice.room(`{}`)
	done, err := tool.DeleteRoomSync(t.Context(), id.RoomID(other), synapseadmin.ReqDeleteRoom{Purge: true})
	if err != nil || len(done.KickedUsers) != 1 || done.NewRoomID != "" {
		t.Errorf("at once: got %+v, %v", done, err)
	}
	third := alice.room(`{}`)
	root.do("DELETE", adminAPI+"/v1/rooms/"+third, `{"purge":false}`).ok()
	if a := root.do("GET", adminAPI+"/v1/rooms/"+third, nil).ok(); a.body.Get("joined_members").Int() != 0 {
		t.Errorf("not purged: got %s", a.body.Raw)
	}
	root.do("DELETE", adminAPI+"/v1/rooms/!unknown:elsewhere", `{"block":true}`).ok()
	if a := root.do("GET", adminAPI+"/v1/rooms/!unknown:elsewhere/block", nil).ok(); !a.body.Get("block").Bool() {
		t.Errorf("an unknown room: got %s", a.body.Raw)
	}
	root.do("DELETE", adminAPI+"/v1/rooms/!unknown2:elsewhere", `{}`).fails(404, "M_NOT_FOUND")
	root.do("DELETE", adminAPI+"/v1/rooms/"+third, `{"new_room_user_id":"@x:elsewhere"}`).fails(400, "M_INVALID_PARAM")
}

func TestAdminPurgesHistory(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	room := alice.room(`{"name":"Hall"}`)
	in := v3 + "/rooms/" + room
	var sent []string
	tokens := map[int]string{}
	for i := range 30 {
		sent = append(sent, alice.do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", in, i), fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, i)).ok().str("event_id"))
		if i == 2 {
			tokens[i] = s.token() // from before alice's memory begins
		}
		if i == 5 || i == 28 {
			tokens[i] = alice.do("GET", v3+"/sync", nil).ok().str("next_batch")
		}
	}
	purge := root.do("POST", adminAPI+"/v1/purge_history/"+room+"/"+sent[25], `{"delete_local_events":true}`).ok().str("purge_id")
	until(t, "the end of the purge", func() bool {
		return root.do("GET", adminAPI+"/v1/purge_history_status/"+purge, nil).ok().str("status") == "complete"
	})
	alice.do("GET", in+"/event/"+sent[24], nil).fails(404, "M_NOT_FOUND")
	alice.do("GET", in+"/event/"+sent[25], nil).ok()
	if a := alice.do("GET", in+"/messages?dir=b&limit=100", nil).ok(); a.body.Get("chunk.#").Int() != 5 {
		t.Errorf("the history: got %s", a.body.Raw)
	}
	if a := alice.do("GET", in+"/state/m.room.name", nil).ok(); a.str("name") != "Hall" {
		t.Errorf("the name: got %s", a.body.Raw)
	}
	path := "rooms.join." + strings.ReplaceAll(room, ".", `\.`) + ".timeline"
	// A client that was away since before the edge has a gap; one that was not has none.
	if a := alice.do("GET", v3+"/sync?since="+tokens[28], nil).ok(); a.body.Get(path + ".limited").Bool() {
		t.Errorf("since after the edge: got %s", a.body.Get(path).Raw)
	}
	if a := alice.do("GET", v3+"/sync?since="+tokens[2], nil).ok(); !a.body.Get(path+".limited").Bool() || a.body.Get(path+".events.#").Int() != 5 {
		t.Errorf("since before the edge: got %s, want it limited", a.body.Get(path).Raw)
	}
	for _, c := range []struct {
		body, path string
		code       int
		errcode    string
	}{
		{`{}`, room, 400, "M_MISSING_PARAM"}, {`{}`, room + "/$nothing", 404, "M_NOT_FOUND"}, {`{"purge_up_to_ts":1}`, room, 404, "M_NOT_FOUND"},
		{`{"purge_up_to_event_id":"` + sent[25] + `"}`, "!nothing:interior", 404, "M_NOT_FOUND"},
	} {
		root.do("POST", adminAPI+"/v1/purge_history/"+c.path, c.body).fails(c.code, c.errcode)
	}
	root.do("POST", adminAPI+"/v1/purge_history/"+room, map[string]any{"purge_up_to_ts": time.Now().UnixMilli()}).ok()
	root.do("GET", adminAPI+"/v1/purge_history_status/nothing", nil).fails(404, "M_NOT_FOUND")
}

// TestAdminJobsGoOn finds a job that another process was given, or this one before a crash.
func TestAdminJobsGoOn(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	room := alice.room(`{}`)
	job := &storage.Job{ID: "left", Kind: storage.JobDeleteRoom, Subject: room, By: root.ID, Wish: []byte(`{"purge":true}`)}
	err := s.store.Do(t.Context(), func(ctx context.Context) error { return s.store.Jobs.Add(ctx, job) })
	if err != nil {
		t.Fatal(err)
	}
	job.Status, job.Result = storage.JobActive, []byte(`{"kicked_users":["@bob:interior"]}`)
	if err := s.store.Jobs.Save(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	root.do("DELETE", adminAPI+"/v2/rooms/"+room, `{}`).fails(400, "M_UNKNOWN") // it is under way
	var status *answer
	until(t, "the end of the job", func() bool {
		status = root.do("GET", adminAPI+"/v2/rooms/delete_status/left", nil).ok()
		return status.str("status") == "complete"
	})
	if status.str("shutdown_room.kicked_users") != `["@bob:interior","@alice:interior"]` {
		t.Errorf("what was done: got %s", status.body.Raw)
	}
	root.do("GET", adminAPI+"/v1/rooms/"+room, nil).fails(404, "M_NOT_FOUND")
}

func TestAdminMakesRoomAdmin(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	for _, version := range []string{"11", "12"} {
		room := alice.room(`{"room_version":"` + version + `","room_alias_name":"r` + version + `"}`)
		if err := root.tool().MakeRoomAdmin(t.Context(), "#r"+version+":interior", synapseadmin.ReqMakeRoomAdmin{}); err != nil {
			t.Fatalf("version %s: %v", version, err)
		}
		root.do("POST", v3+"/rooms/"+room+"/join", "{}").ok()
		root.do("PUT", v3+"/rooms/"+room+"/state/m.room.name", `{"name":"Mine"}`).ok()
		if err := root.tool().MakeRoomAdmin(t.Context(), room, synapseadmin.ReqMakeRoomAdmin{UserID: root.ID}); err != nil {
			t.Errorf("version %s, again: %v", version, err)
		}
		alice.do("POST", v3+"/rooms/"+room+"/leave", "{}").ok()
		root.do("POST", v3+"/rooms/"+room+"/leave", "{}").ok()
		root.do("POST", adminAPI+"/v1/rooms/"+room+"/make_room_admin", `{}`).fails(400, "M_UNKNOWN")
	}
	root.do("POST", adminAPI+"/v1/rooms/!nothing:interior/make_room_admin", `{}`).fails(404, "M_NOT_FOUND")
	root.do("POST", adminAPI+"/v1/rooms/nothing/make_room_admin", `{}`).fails(400, "M_INVALID_PARAM")
}

func TestAdminJoinsUsers(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	s.register("bob")
	tool := root.tool()
	open, closed, strange := root.room(`{"preset":"public_chat"}`), root.room(`{}`), alice.room(`{}`)
	for _, room := range []string{open, closed} {
		if err := tool.JoinUserToRoom(t.Context(), id.RoomID(room), synapseadmin.ReqJoinUserToRoom{UserID: "@bob:interior"}); err != nil {
			t.Errorf("join: %v", err)
		}
		if a := root.do("GET", v3+"/rooms/"+room+"/joined_members", nil).ok(); !strings.Contains(a.body.Raw, "@bob:interior") {
			t.Errorf("the members: got %s", a.body.Raw)
		}
	}
	path := adminAPI + "/v1/join/"
	root.do("POST", path+strange, `{"user_id":"@bob:interior"}`).fails(403, "M_FORBIDDEN")
	root.do("POST", path+open, `{}`).fails(400, "M_MISSING_PARAM")
	root.do("POST", path+open, `{"user_id":"@bob:elsewhere"}`).fails(400, "M_INVALID_PARAM")
	root.do("POST", path+open, `{"user_id":"@nobody:interior"}`).fails(404, "M_NOT_FOUND")
	root.do("POST", path+"nothing", `{"user_id":"@bob:interior"}`).fails(400, "M_INVALID_PARAM")
}

func TestAdminRedactsUsers(t *testing.T) {
	s := start(t, testConfig())
	root, alice, eve := s.administrator("root"), s.register("alice"), s.register("eve")
	room, other := alice.room(`{"preset":"public_chat"}`), alice.room(`{"preset":"public_chat"}`)
	var events []string
	for i, r := range []string{room, room, other} {
		eve.do("POST", v3+"/rooms/"+r+"/join", "{}").ok()
		events = append(events, eve.do("PUT", fmt.Sprintf("%s/rooms/%s/send/m.room.message/%d", v3, r, i), `{"msgtype":"m.text","body":"spam"}`).ok().str("event_id"))
	}
	hers := alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/1", `{"msgtype":"m.text","body":"ham"}`).ok().str("event_id")
	tool := root.tool()
	wait := func(req synapseadmin.ReqRedactUser) synapseadmin.RespRedactUserStatus {
		t.Helper()
		begun, err := tool.RedactUser(t.Context(), eve.ID, req)
		if err != nil {
			t.Fatal(err)
		}
		var status synapseadmin.RespRedactUserStatus
		until(t, "the end of the redactions", func() bool {
			status, err = tool.RedactUserStatus(t.Context(), begun.RedactID)
			return err != nil || status.Status == "complete" || status.Status == "failed"
		})
		if err != nil || status.Status != "complete" {
			t.Fatalf("the redactions: got %+v, %v", status, err)
		}
		return status
	}
	body := func(r, e string) string {
		return alice.do("GET", v3+"/rooms/"+r+"/event/"+e, nil).ok().str("content.body")
	}
	if status := wait(synapseadmin.ReqRedactUser{Rooms: []id.RoomID{id.RoomID(other)}, UseAdmin: true}); len(status.FailedRedactions) == 0 {
		t.Errorf("by an administrator who is not in the room: got %+v, want failures", status)
	}
	if body(other, events[2]) == "" {
		t.Error("who may not has redacted")
	}
	wait(synapseadmin.ReqRedactUser{Rooms: []id.RoomID{id.RoomID(room)}, Reason: "spam"})
	if body(room, events[0])+body(room, events[1]) != "" || body(other, events[2]) == "" || body(room, hers) == "" {
		t.Error("one room: the wrong events are redacted")
	}
	wait(synapseadmin.ReqRedactUser{})
	if body(other, events[2]) != "" {
		t.Error("all rooms: an event is left")
	}
	root.do("POST", adminAPI+"/v1/user/@eve:interior/redact", `{}`).fails(400, "M_MISSING_PARAM")
	root.do("POST", adminAPI+"/v1/user/@eve:interior/redact", `{"rooms":["!nothing:interior"]}`).fails(404, "M_NOT_FOUND")
	root.do("GET", adminAPI+"/v1/user/redact_status/nothing", nil).fails(404, "M_NOT_FOUND")
}

func TestAdminRegistrationTokens(t *testing.T) {
	cfg := testConfig()
	s := start(t, cfg)
	root := s.administrator("root")
	const path = adminAPI + "/v1/registration_tokens"
	made := root.do("POST", path+"/new", `{"token":"abc","uses_allowed":1}`).ok()
	if made.body.Raw != `{"token":"abc","uses_allowed":1,"pending":0,"completed":0,"expiry_time":null}` {
		t.Errorf("made: got %s", made.body.Raw)
	}
	root.do("POST", path+"/new", `{"token":"abc"}`).fails(400, "M_INVALID_PARAM")
	if a := root.do("POST", path+"/new", `{"length":20}`).ok(); len(a.str("token")) != 20 || a.body.Get("uses_allowed").Raw != "null" {
		t.Errorf("of chance: got %s", a.body.Raw)
	}
	if a := root.do("POST", path+"/new", `{}`).ok(); len(a.str("token")) != 16 {
		t.Errorf("by default: got %s", a.body.Raw)
	}
	for _, bad := range []string{`{"length":0}`, `{"length":65}`, `{"token":""}`, `{"token":"a b"}`, `{"uses_allowed":-1}`, `{"uses_allowed":"x"}`, `{"expiry_time":1}`, `{"token":"` + strings.Repeat("x", 65) + `"}`} {
		root.do("POST", path+"/new", bad).fails(400, "M_INVALID_PARAM")
	}
	soon := time.Now().Add(time.Hour).UnixMilli()
	if a := root.do("PUT", path+"/abc", map[string]any{"expiry_time": soon}).ok(); a.body.Get("expiry_time").Int() != soon || a.body.Get("uses_allowed").Int() != 1 {
		t.Errorf("changed: got %s", a.body.Raw)
	}
	root.do("PUT", path+"/abc", `{"uses_allowed":0,"expiry_time":null}`).ok()
	if a := root.do("GET", path+"?valid=true", nil).ok(); a.body.Get("registration_tokens.#").Int() != 2 {
		t.Errorf("valid ones: got %s", a.body.Raw)
	}
	if a := root.do("GET", path+"?valid=false", nil).ok(); a.str("registration_tokens.0.token") != "abc" {
		t.Errorf("others: got %s", a.body.Raw)
	}
	if a := root.do("GET", path, nil).ok(); a.body.Get("registration_tokens.#").Int() != 3 {
		t.Errorf("all: got %s", a.body.Raw)
	}
	root.do("GET", path+"/abc", nil).ok()
	root.do("DELETE", path+"/abc", nil).ok()
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		root.do(method, path+"/abc", "{}").fails(404, "M_NOT_FOUND")
	}
}

func TestAdminReports(t *testing.T) {
	s := start(t, testConfig())
	root, alice, eve := s.administrator("root"), s.register("alice"), s.register("eve")
	room := alice.room(`{"preset":"public_chat","name":"Hall"}`)
	eve.do("POST", v3+"/rooms/"+room+"/join", "{}").ok()
	event := eve.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/1", `{"msgtype":"m.text","body":"bad"}`).ok().str("event_id")
	for i := range 3 {
		alice.do("POST", v3+"/rooms/"+room+"/report/"+event, map[string]any{"reason": fmt.Sprint(i), "score": -50}).ok()
	}
	const path = adminAPI + "/v1/event_reports"
	list := root.do("GET", path+"?limit=2", nil).ok()
	if list.body.Get("total").Int() != 3 || list.body.Get("next_token").Int() != 2 || list.str("event_reports.0.reason") != "2" || list.str("event_reports.0.name") != "Hall" ||
		list.str("event_reports.0.sender") != "@eve:interior" || list.str("event_reports.0.user_id") != "@alice:interior" || list.body.Get("event_reports.0.score").Int() != -50 {
		t.Errorf("reports: got %s", list.body.Raw)
	}
	if a := root.do("GET", path+"?dir=f&user_id=ALICE&room_id=interior&sender_user_id=@eve:interior", nil).ok(); a.str("event_reports.0.reason") != "0" {
		t.Errorf("the oldest first: got %s", a.body.Raw)
	}
	if a := root.do("GET", path+"?user_id=eve", nil).ok(); a.body.Get("total").Int() != 0 {
		t.Errorf("by eve: got %s", a.body.Raw)
	}
	one := path + "/" + list.str("event_reports.0.id")
	if a := root.do("GET", one, nil).ok(); a.str("event_json.content.body") != "bad" {
		t.Errorf("a report: got %s", a.body.Raw)
	}
	root.do("DELETE", one, nil).ok()
	root.do("GET", one, nil).fails(404, "M_NOT_FOUND")
	root.do("GET", path+"/x", nil).fails(400, "M_INVALID_PARAM")
}

func TestAdminDestinations(t *testing.T) {
	s := start(t, testConfig())
	root := s.administrator("root")
	for server, failures := range map[string]int{"a.example": 0, "b.example": 3} {
		if err := s.store.Destinations.Attempted(t.Context(), server, failures, time.Now().Add(time.Hour).UnixMilli()); err != nil {
			t.Fatal(err)
		}
	}
	const path = adminAPI + "/v1/federation/destinations"
	list := root.do("GET", path+"?order_by=failure_ts&dir=b", nil).ok()
	if list.str("destinations.0.destination") != "b.example" || list.body.Get("total").Int() != 2 || list.body.Get("destinations.0.retry_interval").Int() < 3_000_000 ||
		list.body.Get("destinations.1.failure_ts").Raw != "null" || list.body.Get("destinations.1.retry_last_ts").Int() != 0 {
		t.Errorf("destinations: got %s", list.body.Raw)
	}
	if a := root.do("GET", path+"?limit=1", nil).ok(); a.str("next_token") != "1" {
		t.Errorf("a page: got %s", a.body.Raw)
	}
	root.do("GET", path+"/b.example", nil).ok()
	root.do("GET", path+"/b.example/rooms", nil).ok()
	root.do("POST", path+"/b.example/reset_connection", "{}").ok()
	root.do("POST", path+"/a.example/reset_connection", "{}").fails(400, "M_UNKNOWN")
	root.do("GET", path+"/c.example", nil).fails(404, "M_NOT_FOUND")
	root.do("GET", path+"?order_by=x", nil).fails(400, "M_INVALID_PARAM")
}

func TestAdminMedia(t *testing.T) {
	s := start(t, testConfig())
	root, alice := s.administrator("root"), s.register("alice")
	upload := func(body string) string {
		t.Helper()
		uri := alice.do("POST", "/_matrix/media/v3/upload?filename="+body+".txt", body).ok().str("content_uri")
		return strings.TrimPrefix(uri, "mxc://interior/")
	}
	a, b, c := upload("aaaa"), upload("bb"), upload("c")
	get := func(media string) *answer {
		return alice.do("GET", "/_matrix/client/v1/media/download/interior/"+media, nil)
	}
	one := adminAPI + "/v1/users/@alice:interior/media"
	list := root.do("GET", one+"?order_by=media_length&dir=b&limit=2", nil).ok()
	if list.str("media.0.media_id") != a || list.body.Get("total").Int() != 3 || list.body.Get("next_token").Int() != 2 || list.str("media.0.upload_name") != "aaaa.txt" {
		t.Errorf("alice's media: got %s", list.body.Raw)
	}
	root.do("POST", adminAPI+"/v1/media/quarantine/interior/"+a, "{}").ok()
	get(a).fails(404, "M_NOT_FOUND")
	if i := root.do("GET", adminAPI+"/v1/media/interior/"+a, nil).ok(); i.str("media_info.quarantined_by") != "@root:interior" || i.str("media_info.user_id") != "@alice:interior" {
		t.Errorf("the file: got %s", i.body.Raw)
	}
	root.do("POST", adminAPI+"/v1/media/unquarantine/interior/"+a, "{}").ok()
	if got := get(a); got.code != 200 {
		t.Errorf("after that: got %d", got.code)
	}
	root.do("POST", adminAPI+"/v1/media/protect/"+b, "{}").ok()
	if q := root.do("POST", adminAPI+"/v1/user/@alice:interior/media/quarantine", "{}").ok(); q.body.Get("num_quarantined").Int() != 2 {
		t.Errorf("all of alice's: got %s", q.body.Raw)
	}
	root.do("POST", adminAPI+"/v1/media/unprotect/"+b, "{}").ok()
	room := alice.room(`{}`)
	alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/1", `{"msgtype":"m.file","body":"x","url":"mxc://interior/`+b+`"}`).ok()
	alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/2", `{"msgtype":"m.file","body":"x","url":"mxc://elsewhere/x"}`).ok()
	if m := root.do("GET", adminAPI+"/v1/room/"+room+"/media", nil).ok(); m.str("local.0") != "mxc://interior/"+b || m.str("remote.0") != "mxc://elsewhere/x" {
		t.Errorf("the room's media: got %s", m.body.Raw)
	}
	if q := root.do("POST", adminAPI+"/v1/room/"+room+"/media/quarantine", "{}").ok(); q.body.Get("num_quarantined").Int() != 1 {
		t.Errorf("the room's: got %s", q.body.Raw)
	}
	if d := root.do("DELETE", adminAPI+"/v1/media/interior/"+a, nil).ok(); d.str("deleted_media.0") != a || d.body.Get("total").Int() != 1 {
		t.Errorf("deleted: got %s", d.body.Raw)
	}
	root.do("DELETE", adminAPI+"/v1/media/interior/"+a, nil).fails(404, "M_NOT_FOUND")
	root.do("DELETE", adminAPI+"/v1/media/elsewhere/"+a, nil).fails(400, "M_INVALID_PARAM")
	if st := root.do("GET", adminAPI+"/v1/statistics/users/media?search_term=ALI", nil).ok(); st.body.Get("users.0.media_count").Int() != 2 || st.body.Get("users.0.media_length").Int() != 3 {
		t.Errorf("statistics: got %s", st.body.Raw)
	}
	if d := root.do("DELETE", one+"?limit=1", nil).ok(); d.str("deleted_media.0") != c {
		t.Errorf("the newest of alice's: got %s", d.body.Raw)
	}
	later := fmt.Sprint(time.Now().Add(time.Hour).UnixMilli())
	root.do("POST", adminAPI+"/v1/media/delete?before_ts="+later+"&size_gt=100", "{}").ok()
	if d := root.do("POST", adminAPI+"/v1/media/interior/delete?before_ts="+later, "").ok(); d.body.Get("total").Int() != 1 {
		t.Errorf("old ones: got %s", d.body.Raw)
	}
	if p := root.do("POST", adminAPI+"/v1/purge_media_cache?before_ts="+later, "").ok(); p.body.Get("deleted").Raw != "0" {
		t.Errorf("copies: got %s", p.body.Raw)
	}
	for path, errcode := range map[string]string{"delete": "M_MISSING_PARAM", "delete?before_ts=1": "M_INVALID_PARAM", "protect/nothing": "M_NOT_FOUND", "elsewhere/delete?before_ts=" + later: "M_INVALID_PARAM"} {
		if got := root.do("POST", adminAPI+"/v1/media/"+path, "{}"); got.str("errcode") != errcode {
			t.Errorf("%s: got %d %s, want %s", path, got.code, got.body.Raw, errcode)
		}
	}
	root.do("GET", one+"?order_by=x", nil).fails(400, "M_INVALID_PARAM")
}
