package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// ministries are two servers that federate, with people at each and everybody's sync running.
type ministries struct {
	t *testing.T
	// interior has anna and jonas, finance has claire and tomasz.
	interior, finance           *testHouse
	anna, jonas, claire, tomasz *mautrix.Client
	hears                       map[*mautrix.Client]*listener
}

// openMinistriesOf starts both servers on the given kind of database, and registers the people.
func openMinistriesOf(t *testing.T, database func() string) *ministries {
	t.Helper()
	houses := openHouses(t, database, "interior.test", "finance.test")
	m := &ministries{t: t, interior: houses[0], finance: houses[1], hears: map[*mautrix.Client]*listener{}}
	m.anna, m.jonas = m.interior.person("anna"), m.interior.person("jonas")
	m.claire, m.tomasz = m.finance.person("claire"), m.finance.person("tomasz")
	for _, client := range []*mautrix.Client{m.anna, m.jonas, m.claire, m.tomasz} {
		m.hears[client] = listen(t, client)
	}
	return m
}

// on gives the fixture to a subtest: what fails there fails it alone.
func (m *ministries) on(t *testing.T) *ministries {
	at := *m
	at.t = t
	at.hears = map[*mautrix.Client]*listener{}
	for client, l := range m.hears {
		l.t = t
		at.hears[client] = l
	}
	return &at
}

// room makes a room of the host's, with the guests in it, wherever they are.
func (m *ministries) room(request *mautrix.ReqCreateRoom, host *mautrix.Client, guests ...*mautrix.Client) id.RoomID {
	m.t.Helper()
	for _, guest := range guests {
		request.Invite = append(request.Invite, guest.UserID)
	}
	if request.Preset == "" {
		request.Preset = "private_chat"
	}
	room := must(host.CreateRoom(m.t.Context(), request))(m.t, "create room").RoomID
	for _, guest := range guests {
		m.hears[guest].untilMember(room, guest.UserID, event.MembershipInvite)
		m.join(guest, room)
	}
	for _, guest := range guests {
		m.hears[host].untilMember(room, guest.UserID, event.MembershipJoin)
	}
	return room
}

// join joins by room ID; an invite says by which server.
func (m *ministries) join(who *mautrix.Client, room id.RoomID, via ...string) {
	m.t.Helper()
	must(who.JoinRoom(m.t.Context(), room.String(), &mautrix.ReqJoinRoom{Via: via}))(m.t, fmt.Sprintf("join %s as %s", room, who.UserID))
}

// say sends a message.
func (m *ministries) say(who *mautrix.Client, room id.RoomID, text string) id.EventID {
	m.t.Helper()
	return must(who.SendText(m.t.Context(), room, text))(m.t, fmt.Sprintf("say %q as %s", text, who.UserID)).EventID
}

// stateByKey reads the room's state as event IDs by type and state key.
func stateByKey(t *testing.T, who *mautrix.Client, room id.RoomID) map[string]id.EventID {
	t.Helper()
	ids := map[string]id.EventID{}
	for _, ev := range must(who.StateAsArray(t.Context(), room))(t, "read state as "+who.UserID.String()) {
		ids[ev.Type.Type+"|"+ev.GetStateKey()] = ev.ID
	}
	return ids
}

// sameState fails unless both see the same state, event by event.
func sameState(t *testing.T, room id.RoomID, a, b *mautrix.Client) {
	t.Helper()
	left, right := stateByKey(t, a, room), stateByKey(t, b, room)
	for key, ev := range left {
		if right[key] != ev {
			t.Errorf("%s of %s: %s for %s, %s for %s", key, room, ev, a.UserID, right[key], b.UserID)
		}
	}
	for key, ev := range right {
		if _, has := left[key]; !has {
			t.Errorf("%s of %s: none for %s, %s for %s", key, room, a.UserID, ev, b.UserID)
		}
	}
}

// history pages back through the whole room and returns its messages' texts, oldest first. An event that comes twice
// is an error.
func history(t *testing.T, who *mautrix.Client, room id.RoomID) []string {
	t.Helper()
	return historyBy(t, who, room, 10)
}

// historyBy is history with so many events a page.
func historyBy(t *testing.T, who *mautrix.Client, room id.RoomID, limit int) []string {
	t.Helper()
	var texts []string
	seen := map[id.EventID]bool{}
	from := ""
	for page := 0; page < 1000; page++ {
		answer := must(who.Messages(t.Context(), room, from, "", mautrix.DirectionBackward, nil, limit))(t, "page back as "+who.UserID.String())
		for _, ev := range answer.Chunk {
			if seen[ev.ID] {
				t.Errorf("%s paging %s back: %s came twice", who.UserID, room, ev.ID)
			}
			seen[ev.ID] = true
			if ev.Type.Type == event.EventMessage.Type {
				body, _ := ev.Content.Raw["body"].(string)
				texts = append(texts, body)
			}
		}
		if answer.End == "" {
			slices.Reverse(texts)
			return texts
		}
		from = answer.End
	}
	t.Fatalf("%s paging %s back: no end after 1000 pages", who.UserID, room)
	return nil
}

// TestFederation lets two ministries meet, on each database.
func TestFederation(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		m := openMinistriesOf(t, database)
		for _, scene := range []struct {
			name string
			play func(*ministries)
		}{
			{"messages", (*ministries).playMessages},
			{"versions", (*ministries).playVersions},
			{"invite", (*ministries).playInvite},
			{"state", (*ministries).playState},
			{"redaction", (*ministries).playRedaction},
			{"membership", (*ministries).playMembership},
			{"knock", (*ministries).playKnock},
			{"history", (*ministries).playHistory},
			{"profile", (*ministries).playProfile},
			{"typing", (*ministries).playTyping},
			{"receipts", (*ministries).playReceipts},
			{"to-device", (*ministries).playToDevice},
			{"device list", (*ministries).playDeviceList},
			{"media", (*ministries).playMedia},
			{"alias", (*ministries).playAlias},
			{"public rooms", (*ministries).playPublicRooms},
			{"restart", (*ministries).playRestart},
		} {
			t.Run(scene.name, func(t *testing.T) { scene.play(m.on(t)) })
		}
	})
}

// playMessages has both sides speak at once: each hears everything once, each speaker's words in order.
func (m *ministries) playMessages() {
	const each = 20
	room := m.room(&mautrix.ReqCreateRoom{}, m.anna, m.jonas, m.claire)
	speakers := []*mautrix.Client{m.anna, m.jonas, m.claire}
	var wg sync.WaitGroup
	for _, speaker := range speakers {
		wg.Go(func() {
			for n := range each {
				if _, err := speaker.SendText(m.t.Context(), room, fmt.Sprintf("%s %02d", speaker.UserID.Localpart(), n)); err != nil {
					m.t.Errorf("%s, message %d: %v", speaker.UserID, n, err)
				}
			}
		})
	}
	wg.Wait()
	for _, reader := range speakers {
		for _, speaker := range speakers {
			m.hears[reader].untilText(room, fmt.Sprintf("%s %02d", speaker.UserID.Localpart(), each-1))
		}
		heard := map[string][]string{}
		for _, ev := range m.hears[reader].seen {
			if ev.RoomID == room && ev.Type == event.EventMessage {
				name, _, _ := strings.Cut(ev.Content.AsMessage().Body, " ")
				heard[name] = append(heard[name], ev.Content.AsMessage().Body)
			}
		}
		for _, speaker := range speakers {
			name := speaker.UserID.Localpart()
			if len(heard[name]) != each || !slices.IsSorted(heard[name]) {
				m.t.Errorf("%s heard from %s: %q, want %d messages in order", reader.UserID, name, heard[name], each)
			}
		}
		if got := len(history(m.t, reader, room)); got != each*len(speakers) {
			m.t.Errorf("%s pages back through %d messages, want %d", reader.UserID, got, each*len(speakers))
		}
	}
}

// playVersions carries a message each way in every room version that we create.
func (m *ministries) playVersions() {
	for _, version := range pdu.Versions() {
		m.t.Run(string(version), func(t *testing.T) {
			m := m.on(t)
			room := m.room(&mautrix.ReqCreateRoom{RoomVersion: version}, m.anna, m.claire)
			m.say(m.anna, room, "over")
			m.hears[m.claire].untilText(room, "over")
			m.say(m.claire, room, "and back")
			m.hears[m.anna].untilText(room, "and back")
			sameState(t, room, m.anna, m.claire)
		})
	}
}

// playInvite invites across: the guest learns of the room what an invite tells, and may refuse.
func (m *ministries) playInvite() {
	room := must(m.anna.CreateRoom(m.t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat", Name: "Budget talks"}))(m.t, "create").RoomID
	invite := func() {
		m.t.Helper()
		must(m.anna.InviteUser(m.t.Context(), room, &mautrix.ReqInviteUser{UserID: m.claire.UserID, Reason: "numbers"}))(m.t, "invite")
	}
	invite()
	m.hears[m.claire].until("the invited room's name", func(ev *event.Event) bool {
		return ev.RoomID == room && ev.Type == event.StateRoomName && ev.Mautrix.EventSource&event.SourceInvite != 0 && ev.Content.AsRoomName().Name == "Budget talks"
	})
	m.hears[m.claire].untilMember(room, m.claire.UserID, event.MembershipInvite)
	must(m.claire.LeaveRoom(m.t.Context(), room, &mautrix.ReqLeave{}))(m.t, "refuse the invite")
	m.hears[m.anna].untilMember(room, m.claire.UserID, event.MembershipLeave)
	m.hears[m.anna].forget(room)
	m.hears[m.claire].forget(room)
	invite()
	m.hears[m.claire].untilMember(room, m.claire.UserID, event.MembershipInvite)
	m.join(m.claire, room)
	m.hears[m.anna].untilMember(room, m.claire.UserID, event.MembershipJoin)
	sameState(m.t, room, m.anna, m.claire)
}

// playState changes state from both sides, as power levels allow.
func (m *ministries) playState() {
	room := m.room(&mautrix.ReqCreateRoom{}, m.anna, m.claire, m.tomasz)
	ctx := m.t.Context()
	must(m.anna.SendStateEvent(ctx, room, event.StateTopic, "", &event.TopicEventContent{Topic: "from interior"}))(m.t, "set topic")
	m.hears[m.claire].until("the topic", func(ev *event.Event) bool {
		return ev.RoomID == room && ev.Type == event.StateTopic && ev.Content.AsTopic().Topic == "from interior"
	})
	_, err := m.claire.SendStateEvent(ctx, room, event.StateRoomName, "", &event.RoomNameEventContent{Name: "too early"})
	wantRefused(m.t, err, 403, "M_FORBIDDEN", "name the room without power")

	var levels event.PowerLevelsEventContent
	if err := m.anna.StateEvent(ctx, room, event.StatePowerLevels, "", &levels); err != nil {
		m.t.Fatal(err)
	}
	levels.SetUserLevel(m.claire.UserID, 50)
	must(m.anna.SendStateEvent(ctx, room, event.StatePowerLevels, "", &levels))(m.t, "give power")
	m.hears[m.claire].until("her power", func(ev *event.Event) bool {
		return ev.RoomID == room && ev.Type == event.StatePowerLevels && ev.Content.AsPowerLevels().GetUserLevel(m.claire.UserID) == 50
	})
	must(m.claire.SendStateEvent(ctx, room, event.StateRoomName, "", &event.RoomNameEventContent{Name: "named by finance"}))(m.t, "name the room")
	m.hears[m.anna].until("the name", func(ev *event.Event) bool {
		return ev.RoomID == room && ev.Type == event.StateRoomName && ev.Content.AsRoomName().Name == "named by finance"
	})
	sameState(m.t, room, m.anna, m.claire)
	sameState(m.t, room, m.claire, m.tomasz)
}

// playRedaction takes words back on both sides.
func (m *ministries) playRedaction() {
	room := m.room(&mautrix.ReqCreateRoom{}, m.anna, m.claire)
	target := m.say(m.anna, room, "a slip of the tongue")
	m.hears[m.claire].untilText(room, "a slip of the tongue")
	redaction := must(m.anna.RedactEvent(m.t.Context(), room, target, mautrix.ReqRedact{Reason: "slip"}))(m.t, "redact").EventID
	m.hears[m.claire].until("the redaction", func(ev *event.Event) bool {
		return ev.ID == redaction && ev.Redacts == target || ev.ID == redaction && ev.Content.Raw["redacts"] == target.String()
	})
	for _, who := range []*mautrix.Client{m.anna, m.claire} {
		ev := must(who.GetEvent(m.t.Context(), room, target))(m.t, "read the redacted event as "+who.UserID.String())
		if ev.Content.Raw["body"] != nil || ev.Unsigned.RedactedBecause == nil || ev.Unsigned.RedactedBecause.ID != redaction {
			m.t.Errorf("redacted event for %s: got content %s and redacted_because %v, want none and %s", who.UserID, ev.Content.VeryRaw, ev.Unsigned.RedactedBecause, redaction)
		}
	}
	other := m.say(m.anna, room, "this stays")
	m.hears[m.claire].untilText(room, "this stays")
	_, err := m.claire.RedactEvent(m.t.Context(), room, other)
	wantRefused(m.t, err, 403, "M_FORBIDDEN", "redact another's message without power")
}

// playMembership kicks, leaves, bans and comes back, across servers.
func (m *ministries) playMembership() {
	ctx := m.t.Context()
	room := m.room(&mautrix.ReqCreateRoom{}, m.anna, m.claire, m.tomasz)

	must(m.anna.KickUser(ctx, room, &mautrix.ReqKickUser{UserID: m.tomasz.UserID, Reason: "test"}))(m.t, "kick")
	m.hears[m.tomasz].untilMember(room, m.tomasz.UserID, event.MembershipLeave)
	m.hears[m.claire].untilMember(room, m.tomasz.UserID, event.MembershipLeave)
	_, err := m.tomasz.SendText(ctx, room, "am I still here?")
	wantRefused(m.t, err, 403, "M_FORBIDDEN", "speak after the kick")
	_, err = m.tomasz.JoinRoom(ctx, room.String(), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}})
	wantRefused(m.t, err, 403, "M_FORBIDDEN", "come back uninvited")

	// The last one of finance leaves: the room ends there, and is joined anew with what happened meanwhile.
	must(m.claire.LeaveRoom(ctx, room))(m.t, "leave")
	m.hears[m.anna].untilMember(room, m.claire.UserID, event.MembershipLeave)
	m.say(m.anna, room, "nobody at finance may read this now")
	m.hears[m.claire].forget(room)
	m.hears[m.tomasz].forget(room)
	must(m.anna.InviteUser(ctx, room, &mautrix.ReqInviteUser{UserID: m.claire.UserID}))(m.t, "invite again")
	m.hears[m.claire].untilMember(room, m.claire.UserID, event.MembershipInvite)
	m.join(m.claire, room)
	m.say(m.claire, room, "back again")
	m.hears[m.anna].untilText(room, "back again")
	m.say(m.anna, room, "welcome back")
	m.hears[m.claire].untilText(room, "welcome back")
	sameState(m.t, room, m.anna, m.claire)

	must(m.anna.BanUser(ctx, room, &mautrix.ReqBanUser{UserID: m.claire.UserID}))(m.t, "ban")
	m.hears[m.claire].untilMember(room, m.claire.UserID, event.MembershipBan)
	_, err = m.claire.JoinRoom(ctx, room.String(), &mautrix.ReqJoinRoom{Via: []string{"interior.test"}})
	wantRefused(m.t, err, 403, "M_FORBIDDEN", "join while banned")
	must(m.anna.UnbanUser(ctx, room, &mautrix.ReqUnbanUser{UserID: m.claire.UserID}))(m.t, "unban")
	if _, err := m.claire.ForgetRoom(ctx, room); err != nil {
		m.t.Errorf("forget: %v", err)
	}
}

// playKnock knocks at a room of the other server and is let in.
func (m *ministries) playKnock() {
	ctx := m.t.Context()
	room := must(m.anna.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", InitialState: []*event.Event{{
		Type: event.StateJoinRules, StateKey: new(string), Content: event.Content{Raw: map[string]any{"join_rule": "knock"}},
	}}}))(m.t, "create").RoomID
	must(m.claire.KnockRoom(ctx, room.String(), &mautrix.ReqKnockRoom{Via: []string{"interior.test"}, Reason: "may I?"}))(m.t, "knock")
	m.hears[m.anna].untilMember(room, m.claire.UserID, event.MembershipKnock)
	must(m.anna.InviteUser(ctx, room, &mautrix.ReqInviteUser{UserID: m.claire.UserID}))(m.t, "let in")
	m.hears[m.claire].untilMember(room, m.claire.UserID, event.MembershipInvite)
	m.join(m.claire, room)
	m.hears[m.anna].untilMember(room, m.claire.UserID, event.MembershipJoin)
}

// playHistory joins late: what was said before is fetched from the other server, page by page.
func (m *ministries) playHistory() {
	room := m.room(&mautrix.ReqCreateRoom{Preset: "public_chat"}, m.anna)
	var want []string
	for n := range 45 {
		want = append(want, fmt.Sprintf("before you came %02d", n))
		m.say(m.anna, room, want[n])
	}
	m.join(m.claire, room, "interior.test")
	want = append(want, "after")
	m.say(m.anna, room, "after")
	m.hears[m.claire].untilText(room, "after")
	if got := history(m.t, m.claire, room); !slices.Equal(got, want) {
		m.t.Errorf("claire pages back through %q, want %q", got, want)
	}
}

// playProfile sees a new name of a member on the other side, in the room and when asked for.
func (m *ministries) playProfile() {
	room := m.room(&mautrix.ReqCreateRoom{}, m.anna, m.claire)
	if err := m.claire.SetDisplayName(m.t.Context(), "Claire Fontaine"); err != nil {
		m.t.Fatal(err)
	}
	m.hears[m.anna].until("claire's name", func(ev *event.Event) bool {
		return ev.RoomID == room && ev.Type == event.StateMember && ev.GetStateKey() == m.claire.UserID.String() && ev.Content.AsMember().Displayname == "Claire Fontaine"
	})
	if got := must(m.anna.GetDisplayName(m.t.Context(), m.claire.UserID))(m.t, "ask for the profile").DisplayName; got != "Claire Fontaine" {
		m.t.Errorf("profile from afar: got %q, want Claire Fontaine", got)
	}
}

// playTyping sees somebody type on the other side, and stop.
func (m *ministries) playTyping() {
	room := m.room(&mautrix.ReqCreateRoom{}, m.anna, m.claire)
	types := func(want bool) {
		m.t.Helper()
		must(m.claire.UserTyping(m.t.Context(), room, want, 20*time.Second))(m.t, "type")
		m.hears[m.anna].forget(room)
		m.hears[m.anna].until(fmt.Sprintf("claire typing: %v", want), func(ev *event.Event) bool {
			return ev.RoomID == room && ev.Type == event.EphemeralEventTyping && slices.Contains(ev.Content.AsTyping().UserIDs, m.claire.UserID) == want
		})
	}
	types(true)
	types(false)
}

// playReceipts sees on the other side what was read; a private receipt stays at home.
func (m *ministries) playReceipts() {
	room := m.room(&mautrix.ReqCreateRoom{}, m.anna, m.claire, m.tomasz)
	first := m.say(m.anna, room, "one")
	m.hears[m.claire].untilText(room, "one")
	second := m.say(m.anna, room, "two")
	m.hears[m.claire].untilText(room, "two")
	reads := func(ev *event.Event, user id.UserID, kind event.ReceiptType, target id.EventID) bool {
		if ev.RoomID != room || ev.Type != event.EphemeralEventReceipt {
			return false
		}
		_, has := (*ev.Content.AsReceipt())[target][kind][user]
		return has
	}
	if err := m.claire.SendReceipt(m.t.Context(), room, first, event.ReceiptTypeReadPrivate, nil); err != nil {
		m.t.Fatal(err)
	}
	m.hears[m.claire].until("her own private receipt", func(ev *event.Event) bool {
		return reads(ev, m.claire.UserID, event.ReceiptTypeReadPrivate, first)
	})
	if err := m.claire.MarkRead(m.t.Context(), room, second); err != nil {
		m.t.Fatal(err)
	}
	for _, reader := range []*mautrix.Client{m.anna, m.tomasz} {
		m.hears[reader].until("claire's receipt", func(ev *event.Event) bool {
			return reads(ev, m.claire.UserID, event.ReceiptTypeRead, second)
		})
		for _, ev := range m.hears[reader].seen {
			if reads(ev, m.claire.UserID, event.ReceiptTypeReadPrivate, first) {
				m.t.Errorf("%s saw claire's private receipt", reader.UserID)
			}
		}
	}
}

// playToDevice sends to one device on the other side; the same transaction again is not sent twice.
func (m *ministries) playToDevice() {
	kind := event.Type{Type: "test.chancery.note", Class: event.ToDeviceEventType}
	send := func(note string, transaction string) {
		m.t.Helper()
		path := m.anna.BuildClientURL("v3", "sendToDevice", kind.Type, transaction)
		body := map[string]any{"messages": map[id.UserID]any{m.claire.UserID: map[string]any{m.claire.DeviceID.String(): map[string]any{"note": note}}}}
		if _, err := m.anna.MakeRequest(m.t.Context(), http.MethodPut, path, body, nil); err != nil {
			m.t.Fatalf("send to device: %v", err)
		}
	}
	send("first", "transaction1")
	send("first", "transaction1")
	send("last", "transaction2")
	m.hears[m.claire].until("the last note", func(ev *event.Event) bool { return ev.Type.Type == kind.Type && ev.Content.Raw["note"] == "last" })
	var notes []any
	for _, ev := range m.hears[m.claire].seen {
		if ev.Type.Type == kind.Type {
			notes = append(notes, ev.Content.Raw["note"])
			if ev.Sender != m.anna.UserID {
				m.t.Errorf("the note came from %s, want %s", ev.Sender, m.anna.UserID)
			}
		}
	}
	if fmt.Sprint(notes) != "[first last]" {
		m.t.Errorf("claire's device got %v, want [first last]", notes)
	}
}

// playDeviceList tells the other side of a new device, and of its end.
func (m *ministries) playDeviceList() {
	ctx := m.t.Context()
	m.room(&mautrix.ReqCreateRoom{}, m.anna, m.claire)
	devices := func() map[id.DeviceID]mautrix.DeviceKeys {
		m.t.Helper()
		answer := must(m.anna.QueryKeys(ctx, &mautrix.ReqQueryKeys{DeviceKeys: mautrix.DeviceKeysRequest{m.claire.UserID: {}}}))(m.t, "query keys")
		if len(answer.Failures) > 0 {
			m.t.Errorf("query keys: failures %v", answer.Failures)
		}
		return answer.DeviceKeys[m.claire.UserID]
	}
	devices() // whose keys nobody has asked for has no news for anybody
	since := must(m.anna.SyncRequest(ctx, 0, "", "", false, ""))(m.t, "sync").NextBatch
	changed := func() {
		m.t.Helper()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			answer := must(m.anna.SyncRequest(ctx, 5000, since, "", false, ""))(m.t, "sync")
			since = answer.NextBatch
			if slices.Contains(answer.DeviceLists.Changed, m.claire.UserID) {
				return
			}
		}
		m.t.Fatalf("anna was not told of claire's devices within %v", patience)
	}

	second := must(mautrix.NewClient(m.finance.url, "", ""))(m.t, "client")
	must(second.Login(ctx, &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Password: testPassword("claire"), StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: "claire"},
	}))(m.t, "second device")
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		m.t.Fatal(err)
	}
	ed, curve := base64.RawStdEncoding.EncodeToString(public), strings.Repeat("B", 43)
	unsigned, err := canonicaljson.Marshal(map[string]any{
		"user_id": second.UserID, "device_id": second.DeviceID, "algorithms": []id.Algorithm{id.AlgorithmMegolmV1},
		"keys": mautrix.KeyMap{
			id.NewDeviceKeyID(id.KeyAlgorithmEd25519, second.DeviceID):    ed,
			id.NewDeviceKeyID(id.KeyAlgorithmCurve25519, second.DeviceID): curve,
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	keys := mautrix.DeviceKeys{Signatures: map[id.UserID]map[id.KeyID]string{second.UserID: {
		id.NewKeyID(id.KeyAlgorithmEd25519, second.DeviceID.String()): base64.RawStdEncoding.EncodeToString(ed25519.Sign(private, unsigned)),
	}}}
	if err := json.Unmarshal(unsigned, &keys); err != nil {
		m.t.Fatal(err)
	}
	must(second.UploadKeys(ctx, &mautrix.ReqUploadKeys{DeviceKeys: &keys}))(m.t, "upload keys")
	changed()
	if got, has := devices()[second.DeviceID]; !has || got.Keys.GetEd25519(second.DeviceID).String() != ed {
		m.t.Errorf("claire's second device from afar: got %v (%v), want key %s", got.Keys, has, ed)
	}
	must(second.Logout(ctx))(m.t, "end the second device")
	changed()
	if got, has := devices()[second.DeviceID]; has {
		m.t.Errorf("claire's ended device is still told: %v", got)
	}
}

// playMedia fetches from the other server what was uploaded there.
func (m *ministries) playMedia() {
	content := make([]byte, 200_000)
	rand.Read(content)
	uploaded := must(m.anna.UploadBytesWithName(m.t.Context(), content, "application/octet-stream", "figures.bin"))(m.t, "upload").ContentURI
	for range 2 { // the second time from our own copy
		answer := must(m.claire.Download(m.t.Context(), uploaded))(m.t, "download")
		got, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || !bytes.Equal(got, content) {
			m.t.Fatalf("media from afar: %d bytes and %v, want %d", len(got), err, len(content))
		}
		if got := answer.Header.Get("Content-Disposition"); !strings.Contains(got, "attachment") || !strings.Contains(got, "figures.bin") {
			m.t.Errorf("Content-Disposition from afar: got %q, want an attachment figures.bin", got)
		}
	}
	_, err := m.claire.Download(m.t.Context(), id.ContentURI{Homeserver: "interior.test", FileID: "nosuchfile"})
	wantRefused(m.t, err, 404, "M_NOT_FOUND", "fetch what is not there")
}

// playAlias finds a room by the other server's alias.
func (m *ministries) playAlias() {
	ctx := m.t.Context()
	room := m.room(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomAliasName: "desk" + strings.ToLower(rand.Text()[:6])}, m.anna)
	aliases := must(m.anna.GetAliases(ctx, room))(m.t, "read aliases").Aliases
	if len(aliases) != 1 {
		m.t.Fatalf("aliases: got %v, want one", aliases)
	}
	found := must(m.claire.ResolveAlias(ctx, aliases[0]))(m.t, "resolve")
	if found.RoomID != room || !slices.Contains(found.Servers, "interior.test") {
		m.t.Errorf("resolved to %s by %v, want %s by interior.test", found.RoomID, found.Servers, room)
	}
	if joined := must(m.claire.JoinRoom(ctx, aliases[0].String(), nil))(m.t, "join by alias").RoomID; joined != room {
		m.t.Errorf("joined %s, want %s", joined, room)
	}
	m.hears[m.anna].untilMember(room, m.claire.UserID, event.MembershipJoin)
	_, err := m.claire.ResolveAlias(ctx, "#nosuch:interior.test")
	wantRefused(m.t, err, 404, "M_NOT_FOUND", "resolve an alias that is not there")
}

// playPublicRooms reads the other server's directory; a private room is not in it.
func (m *ministries) playPublicRooms() {
	public := m.room(&mautrix.ReqCreateRoom{Preset: "public_chat", Visibility: "public", Name: "Canteen"}, m.anna)
	private := m.room(&mautrix.ReqCreateRoom{Name: "Cellar"}, m.anna)
	answer := must(m.claire.PublicRooms(m.t.Context(), &mautrix.ReqPublicRooms{Server: "interior.test"}))(m.t, "public rooms")
	var named []id.RoomID
	for _, room := range answer.Chunk {
		named = append(named, room.RoomID)
		if room.RoomID == public && (room.Name != "Canteen" || room.NumJoinedMembers != 1) {
			m.t.Errorf("canteen: got %+v", room)
		}
	}
	if !slices.Contains(named, public) || slices.Contains(named, private) {
		m.t.Errorf("interior's directory: got %v, want %s and not %s", named, public, private)
	}
}

// playRestart stops a server: the other speaks on, and it catches up; a transaction ID is remembered.
func (m *ministries) playRestart() {
	ctx := m.t.Context()
	room := m.room(&mautrix.ReqCreateRoom{}, m.anna, m.claire)
	want := []string{"before"}
	const transaction = "over-the-restart"
	first := must(m.claire.SendMessageEvent(ctx, room, event.EventMessage, &event.MessageEventContent{MsgType: event.MsgText, Body: "before"}, mautrix.ReqSendEvent{TransactionID: transaction}))(m.t, "send").EventID
	m.hears[m.anna].untilText(room, "before")

	m.finance.close()
	for n := range 30 {
		want = append(want, fmt.Sprintf("while you slept %02d", n))
		m.say(m.anna, room, want[len(want)-1])
	}
	must(m.anna.SendStateEvent(ctx, room, event.StateTopic, "", &event.TopicEventContent{Topic: "meanwhile"}))(m.t, "set topic")
	m.finance.open()
	// Whoever speaks to a server that was away is spoken to again at once.
	again := must(m.claire.SendMessageEvent(ctx, room, event.EventMessage, &event.MessageEventContent{MsgType: event.MsgText, Body: "before"}, mautrix.ReqSendEvent{TransactionID: transaction}))(m.t, "send again").EventID
	if again != first {
		m.t.Errorf("the same transaction after a restart made %s, want %s again", again, first)
	}
	m.say(m.claire, room, "good morning")
	m.hears[m.anna].untilText(room, "good morning")
	m.hears[m.claire].until("the topic", func(ev *event.Event) bool {
		return ev.RoomID == room && ev.Type == event.StateTopic && ev.Content.AsTopic().Topic == "meanwhile"
	})
	for _, reader := range []*mautrix.Client{m.anna, m.claire} {
		got := history(m.t, reader, room)
		if i := slices.Index(got, "good morning"); i >= 0 { // it was said when finance had not heard the rest
			got = slices.Delete(got, i, i+1)
		}
		if !slices.Equal(got, want) {
			m.t.Errorf("%s after the restart: %q, want %q", reader.UserID, got, want)
		}
	}
	sameState(m.t, room, m.anna, m.claire)
}

// wantRefused fails unless err is a refusal with that status and errcode.
func wantRefused(t *testing.T, err error, status int, code, doing string) {
	t.Helper()
	if gotCode, gotStatus := errcode(err); gotStatus != status || gotCode != code {
		t.Errorf("%s: got %d %s (%v), want %d %s", doing, gotStatus, gotCode, err, status, code)
	}
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
