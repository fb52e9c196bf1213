package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mau.fi/util/dbutil"
)

// UserQuery asks for accounts, as administrators list them. The flags are nil where it does not matter.
type UserQuery struct {
	// Name is part of the localpart or of the display name, ID part of the whole user ID.
	Name, ID                              string
	Admin, Deactivated, Locked, Suspended *bool
	// NotTypes leaves out accounts of these types; "" are those without a type.
	NotTypes []string
	// OrderBy is one of UserOrders; equal ones stand in the order of their names.
	OrderBy  string
	Backward bool
	Offset   int
	Limit    int
}

// ListedUser is an account with what a list shows beside it.
type ListedUser struct {
	*Account
	// DisplayName and AvatarURL are JSON, or nil.
	DisplayName, AvatarURL []byte
	// Seen is when one of its devices last asked for something; zero: never.
	Seen time.Time
}

// userOrders are the columns by which accounts can be put in order.
var userOrders = map[string]string{
	"name": "a.user_id", "is_guest": "a.user_id", "admin": "a.admin", "user_type": "a.user_type", "deactivated": "a.deactivated",
	"shadow_banned": "a.shadowed", "displayname": "n.value", "avatar_url": "v.value", "creation_ts": "a.created", "last_seen_ts": "seen",
	"locked": "a.locked", "suspended": "a.suspended", "erased": "a.erased",
}

// UserOrders says whether accounts can be put in order by this.
func UserOrders(by string) bool { return userOrders[by] != "" }

// Find lists accounts, and says how many there are in all.
func (a *Accounts) Find(ctx context.Context, q UserQuery) ([]*ListedUser, int, error) {
	const from = ` FROM accounts a LEFT JOIN profiles n ON n.user_id = a.user_id AND n.field = 'displayname'
		LEFT JOIN profiles v ON v.user_id = a.user_id AND v.field = 'avatar_url'`
	where, args := a.where(q)
	total, err := one(ctx, a.s, column[int], "SELECT COUNT(*)"+from+where, args...)
	if err != nil {
		return nil, 0, err
	}
	columns := "a." + strings.ReplaceAll(accountColumns, ", ", ", a.")
	by, direction := userOrders[q.OrderBy], "ASC"
	if by == "" {
		by = userOrders["name"]
	}
	if q.Backward {
		direction = "DESC"
	}
	text := fmt.Sprintf(`SELECT %s, n.value, v.value,
		COALESCE((SELECT MAX(d.seen) FROM devices d WHERE d.user_id = a.user_id), 0) AS seen%s%s ORDER BY %s %s, a.user_id LIMIT $%d OFFSET $%d`,
		columns, from, where, by, direction, len(args)+1, len(args)+2)
	list, err := all(ctx, a.s, func(row dbutil.Scannable) (*ListedUser, error) {
		u := &ListedUser{}
		var seen int64
		var err error
		u.Account, err = scanAccount(extra{row, []any{&u.DisplayName, &u.AvatarURL, &seen}})
		if seen > 0 {
			u.Seen = time.UnixMilli(seen)
		}
		return u, err
	}, text, append(args, q.Limit, q.Offset)...)
	return list, total, err
}

// extra is a row with columns beyond those that its scanner knows.
type extra struct {
	dbutil.Scannable
	more []any
}

// Scan fills in the scanner's columns, and then those beyond.
func (e extra) Scan(into ...any) error {
	return e.Scannable.Scan(append(slices.Clone(into), e.more...)...)
}

// where makes the condition of a query, and its arguments.
func (a *Accounts) where(q UserQuery) (string, []any) {
	var parts []string
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	switch {
	case q.Name != "":
		pattern := arg(likePart(q.Name))
		parts = append(parts, fmt.Sprintf(`(LOWER(SUBSTR(a.user_id, 2, %s - 2)) LIKE %s ESCAPE '!' OR LOWER(%s) LIKE %s ESCAPE '!')`,
			a.s.position(":", "a.user_id"), pattern, a.s.text("n.value"), pattern))
	case q.ID != "":
		parts = append(parts, "LOWER(a.user_id) LIKE "+arg(likePart(q.ID))+" ESCAPE '!'")
	}
	for name, flag := range map[string]*bool{"admin": q.Admin, "deactivated": q.Deactivated, "locked": q.Locked, "suspended": q.Suspended} {
		if flag != nil {
			parts = append(parts, "a."+name+" = "+arg(*flag))
		}
	}
	for _, typ := range q.NotTypes {
		parts = append(parts, "a.user_type <> "+arg(typ))
	}
	if len(parts) == 0 {
		return "", nil
	}
	return " WHERE " + strings.Join(parts, " AND "), args
}

// text reads a column of bytes as text.
func (s *Store) text(column string) string {
	if s.Postgres() {
		return "convert_from(" + column + ", 'UTF8')"
	}
	return "CAST(" + column + " AS TEXT)"
}

// position finds a character in a column.
func (s *Store) position(what, column string) string {
	if s.Postgres() {
		return "strpos(" + column + ", '" + what + "')"
	}
	return "instr(" + column + ", '" + what + "')"
}
