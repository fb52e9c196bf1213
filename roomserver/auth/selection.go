package auth

import (
	"chancery/roomserver/pdu"

	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"
)

// Needed lists the pieces of state that an event names in its auth_events, where the room has them. In version 12
// the create event is not among them, though Check wants it all the same.
// Spec: server-server-api/#auth-events-selection
func Needed(version id.RoomVersion, kind string, stateKey *string, sender id.UserID, content []byte) []pdu.Key {
	r, ok := versions[version]
	if !ok || kind == createKey.Type {
		return nil
	}
	keys := make([]pdu.Key, 0, 7)
	if !r.privilegedCreators {
		keys = append(keys, createKey)
	}
	keys = append(keys, powerLevelsKey, memberKey(string(sender)))
	if kind == "m.room.member" && stateKey != nil {
		keys = r.neededByMember(keys, *stateKey, content)
	}
	return keys
}

func (r *rules) neededByMember(keys []pdu.Key, target string, content []byte) []pdu.Key {
	add := func(key pdu.Key) {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	add(memberKey(target))
	membership := gjson.GetBytes(content, "membership").Str
	switch membership {
	case "join", "invite", "knock":
		add(joinRulesKey)
	}
	if token := gjson.GetBytes(content, "third_party_invite.signed.token"); membership == "invite" && token.Type == gjson.String {
		add(pdu.Key{Type: "m.room.third_party_invite", StateKey: token.Str})
	}
	if user := gjson.GetBytes(content, "join_authorised_via_users_server"); membership == "join" && r.restricted && user.Type == gjson.String {
		add(memberKey(user.Str))
	}
	return keys
}

// NeededBy is Needed for an event that exists.
func NeededBy(ev gomatrixserverlib.PDU) []pdu.Key {
	return Needed(id.RoomVersion(ev.Version()), ev.Type(), ev.StateKey(), pdu.Sender(ev), ev.Content())
}

// CheckAuthEvents holds an event to the rules about its own auth_events: 2, in version 12 2 and 3. authEvents are the
// events that ev.AuthEventIDs() names, all of them; rejected says which of them were rejected.
// nil, or a *pdu.AuthError.
func CheckAuthEvents(version id.RoomVersion, ev gomatrixserverlib.PDU, authEvents []gomatrixserverlib.PDU, rejected func(id.EventID) bool) error {
	r, ok := versions[version]
	if !ok {
		return &pdu.AuthError{Reason: "unknown room version " + string(version)}
	}
	if ev.Type() == createKey.Type {
		return nil
	}
	named := pdu.AuthEvents(ev)
	room := pdu.RoomIDOf(ev)
	needed := NeededBy(ev)
	seen := make(map[pdu.Key]bool, len(authEvents))
	implied := r.privilegedCreators // the create event has yet to be seen
	for _, ae := range authEvents {
		if ae == nil {
			return deny("an auth event is missing", r.authEvents, 3)
		}
		if r.privilegedCreators && ae.Type() == createKey.Type && !slices.Contains(named, id.EventID(ae.EventID())) {
			// 2 (v12). The room ID must be that of an accepted create event.
			if pdu.RoomIDOf(ae) != room || rejected(id.EventID(ae.EventID())) {
				return deny("room ID is not that of an accepted create event", 2)
			}
			implied = false
			continue
		}
		key, isState := pdu.KeyOf(ae)
		// 2.1. If there are duplicate entries for a type and state key, reject.
		if isState && seen[key] {
			return deny("two auth events for "+key.Type, r.authEvents, 1)
		}
		// 2.2. If there are entries that the selection does not want, reject. (v12: the create event is one.)
		if !isState || !slices.Contains(needed, key) {
			return deny("auth event of type "+ae.Type()+" is not wanted", r.authEvents, 2)
		}
		seen[key] = true
		// 2.3. If there are entries which were themselves rejected, reject.
		if rejected(id.EventID(ae.EventID())) {
			return deny("auth event "+ae.EventID()+" was rejected", r.authEvents, 3)
		}
		// 2.5, in version 12 3.4. If any has another room_id, reject.
		if pdu.RoomIDOf(ae) != room {
			return r.denyOtherRoom()
		}
	}
	// 2.4. If there is no create event among the entries, reject.
	if !r.privilegedCreators && !seen[createKey] {
		return deny("no create event among the auth events", r.authEvents, 4)
	}
	if implied {
		return deny("the create event is not known", 2)
	}
	return nil
}

func (r *rules) denyOtherRoom() error {
	if r.privilegedCreators {
		return deny("auth event of another room", r.authEvents, 4)
	}
	return deny("auth event of another room", r.authEvents, 5)
}
