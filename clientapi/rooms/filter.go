package rooms

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// maxFilterItems bounds the lists that become part of a query.
const maxFilterItems = 500

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
	RelatedByRelTypes       *[]string    `json:"related_by_rel_types"`
	RelatedBySenders        *[]id.UserID `json:"related_by_senders"`
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
	if f.RelatedByRelTypes != nil && len(*f.RelatedByRelTypes) > maxFilterItems || f.RelatedBySenders != nil && len(*f.RelatedBySenders) > maxFilterItems {
		return nil, mautrix.MInvalidParam.WithMessage("A list of the filter has at most %d items", maxFilterItems)
	}
	return f, nil
}

// among takes out the events to which no other relates in the way that the filter wants.
func (f *eventFilter) among(ctx context.Context, events *storage.Events, list []*storage.Event) ([]*storage.Event, error) {
	if f.RelatedByRelTypes == nil && f.RelatedBySenders == nil || len(list) == 0 {
		return list, nil
	}
	var relTypes []string
	if f.RelatedByRelTypes != nil {
		relTypes = *f.RelatedByRelTypes
	}
	var senders []id.UserID
	if f.RelatedBySenders != nil {
		senders = *f.RelatedBySenders
	}
	ids := make([]id.EventID, len(list))
	for i, e := range list {
		ids[i] = e.ID
	}
	related, err := events.RelatedBy(ctx, ids, relTypes, senders)
	return slices.DeleteFunc(list, func(e *storage.Event) bool { return !related[e.ID] }), err
}

// allows says whether the filter lets the event through by itself.
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
