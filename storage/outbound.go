package storage

import (
	"context"
	"encoding/json"
	"fmt"

	"go.mau.fi/util/dbutil"
)

// Outbound is something that waits for one server until that server has acknowledged it: an EDU that must not be lost
// (to-device messages, device lists), or an event that we forward for another server.
type Outbound struct {
	// Position is filled in by Add.
	Position Position
	Server   string
	// Type of the EDU; empty for a PDU.
	Type string
	// Content of the EDU, or the whole PDU. Shared: read only.
	Content json.RawMessage
}

// Outbounds keeps what waits for other servers. Whoever has something adds it, in the transaction in which it arises (a room's turn: RoomRows);
// federation/sender sends and removes it.
type Outbounds struct{ s *Store }

func scanOutbound(row dbutil.Scannable) (*Outbound, error) {
	o := &Outbound{}
	var content []byte
	err := row.Scan(&o.Position, &o.Server, &o.Type, &content)
	o.Content = content
	return o, err
}

// Add writes the rows, each with a position of its own, and rings the sender.
func (t *Outbounds) Add(ctx context.Context, waiting []*Outbound) error {
	if len(waiting) == 0 {
		return nil
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		t.place(ctx, waiting)
		return t.insert(ctx, waiting)
	})
}

// place gives the rows their positions, and rings the sender.
func (t *Outbounds) place(ctx context.Context, waiting []*Outbound) {
	for _, o := range waiting {
		o.Position = t.s.Next(ctx, 1)
		t.s.note(ctx, o.news())
	}
}

func (t *Outbounds) insert(ctx context.Context, waiting []*Outbound) error {
	rows := make([][]any, len(waiting))
	for i, o := range waiting {
		rows[i] = []any{o.Position, o.Server, o.Type, []byte(o.Content)}
	}
	if err := t.s.insert(ctx, "INSERT INTO outbound (position, server, type, content) VALUES", rows, ""); err != nil {
		return fmt.Errorf("store outbound: %w", err)
	}
	return nil
}

// For gives up to limit rows that wait for the server, the oldest first.
func (t *Outbounds) For(ctx context.Context, server string, limit int) ([]*Outbound, error) {
	return all(ctx, t.s, scanOutbound, "SELECT position, server, type, content FROM outbound WHERE server = $1 ORDER BY position LIMIT $2", server, limit)
}

// Counts gives how much waits for each server for which anything does.
func (t *Outbounds) Counts(ctx context.Context) (map[string]int, error) {
	type count struct {
		server string
		n      int
	}
	rows, err := all(ctx, t.s, func(row dbutil.Scannable) (c count, err error) {
		err = row.Scan(&c.server, &c.n)
		return c, err
	}, "SELECT server, COUNT(*) FROM outbound GROUP BY server")
	counts := make(map[string]int, len(rows))
	for _, c := range rows {
		counts[c.server] = c.n
	}
	return counts, err
}

// Servers gives the servers for which something waits.
func (t *Outbounds) Servers(ctx context.Context) ([]string, error) {
	return all(ctx, t.s, column[string], "SELECT DISTINCT server FROM outbound")
}

// Remove takes away what was acknowledged.
func (t *Outbounds) Remove(ctx context.Context, positions []Position) error {
	if len(positions) == 0 {
		return nil
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, "DELETE FROM outbound WHERE position IN "+list(1, len(positions)), anys(positions)...)
		return err
	})
}

func (t *Outbounds) changes(ctx context.Context, from, to Position) ([]Change, error) {
	rows, err := all(ctx, t.s, scanOutbound, "SELECT position, server, type, content FROM outbound WHERE position > $1 AND position <= $2", from, to)
	changes := make([]Change, len(rows))
	for i, o := range rows {
		changes[i] = o.news()
	}
	return changes, err
}

func (o *Outbound) news() Change {
	return Change{Position: o.Position, Kind: OutboundNews, Row: o}
}
