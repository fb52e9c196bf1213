package storage

import (
	"context"
	"fmt"

	"go.mau.fi/util/dbutil"
)

// Foci are the focus processes of this server and the calls that live on them. A process is alive while its beat rises;
// whoever sees it stand still for long enough buries it, and it learns that at its next beat. So no clocks are compared,
// and a process that slept through its end cannot go on unnoticed.
type Foci struct{ s *Store }

// FocusProcess is one of them.
type FocusProcess struct {
	Process string
	// Address is where other processes reach its signalling.
	Address string
	Beat    int64
}

const (
	focusInsert = "INSERT INTO foci (process, address, beat) VALUES ($1, $2, 1)"
	focusBeat   = "UPDATE foci SET beat = beat + 1 WHERE process = $1"
	focusAll    = "SELECT process, address, beat FROM foci ORDER BY process LIMIT 1000"
	focusBury   = "DELETE FROM foci WHERE process = $1 AND ($2 < 0 OR beat = $2)"

	homeSelect = "SELECT f.process, f.address, f.beat FROM call_homes h JOIN foci f ON f.process = h.process WHERE h.call = $1"
	homeClaim  = `INSERT INTO call_homes (call, process) SELECT $1, process FROM foci WHERE process = $2
		ON CONFLICT (call) DO UPDATE SET process = excluded.process
			WHERE NOT EXISTS (SELECT 1 FROM foci WHERE foci.process = call_homes.process)`
	homesOf      = "SELECT call FROM call_homes WHERE process = $1 ORDER BY call LIMIT 10000"
	homeRelease  = "DELETE FROM call_homes WHERE call = $1 AND process = $2"
	homesRelease = "DELETE FROM call_homes WHERE process = $1"
)

func scanFocus(row dbutil.Scannable) (*FocusProcess, error) {
	f := &FocusProcess{}
	return f, row.Scan(&f.Process, &f.Address, &f.Beat)
}

// Begin makes a process known.
func (t *Foci) Begin(ctx context.Context, process, address string) error {
	return t.do(ctx, "begin focus", focusInsert, process, address)
}

// Beat says that a process lives. It is false when the process has been buried: its calls may be elsewhere.
func (t *Foci) Beat(ctx context.Context, process string) (alive bool, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		result, err := t.s.exec(ctx, focusBeat, process)
		if err != nil {
			return fmt.Errorf("beat of focus: %w", err)
		}
		n, err := result.RowsAffected()
		alive = n > 0
		return err
	})
	return alive, err
}

// All are the processes that nobody has buried.
func (t *Foci) All(ctx context.Context) ([]*FocusProcess, error) {
	return all(ctx, t.s, scanFocus, focusAll)
}

// Bury ends a process whose beat still is the one that was seen last, or any if that is negative; its calls have no home then.
// It is false if the process has beaten since, or was buried by another.
func (t *Foci) Bury(ctx context.Context, process string, beat int64) (buried bool, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		result, err := t.s.exec(ctx, focusBury, process, beat)
		if err != nil {
			return fmt.Errorf("bury focus: %w", err)
		}
		n, err := result.RowsAffected()
		if buried = n > 0; err != nil || !buried {
			return err
		}
		_, err = t.s.exec(ctx, homesRelease, process)
		return err
	})
	return buried, err
}

// Home is the process on which a call lives; nil if there is none.
func (t *Foci) Home(ctx context.Context, call string) (*FocusProcess, error) {
	return one(ctx, t.s, scanFocus, homeSelect, call)
}

// Claim gives a call without a home to a process that is alive. It gives the call's home afterwards, whose ever it is; nil
// if the process is buried and the call has no home.
func (t *Foci) Claim(ctx context.Context, call, process string) (home *FocusProcess, err error) {
	err = t.s.Do(ctx, func(ctx context.Context) error {
		if _, err := t.s.exec(ctx, homeClaim, call, process); err != nil {
			return fmt.Errorf("claim call: %w", err)
		}
		home, err = one(ctx, t.s, scanFocus, homeSelect, call)
		return err
	})
	return home, err
}

// Calls are the calls whose home is a process.
func (t *Foci) Calls(ctx context.Context, process string) ([]string, error) {
	return all(ctx, t.s, column[string], homesOf, process)
}

// Release gives a call up that has ended, if it is the process's.
func (t *Foci) Release(ctx context.Context, call, process string) error {
	return t.do(ctx, "release call", homeRelease, call, process)
}

// ReleaseAll gives all calls of a process up: it goes on, without them.
func (t *Foci) ReleaseAll(ctx context.Context, process string) error {
	return t.do(ctx, "release calls", homesRelease, process)
}

func (t *Foci) do(ctx context.Context, what, query string, args ...any) error {
	return t.s.Do(ctx, func(ctx context.Context) error {
		if _, err := t.s.exec(ctx, query, args...); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}
