package view

import (
	"context"
	"slices"
	"sort"
	"strconv"
	"strings"
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

// DirectoryPage is one page of the directory, the rooms with most members first.
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

// Directory gives a page of the rooms that are listed.
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
	sort.SliceStable(found, func(i, j int) bool { return found[i].JoinedMembers > found[j].JoinedMembers })
	from, _ := strconv.Atoi(q.Since)
	from = min(max(from, 0), len(found))
	limit := q.Limit
	if limit <= 0 || limit > maxDirectoryPage {
		limit = maxDirectoryPage
	}
	to := min(from+limit, len(found))
	page := &DirectoryPage{Chunk: slices.Clone(found[from:to]), Total: len(found)}
	if page.Chunk == nil {
		page.Chunk = []*Summary{}
	}
	if to < len(found) {
		page.Next = strconv.Itoa(to)
	}
	if from > 0 {
		page.Prev = strconv.Itoa(max(0, from-limit))
	}
	return page, nil
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
