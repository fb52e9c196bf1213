// Package auth judges events by the authorisation rules of their room's version, each
// refusal numbered as the specification of that version numbers the rule.
//
// It is pure: an event, the state to judge it by, a verdict. The same Check serves all three judgements
// of a received event (by its own auth events, by the state before it, by the current state) and the
// replay of state resolution; CheckAuthEvents is the part that only the first of them needs.
//
// What a reader must not break:
//   - Rules are read off the specification in its order. A branch without a rule number is a mistake.
//   - Nothing here looks at signatures, but for those inside an invite by e-mail; who must have signed an event,
//     the authoriser of a restricted join included, is pdu.Verify's.
//   - Creators of version 12 are above every number, and equal to one another.
//   - Parsed power levels hang on the event that they came from (pdu.Memo): keep the PDU, and a check
//     in a room of thousands costs no more than in a room of two.
package auth

import (
	"strconv"
	"strings"

	"chancery/roomserver/pdu"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"
)

// State is what an event is judged by.
type State interface {
	// Event is the event that sets a piece of the state; nil when there is none.
	Event(pdu.Key) gomatrixserverlib.PDU
}

// Events is a State held in a map.
type Events map[pdu.Key]gomatrixserverlib.PDU

// Event gives the event under key, nil when there is none.
func (e Events) Event(key pdu.Key) gomatrixserverlib.PDU { return e[key] }

// EventsOf makes a State of state events; a later one replaces an earlier one of the same key.
func EventsOf(events ...gomatrixserverlib.PDU) Events {
	state := make(Events, len(events))
	for _, ev := range events {
		if key, ok := pdu.KeyOf(ev); ok {
			state[key] = ev
		}
	}
	return state
}

// rules are the differences between room versions: where the numbered rules stand, and what they say.
type rules struct {
	version id.RoomVersion
	// Numbers of the rules about auth events, aliases, and so on; 0 where a version has none.
	authEvents, federate, aliases, member, joined, thirdParty, level, userKey, powerLevels, redaction int

	creatorInContent   bool // v1 to v10: content.creator names the creator
	notifications      bool // v6: changes of notifications are checked
	knock              bool // v7
	restricted         bool // v8
	knockRestricted    bool // v10
	integerLevels      bool // v10
	floatLevels        bool // v1 to v5
	privilegedCreators bool // v12, and the room ID is the create event's
}

var versions = func() map[id.RoomVersion]*rules {
	all := map[id.RoomVersion]*rules{}
	for i, version := range pdu.Versions() {
		n := i + 1
		r := &rules{
			version: version, authEvents: 2, federate: 3,
			creatorInContent: n <= 10, notifications: n >= 6, knock: n >= 7, restricted: n >= 8,
			knockRestricted: n >= 10, integerLevels: n >= 10, floatLevels: n <= 5, privilegedCreators: n >= 12,
		}
		if n >= 12 {
			r.authEvents, r.federate = 3, 4
		}
		next := r.federate + 1
		if n <= 5 {
			r.aliases = next
			next++
		}
		r.member, r.joined, r.thirdParty, r.level, r.userKey, r.powerLevels = next, next+1, next+2, next+3, next+4, next+5
		if n <= 2 {
			r.redaction = next + 6
		}
		all[version] = r
	}
	return all
}()

// deny makes the refusal by a rule, given by its number and those of its subordinate rules.
func deny(reason string, rule ...int) error {
	parts := make([]string, len(rule))
	for i, n := range rule {
		parts[i] = strconv.Itoa(n)
	}
	return &pdu.AuthError{Rule: strings.Join(parts, "."), Reason: reason}
}

var (
	createKey      = pdu.Key{Type: "m.room.create"}
	powerLevelsKey = pdu.Key{Type: "m.room.power_levels"}
	joinRulesKey   = pdu.Key{Type: "m.room.join_rules"}
)

func memberKey(user string) pdu.Key { return pdu.Key{Type: "m.room.member", StateKey: user} }

// check is one event on trial, with what the rules ask for again and again.
type check struct {
	*rules
	ev     gomatrixserverlib.PDU
	state  State
	create gomatrixserverlib.PDU
	sender string
	levels *Levels
}

// Check says whether the rules of the room version allow ev, judged by state: nil, or a
// *pdu.AuthError. The state must hold the create event, in version 12 too; of the rest it need hold only what
// Needed lists. The rules about the event's own auth_events are CheckAuthEvents.
// Spec: rooms/v11/#authorisation-rules
func Check(version id.RoomVersion, ev gomatrixserverlib.PDU, state State) error {
	r, ok := versions[version]
	if !ok {
		return &pdu.AuthError{Reason: "unknown room version " + string(version)}
	}
	// 1. If type is m.room.create.
	if ev.Type() == createKey.Type {
		return r.checkCreate(ev)
	}
	c := check{rules: r, ev: ev, state: state, create: state.Event(createKey), sender: string(ev.SenderID())}
	if err := c.checkRoom(); err != nil {
		return err
	}
	// 4 (v1 to v5). If type is m.room.aliases.
	if r.aliases != 0 && ev.Type() == "m.room.aliases" {
		return c.checkAliases()
	}
	// 5 (v1 to v5, v12) or 4. If type is m.room.member.
	if ev.Type() == "m.room.member" {
		return c.checkMember()
	}
	// 6 or 5. If the sender's current membership state is not join, reject.
	if c.membership(c.sender) != "join" {
		return deny("sender is not in the room", r.joined)
	}
	if err := c.parseLevels(); err != nil {
		return err
	}
	level := c.levels.User(id.UserID(c.sender))
	// 7 or 6. If type is m.room.third_party_invite, the invite level alone decides.
	if ev.Type() == "m.room.third_party_invite" {
		if level < c.levels.Invite() {
			return deny("sender may not invite", r.thirdParty, 1)
		}
		return nil
	}
	// 8 or 7. If the event type's required power level is greater than the sender's, reject.
	if c.levels.Event(ev.Type(), ev.StateKey() != nil) > level {
		return deny("sender's power level does not suffice for "+ev.Type(), r.level)
	}
	// 9 or 8. If the event has a state key that starts with an @ and does not match the sender, reject.
	if sk := ev.StateKey(); sk != nil && strings.HasPrefix(*sk, "@") && *sk != c.sender {
		return deny("state key is another user", r.userKey)
	}
	switch {
	// 10 or 9. If type is m.room.power_levels.
	case ev.Type() == powerLevelsKey.Type:
		return c.checkPowerLevels(level)
	// 11 (v1, v2). If type is m.room.redaction.
	case r.redaction != 0 && ev.Type() == "m.room.redaction":
		return c.checkRedaction(level)
	}
	return nil
}

// checkRoom holds the event to the room's create event.
func (c *check) checkRoom() error {
	room := pdu.RoomIDOf(c.ev)
	if c.privilegedCreators {
		// 2 (v12). If the event's room_id is not the ID of an accepted create event, with the sigil ! for $, reject.
		if c.create == nil || pdu.RoomIDOf(c.create) != room {
			return deny("room ID is not that of the create event", 2)
		}
	} else {
		// 2.4. If there is no create event among the entries, reject.
		if c.create == nil {
			return deny("no create event", c.authEvents, 4)
		}
		// 2.5. If any of them has another room_id, reject.
		if pdu.RoomIDOf(c.create) != room {
			return deny("create event of another room", c.authEvents, 5)
		}
	}
	// 4 (v12) or 3. If m.federate is false and the sender's domain is not the creator's, reject.
	if domain := domainOf(c.sender); domain != domainOf(string(c.create.SenderID())) && !createOf(c.rules, c.create).federate {
		return deny("room is not federated", c.federate)
	}
	return nil
}

// checkAliases is rule 4 of versions 1 to 5.
func (c *check) checkAliases() error {
	sk := c.ev.StateKey()
	// 4.1. If event has no state_key, reject.
	if sk == nil {
		return deny("aliases without state key", c.aliases, 1)
	}
	// 4.2. If sender's domain doesn't match state_key, reject.
	if domainOf(c.sender) != *sk {
		return deny("aliases of another server", c.aliases, 2)
	}
	return nil
}

// checkRedaction is rule 11 of versions 1 and 2.
func (c *check) checkRedaction(level Level) error {
	// 11.1. If the sender's power level is at least the redact level, allow.
	if level >= c.levels.Redact() {
		return nil
	}
	// 11.2. If the domain of the redacted event's ID is that of the redaction's ID, allow.
	if domain := domainOf(c.ev.Redacts()); domain != "" && domain == domainOf(c.ev.EventID()) {
		return nil
	}
	// 11.3. Otherwise, reject.
	return deny("sender may not redact that event", c.redaction, 3)
}

// parseLevels fetches the room's power levels when the rules first ask for them.
func (c *check) parseLevels() error {
	if c.levels != nil {
		return nil
	}
	levels, err := parsePowerLevels(c.rules, c.create, c.state.Event(powerLevelsKey))
	if err != nil {
		return deny("the room's power levels: "+err.Error(), c.level)
	}
	c.levels = levels
	return nil
}

// membership is a user's membership in the state; "leave" when there is none.
func (c *check) membership(user string) string {
	ev := c.state.Event(memberKey(user))
	if ev == nil {
		return "leave"
	}
	membership, err := ev.Membership()
	if err != nil || membership == "" {
		return "leave"
	}
	return membership
}

// domainOf is the server part of a user, room or event ID; empty if there is none.
func domainOf(s string) string {
	_, domain, _ := strings.Cut(s, ":")
	return domain
}
