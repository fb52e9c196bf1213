package auth

import (
	"slices"

	"chancery/roomserver/pdu"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"
)

// checkCreate is rule 1.
func (r *rules) checkCreate(ev gomatrixserverlib.PDU) error {
	// 1.1. If it has any prev_events, reject.
	if len(ev.PrevEventIDs()) > 0 {
		return deny("create event has parents", 1, 1)
	}
	if r.privilegedCreators {
		// 1.2 (v12). If the event has a room_id, reject.
		if gjson.GetBytes(ev.JSON(), "room_id").Exists() {
			return deny("create event has a room ID", 1, 2)
		}
		if !ev.StateKeyEquals("") {
			return deny("create event has a state key", 1, 2) // else it would have no room ID at all
		}
	} else if domain := domainOf(string(pdu.RoomIDOf(ev))); domain == "" || domain != domainOf(string(ev.SenderID())) {
		// 1.2. If the domain of the room_id does not match the domain of the sender, reject.
		return deny("room ID and sender are of different servers", 1, 2)
	}
	// 1.3. If content.room_version is present and is not a recognised version, reject.
	if v := gjson.GetBytes(ev.Content(), "room_version"); v.Exists() && (v.Type != gjson.String || !pdu.Known(id.RoomVersion(v.Str))) {
		return deny("unknown room version", 1, 3)
	}
	// 1.4 (v1 to v10). If content has no creator property, reject.
	if r.creatorInContent && !gjson.GetBytes(ev.Content(), "creator").Exists() {
		return deny("no creator", 1, 4)
	}
	// 1.4 (v12). If additional_creators is present and is not a list of valid user IDs, reject.
	if r.privilegedCreators {
		if _, ok := additionalCreators(ev); !ok {
			return deny("additional_creators is no list of user IDs", 1, 4)
		}
	}
	return nil
}

func additionalCreators(create gomatrixserverlib.PDU) ([]id.UserID, bool) {
	list := gjson.GetBytes(create.Content(), "additional_creators")
	if !list.Exists() {
		return nil, true
	}
	if !list.IsArray() {
		return nil, false
	}
	var users []id.UserID
	for _, item := range list.Array() {
		if item.Type != gjson.String || !pdu.ValidUserID(item.Str) {
			return nil, false
		}
		users = append(users, id.UserID(item.Str))
	}
	return users, true
}

// creation is what the rules read in a create event.
type creation struct {
	federate bool
	// creators: in version 12 all who have infinite power; before, the one.
	creators []id.UserID
	// first may join without further ado.
	first id.UserID
}

func createOf(r *rules, create gomatrixserverlib.PDU) *creation {
	return pdu.Memo(create, func() *creation {
		c := &creation{first: pdu.Sender(create)}
		c.federate = gjson.GetBytes(create.Content(), `m\.federate`).Type != gjson.False
		if r.creatorInContent {
			c.first = id.UserID(gjson.GetBytes(create.Content(), "creator").Str)
		}
		c.creators = []id.UserID{c.first}
		if r.privilegedCreators {
			more, _ := additionalCreators(create)
			c.creators = append(c.creators, more...)
		}
		return c
	})
}

func (c *creation) has(user id.UserID) bool { return slices.Contains(c.creators, user) }
