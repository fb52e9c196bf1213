package rooms

import (
	"context"
	"net/http"
	"strings"

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
	for _, user := range shown {
		if !strings.Contains(strings.ToLower(string(user.UserID)), term) && !strings.Contains(strings.ToLower(user.DisplayName), term) {
			continue
		}
		if len(answer.Results) == limit {
			answer.Limited = true
			break
		}
		answer.Results = append(answer.Results, user)
	}
	return answer, nil
}

// shown gives what users show of themselves.
func (h *Handlers) shown(ctx context.Context, known []storage.Acquaintance) ([]foundUser, error) {
	var numbers []int64
	for _, a := range known {
		if !h.local(a.UserID) {
			numbers = append(numbers, a.Event)
		}
	}
	events, err := h.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, err
	}
	memberships := make(map[int64]*storage.Event, len(events))
	for _, e := range events {
		memberships[e.Number] = e
	}
	shown := make([]foundUser, len(known))
	for i, a := range known {
		shown[i] = foundUser{UserID: a.UserID}
		if !h.local(a.UserID) {
			e := memberships[a.Event]
			shown[i].DisplayName, shown[i].AvatarURL = contentText(e, "displayname"), contentText(e, "avatar_url")
			continue
		}
		fields, err := h.store.Profiles.All(ctx, a.UserID)
		if err != nil {
			return nil, err
		}
		shown[i].DisplayName, shown[i].AvatarURL = gjson.ParseBytes(fields["displayname"]).Str, gjson.ParseBytes(fields["avatar_url"]).Str
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
	const page = 500
	rooms, err := h.store.Memberships.RoomsInCommon(r.Context(), r.By.User, other, id.RoomID(from), page)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"joined": emptied(rooms)}
	if len(rooms) == page {
		answer["next_batch"] = rooms[page-1]
	}
	return answer, nil
}
