// Package membership carries memberships across servers: joining, knocking, inviting and leaving, each in both roles. One file
// holds both directions of one of them: how we ask another server, and how we answer one.
//
// What a reader must not break:
//   - we sign only what we have built ourselves from known fields, or what we have checked field by field (an invite);
//   - nothing that another server answers is believed before its signatures and hashes are checked;
//   - the room server judges and writes: a joined room's state is handed over as outliers and an unattached snapshot.
package membership

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/bus"
)

// Membership asks and answers other servers about memberships. It is safe for concurrent use.
type Membership struct {
	name   string
	client *remote.Client
	ring   *remote.Ring
	store  *storage.Store
	bus    *bus.Bus
	view   *view.Reader
	now    func() time.Time
	// entrances are the rooms that we are joining now.
	entrances entrances
}

// New makes it.
func New(client *remote.Client, ring *remote.Ring, store *storage.Store, b *bus.Bus) *Membership {
	return &Membership{name: client.ServerName(), client: client, ring: ring, store: store, bus: b, view: view.New(store), now: time.Now}
}

// maxServers bounds how many servers are tried for one question.
const maxServers = 15

// askTime bounds a question that a person waits for.
const askTime = 20 * time.Second

// eachServer tries the servers in their order until one does it. Otherwise the most telling error comes back: a refusal by rule
// before one that cannot be helped, and any refusal before a failure on the way.
func (m *Membership) eachServer(ctx context.Context, servers []string, try func(server string) error) error {
	var last error
	tried := map[string]bool{m.name: true}
	for _, server := range servers {
		if tried[server] || len(tried) > maxServers {
			continue
		}
		tried[server] = true
		err := try(server)
		if err == nil {
			return nil
		}
		if last == nil || weight(err) >= weight(last) {
			last = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if last == nil {
		return bus.Refuse(http.StatusNotFound, "M_NOT_FOUND", "No server is known that could help to reach the room")
	}
	return refusal(last)
}

func weight(err error) int {
	said, ok := remote.Refused(err)
	switch {
	case !ok:
		return 0
	case said.StatusCode >= 500 || said.StatusCode == http.StatusNotFound:
		return 1
	case said.StatusCode == http.StatusForbidden:
		return 3
	}
	return 2
}

// refusal turns the failure of a question into what a client is told.
func refusal(err error) error {
	var known *bus.Refusal
	if errors.As(err, &known) {
		return err
	}
	if said, ok := remote.Refused(err); ok {
		status := said.StatusCode
		if status >= 500 {
			status = http.StatusBadGateway
		}
		return &bus.Refusal{Status: status, Code: said.ErrCode, Message: said.Err, Extra: said.ExtraData}
	}
	if errors.Is(err, remote.ErrNotAllowed) {
		return bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", "This server does not federate with that one")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return bus.Refuse(http.StatusGatewayTimeout, "M_UNKNOWN", "The other server did not answer in time")
	}
	return fmt.Errorf("%w (%w)", bus.Refuse(http.StatusBadGateway, "M_UNKNOWN", "The other server cannot be reached, or makes no sense"), err)
}

// askRoom puts a question to a room, and gives its first outcome.
func (m *Membership) askRoom(ctx context.Context, room id.RoomID, q bus.RoomQuestion) (bus.Outcome, error) {
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, m.bus, bus.RoomDo(room), q)
	if err != nil {
		return bus.Outcome{}, fmt.Errorf("ask room %s: %w", room, err)
	}
	if len(answer.Outcomes) == 0 {
		return bus.Outcome{}, fmt.Errorf("ask room %s: no outcome", room)
	}
	return answer.Outcomes[0], nil
}

// template is what make_join and its kin answer.
type template struct {
	Version id.RoomVersion  `json:"room_version"`
	Event   json.RawMessage `json:"event"`
}

// make asks a server for a template, and checks that it is what we asked for and nothing else.
func (m *Membership) make(ctx context.Context, server, question string, room id.RoomID, user id.UserID, is event.Membership) (template, error) {
	q := remote.Request{
		Server: server, Method: http.MethodGet, Path: []string{"v1", question, string(room), string(user)}, Query: url.Values{}, Timeout: askTime,
	}
	if question != "make_leave" {
		for _, v := range pdu.Versions() {
			q.Query.Add("ver", string(v))
		}
	}
	var t template
	if err := m.client.Ask(ctx, q, &t); err != nil {
		return t, err
	}
	if t.Version == "" {
		t.Version = id.RoomV1
	}
	if !pdu.Known(t.Version) {
		return t, &bus.Refusal{
			Status: http.StatusBadRequest, Code: "M_INCOMPATIBLE_ROOM_VERSION", Message: "This server does not know the room's version",
			Extra: map[string]any{"room_version": string(t.Version)},
		}
	}
	e := gjson.ParseBytes(t.Event)
	if !e.IsObject() || e.Get("type").Str != "m.room.member" || e.Get("state_key").Str != string(user) || e.Get("sender").Str != string(user) ||
		e.Get("room_id").Str != string(room) || e.Get("content.membership").Str != string(is) {
		return t, fmt.Errorf("%s by %s: the template is not what was asked for", question, server)
	}
	return t, nil
}

// build makes our event of a template: of all that the other server wrote, only the references, the depth and the authorising
// user are taken over.
// Spec: server-server-api/#joining-rooms
func (m *Membership) build(t template, room id.RoomID, user id.UserID, content json.RawMessage) (gomatrixserverlib.PDU, error) {
	key := string(user)
	draft := pdu.Draft{
		Type: "m.room.member", StateKey: &key, Sender: user, RoomID: room, Content: content,
		Depth: gjson.GetBytes(t.Event, "depth").Int(), Timestamp: m.now(), Hashes: map[id.EventID][]byte{},
	}
	var err error
	if draft.PrevEvents, err = m.references(t, "prev_events", pdu.MaxPrevEvents, draft.Hashes); err != nil {
		return nil, err
	}
	if draft.AuthEvents, err = m.references(t, "auth_events", pdu.MaxAuthEvents, draft.Hashes); err != nil {
		return nil, err
	}
	return pdu.Build(t.Version, draft, m.client.Keys().Signer())
}

func (m *Membership) references(t template, field string, most int, hashes map[id.EventID][]byte) ([]id.EventID, error) {
	var ids []id.EventID
	for _, item := range gjson.GetBytes(t.Event, field).Array() {
		eventID := item.Str
		if item.IsArray() {
			eventID = item.Get("0").Str
			hash, err := base64.RawStdEncoding.DecodeString(item.Get("1.sha256").Str)
			if err != nil {
				return nil, fmt.Errorf("template: hash in %s: %w", field, err)
			}
			hashes[id.EventID(eventID)] = hash
		}
		if !pdu.ValidEventID(t.Version, eventID) {
			return nil, fmt.Errorf("template: malformed event ID in %s", field)
		}
		ids = append(ids, id.EventID(eventID))
	}
	if len(ids) > most {
		return nil, fmt.Errorf("template: %d %s", len(ids), field)
	}
	return ids, nil
}

// content makes a member event's content: what our user says of itself, and the membership.
func content(given json.RawMessage, is event.Membership, extra map[string]string) (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if len(given) > 0 {
		if err := json.Unmarshal(given, &fields); err != nil {
			return nil, fmt.Errorf("content: %w", err)
		}
	}
	delete(fields, "join_authorised_via_users_server")
	delete(fields, "third_party_invite")
	set := func(key, value string) {
		raw, _ := json.Marshal(value)
		fields[key] = raw
	}
	set("membership", string(is))
	for key, value := range extra {
		set(key, value)
	}
	return json.Marshal(fields)
}

// arrived is a member event that another server handed in for one of its users, parsed.
type arrived struct {
	room id.RoomID
	ev   gomatrixserverlib.PDU
	// version of the room.
	version id.RoomVersion
	// authoriser of a restricted join, empty if none is named.
	authoriser id.UserID
}

// check reads a member event handed in by its user's server: the right kind of event, in the room and with the ID that the path
// names, by the origin's own user for itself.
func (m *Membership) check(ctx context.Context, origin string, room id.RoomID, eventID id.EventID, raw json.RawMessage, is event.Membership) (*arrived, error) {
	version, err := m.ourRoom(ctx, origin, room)
	if err != nil {
		return nil, err
	}
	ev, err := pdu.Parse(version, raw)
	if err != nil {
		return nil, malformed(err)
	}
	a := &arrived{room: room, ev: ev, version: version}
	membership, _ := ev.Membership()
	switch {
	case ev.Redacted():
		return nil, mautrix.MBadJSON.WithMessage("The event's content hash is wrong")
	case ev.Type() != "m.room.member" || ev.StateKey() == nil || membership != string(is):
		return nil, mautrix.MBadJSON.WithMessage("Not a member event with membership %s", is)
	case pdu.RoomIDOf(ev) != room:
		return nil, mautrix.MBadJSON.WithMessage("The event is for another room")
	case id.EventID(ev.EventID()) != eventID:
		return nil, mautrix.MBadJSON.WithMessage("The event's ID is not the one in the path")
	case *ev.StateKey() != string(ev.SenderID()):
		return nil, mautrix.MBadJSON.WithMessage("Sender and state key differ")
	case pdu.Sender(ev).Homeserver() != origin:
		return nil, mautrix.MForbidden.WithMessage("The sender is not a user of %s", origin)
	}
	if is == event.MembershipJoin && version.RestrictedJoins() {
		a.authoriser = id.UserID(gjson.GetBytes(ev.Content(), "join_authorised_via_users_server").Str)
	}
	return a, nil
}

// ourRoom gives the version of a room that we are in and that admits the origin.
func (m *Membership) ourRoom(ctx context.Context, origin string, roomID id.RoomID) (id.RoomVersion, error) {
	room, err := m.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return "", err
	}
	if room == nil || !room.Joined {
		return "", mautrix.MNotFound.WithMessage("Unknown room")
	}
	acl, err := m.view.ACL(ctx, roomID)
	if err != nil {
		return "", err
	}
	if !acl.Allows(origin) {
		return "", mautrix.MForbidden.WithMessage("%s is banned from this room by its server ACL", origin)
	}
	return room.Version, nil
}

// own checks that a user belongs to the server that asks.
func own(origin string, user id.UserID) error {
	if !pdu.ValidUserID(string(user)) || user.Homeserver() != origin {
		return mautrix.MForbidden.WithMessage("The user is not one of %s", origin)
	}
	return nil
}

// draft answers make_join and its kin.
func (m *Membership) draft(ctx context.Context, origin string, room id.RoomID, user id.UserID, is event.Membership) (template, error) {
	if err := own(origin, user); err != nil {
		return template{}, err
	}
	if _, err := m.ourRoom(ctx, origin, room); err != nil {
		return template{}, err
	}
	key := string(user)
	raw, err := content(nil, is, nil)
	if err != nil {
		return template{}, err
	}
	outcome, err := m.askRoom(ctx, room, bus.RoomQuestion{Draft: &bus.Proposal{
		Sender: user, Type: "m.room.member", StateKey: &key, Content: raw, Unsigned: true,
	}})
	return template{outcome.Version, outcome.Event}, err
}

// compatible checks that the asker knows the room's version.
func (m *Membership) compatible(ctx context.Context, origin string, room id.RoomID, versions []string) error {
	version, err := m.ourRoom(ctx, origin, room)
	if err != nil {
		return err
	}
	if len(versions) == 0 {
		versions = []string{string(id.RoomV1)}
	}
	if slices.Contains(versions, string(version)) {
		return nil
	}
	refusal := mautrix.MIncompatibleRoomVersion.WithMessage("Your server does not know this room's version %s", version)
	refusal.StatusCode = http.StatusBadRequest
	refusal.ExtraData = map[string]any{"room_version": string(version)}
	return refusal
}

// take hands a checked event to its room, which must accept it, and sends it on to the other servers.
func (m *Membership) take(ctx context.Context, origin string, a *arrived, raw json.RawMessage) error {
	events, errs := m.ring.Believe(ctx, a.version, a.room, []json.RawMessage{raw})
	if errs[0] != nil {
		return mautrix.MForbidden.WithMessage("The event's signatures could not be verified")
	}
	received := &bus.Received{Origin: origin, Version: a.version, Onward: true}
	server, key, err := m.view.PolicyServer(ctx, a.room)
	if err != nil {
		return err
	}
	if server != "" {
		var approved bool
		if events[0], approved = m.client.Approved(ctx, server, key, events[0]); !approved {
			received.Unapproved = []int{0}
		}
	}
	received.PDUs = []json.RawMessage{events[0].JSON()}
	outcome, err := m.askRoom(ctx, a.room, bus.RoomQuestion{Receive: received})
	if err != nil {
		return err
	}
	switch outcome.Verdict {
	case bus.Accepted, bus.Known:
	case bus.Missing:
		return mautrix.MBadState.WithMessage("The event stands on events that this server does not have").WithStatus(http.StatusBadRequest)
	default:
		return mautrix.MForbidden.WithMessage("The room does not allow it: %s", outcome.Reason)
	}
	return nil
}

// malformed tells what is wrong with an event that cannot be parsed.
func malformed(err error) error {
	if errors.Is(err, pdu.ErrTooLarge) {
		return mautrix.MTooLarge.WithMessage("The event is too large")
	}
	return mautrix.MBadJSON.WithMessage("Malformed event: %s", strings.TrimPrefix(err.Error(), "pdu: "))
}
