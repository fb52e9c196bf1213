package rooms

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/view"
	"chancery/storage/bus"
)

const (
	// maxHierarchy bounds the rooms of one page, maxTree those that a walk through a tree comes to.
	maxHierarchy = 50
	maxTree      = 1000
	// maxRemoteSpaces bounds how often one request asks other servers.
	maxRemoteSpaces = 20
)

// node is a room in a tree of spaces.
type node struct {
	*view.Summary
	Children []json.RawMessage `json:"children_state"`
}

// Hierarchy handles GET /_matrix/client/v1/rooms/{roomId}/hierarchy.
// Spec: client-server-api/#get_matrixclientv1roomsroomidhierarchy
func (h *Handlers) Hierarchy(r *rest.Request) (any, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	limit, err := r.Int("limit", maxHierarchy, 1, maxHierarchy)
	if err != nil {
		return nil, err
	}
	depth, err := r.Int("max_depth", maxTree, 0, maxTree)
	if err != nil {
		return nil, err
	}
	suggested, err := r.Bool("suggested_only")
	if err != nil {
		return nil, err
	}
	from, err := parseHierarchyToken(r.Query("from"))
	if err != nil {
		return nil, err
	}
	if from != nil && (from.Depth != depth || from.Suggested != suggested) {
		return nil, mautrix.MInvalidParam.WithMessage("max_depth and suggested_only have to stay as they were when the walk began")
	}
	t := &tree{
		Handlers: h, user: r.By.User, suggested: suggested, want: from.skip() + limit + 1,
		known: map[id.RoomID]bool{}, told: map[id.RoomID]*view.Summary{},
	}
	if err := t.visit(r.Context(), roomID, nil, depth); err != nil {
		return nil, err
	}
	if len(t.nodes) == 0 {
		return nil, mautrix.MForbidden.WithMessage("You may not see this room")
	}
	answer := struct {
		Rooms []node `json:"rooms"`
		Next  string `json:"next_batch,omitempty"`
	}{}
	start := from.after(t.nodes)
	end := min(start+limit, len(t.nodes))
	answer.Rooms = emptied(t.nodes[start:end])
	if end < len(t.nodes) {
		answer.Next = hierarchyToken{Skip: end, Room: t.nodes[end-1].RoomID, Depth: depth, Suggested: suggested}.String()
	}
	return answer, nil
}

// hierarchyToken says where a walk through a tree goes on: after a room, or, should that be gone, after so many.
type hierarchyToken struct {
	Skip      int       `json:"s"`
	Room      id.RoomID `json:"r"`
	Depth     int       `json:"d"`
	Suggested bool      `json:"g,omitempty"`
}

func (t hierarchyToken) String() string { return base64.RawURLEncoding.EncodeToString(object(t)) }

// parseHierarchyToken reads a token; nil for none.
func parseHierarchyToken(text string) (*hierarchyToken, error) {
	if text == "" {
		return nil, nil
	}
	const maxToken = 1024
	t := &hierarchyToken{}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) > maxToken || rest.Decode(raw, t) != nil || t.Skip < 1 || t.Skip > maxTree {
		return nil, badToken
	}
	return t, nil
}

// spareNodes is by how many rooms a tree may have grown before the place where the walk goes on.
const spareNodes = 50

func (t *hierarchyToken) skip() int {
	if t == nil {
		return 0
	}
	return t.Skip + spareNodes
}

// after gives the place in the list where the walk goes on.
func (t *hierarchyToken) after(nodes []node) int {
	if t == nil {
		return 0
	}
	if i := slices.IndexFunc(nodes, func(n node) bool { return n.RoomID == t.Room }); i >= 0 {
		return i + 1
	}
	return min(t.Skip, len(nodes))
}

// tree is a walk through a tree of spaces, depth first, as far as one user may see it.
type tree struct {
	*Handlers
	user      id.UserID
	suggested bool
	// want is how many rooms suffice.
	want  int
	nodes []node
	known map[id.RoomID]bool
	// told are rooms that other servers have summed up along with their spaces.
	told  map[id.RoomID]*view.Summary
	asked int
}

// visit takes a room in, and then its children.
func (t *tree) visit(ctx context.Context, roomID id.RoomID, servers []string, depth int) error {
	if t.known[roomID] || len(t.nodes) >= t.want || len(t.known) >= maxTree {
		return nil
	}
	t.known[roomID] = true
	summary, children, err := t.look(ctx, roomID, servers)
	if err != nil || summary == nil {
		return err
	}
	if ok, err := t.mayPreview(ctx, t.user, summary); !ok || err != nil {
		return err
	}
	n := node{Summary: summary, Children: []json.RawMessage{}}
	for _, c := range children {
		n.Children = append(n.Children, c.Event)
	}
	t.nodes = append(t.nodes, n)
	if depth == 0 {
		return nil
	}
	for _, c := range children {
		if err := t.visit(ctx, c.RoomID, c.Servers, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// look sums a room up: from what we hold if we are in it, or else by asking.
func (t *tree) look(ctx context.Context, roomID id.RoomID, servers []string) (*view.Summary, []view.Child, error) {
	room, err := t.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return nil, nil, err
	}
	if room != nil && room.Joined {
		summary, err := t.view.Summary(ctx, roomID)
		if err != nil {
			return nil, nil, err
		}
		children, err := t.view.Children(ctx, roomID, t.suggested)
		return summary, children, err
	}
	if told := t.told[roomID]; told != nil && told.RoomType != "m.space" {
		return told, nil, nil
	}
	if t.asked++; t.asked > maxRemoteSpaces {
		return t.told[roomID], nil, nil
	}
	remote, err := t.preview(ctx, roomID, t.candidates(ctx, roomID, t.user, servers), t.suggested)
	if err != nil || remote == nil {
		return t.told[roomID], nil, nil // that nobody knows one child is no reason to hide the others
	}
	for _, child := range remote.Children {
		t.told[child.RoomID] = child
	}
	return &remote.Room.Summary, remote.Room.children(), nil
}

// remoteHierarchy is another server's answer about a room and its children.
// Spec: server-server-api/#get_matrixfederationv1hierarchyroomid
type remoteHierarchy struct {
	Room     remoteRoom      `json:"room"`
	Children []*view.Summary `json:"children"`
}

type remoteRoom struct {
	view.Summary
	State []json.RawMessage `json:"children_state"`
}

// children reads the links to children.
func (r *remoteRoom) children() []view.Child {
	var children []view.Child
	for _, raw := range r.State {
		var link struct {
			Type    string    `json:"type"`
			RoomID  id.RoomID `json:"state_key"`
			Content struct {
				Via       []string `json:"via"`
				Suggested bool     `json:"suggested"`
			} `json:"content"`
		}
		if json.Unmarshal(raw, &link) == nil && link.Type == event.StateSpaceChild.Type && len(link.Content.Via) > 0 {
			children = append(children, view.Child{RoomID: link.RoomID, Servers: link.Content.Via, Suggested: link.Content.Suggested, Event: raw})
		}
	}
	return children
}

// preview asks other servers about a room that we are not in; nil if none of them knows it.
func (h *Handlers) preview(ctx context.Context, roomID id.RoomID, servers []string, suggested bool) (*remoteHierarchy, error) {
	if len(servers) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := h.federation(ctx, bus.FederationQuestion{Hierarchy: &bus.Hierarchy{RoomID: roomID, Servers: servers, SuggestedOnly: suggested}})
	if err != nil {
		return nil, err
	}
	var found remoteHierarchy
	if err := json.Unmarshal(answer.Body, &found); err != nil || found.Room.RoomID != roomID {
		return nil, nil
	}
	return &found, nil
}

// mayPreview says whether somebody may see a room's summary: who is or was asked in, and anybody where the room is open.
// Spec: client-server-api/#get_matrixclientv1roomsroomidhierarchy
func (h *Handlers) mayPreview(ctx context.Context, user id.UserID, s *view.Summary) (bool, error) {
	if s.Public() || s.Knockable() || s.WorldReadable {
		return true, nil
	}
	if user == "" {
		return false, nil
	}
	m, err := h.store.Memberships.Of(ctx, s.RoomID, user)
	if err != nil || stands(m, event.MembershipJoin, event.MembershipInvite) {
		return err == nil, err
	}
	if !s.Restricted() {
		return false, nil
	}
	for _, other := range s.AllowedRooms {
		if joined, err := h.store.Memberships.Joined(ctx, other, user); joined || err != nil {
			return joined, err
		}
	}
	return false, nil
}

// RoomSummary handles GET /_matrix/client/v1/room_summary/{roomIdOrAlias}.
// Spec: client-server-api/#get_matrixclientv1room_summaryroomidoralias
func (h *Handlers) RoomSummary(r *rest.Request) (any, error) {
	roomID, servers, err := h.named(r, r.Path("roomIdOrAlias"))
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	unknown := mautrix.MNotFound.WithMessage("There is no such room, or you may not see it")
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return nil, err
	}
	var summary *view.Summary
	if room != nil && room.Joined {
		if summary, err = h.view.Summary(ctx, roomID); err != nil {
			return nil, err
		}
	} else if r.By.User != "" {
		remote, err := h.preview(ctx, roomID, h.candidates(ctx, roomID, r.By.User, servers), false)
		if err != nil {
			return nil, unknown
		}
		if remote != nil {
			summary = &remote.Room.Summary
		}
	}
	if summary == nil {
		return nil, unknown
	}
	if ok, err := h.mayPreview(ctx, r.By.User, summary); err != nil {
		return nil, err
	} else if !ok {
		return nil, unknown
	}
	answer := struct {
		*view.Summary
		Membership event.Membership `json:"membership,omitempty"`
	}{Summary: summary}
	if r.By.User != "" {
		m, err := h.store.Memberships.Of(ctx, roomID, r.By.User)
		if err != nil {
			return nil, err
		}
		answer.Membership = event.MembershipLeave
		if m != nil {
			answer.Membership = m.Membership
		}
	}
	return answer, nil
}
