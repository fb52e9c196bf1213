package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// What follows is for cmd: the same deeds for who sits at the machine itself, answered in lines of text.

// bySteward finds the account that a localpart or a whole user ID names.
func (h *Handlers) bySteward(ctx context.Context, name string) (*storage.Account, error) {
	user := id.UserID(name)
	if !strings.HasPrefix(name, "@") {
		user = id.NewUserID(strings.ToLower(name), h.server)
	}
	account, err := h.store.Accounts.ByID(ctx, user)
	if err == nil && account == nil {
		err = noSuchUser
	}
	return account, err
}

// ListAccounts lists accounts, those alone in whose name the text stands; a line each, with how it stands.
func (h *Handlers) ListAccounts(ctx context.Context, text string) (string, error) {
	var lines []string
	for offset := 0; ; offset += maxPage {
		found, total, err := h.store.Accounts.Find(ctx, storage.UserQuery{Name: text, Offset: offset, Limit: maxPage})
		if err != nil {
			return "", err
		}
		users := make([]id.UserID, len(found))
		for i, u := range found {
			users[i] = u.UserID
		}
		expired, err := h.store.Validity.Expired(ctx, users)
		if err != nil {
			return "", err
		}
		for _, u := range found {
			words := append([]string{string(u.UserID)}, standing(u.Account)...)
			if expired[u.UserID] {
				words = append(words, "expired")
			}
			lines = append(lines, strings.Join(words, " "))
		}
		if offset+len(found) >= total {
			return strings.Join(lines, "\n"), nil
		}
	}
}

// standing says in words how an account stands; nothing of an ordinary one.
func standing(a *storage.Account) (words []string) {
	for _, s := range []struct {
		so   bool
		word string
	}{
		{a.Admin, "administrator"}, {a.Deactivated, "deactivated"}, {a.Erased, "erased"}, {a.Locked, "locked"}, {a.Suspended, "suspended"},
		{a.Shadowed, "shadow-banned"}, {a.Type != "", a.Type}, {a.ServiceID != "", "of " + a.ServiceID},
	} {
		if s.so {
			words = append(words, s.word)
		}
	}
	return words
}

// CloseAccount closes an account for ever, and has its user leave all rooms.
func (h *Handlers) CloseAccount(ctx context.Context, name string, erase bool) (id.UserID, error) {
	account, err := h.bySteward(ctx, name)
	if err != nil {
		return "", err
	}
	return account.UserID, h.accounts.Close(ctx, account.UserID, erase)
}

// MakeAdministrator gives an account the administrator's flag, or takes it away.
func (h *Handlers) MakeAdministrator(ctx context.Context, name string, is bool) (id.UserID, error) {
	account, err := h.bySteward(ctx, name)
	if err != nil {
		return "", err
	}
	if account.Deactivated {
		return "", noSuchUser
	}
	account.Admin = is
	return account.UserID, h.store.Do(ctx, func(ctx context.Context) error { return h.store.Accounts.SetStanding(ctx, account) })
}

// RenewAccount says until when an account is good; the zero time: as long as one that its user renews.
func (h *Handlers) RenewAccount(ctx context.Context, name string, until time.Time) (string, error) {
	account, err := h.bySteward(ctx, name)
	if err != nil {
		return "", err
	}
	until, err = h.accounts.Validate(ctx, account.UserID, until, true)
	return fmt.Sprintf("%s until %s", account.UserID, until.UTC().Format(time.RFC3339)), err
}

// ListTokens lists registration tokens, a line each, with what is left of them.
func (h *Handlers) ListTokens(ctx context.Context) (string, error) {
	var lines []string
	for after := ""; ; {
		tokens, err := h.store.RegistrationTokens.Page(ctx, after, maxPage)
		if err != nil {
			return "", err
		}
		for _, t := range tokens {
			after = t.Token
			uses, until := "any number of uses left", "for ever"
			if t.Allowed >= 0 {
				uses = fmt.Sprintf("%d of %d uses left", max(0, t.Allowed-t.Completed-t.Pending), t.Allowed)
			}
			if !t.Expires.IsZero() {
				until = "until " + t.Expires.UTC().Format(time.RFC3339)
			}
			if !t.Valid(time.Now()) {
				until += ", no longer valid"
			}
			lines = append(lines, t.Token+" "+uses+", "+until)
		}
		if len(tokens) < maxPage {
			return strings.Join(lines, "\n"), nil
		}
	}
}

// RevokeToken withdraws a registration token.
func (h *Handlers) RevokeToken(ctx context.Context, token string) error {
	known, err := h.store.RegistrationTokens.ByToken(ctx, token)
	if err != nil {
		return err
	}
	if known == nil {
		return mautrix.MNotFound.WithMessage("There is no such registration token")
	}
	return h.store.Do(ctx, func(ctx context.Context) error { return h.store.RegistrationTokens.Delete(ctx, token) })
}

// ListRooms lists rooms in whose name, alias or ID the text stands, by name; a line each.
func (h *Handlers) ListRooms(ctx context.Context, text string) (string, error) {
	list, err := h.allRooms(ctx, func(s *shownRoom) bool { return s.found(text) })
	if err != nil {
		return "", err
	}
	slices.SortStableFunc(list, byName)
	lines := make([]string, len(list))
	for i, s := range list {
		name := ""
		if s.Name != nil {
			name = " " + *s.Name
		}
		if s.Alias != nil {
			name += " " + *s.Alias
		}
		lines[i] = fmt.Sprintf("%s %d of %d members are ours,%s", s.RoomID, s.Ours, s.Joined, name)
		lines[i] = strings.TrimSuffix(lines[i], ",")
	}
	return strings.Join(lines, "\n"), nil
}

// RemoveRoom deletes a room as an administrator would over HTTP, and waits for the end. If ctx ends first, it goes on by itself.
func (h *Handlers) RemoveRoom(ctx context.Context, name string, block bool) (string, error) {
	roomID := id.RoomID(name)
	if strings.HasPrefix(name, "#") {
		var err error
		if roomID, err = h.store.Rooms.ByAlias(ctx, id.RoomAlias(name)); err != nil {
			return "", err
		}
	}
	purge := true
	by := rest.ServerUser(h.server)
	begun, err := h.writeDeletion(ctx, by, roomID, &deletion{Block: block, Purge: &purge, Name: violationName, Message: violationMessage})
	if err == nil && begun == "" {
		err = noSuchRoom
	}
	if err != nil {
		return "", err
	}
	job, err := h.ended(ctx, begun)
	if err != nil || job == nil {
		return "", errors.Join(err, errors.New("it is not known how the deletion ended"))
	}
	if job.Status == storage.JobFailed {
		return "", errors.New(job.Error)
	}
	var done deleted
	if err := json.Unmarshal(job.Result, &done); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is removed; %d of our users were in it", roomID, len(done.Kicked)), nil
}
