package auth

import (
	"crypto/ed25519"

	"chancery/roomserver/pdu"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"
)

// member is a membership event on trial. Its subordinate rules moved when version 8 put one in second place.
type member struct {
	*check
	target     string
	membership gjson.Result
}

// rule numbers a rule about members as version 7 and earlier do: 2 is join, 3 invite, 4 leave, 5 ban, 6 knock.
func (m *member) rule(membership int, more ...int) []int {
	if m.restricted {
		membership++
	}
	return append([]int{m.member, membership}, more...)
}

func (m *member) deny(reason string, membership int, more ...int) error {
	return deny(reason, m.rule(membership, more...)...)
}

// checkMember is rule 5, or 4 in versions 6 to 11.
func (c *check) checkMember() error {
	membership := gjson.GetBytes(c.ev.Content(), "membership")
	// 4.1. If there is no state_key, or no membership in content, reject.
	if c.ev.StateKey() == nil || membership.Type != gjson.String {
		return deny("no state key or no membership", c.member, 1)
	}
	// 4.2 (v8). The authoriser's signature: pdu.Verify.
	m := &member{check: c, target: *c.ev.StateKey(), membership: membership}
	switch membership.Str {
	case "join":
		return m.checkJoin()
	case "invite":
		return m.checkInvite()
	case "leave":
		return m.checkLeave()
	case "ban":
		return m.checkBan()
	case "knock":
		if m.knock {
			return m.checkKnock()
		}
	}
	// 4.8 (v8), 4.7 (v7), 4.6. Otherwise, the membership is unknown. Reject.
	if m.knock {
		return m.deny("unknown membership", 7)
	}
	return m.deny("unknown membership", 6)
}

// checkJoin is rule 4.3 (v8), or 4.2.
func (m *member) checkJoin() error {
	// .1. If the only previous event is the create event and the state_key is the creator, allow.
	if prev := m.ev.PrevEventIDs(); len(prev) == 1 && prev[0] == m.create.EventID() &&
		id.UserID(m.target) == createOf(m.rules, m.create).first {
		return nil
	}
	// .2. If the sender does not match state_key, reject.
	if m.sender != m.target {
		return m.deny("join of another user", 2, 2)
	}
	current := m.check.membership(m.target)
	// .3. If the sender is banned, reject.
	if current == "ban" {
		return m.deny("user is banned", 2, 3)
	}
	inside := current == "join" || current == "invite"
	rule := m.joinRule()
	switch {
	// .4. If the join_rule is invite (or, v7, knock) allow if membership is invite or join.
	case rule == "invite", rule == "knock" && m.knock:
		if inside {
			return nil
		}
	// .5 (v8). If the join_rule is restricted (or, v10, knock_restricted).
	case rule == "restricted" && m.restricted, rule == "knock_restricted" && m.knockRestricted:
		// .5.1. If membership is join or invite, allow.
		if inside {
			return nil
		}
		return m.checkAuthoriser()
	// .5, or .6 (v8). If the join_rule is public, allow.
	case rule == "public":
		return nil
	}
	// .6, or .7 (v8). Otherwise, reject.
	if m.restricted {
		return m.deny("join rule does not admit the user", 2, 7)
	}
	return m.deny("join rule does not admit the user", 2, 6)
}

// checkAuthoriser is rule .5.2 of joins: the authoriser must be joined and allowed to invite.
func (m *member) checkAuthoriser() error {
	authoriser := gjson.GetBytes(m.ev.Content(), "join_authorised_via_users_server")
	if authoriser.Type != gjson.String || m.check.membership(authoriser.Str) != "join" {
		return m.deny("no authoriser who is in the room", 2, 5, 2)
	}
	if err := m.parseLevels(); err != nil {
		return err
	}
	if m.levels.User(id.UserID(authoriser.Str)) < m.levels.Invite() {
		return m.deny("authoriser may not invite", 2, 5, 2)
	}
	return nil
}

// joinRule is the room's; without an event it is invite.
func (m *member) joinRule() string {
	ev := m.state.Event(joinRulesKey)
	if ev == nil {
		return "invite"
	}
	rule := gjson.GetBytes(ev.Content(), "join_rule")
	if !rule.Exists() {
		return "invite"
	}
	return rule.Str
}

// checkInvite is rule 4.4 (v8), or 4.3.
func (m *member) checkInvite() error {
	current := m.check.membership(m.target)
	// .1. If content has a third_party_invite property.
	if invite := gjson.GetBytes(m.ev.Content(), "third_party_invite"); invite.Exists() {
		return m.checkThirdParty(invite, current)
	}
	// .2. If the sender is not joined, reject.
	if m.check.membership(m.sender) != "join" {
		return m.deny("sender is not in the room", 3, 2)
	}
	// .3. If the target is joined or banned, reject.
	if current == "join" || current == "ban" {
		return m.deny("target is in the room or banned", 3, 3)
	}
	if err := m.parseLevels(); err != nil {
		return err
	}
	// .4. If the sender's power level is at least the invite level, allow.
	if m.levels.User(id.UserID(m.sender)) >= m.levels.Invite() {
		return nil
	}
	// .5. Otherwise, reject.
	return m.deny("sender may not invite", 3, 5)
}

// checkThirdParty is rule .1 of invites.
func (m *member) checkThirdParty(invite gjson.Result, current string) error {
	// .1.1. If the target is banned, reject.
	if current == "ban" {
		return m.deny("target is banned", 3, 1, 1)
	}
	// .1.2. If it has no signed property, reject.
	signed := invite.Get("signed")
	if !invite.IsObject() || !signed.IsObject() {
		return m.deny("invite by e-mail is not signed", 3, 1, 2)
	}
	// .1.3. If signed has no mxid and token, reject.
	mxid, token := signed.Get("mxid"), signed.Get("token")
	if mxid.Type != gjson.String || token.Type != gjson.String {
		return m.deny("invite by e-mail has no mxid or no token", 3, 1, 3)
	}
	// .1.4. If mxid does not match state_key, reject.
	if mxid.Str != m.target {
		return m.deny("invite by e-mail is for another user", 3, 1, 4)
	}
	// .1.5. If there is no m.room.third_party_invite event with that token, reject.
	origin := m.state.Event(pdu.Key{Type: "m.room.third_party_invite", StateKey: token.Str})
	if origin == nil {
		return m.deny("token is not known", 3, 1, 5)
	}
	// .1.6. If the senders differ, reject.
	if string(origin.SenderID()) != m.sender {
		return m.deny("invite by e-mail was made by another user", 3, 1, 6)
	}
	// .1.7. If any signature in signed matches any public key of that event, allow.
	if pdu.SignedBy([]byte(signed.Raw), publicKeys(origin)) {
		return nil
	}
	// .1.8. Otherwise, reject.
	return m.deny("no signature on the invite by e-mail fits", 3, 1, 8)
}

// publicKeys are those of a third-party invite: .1.7.1 its public_key, .1.7.2 its list of public_keys.
func publicKeys(invite gomatrixserverlib.PDU) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	add := func(encoded gjson.Result) {
		if key := pdu.PublicKey(encoded.Str); key != nil {
			keys = append(keys, key)
		}
	}
	add(gjson.GetBytes(invite.Content(), "public_key"))
	for _, item := range gjson.GetBytes(invite.Content(), "public_keys").Array() {
		add(item.Get("public_key"))
	}
	return keys
}

// checkLeave is rule 4.5 (v8), or 4.4.
func (m *member) checkLeave() error {
	current := m.check.membership(m.target)
	// .1. If the sender matches state_key, allow if and only if the membership is invite, join or (v7) knock.
	if m.sender == m.target {
		if current == "invite" || current == "join" || current == "knock" && m.knock {
			return nil
		}
		return m.deny("user is not in the room", 4, 1)
	}
	// .2. If the sender is not joined, reject.
	if m.check.membership(m.sender) != "join" {
		return m.deny("sender is not in the room", 4, 2)
	}
	if err := m.parseLevels(); err != nil {
		return err
	}
	level := m.levels.User(id.UserID(m.sender))
	// .3. If the target is banned and the sender's level is less than the ban level, reject.
	if current == "ban" && level < m.levels.Ban() {
		return m.deny("sender may not lift bans", 4, 3)
	}
	// .4. If the sender's level is at least the kick level, and the target's is less than it, allow.
	if level >= m.levels.Kick() && m.levels.User(id.UserID(m.target)) < level {
		return nil
	}
	// .5. Otherwise, reject.
	return m.deny("sender may not remove the user", 4, 5)
}

// checkBan is rule 4.6 (v8), or 4.5.
func (m *member) checkBan() error {
	// .1. If the sender is not joined, reject.
	if m.check.membership(m.sender) != "join" {
		return m.deny("sender is not in the room", 5, 1)
	}
	if err := m.parseLevels(); err != nil {
		return err
	}
	level := m.levels.User(id.UserID(m.sender))
	// .2. If the sender's level is at least the ban level, and the target's is less than it, allow.
	if level >= m.levels.Ban() && m.levels.User(id.UserID(m.target)) < level {
		return nil
	}
	// .3. Otherwise, reject.
	return m.deny("sender may not ban the user", 5, 3)
}

// checkKnock is rule 4.7 (v8), or 4.6 (v7).
func (m *member) checkKnock() error {
	// .1. If the join_rule is anything other than knock (or, v10, knock_restricted), reject.
	if rule := m.joinRule(); rule != "knock" && !(rule == "knock_restricted" && m.knockRestricted) {
		return m.deny("room cannot be knocked at", 6, 1)
	}
	// .2. If the sender does not match state_key, reject.
	if m.sender != m.target {
		return m.deny("knock for another user", 6, 2)
	}
	// .3. If the sender is not banned, invited or joined, allow.
	switch m.check.membership(m.sender) {
	case "ban", "invite", "join":
		// .4. Otherwise, reject.
		return m.deny("user is in the room, invited or banned", 6, 4)
	}
	return nil
}
