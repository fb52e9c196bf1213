package storage

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestSearchWords(t *testing.T) {
	for text, want := range map[string][]string{
		"Hello, world!":        {"hello", "world"},
		"Réunion à l’ÉCOLE":    {"reunion", "a", "l", "ecole"},
		"a.b@c-d_e 1e5":        {"a", "b", "c", "d", "e", "1e5"},
		"会議室 booked":           {"会", "議", "室", "booked"},
		"  ":                   nil,
		"ﬁne \"quoted' AND OR": {"fine", "quoted", "and", "or"},
	} {
		if got := SearchWords(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestSearch(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		if !s.Search.Available() {
			t.Skip("this build has no FTS5; build with -tags sqlite_fts5")
		}
		const red, blue = id.RoomID("!red:x"), id.RoomID("!blue:x")
		entries := []SearchEntry{
			{1, red, 10, SearchBody, "The budget of the Ministry"},
			{2, blue, 20, SearchBody, "budget, budget, budget"},
			{3, red, 30, SearchTopic, "Réunion sur le budget AND more: 1e5 room*"},
			{4, red, 40, SearchName, "nothing of that"},
		}
		do(t, s, func(ctx context.Context) error { return s.Search.Add(ctx, entries) })
		do(t, s, func(ctx context.Context) error { return s.Search.Add(ctx, entries[:1]) })
		find := func(q SearchQuery) []int64 {
			t.Helper()
			if q.Limit == 0 {
				q.Limit = 10
			}
			hits, err := s.Search.Find(t.Context(), q)
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			var numbers []int64
			for _, h := range hits {
				numbers = append(numbers, h.Number)
			}
			return numbers
		}
		both := []id.RoomID{red, blue}
		many := append([]id.RoomID{red}, make([]id.RoomID, 300)...)
		for i := range 300 {
			many[i+1] = id.RoomID(fmt.Sprintf("!%d:x", i))
		}
		for name, c := range map[string]struct {
			q    SearchQuery
			want []int64
		}{
			"newest first":         {SearchQuery{Words: SearchWords("budget"), Rooms: both}, []int64{3, 2, 1}},
			"best first":           {SearchQuery{Words: SearchWords("budget"), Rooms: both, ByRank: true, Limit: 1}, []int64{2}},
			"one room":             {SearchQuery{Words: SearchWords("budget"), Rooms: []id.RoomID{red}}, []int64{3, 1}},
			"many rooms":           {SearchQuery{Words: SearchWords("budget"), Rooms: many}, []int64{3, 1}},
			"no room":              {SearchQuery{Words: SearchWords("budget")}, nil},
			"all words":            {SearchQuery{Words: SearchWords("MINISTRY Budget"), Rooms: both}, []int64{1}},
			"not all words":        {SearchQuery{Words: SearchWords("ministry of peace"), Rooms: both}, nil},
			"without accents":      {SearchQuery{Words: SearchWords("reunion"), Rooms: both}, []int64{3}},
			"with accents":         {SearchQuery{Words: SearchWords("BUDGÈT MINISTRY"), Rooms: both}, []int64{1}},
			"operators are words":  {SearchQuery{Words: SearchWords("budget AND"), Rooms: both}, []int64{3}},
			"numbers":              {SearchQuery{Words: SearchWords("1e5"), Rooms: both}, []int64{3}},
			"one key":              {SearchQuery{Words: SearchWords("budget"), Rooms: both, Keys: []SearchKey{SearchTopic, SearchName}}, []int64{3}},
			"a page":               {SearchQuery{Words: SearchWords("budget"), Rooms: both, Limit: 1, Before: &Page{30, 3}}, []int64{2}},
			"skipping":             {SearchQuery{Words: SearchWords("budget"), Rooms: both, Skip: 2}, []int64{1}},
			"a room is not a word": {SearchQuery{Words: []string{"red"}, Rooms: both}, nil},
		} {
			if got := find(c.q); !slices.Equal(got, c.want) {
				t.Errorf("%s: got %v, want %v", name, got, c.want)
			}
		}
		do(t, s, func(ctx context.Context) error { return s.Search.Remove(ctx, []int64{2, 99}) })
		if got := find(SearchQuery{Words: SearchWords("budget"), Rooms: both}); !slices.Equal(got, []int64{3, 1}) {
			t.Errorf("after the removal: got %v, want 3 and 1", got)
		}
	})
}

func FuzzSearchWords(f *testing.F) {
	f.Add("Hello, 世界 é \x00 ﷺ")
	f.Fuzz(func(t *testing.T, text string) {
		for _, word := range SearchWords(text) {
			if word == "" || len(word) > 40*len(text) {
				t.Errorf("word %q of %q", word, text)
			}
		}
	})
}
