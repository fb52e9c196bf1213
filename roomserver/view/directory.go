package view

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"sort"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// DirectoryQuery asks this server's room directory.
type DirectoryQuery struct {
	Limit int    `json:"limit"`
	Since string `json:"since"`
	// Filter: rooms whose name, topic or alias holds the term, and whose type is one of the list (null: rooms without a type).
	Filter struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
}

// DirectoryPage is one page of the directory, the rooms with most members first. Its tokens name the room at the page's edge, so that
// rooms that come and go make the next page neither repeat nor leave out another.
type DirectoryPage struct {
	Chunk []*Summary `json:"chunk"`
	Next  string     `json:"next_batch,omitempty"`
	Prev  string     `json:"prev_batch,omitempty"`
	Total int        `json:"total_room_count_estimate"`
}

const (
	maxListed        = 5000
	maxDirectoryPage = 500
)

// Directory gives a page of the rooms that are listed; ErrDirectoryToken for a token that is none.
func (r *Reader) Directory(ctx context.Context, q DirectoryQuery) (*DirectoryPage, error) {
	rooms, err := r.store.Rooms.Listed(ctx, "", maxListed)
	if err != nil {
		return nil, err
	}
	var found []*Summary
	for _, room := range rooms {
		s, err := r.Summary(ctx, room.ID)
		if err != nil {
			return nil, err
		}
		if s != nil && q.matches(s) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *Summary) int { return placeOf(a).compare(placeOf(b)) })
	from, backwards, err := parseDirectoryToken(q.Since)
	if err != nil {
		return nil, err
	}
	limit := q.Limit
	if limit <= 0 || limit > maxDirectoryPage {
		limit = maxDirectoryPage
	}
	start, end := 0, min(limit, len(found))
	if from != nil {
		// The room that the token names may be gone, or have other members now: the list goes on where it would stand.
		start = sort.Search(len(found), func(i int) bool { return placeOf(found[i]).compare(*from) > 0 })
		if backwards {
			start = sort.Search(len(found), func(i int) bool { return placeOf(found[i]).compare(*from) >= 0 })
			start, end = max(0, start-limit), start
		} else {
			end = min(start+limit, len(found))
		}
	}
	page := &DirectoryPage{Chunk: slices.Clone(found[start:end]), Total: len(found)}
	if page.Chunk == nil {
		page.Chunk = []*Summary{}
	}
	if end < len(found) && end > start {
		page.Next = placeOf(found[end-1]).token("n")
	}
	if start > 0 && start < len(found) {
		page.Prev = placeOf(found[start]).token("p")
	}
	return page, nil
}

// directoryPlace is where a room stands in the directory: those with most members first.
type directoryPlace struct {
	members int
	room    id.RoomID
}

func placeOf(s *Summary) directoryPlace { return directoryPlace{s.JoinedMembers, s.RoomID} }

func (p directoryPlace) compare(q directoryPlace) int {
	return cmp.Or(cmp.Compare(q.members, p.members), cmp.Compare(p.room, q.room))
}

// token names the place, and the direction in which the list goes on from it.
func (p directoryPlace) token(direction string) string {
	return direction + strconv.Itoa(p.members) + "." + base64.RawURLEncoding.EncodeToString([]byte(p.room))
}

// ErrDirectoryToken says that a token is none of the directory's.
var ErrDirectoryToken = errors.New("view: this is no token of the room directory")

// parseDirectoryToken reads a token; nil for none.
func parseDirectoryToken(text string) (*directoryPlace, bool, error) {
	if text == "" {
		return nil, false, nil
	}
	members, encoded, ok := strings.Cut(text[1:], ".")
	n, err := strconv.Atoi(members)
	room, err2 := base64.RawURLEncoding.DecodeString(encoded)
	if !ok || err != nil || err2 != nil || text[0] != 'n' && text[0] != 'p' || len(room) > pdu.MaxIDLength {
		return nil, false, ErrDirectoryToken
	}
	return &directoryPlace{n, id.RoomID(room)}, text[0] == 'p', nil
}

func (q *DirectoryQuery) matches(s *Summary) bool {
	if q.Filter.Types != nil && !slices.ContainsFunc(q.Filter.Types, func(t *string) bool {
		return t == nil && s.RoomType == "" || t != nil && *t == s.RoomType
	}) {
		return false
	}
	term := strings.ToLower(q.Filter.Term)
	for _, text := range []string{s.Name, s.Topic, string(s.CanonicalAlias)} {
		if strings.Contains(strings.ToLower(text), term) {
			return true
		}
	}
	return false
}
