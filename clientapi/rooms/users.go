package rooms

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// maxAcquaintances bounds the users who are looked through for one search.
const maxAcquaintances = 20_000

// foundUser is a user as the directory shows somebody.
type foundUser struct {
	UserID      id.UserID `json:"user_id"`
	DisplayName string    `json:"display_name,omitempty"`
	AvatarURL   string    `json:"avatar_url,omitempty"`

	rank int
}

// SearchUsers handles POST /_matrix/client/v3/user_directory/search. Users of this server are found by what their profile
// says, others by what they show in a room that the asker may know them from.
// Spec: client-server-api/#post_matrixclientv3user_directorysearch
func (h *Handlers) SearchUsers(r *rest.Request) (any, error) {
	body := struct {
		Term  string `json:"search_term"`
		Limit int    `json:"limit"`
	}{Limit: 10}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	limit := min(max(body.Limit, 1), 50)
	term := strings.ToLower(strings.TrimSpace(body.Term))
	answer := struct {
		Results []foundUser `json:"results"`
		Limited bool        `json:"limited"`
	}{Results: []foundUser{}}
	if term == "" {
		return answer, nil
	}
	known, err := h.store.Memberships.Acquaintances(r.Context(), r.By.User, maxAcquaintances)
	if err != nil {
		return nil, err
	}
	shown, err := h.shown(r.Context(), known)
	if err != nil {
		return nil, err
	}
	var found []foundUser
	for _, user := range shown {
		if user.rank = rankOf(term, user); user.rank > 0 {
			found = append(found, user)
		}
	}
	slices.SortStableFunc(found, func(a, b foundUser) int { return b.rank - a.rank })
	if answer.Limited = len(found) > limit; answer.Limited {
		found = found[:limit]
	}
	answer.Results = emptied(found)
	return answer, nil
}

// How well a user fits a search term, the best first. Words are what stands between blanks and punctuation.
const (
	fitsWholly = 5 - iota // the user ID, its local part or the display name is the term
	fitsFront             // the display name or the local part begins with it
	fitsWords             // each word of the term begins a word of either
	fitsInside            // it stands somewhere in the display name
	fitsID                // it stands somewhere in the user ID
)

// rankOf says how well the user fits the term, which is in lower case; 0 for not at all.
func rankOf(term string, user foundUser) int {
	name, userID := strings.ToLower(user.DisplayName), strings.ToLower(string(user.UserID))
	local := strings.ToLower(user.UserID.Localpart())
	bare := strings.TrimPrefix(term, "@")
	switch {
	case name == term || userID == term || local == bare:
		return fitsWholly
	case strings.HasPrefix(name, term) || strings.HasPrefix(local, bare):
		return fitsFront
	case beginWords(words(term), append(words(name), words(local)...)):
		return fitsWords
	case strings.Contains(name, term):
		return fitsInside
	case strings.Contains(userID, term):
		return fitsID
	}
	return 0
}

func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })
}

// beginWords says whether each of the terms begins one of the words.
func beginWords(terms, words []string) bool {
	for _, term := range terms {
		if !slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(word, term) }) {
			return false
		}
	}
	return len(terms) > 0
}

// shown gives what users show of themselves; those of ours who have expired are not shown.
func (h *Handlers) shown(ctx context.Context, known []storage.Acquaintance) ([]foundUser, error) {
	var numbers []int64
	var ours []id.UserID
	for _, a := range known {
		if h.local(a.UserID) {
			ours = append(ours, a.UserID)
		} else {
			numbers = append(numbers, a.Event)
		}
	}
	names, err := h.store.Profiles.Names(ctx, ours)
	if err != nil {
		return nil, err
	}
	expired, err := h.store.Validity.Expired(ctx, ours)
	if err != nil {
		return nil, err
	}
	events, err := h.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	memberships := make(map[int64]*storage.Event, len(events))
	for _, e := range events {
		memberships[e.Number] = e
	}
	shown := make([]foundUser, 0, len(known))
	for _, a := range known {
		user := foundUser{UserID: a.UserID}
		switch {
		case expired[a.UserID]:
			continue
		case h.local(a.UserID):
			user.DisplayName, user.AvatarURL = gjson.ParseBytes(names[a.UserID][0]).Str, gjson.ParseBytes(names[a.UserID][1]).Str
		default:
			e := memberships[a.Event]
			user.DisplayName, user.AvatarURL = contentText(e, "displayname"), contentText(e, "avatar_url")
		}
		shown = append(shown, user)
	}
	return shown, nil
}

// MutualRooms handles GET /_matrix/client/v1/mutual_rooms, and its older path.
// Spec: client-server-api/#get_matrixclientv1mutual_rooms
func (h *Handlers) MutualRooms(r *rest.Request) (any, error) {
	other := id.UserID(r.Query("user_id"))
	if !rest.ValidUserID(other) {
		return nil, mautrix.MInvalidParam.WithMessage("user_id is missing, or not a user ID")
	}
	if other == r.By.User {
		return nil, mautrix.MInvalidParam.WithStatus(http.StatusBadRequest).WithMessage("You share all rooms with yourself")
	}
	from := r.Query("from")
	if from == "" {
		from = r.Query("batch_token")
	}
	if from != "" && from[0] != '!' {
		return nil, badToken
	}
	const page = 500
	rooms, err := h.store.Memberships.RoomsInCommon(r.Context(), r.By.User, other, id.RoomID(from), page)
	if err != nil {
		return nil, err
	}
	count, err := h.store.Memberships.CountInCommon(r.Context(), r.By.User, other)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"joined": emptied(rooms), "count": count}
	if len(rooms) == page {
		answer["next_batch"] = rooms[page-1]
	}
	return answer, nil
}
