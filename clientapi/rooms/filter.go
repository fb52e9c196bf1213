package rooms

import (
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// eventFilter is the filter of /messages and /context. A nil list lets all through, an empty one nothing.
// Spec: client-server-api/#post_matrixclientv3useruseridfilter_request_roomeventfilter
type eventFilter struct {
	Types                   *[]string    `json:"types"`
	NotTypes                []string     `json:"not_types"`
	Senders                 *[]id.UserID `json:"senders"`
	NotSenders              []id.UserID  `json:"not_senders"`
	Rooms                   *[]id.RoomID `json:"rooms"`
	NotRooms                []id.RoomID  `json:"not_rooms"`
	ContainsURL             *bool        `json:"contains_url"`
	RelTypes                *[]string    `json:"rel_types"`
	NotRelTypes             []string     `json:"not_rel_types"`
	UnstableRelTypes        *[]string    `json:"org.matrix.msc3874.rel_types"`
	UnstableNotRelTypes     []string     `json:"org.matrix.msc3874.not_rel_types"`
	Limit                   int          `json:"limit"`
	LazyLoadMembers         bool         `json:"lazy_load_members"`
	IncludeRedundantMembers bool         `json:"include_redundant_members"`
}

// filterOf reads the query's filter; an empty one where there is none.
func filterOf(r *rest.Request) (*eventFilter, error) {
	f := &eventFilter{}
	text := r.Query("filter")
	if text == "" {
		return f, nil
	}
	if err := rest.Decode([]byte(text), f); err != nil {
		return nil, err
	}
	if f.RelTypes == nil {
		f.RelTypes = f.UnstableRelTypes
	}
	f.NotRelTypes = append(f.NotRelTypes, f.UnstableNotRelTypes...)
	return f, nil
}

// allows says whether the filter lets the event through.
func (f *eventFilter) allows(e *storage.Event) bool {
	glob := func(pattern string) bool { return policy.Glob(pattern, e.Type) }
	switch {
	case slices.Contains(f.NotSenders, e.Sender), slices.Contains(f.NotRooms, e.RoomID), slices.ContainsFunc(f.NotTypes, glob):
		return false
	case f.Types != nil && !slices.ContainsFunc(*f.Types, glob):
		return false
	case f.Senders != nil && !slices.Contains(*f.Senders, e.Sender):
		return false
	case f.Rooms != nil && !slices.Contains(*f.Rooms, e.RoomID):
		return false
	case e.RelType != "" && slices.Contains(f.NotRelTypes, e.RelType):
		return false
	case f.RelTypes != nil && !slices.Contains(*f.RelTypes, e.RelType):
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == (gjson.GetBytes(e.JSON, "content.url").Type == gjson.String)
}
