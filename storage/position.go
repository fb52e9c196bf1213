package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// Position is a place in the one stream: when something became news. Positions
// rise in the order of commit and are never reused; 0 is before everything.
type Position int64

// Place is a place in a room's history: where an event is paged. Live events
// stand at their position × 2^16; history from afar lies below the room's first place.
type Place int64

// placeStep lies between two live events' places.
const placeStep = 1 << 16

// Place gives the place of what became news at this position.
func (p Position) Place() Place { return Place(p) * placeStep }

// Token says how far a client has read. Its text form goes to clients; nobody
// else reads its parts.
type Token struct {
	// Incarnation of the database that gave the token out.
	Incarnation string
	Position    Position
	// ToDevice is the last to-device message that was handed out.
	ToDevice Position
	// Ephemeral is a mark for typing and presence that only Process understands.
	Ephemeral int64
	Process   string
}

// ErrBadToken says that a text is no token of ours.
var ErrBadToken = errors.New("storage: malformed token")

// maxToken bounds a token's text in bytes.
const maxToken = 128

// String is the token's text: "s<incarnation>_<position>_<to-device>_<process>_<ephemeral>".
func (t Token) String() string {
	return fmt.Sprintf("s%s_%d_%d_%s_%d", t.Incarnation, t.Position, t.ToDevice, t.Process, t.Ephemeral)
}

// ParseToken reads a token's text. The incarnation is not judged here: see [Store.Valid].
func ParseToken(text string) (Token, error) {
	if len(text) > maxToken || !strings.HasPrefix(text, "s") {
		return Token{}, ErrBadToken
	}
	parts := strings.Split(text[1:], "_")
	if len(parts) != 5 {
		return Token{}, ErrBadToken
	}
	position, err1 := strconv.ParseInt(parts[1], 10, 64)
	toDevice, err2 := strconv.ParseInt(parts[2], 10, 64)
	ephemeral, err3 := strconv.ParseInt(parts[4], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || position < 0 || toDevice < 0 {
		return Token{}, ErrBadToken
	}
	return Token{Incarnation: parts[0], Position: Position(position), ToDevice: Position(toDevice), Process: parts[3], Ephemeral: ephemeral}, nil
}

// Valid reports whether the token was given out by this database, and not from a future that a restored backup forgot.
func (s *Store) Valid(t Token) bool {
	return t.Incarnation == s.incarnation && t.Position <= max(s.Head(), t.knownHead(s))
}

// knownHead lets a token pass that another process gave out and this one's tail has yet to reach.
func (t Token) knownHead(s *Store) Position {
	if s.bus == nil || s.bus.Embedded() || t.Position <= s.Head() {
		return 0
	}
	head, err := s.counterPosition(context.Background())
	if err != nil {
		return 0
	}
	return head
}

// Page says where a walk through a room's history goes on: by (place, number).
type Page struct {
	Place  Place
	Number int64
}

// String is the page's text: "p<place>_<number>".
func (p Page) String() string { return fmt.Sprintf("p%d_%d", p.Place, p.Number) }

// ParsePage reads a page's text, or a token's, or a sliding sync's: that stands for the end of its position.
func ParsePage(text string) (Page, error) {
	text = text[strings.LastIndexByte(text, '~')+1:]
	if strings.HasPrefix(text, "s") {
		t, err := ParseToken(text)
		if err != nil {
			return Page{}, err
		}
		return t.Position.End(), nil
	}
	if len(text) > maxToken || !strings.HasPrefix(text, "p") {
		return Page{}, ErrBadToken
	}
	place, number, ok := strings.Cut(text[1:], "_")
	a, err1 := strconv.ParseInt(place, 10, 64)
	n, err2 := strconv.ParseInt(number, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return Page{}, ErrBadToken
	}
	return Page{Place(a), n}, nil
}

// End is the page after everything that became news up to the position.
func (p Position) End() Page { return Page{Place: p.Place() + placeStep - 1, Number: 1 << 62} }

// numberBlock hands out numbers from a block taken from the counter.
type numberBlock struct {
	mu         sync.Mutex
	next, last int64
}

// blockSize is how many numbers are taken at once; those unused at a stop are lost, and nobody minds.
const blockSize = 4096

// Numbers takes n consecutive numbers, for events and chains. They are never
// given out again, whether used or not. It seldom touches the database.
func (s *Store) Numbers(ctx context.Context, n int) (first int64, err error) {
	s.numbers.mu.Lock()
	defer s.numbers.mu.Unlock()
	if s.numbers.next+int64(n)-1 > s.numbers.last || s.numbers.next == 0 {
		take := int64(max(blockSize, n))
		err := s.Do(ctx, func(ctx context.Context) error {
			var end int64
			err := s.db.QueryRow(ctx, "UPDATE counter SET number = number + $1 RETURNING number", take).Scan(&end)
			s.numbers.next, s.numbers.last = end-take+1, end
			return err
		})
		if err != nil {
			s.numbers.next, s.numbers.last = 0, 0
			return 0, fmt.Errorf("take numbers: %w", err)
		}
	}
	first = s.numbers.next
	s.numbers.next += int64(n)
	return first, nil
}

// openCounter makes the counter in a new database and reads it in an old one.
func (s *Store) openCounter(ctx context.Context) (Position, error) {
	incarnation := strings.ToLower(rand.Text()[:6])
	if _, err := s.db.Exec(ctx, `INSERT INTO counter (id, position, number, incarnation) VALUES (1, 0, 0, $1)
		ON CONFLICT (id) DO NOTHING`, incarnation); err != nil {
		return 0, err
	}
	var head Position
	err := s.db.QueryRow(ctx, "SELECT position, incarnation FROM counter").Scan(&head, &s.incarnation)
	return head, err
}

func (s *Store) counterPosition(ctx context.Context) (Position, error) {
	var head Position
	err := s.reader.QueryRow(ctx, "SELECT position FROM counter").Scan(&head)
	return head, err
}
