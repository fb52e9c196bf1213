package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

const (
	// maxSearched bounds the events that one search looks through, all rooms together; older ones are not found.
	maxSearched = 20_000
	// maxTerm bounds a search term.
	maxTerm = 500
)

// searchRequest is the body of a search.
type searchRequest struct {
	Categories struct {
		RoomEvents *struct {
			Term         string      `json:"search_term"`
			Keys         []string    `json:"keys"`
			Filter       eventFilter `json:"filter"`
			OrderBy      string      `json:"order_by"`
			IncludeState bool        `json:"include_state"`
			Context      *struct {
				Before   *int `json:"before_limit"`
				After    *int `json:"after_limit"`
				Profiles bool `json:"include_profile"`
			} `json:"event_context"`
			Groupings struct {
				By []struct {
					Key string `json:"key"`
				} `json:"group_by"`
			} `json:"groupings"`
		} `json:"room_events"`
	} `json:"search_categories"`
}

// searchResult is one event that was found.
type searchResult struct {
	Rank    float64         `json:"rank"`
	Result  json.RawMessage `json:"result"`
	Context *searchContext  `json:"context,omitempty"`
}

type searchContext struct {
	Start    string                    `json:"start"`
	End      string                    `json:"end"`
	Before   []json.RawMessage         `json:"events_before"`
	After    []json.RawMessage         `json:"events_after"`
	Profiles map[id.UserID]shownMember `json:"profile_info,omitempty"`
}

type shownMember struct {
	DisplayName string `json:"displayname,omitempty"`
	AvatarURL   string `json:"avatar_url,omitempty"`
}

type searchGroup struct {
	Order   int          `json:"order"`
	Results []id.EventID `json:"results"`
}

type searchAnswer struct {
	Count      int                                `json:"count"`
	Results    []searchResult                     `json:"results"`
	Highlights []string                           `json:"highlights"`
	Next       string                             `json:"next_batch,omitempty"`
	State      map[id.RoomID][]json.RawMessage    `json:"state,omitempty"`
	Groups     map[string]map[string]*searchGroup `json:"groups,omitempty"`
}

// Search handles POST /_matrix/client/v3/search. It looks through the newest events of the rooms that the user is in, and
// finds those that hold every word of the term; the newest come first, whatever order is asked for.
// Spec: client-server-api/#post_matrixclientv3search
func (h *Handlers) Search(r *rest.Request) (any, error) {
	var req searchRequest
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	q := req.Categories.RoomEvents
	if q == nil {
		return map[string]any{"search_categories": rest.Empty}, nil
	}
	words := wordsOf(q.Term)
	if len(words) == 0 || len(q.Term) > maxTerm {
		return nil, mautrix.MInvalidParam.WithMessage("search_term is missing, or too long")
	}
	skip := 0
	if token := r.Query("next_batch"); token != "" {
		var err error
		if skip, err = strconv.Atoi(strings.TrimPrefix(token, "n")); err != nil || skip < 0 {
			return nil, badToken
		}
	}
	limit := 10
	if q.Filter.Limit > 0 {
		limit = min(q.Filter.Limit, 100)
	}
	ctx := r.Context()
	found, err := h.search(ctx, r.By.User, words, q.Keys, &q.Filter)
	if err != nil {
		return nil, err
	}
	page := found[min(skip, len(found)):min(skip+limit, len(found))]
	answer := searchAnswer{Count: len(found), Highlights: words, Results: []searchResult{}}
	if len(page) == limit {
		answer.Next = "n" + strconv.Itoa(skip+limit)
	}
	rendered, err := h.view.Client(ctx, viewer(r), page)
	if err != nil {
		return nil, err
	}
	for i, e := range page {
		result := searchResult{Rank: 1, Result: rendered[i]}
		if q.Context != nil {
			before, after := 5, 5
			if q.Context.Before != nil {
				before = min(max(*q.Context.Before, 0), 50)
			}
			if q.Context.After != nil {
				after = min(max(*q.Context.After, 0), 50)
			}
			if result.Context, err = h.searchContext(r, e, before, after, q.Context.Profiles); err != nil {
				return nil, err
			}
		}
		answer.Results = append(answer.Results, result)
	}
	for _, by := range q.Groupings.By {
		answer.group(by.Key, page)
	}
	if q.IncludeState {
		if answer.State, err = h.searchState(r, page); err != nil {
			return nil, err
		}
	}
	return map[string]any{"search_categories": map[string]any{"room_events": answer}}, nil
}

// wordsOf are the words of a text, in lower case.
func wordsOf(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })
}

// searchable is the text of an event that can be found, of the keys that are asked for.
func searchable(e *storage.Event, keys []string) string {
	field := map[string]string{
		event.EventMessage.Type: "content.body", event.StateRoomName.Type: "content.name", event.StateTopic.Type: "content.topic",
	}[e.Type]
	if field == "" || len(keys) > 0 && !slices.Contains(keys, field) {
		return ""
	}
	return gjson.GetBytes(e.JSON, field).Str
}

// search finds events, the newest first.
func (h *Handlers) search(ctx context.Context, user id.UserID, words, keys []string, f *eventFilter) ([]*storage.Event, error) {
	list, err := h.store.Memberships.ByUser(ctx, user, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	var rooms []id.RoomID
	for _, m := range list {
		if (f.Rooms == nil || slices.Contains(*f.Rooms, m.RoomID)) && !slices.Contains(f.NotRooms, m.RoomID) {
			rooms = append(rooms, m.RoomID)
		}
	}
	var found []*storage.Event
	for _, roomID := range rooms {
		part, err := h.searchRoom(ctx, user, roomID, max(maxSearched/len(rooms), 200), words, keys, f)
		if err != nil {
			return nil, err
		}
		found = append(found, part...)
	}
	slices.SortStableFunc(found, func(a, b *storage.Event) int { return int(b.Number - a.Number) })
	return found, nil
}

// searchRoom looks through the newest events of one room.
func (h *Handlers) searchRoom(ctx context.Context, user id.UserID, roomID id.RoomID, most int, words, keys []string, f *eventFilter) ([]*storage.Event, error) {
	var matching []*storage.Event
	at := lastPage
	for looked := 0; looked < most; {
		rows, err := h.store.Events.Backwards(ctx, roomID, at, 500)
		if err != nil {
			return nil, err
		}
		for _, e := range rows {
			if e.RedactedBy == "" && f.allows(e) && holds(searchable(e, keys), words) {
				matching = append(matching, e)
			}
		}
		if looked += len(rows); len(rows) < 500 {
			break
		}
		at = rows[len(rows)-1].PageOf()
	}
	return h.view.Visible(ctx, user, matching)
}

// holds says whether every word stands in the text.
func holds(text string, words []string) bool {
	if text == "" {
		return false
	}
	there := wordsOf(text)
	for _, word := range words {
		if !slices.Contains(there, word) {
			return false
		}
	}
	return true
}

// searchContext is what was said before and after an event.
func (h *Handlers) searchContext(r *rest.Request, e *storage.Event, before, after int, profiles bool) (*searchContext, error) {
	ctx, c := r.Context(), &searchContext{Start: e.PageOf().String()}
	c.End = c.Start
	var all []*storage.Event
	for _, side := range []struct {
		backwards bool
		limit     int
		into      *[]json.RawMessage
		token     *string
	}{{true, before, &c.Before, &c.Start}, {false, after, &c.After, &c.End}} {
		w := &walk{room: e.RoomID, user: r.By.User, backwards: side.backwards, from: e.PageOf(), limit: side.limit, filter: &eventFilter{}}
		// What we hold is enough: nobody is asked for history because of a search.
		if err := h.walk(ctx, &access{}, w); err != nil {
			return nil, err
		}
		rendered, err := h.view.Client(ctx, viewer(r), w.found)
		if err != nil {
			return nil, err
		}
		*side.into, *side.token = emptied(rendered), w.next.String()
		all = append(all, w.found...)
	}
	if !profiles {
		return c, nil
	}
	members, err := h.senderEvents(ctx, append(all, e))
	if err != nil {
		return nil, err
	}
	c.Profiles = map[id.UserID]shownMember{}
	for _, e := range members {
		c.Profiles[id.UserID(*e.StateKey)] = shownMember{contentText(e, "displayname"), contentText(e, "avatar_url")}
	}
	return c, nil
}

// searchState is the current state of the rooms in which something was found.
func (h *Handlers) searchState(r *rest.Request, page []*storage.Event) (map[id.RoomID][]json.RawMessage, error) {
	state := map[id.RoomID][]json.RawMessage{}
	for _, e := range page {
		if state[e.RoomID] != nil {
			continue
		}
		room, err := h.store.Rooms.ByID(r.Context(), e.RoomID)
		if err != nil || room == nil {
			return nil, err
		}
		events, err := h.stateAt(r.Context(), room.State)
		if err != nil {
			return nil, err
		}
		if state[e.RoomID], err = h.view.Client(r.Context(), viewer(r), events); err != nil {
			return nil, err
		}
	}
	return state, nil
}

// group sorts what was found by room or by sender.
func (a *searchAnswer) group(by string, page []*storage.Event) {
	if by != "room_id" && by != "sender" {
		return
	}
	groups := map[string]*searchGroup{}
	for _, e := range page {
		key := string(e.RoomID)
		if by == "sender" {
			key = string(e.Sender)
		}
		if groups[key] == nil {
			groups[key] = &searchGroup{Order: len(groups) + 1}
		}
		groups[key].Results = append(groups[key].Results, e.ID)
	}
	if a.Groups == nil {
		a.Groups = map[string]map[string]*searchGroup{}
	}
	a.Groups[by] = groups
}
