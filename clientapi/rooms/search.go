package rooms

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

const (
	// maxExamined bounds the hits that one search looks at: of those the searcher may not see all, nor may the filter let all
	// through.
	maxExamined = 1000
	// maxTerm bounds a search term.
	maxTerm = 500
)

// searchRequest is the body of a search.
type searchRequest struct {
	Categories struct {
		RoomEvents *searchCriteria `json:"room_events"`
	} `json:"search_categories"`
}

type searchCriteria struct {
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
	Next    string       `json:"next_batch,omitempty"`
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

// searchToken says where a search goes on.
type searchToken struct {
	// Place and Number are those of the last result, where the newest come first; Skip the hits gone over, where the best do.
	Place  storage.Place `json:"p,omitempty"`
	Number int64         `json:"n,omitempty"`
	Skip   int           `json:"s,omitempty"`
	// Count was found by the first page.
	Count int `json:"c"`
	// Group and Value keep to one group.
	Group string `json:"g,omitempty"`
	Value string `json:"v,omitempty"`
}

func (t searchToken) String() string {
	return base64.RawURLEncoding.EncodeToString(object(t))
}

// parseSearchToken reads a token; nil for none.
func parseSearchToken(text string) (*searchToken, error) {
	if text == "" {
		return nil, nil
	}
	const maxToken = 2048
	raw, err := base64.RawURLEncoding.DecodeString(text)
	t := &searchToken{}
	if err != nil || len(raw) > maxToken || rest.Decode(raw, t) != nil || t.Skip < 0 || t.Count < 0 {
		return nil, badToken
	}
	return t, nil
}

// noSearch answers where there is no index.
var noSearch = mautrix.MUnknown.WithStatus(http.StatusBadRequest).WithMessage("Search is not available: this server was built without full-text search")

// Search handles POST /_matrix/client/v3/search.
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
	if !h.store.Search.Available() {
		return nil, noSearch
	}
	s, err := h.searchOf(r, q)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	h.index.await(ctx)
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	answer := searchAnswer{Count: s.count, Results: []searchResult{}, Highlights: highlights(s.words, s.page)}
	if len(s.page) == s.limit {
		answer.Next = s.next.String()
	}
	rendered, err := h.view.Client(ctx, viewer(r), s.page)
	if err != nil {
		return nil, err
	}
	for i, e := range s.page {
		result := searchResult{Rank: s.ranks[i], Result: rendered[i]}
		if result.Context, err = h.contextOf(r, q, e); err != nil {
			return nil, err
		}
		answer.Results = append(answer.Results, result)
	}
	for _, by := range q.Groupings.By {
		answer.group(by.Key, s)
	}
	if q.IncludeState {
		if answer.State, err = h.searchState(r, s.page); err != nil {
			return nil, err
		}
	}
	return map[string]any{"search_categories": map[string]any{"room_events": answer}}, nil
}

// search is one search under way.
type search struct {
	*Handlers
	user   id.UserID
	filter *eventFilter
	words  []string
	query  storage.SearchQuery
	token  *searchToken
	limit  int

	page  []*storage.Event
	ranks []float64
	next  searchToken
	count int
}

// searchFields are the fields that can be asked for.
var searchFields = map[string]storage.SearchKey{
	"content.body": storage.SearchBody, "content.name": storage.SearchName, "content.topic": storage.SearchTopic,
}

// searchOf checks what is asked, and where the user may look for it.
func (h *Handlers) searchOf(r *rest.Request, q *searchCriteria) (*search, error) {
	s := &search{Handlers: h, user: r.By.User, filter: &q.Filter, words: storage.SearchWords(q.Term), limit: 10}
	if len(s.words) == 0 || len(q.Term) > maxTerm {
		return nil, mautrix.MInvalidParam.WithMessage("search_term is missing, or too long")
	}
	if q.Filter.Limit > 0 {
		s.limit = min(q.Filter.Limit, 100)
	}
	s.query = storage.SearchQuery{Words: s.words}
	switch q.OrderBy {
	case "", "rank":
		s.query.ByRank = true
	case "recent":
	default:
		return nil, mautrix.MInvalidParam.WithMessage("order_by is neither rank nor recent")
	}
	for _, key := range q.Keys {
		field, ok := searchFields[key]
		if !ok {
			return nil, mautrix.MInvalidParam.WithMessage("%q cannot be searched", key)
		}
		s.query.Keys = append(s.query.Keys, field)
	}
	for _, by := range q.Groupings.By {
		if by.Key != groupByRoom && by.Key != groupBySender {
			return nil, mautrix.MInvalidParam.WithMessage("Results are grouped by room_id or sender alone")
		}
	}
	var err error
	if s.token, err = parseSearchToken(r.Query("next_batch")); err != nil {
		return nil, err
	}
	// Rooms that the user has left too: up to that moment they can be read.
	list, err := h.store.Memberships.ByUser(r.Context(), s.user, event.MembershipJoin, event.MembershipLeave, event.MembershipBan)
	for _, m := range list {
		if (q.Filter.Rooms == nil || slices.Contains(*q.Filter.Rooms, m.RoomID)) && !slices.Contains(q.Filter.NotRooms, m.RoomID) {
			s.query.Rooms = append(s.query.Rooms, m.RoomID)
		}
	}
	return s, err
}

// run goes over the hits until the page is full; the first page goes on, to count them.
func (s *search) run(ctx context.Context) error {
	first := s.token == nil
	if !first {
		s.next, s.count = *s.token, s.token.Count
		if s.query.ByRank {
			s.query.Skip = s.token.Skip
		} else {
			s.query.Before = &storage.Page{Place: s.token.Place, Number: s.token.Number}
		}
	}
	s.query.Limit = 100
	for examined := 0; examined < maxExamined && (first || len(s.page) < s.limit); examined += s.query.Limit {
		hits, err := s.store.Search.Find(ctx, s.query)
		if err != nil {
			return err
		}
		if err := s.take(ctx, hits, first); err != nil {
			return err
		}
		if len(hits) < s.query.Limit {
			break
		}
		last := hits[len(hits)-1]
		if s.query.Skip += len(hits); !s.query.ByRank {
			s.query.Skip, s.query.Before = 0, &storage.Page{Place: last.Place, Number: last.Number}
		}
	}
	s.next.Count = s.count
	return nil
}

// take adds to the page, and to the count, what of the hits the user may see.
func (s *search) take(ctx context.Context, hits []storage.SearchHit, count bool) error {
	numbers := make([]int64, len(hits))
	for i, hit := range hits {
		numbers[i] = hit.Number
	}
	events, err := s.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return err
	}
	if events, err = s.view.Visible(ctx, s.user, events); err != nil {
		return err
	}
	seen := make(map[int64]*storage.Event, len(events))
	for _, e := range events {
		seen[e.Number] = e
	}
	for i, hit := range hits {
		e := seen[hit.Number]
		if e == nil || e.RedactedBy != "" || !s.filter.allows(e) || !s.inGroup(e) {
			continue
		}
		if count {
			s.count++
		}
		if len(s.page) < s.limit {
			s.page, s.ranks = append(s.page, e), append(s.ranks, hit.Rank)
			s.next.Place, s.next.Number, s.next.Skip = hit.Place, hit.Number, 0
			if s.query.ByRank {
				s.next.Place, s.next.Number, s.next.Skip = 0, 0, s.query.Skip+i+1
			}
		}
	}
	return nil
}

// inGroup says whether the event is of the group to which the token keeps.
func (s *search) inGroup(e *storage.Event) bool {
	return s.token == nil || s.token.Group == "" || s.token.Value == groupOf(s.token.Group, e)
}

// highlights are the words of the results that were searched for, as they stand there: accents and all.
func highlights(words []string, page []*storage.Event) []string {
	found := map[string]bool{}
	for _, word := range words {
		found[word] = true
	}
	for _, e := range page {
		_, text := searchable(e)
		for _, word := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.Is(unicode.Mn, r) }) {
			if folded := storage.SearchWords(word); len(folded) == 1 && slices.Contains(words, folded[0]) {
				found[word] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// contextOf is what was said around a result, if that is asked for.
func (h *Handlers) contextOf(r *rest.Request, q *searchCriteria, e *storage.Event) (*searchContext, error) {
	if q.Context == nil {
		return nil, nil
	}
	before, after := 5, 5
	if q.Context.Before != nil {
		before = min(max(*q.Context.Before, 0), 50)
	}
	if q.Context.After != nil {
		after = min(max(*q.Context.After, 0), 50)
	}
	return h.searchContext(r, e, before, after, q.Context.Profiles)
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

// searchState is the state of the rooms in which something was found, as the user may see it.
func (h *Handlers) searchState(r *rest.Request, page []*storage.Event) (map[id.RoomID][]json.RawMessage, error) {
	state := map[id.RoomID][]json.RawMessage{}
	for _, e := range page {
		if state[e.RoomID] != nil {
			continue
		}
		a, err := h.read(r.Context(), r.By.User, e.RoomID)
		if err != nil {
			return nil, err
		}
		events, err := h.stateAt(r.Context(), a.state)
		if err != nil {
			return nil, err
		}
		if state[e.RoomID], err = h.view.Client(r.Context(), viewer(r), events); err != nil {
			return nil, err
		}
	}
	return state, nil
}

// What results are grouped by.
const (
	groupByRoom   = "room_id"
	groupBySender = "sender"
)

func groupOf(by string, e *storage.Event) string {
	if by == groupBySender {
		return string(e.Sender)
	}
	return string(e.RoomID)
}

// group sorts what was found by room or by sender.
func (a *searchAnswer) group(by string, s *search) {
	groups := map[string]*searchGroup{}
	for _, e := range s.page {
		key := groupOf(by, e)
		if groups[key] == nil {
			groups[key] = &searchGroup{Order: len(groups) + 1}
			if a.Next != "" {
				next := s.next
				next.Group, next.Value = by, key
				groups[key].Next = next.String()
			}
		}
		groups[key].Results = append(groups[key].Results, e.ID)
	}
	if a.Groups == nil {
		a.Groups = map[string]map[string]*searchGroup{}
	}
	a.Groups[by] = groups
}
