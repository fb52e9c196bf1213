package auth

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"chancery/roomserver/pdu"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/id"
)

// Level is a power level. Levels are compared as numbers are.
type Level int64

// Creator is the level of a version 12 room's creators: above all that an event can grant.
const Creator Level = math.MaxInt64

// The single levels of a power levels event, as indexes of Levels.single.
const (
	usersDefault = iota
	eventsDefault
	stateDefault
	ban
	redact
	kick
	invite
	singles
)

var singleNames = [singles]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

var singleDefaults = [singles]Level{stateDefault: 50, ban: 50, redact: 50, kick: 50}

// Levels are a room's power levels, parsed. They never change and may be shared.
type Levels struct {
	created *creation
	// privileged: the creators are above every number (v12).
	privileged bool
	// none: the room has no power levels event.
	none   bool
	single [singles]Level
	given  [singles]bool
	users  map[string]Level
	events map[string]Level
	// notifications holds what is set; the default is Notification's.
	notifications map[string]Level
}

// ParsePowerLevels reads the power levels of a room; without an event (nil) they are the
// defaults. What comes of an event is remembered with it. The Levels are not to be changed.
func ParsePowerLevels(version id.RoomVersion, create, levels gomatrixserverlib.PDU) (*Levels, error) {
	r, ok := versions[version]
	if !ok || create == nil {
		return nil, errors.New("auth: unknown room version or no create event")
	}
	return parsePowerLevels(r, create, levels)
}

// User is a user's level.
func (l *Levels) User(user id.UserID) Level {
	if l.privileged && l.created.has(user) {
		return Creator
	}
	if l.none {
		if l.created.has(user) {
			return 100
		}
		return 0
	}
	if level, ok := l.users[string(user)]; ok {
		return level
	}
	return l.single[usersDefault]
}

// Event is the level that sending an event of a type needs.
func (l *Levels) Event(kind string, isState bool) Level {
	if level, ok := l.events[kind]; ok {
		return level
	}
	if isState {
		return l.single[stateDefault]
	}
	return l.single[eventsDefault]
}

// Invite is the level that inviting needs.
func (l *Levels) Invite() Level { return l.single[invite] }

// Kick is the level that removing others needs.
func (l *Levels) Kick() Level { return l.single[kick] }

// Ban is the level that banning needs.
func (l *Levels) Ban() Level { return l.single[ban] }

// Redact is the level that redacting others' events needs.
func (l *Levels) Redact() Level { return l.single[redact] }

// Notification is the level that a kind of notification needs ("room": to notify all); 50 unless set.
func (l *Levels) Notification(key string) Level {
	if level, ok := l.notifications[key]; ok {
		return level
	}
	return 50
}

// Users calls visit for each user with an own entry, in no order. Creators of version 12 have none.
func (l *Levels) Users(visit func(id.UserID, Level)) {
	for user, level := range l.users {
		visit(id.UserID(user), level)
	}
}

// parsed is what is remembered with a power levels event.
type parsed struct {
	levels *Levels
	err    error
}

func parsePowerLevels(r *rules, create, ev gomatrixserverlib.PDU) (*Levels, error) {
	created := createOf(r, create)
	if ev == nil {
		return &Levels{created: created, privileged: r.privilegedCreators, none: true, single: singleDefaults}, nil
	}
	p := pdu.Memo(ev, func() parsed {
		levels, err := r.readLevels(ev)
		if levels != nil {
			levels.created = created
		}
		return parsed{levels, err}
	})
	if p.err != nil {
		return nil, p.err
	}
	if p.levels.created != created {
		// The create event was loaded anew, or this is another room's: only the creators differ.
		levels := *p.levels
		levels.created = created
		return &levels, nil
	}
	return p.levels, nil
}

// malformed says what is wrong with a power levels event: 1 a single level, 2 events or
// notifications, 3 users, as version 10 numbers its rules.
type malformed struct {
	rule   int
	reason string
}

func (m *malformed) Error() string { return m.reason }

// readLevels reads the content of a power levels event as strictly as the version wants it.
func (r *rules) readLevels(ev gomatrixserverlib.PDU) (*Levels, error) {
	l := &Levels{privileged: r.privilegedCreators, single: singleDefaults}
	content := gjson.ParseBytes(ev.Content())
	var err error
	content.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "users":
			l.users, err = r.readMap(value, 3)
		case "events":
			l.events, err = r.readMap(value, 2)
		case "notifications":
			l.notifications, err = r.readMap(value, 2)
		default:
			err = r.readSingle(l, key.Str, value)
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	for user := range l.users {
		if !pdu.ValidUserID(user) {
			return nil, &malformed{3, "users holds what is no user ID"}
		}
	}
	return l, nil
}

func (r *rules) readSingle(l *Levels, key string, value gjson.Result) error {
	for i, name := range singleNames {
		if key != name {
			continue
		}
		level, ok := r.readLevel(value)
		if !ok {
			return &malformed{1, name + " is no power level"}
		}
		l.single[i], l.given[i] = level, true
	}
	return nil
}

func (r *rules) readMap(value gjson.Result, rule int) (map[string]Level, error) {
	if !value.IsObject() {
		return nil, &malformed{rule, "a list of power levels is no object"}
	}
	levels := map[string]Level{}
	ok := true
	value.ForEach(func(key, value gjson.Result) bool {
		levels[key.Str], ok = r.readLevel(value)
		return ok
	})
	if !ok {
		return nil, &malformed{rule, "a list holds what is no power level"}
	}
	return levels, nil
}

// readLevel reads one level: an integer; up to version 9 also a string that is one; up to version 5 also a float, cut off.
// Spec: rooms/v1/#mroompower_levels-events-accept-values-as-strings
func (r *rules) readLevel(value gjson.Result) (Level, bool) {
	switch {
	case value.Type == gjson.Number:
		if level, ok := wholeNumber(value.Raw); ok {
			return level, true
		}
		if !r.floatLevels {
			return 0, false
		}
		f, err := strconv.ParseFloat(value.Raw, 64)
		if err != nil {
			return 0, false
		}
		f = math.Trunc(f)
		return Level(max(min(f, 1<<62), -1<<62)), true
	case value.Type == gjson.String && !r.integerLevels:
		return wholeNumber(strings.TrimSpace(value.Str))
	}
	return 0, false
}

// wholeNumber reads an optional sign and digits. What exceeds 62 bits is cut down to them, so
// that no number reaches Creator.
func wholeNumber(s string) (Level, bool) {
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return Level(max(min(n, 1<<62), -1<<62)), true
}
