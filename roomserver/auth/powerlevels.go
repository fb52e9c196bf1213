package auth

import (
	"chancery/roomserver/pdu"

	"errors"

	"maunium.net/go/mautrix/id"
)

// change is a power levels event on trial against the levels that hold.
type change struct {
	*check
	level    Level
	old, new *Levels
	// first is the number of the rule "if there is no previous event, allow", from which the others count.
	first int
}

// checkPowerLevels is rule 10, or 9 in versions 6 to 11. level is the sender's.
func (c *check) checkPowerLevels(level Level) error {
	next, err := parsePowerLevels(c.rules, c.create, c.ev)
	if err != nil {
		return c.denyMalformed(err)
	}
	ch := &change{check: c, level: level, old: c.levels, new: next, first: 2}
	if c.integerLevels {
		ch.first = 4
	}
	if c.privilegedCreators {
		// 10.4 (v12). If users contains a creator, reject.
		for user := range next.users {
			if next.created.has(id.UserID(user)) {
				return deny("a creator is listed in users", c.powerLevels, 4)
			}
		}
		ch.first = 5
	}
	// 9.4 (v10), or 10.2. If there is no previous event, allow.
	if c.levels.none {
		return nil
	}
	if err := ch.checkSingles(); err != nil {
		return err
	}
	if err := ch.checkMap(ch.old.events, ch.new.events); err != nil {
		return err
	}
	if c.notifications {
		if err := ch.checkMap(ch.old.notifications, ch.new.notifications); err != nil {
			return err
		}
	}
	return ch.checkUsers()
}

// denyMalformed is rules 9.1 to 9.3 (v10), or 10.1.
func (c *check) denyMalformed(err error) error {
	var m *malformed
	if !errors.As(err, &m) {
		return &pdu.AuthError{Reason: err.Error()}
	}
	if c.integerLevels {
		return deny(m.reason, c.powerLevels, m.rule)
	}
	return deny(m.reason, c.powerLevels, 1)
}

func (ch *change) deny(reason string, offset int, more ...int) error {
	return deny(reason, append([]int{ch.powerLevels, ch.first + offset}, more...)...)
}

// checkSingles is rule 9.5 (v10), or 10.3: for each of the single levels that was added, changed or removed.
func (ch *change) checkSingles() error {
	for i, name := range singleNames {
		hadIt, hasIt := ch.old.given[i], ch.new.given[i]
		before, after := ch.old.single[i], ch.new.single[i]
		if hadIt == hasIt && before == after {
			continue
		}
		// .1. If the current value is higher than the sender's level, reject.
		if hadIt && before > ch.level {
			return ch.deny(name+" is above the sender's level", 1, 1)
		}
		// .2. If the new value is higher than the sender's level, reject.
		if hasIt && after > ch.level {
			return ch.deny(name+" would be above the sender's level", 1, 2)
		}
	}
	return nil
}

// checkMap is rules 9.6 and 9.7 (v10), or 10.4 and 10.5, for events and, from version 6, notifications.
func (ch *change) checkMap(before, after map[string]Level) error {
	// .6. For each entry changed or removed: if the current value is greater than the sender's level, reject.
	for key, old := range before {
		if now, kept := after[key]; !(kept && now == old) && old > ch.level {
			return ch.deny("the level of "+key+" is above the sender's", 2, 1)
		}
	}
	// .7. For each entry added or changed: if the new value is greater than the sender's level, reject.
	for key, now := range after {
		if old, was := before[key]; !(was && now == old) && now > ch.level {
			return ch.deny("the level of "+key+" would be above the sender's", 3, 1)
		}
	}
	return nil
}

// checkUsers is rules 9.8 and 9.9 (v10), or 10.6 and 10.7.
func (ch *change) checkUsers() error {
	// .8. For each entry changed or removed, other than the sender's own: if the current value is at least the sender's level, reject.
	for user, old := range ch.old.users {
		if now, kept := ch.new.users[user]; !(kept && now == old) && user != ch.sender && old >= ch.level {
			return ch.deny("the level of "+user+" is not below the sender's", 4, 1)
		}
	}
	// .9. For each entry added or changed: if the new value is greater than the sender's level, reject.
	for user, now := range ch.new.users {
		if old, was := ch.old.users[user]; !(was && now == old) && now > ch.level {
			return ch.deny("the level of "+user+" would be above the sender's", 5, 1)
		}
	}
	return nil
}
