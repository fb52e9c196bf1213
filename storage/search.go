package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"

	"go.mau.fi/util/dbutil"
	"golang.org/x/text/unicode/norm"
	"maunium.net/go/mautrix/id"
)

// SearchKey says in which field of an event words stand.
type SearchKey int8

// The fields that are searched.
const (
	SearchBody SearchKey = iota + 1
	SearchName
	SearchTopic
)

// SearchEntry is an event that can be found.
type SearchEntry struct {
	Number int64
	RoomID id.RoomID
	Place  Place
	Key    SearchKey
	Text   string
}

// SearchQuery asks for events that hold all the words.
type SearchQuery struct {
	Words []string // as SearchWords gives them
	Rooms []id.RoomID
	Keys  []SearchKey // none: all
	// ByRank puts the best first, otherwise the newest are.
	ByRank bool
	// Before: only what is older than this page. Skip leaves out so many of the first.
	Before *Page
	Skip   int
	Limit  int
}

// SearchHit is an event that was found.
type SearchHit struct {
	Number int64
	Place  Place
	Rank   float64
}

// Search is the full-text index: FTS5 on SQLite, where the build has it, and tsvector on PostgreSQL.
type Search struct {
	s     *Store
	ready bool
}

const (
	searchFTS = `CREATE VIRTUAL TABLE IF NOT EXISTS search_words USING fts5(words, room, content='', contentless_delete=1, tokenize='unicode61')`

	searchAdd         = "INSERT INTO search_entries (number, room_id, place, key) VALUES "
	searchAddBoth     = "INSERT INTO search_entries (number, room_id, place, key, words) VALUES "
	searchAddEnd      = " ON CONFLICT (number) DO NOTHING RETURNING number"
	searchAddWords    = "INSERT INTO search_words (rowid, words, room) VALUES"
	searchRemove      = "DELETE FROM search_entries WHERE number = $1"
	searchRemoveWords = "DELETE FROM search_words WHERE rowid = $1"

	searchSQLite = `SELECT e.number, e.place, -bm25(search_words, 1.0, 0.0) AS rank FROM search_words
		JOIN search_entries e ON e.number = search_words.rowid WHERE search_words MATCH $1`
	searchPostgres = `SELECT e.number, e.place, ts_rank(e.words, to_tsquery('simple', $1))::float8 AS rank FROM search_entries e
		WHERE e.words @@ to_tsquery('simple', $1)`
)

// Bounds of the index and of a question to it.
const (
	maxSearchWords = 4000
	maxAskedWords  = 32
	// maxRoomWords bounds the rooms that are named in the full-text question itself.
	maxRoomWords = 200
)

// openSearch makes the full-text table, where there has to be one.
func (s *Store) openSearch(ctx context.Context) error {
	s.Search = &Search{s: s, ready: true}
	if s.Postgres() {
		return nil
	}
	if err := s.db.QueryRow(ctx, "SELECT sqlite_compileoption_used('ENABLE_FTS5')").Scan(&s.Search.ready); err != nil || !s.Search.ready {
		return err
	}
	_, err := s.db.Exec(ctx, searchFTS)
	return err
}

// Available says whether there is an index: not on SQLite, if the build has no FTS5.
func (t *Search) Available() bool { return t.ready }

// SearchWords are a text's words in the form in which they are found: in small letters, without accents. Scripts that
// have no blanks between words give a word for each sign.
func SearchWords(text string) []string {
	var words []string
	var word strings.Builder
	end := func() {
		if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
	}
	for _, r := range norm.NFKD.String(text) {
		switch {
		case unicode.Is(unicode.Mn, r): // an accent
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana):
			end()
			words = append(words, string(r))
		case unicode.IsLetter(r) || unicode.IsNumber(r):
			word.WriteRune(unicode.ToLower(r))
		default:
			end()
		}
		if len(words) >= maxSearchWords {
			return words[:maxSearchWords]
		}
	}
	end()
	return words
}

// roomWord stands for a room among the words.
func roomWord(room id.RoomID) string {
	sum := sha256.Sum256([]byte(room))
	return "room" + hex.EncodeToString(sum[:8])
}

// Add puts events into the index, inside Do; those that are in it stay as they are. At most a hundred at a time: it takes
// longer than other writes.
func (t *Search) Add(ctx context.Context, entries []SearchEntry) error {
	if len(entries) == 0 {
		return nil
	}
	words := make(map[int64]string, len(entries))
	into, each, columns := searchAdd, "($%d, $%d, $%d, $%d)", 4
	if t.s.Postgres() {
		into, each, columns = searchAddBoth, "($%d, $%d, $%d, $%d, to_tsvector('simple', $%d))", 5
	}
	var q strings.Builder
	q.WriteString(into)
	var args []any
	for _, e := range entries {
		if words[e.Number] != "" {
			continue
		}
		words[e.Number] = strings.Join(SearchWords(e.Text), " ") + " "
		if len(args) > 0 {
			q.WriteByte(',')
		}
		places := make([]any, columns)
		for i := range places {
			places[i] = len(args) + i + 1
		}
		fmt.Fprintf(&q, each, places...)
		if args = append(args, e.Number, e.RoomID, e.Place, e.Key); t.s.Postgres() {
			args = append(args, words[e.Number]+roomWord(e.RoomID))
		}
	}
	q.WriteString(searchAddEnd)
	added, err := all(ctx, t.s, column[int64], q.String(), args...)
	if err != nil {
		return fmt.Errorf("index %d events: %w", len(entries), err)
	}
	if t.s.Postgres() {
		return nil
	}
	fresh := make(map[int64]bool, len(added))
	for _, n := range added {
		fresh[n] = true
	}
	rows := make([][]any, 0, len(added))
	for _, e := range entries {
		if fresh[e.Number] {
			delete(fresh, e.Number)
			rows = append(rows, []any{e.Number, words[e.Number], roomWord(e.RoomID)})
		}
	}
	if err := t.s.insert(ctx, searchAddWords, rows, ""); err != nil {
		return fmt.Errorf("index words of %d events: %w", len(entries), err)
	}
	return nil
}

// Remove takes events out of the index, inside Do.
func (t *Search) Remove(ctx context.Context, numbers []int64) error {
	for _, n := range numbers {
		if _, err := t.s.exec(ctx, searchRemove, n); err != nil {
			return err
		}
		if t.s.Postgres() {
			continue
		}
		if _, err := t.s.exec(ctx, searchRemoveWords, n); err != nil {
			return err
		}
	}
	return nil
}

// Find gives events that hold all the words, in the order asked for.
func (t *Search) Find(ctx context.Context, q SearchQuery) ([]SearchHit, error) {
	if !t.ready || len(q.Words) == 0 || len(q.Rooms) == 0 {
		return nil, nil
	}
	text := searchSQLite
	if t.s.Postgres() {
		text = searchPostgres
	}
	args := []any{t.question(q)}
	text += " AND e.room_id IN " + list(len(args)+1, len(q.Rooms))
	args = append(args, anys(q.Rooms)...)
	if len(q.Keys) > 0 {
		text += " AND e.key IN " + list(len(args)+1, len(q.Keys))
		args = append(args, anys(q.Keys)...)
	}
	if q.Before != nil {
		text += fmt.Sprintf(" AND (e.place < $%d OR (e.place = $%d AND e.number < $%d))", len(args)+1, len(args)+1, len(args)+2)
		args = append(args, q.Before.Place, q.Before.Number)
	}
	if q.ByRank {
		text += " ORDER BY rank DESC, e.place DESC, e.number DESC"
	} else {
		text += " ORDER BY e.place DESC, e.number DESC"
	}
	text += fmt.Sprintf(" LIMIT $%d OFFSET $%d", len(args)+1, len(args)+2)
	args = append(args, q.Limit, q.Skip)
	return all(ctx, t.s, func(row dbutil.Scannable) (h SearchHit, err error) {
		err = row.Scan(&h.Number, &h.Place, &h.Rank)
		return h, err
	}, text, args...)
}

// question is what the full-text engine is asked. Where the rooms are few they are part of it: a word that is common in
// the house may be rare in them.
func (t *Search) question(q SearchQuery) string {
	and, or := " AND ", " OR "
	quote := func(word string) string { return `"` + word + `"` }
	if t.s.Postgres() {
		and, or = " & ", " | "
		quote = func(word string) string { return "'" + word + "'" }
	}
	words := q.Words[:min(len(q.Words), maxAskedWords)]
	parts := make([]string, len(words))
	for i, word := range words {
		// They hold letters and digits only: nothing to escape.
		parts[i] = quote(word)
	}
	question := "(" + strings.Join(parts, and) + ")"
	if !t.s.Postgres() {
		question = "words : " + question
	}
	if len(q.Rooms) > maxRoomWords {
		return question
	}
	rooms := make([]string, len(q.Rooms))
	for i, room := range q.Rooms {
		rooms[i] = quote(roomWord(room))
	}
	in := "(" + strings.Join(rooms, or) + ")"
	if !t.s.Postgres() {
		in = "room : " + in
	}
	return question + and + in
}
