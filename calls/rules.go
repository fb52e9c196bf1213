package calls

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// ruling is what somebody who may be in a call may do in it.
type ruling struct {
	start    bool // the call may begin with it; otherwise it only joins one
	begins   bool // it has that by itself, and not since somebody else may
	publish  bool
	moderate bool   // come in though the call is locked
	locked   bool   // nobody comes in who is not in already
	mute     bool   // the voice is dropped
	noVideo  bool   // pictures are
	most     int    // participants at once; 0: what the configuration says
	bitrate  int64  // of all together, bits a second; 0: likewise
	rule     string // by which the bearer was let in, for the record
	asked    uint64 // when: what was asked later has a greater number; see house.ask
}

// unbound is the ruling of a focus alone: the token decides.
var unbound = ruling{start: true, publish: true, rule: "token"}

const (
	callMember = "org.matrix.msc3401.call.member"
	rtcMember  = "org.matrix.msc4143.rtc.member"
)

// roomRules are what a Matrix room says of its calls at one moment, and what the administrators say of it.
type roomRules struct {
	acl      *policy.ACL
	levels   *auth.Levels // nil: the room's state does not tell
	settings policy.CallSettings
	access   policy.Access
}

// ruleKeys are the pieces of state that decide, in the order in which rules reads them.
var ruleKeys = []storage.Key{
	{Type: event.StateCreate.Type}, {Type: event.StatePowerLevels.Type}, {Type: event.StateServerACL.Type}, {Type: policy.CallSettingsType},
	{Type: policy.AccessRulesType},
}

func isRule(key storage.Key) bool {
	for _, k := range ruleKeys[1:] {
		if k == key {
			return true
		}
	}
	return false
}

// rules reads what holds in the room now, never from a cache. It is nil for a room that we do not have, or that our server is not in.
func (h *house) rules(ctx context.Context, roomID id.RoomID) (*roomRules, error) {
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil || room == nil {
		return nil, wrap(err, "read room")
	}
	if here, err := h.store.Rooms.HasServer(ctx, roomID, h.name); err != nil || !here {
		return nil, wrap(err, "read servers")
	}
	asked := make([]storage.Lookup, len(ruleKeys))
	for i, key := range ruleKeys {
		asked[i] = storage.Lookup{At: room.State, Key: key}
	}
	numbers, err := h.store.State.Lookups(ctx, asked)
	if err != nil {
		return nil, wrap(err, "read call rules")
	}
	found, err := h.store.Events.ByNumbers(ctx, numbers)
	if err != nil {
		return nil, wrap(err, "read call rules")
	}
	events := make([]*storage.Event, len(ruleKeys))
	for i, number := range numbers {
		for _, e := range found {
			if number != 0 && e.Number == number {
				events[i] = e
			}
		}
	}
	r := &roomRules{}
	if r.levels, err = parseLevels(room.Version, events[0], events[1]); err != nil {
		return nil, err
	}
	if events[2] != nil {
		r.acl = policy.ParseACL(contentOf(events[2]))
	}
	if events[3] != nil && events[3].RedactedBy == "" {
		r.settings = policy.ParseCallSettings(contentOf(events[3]))
	}
	r.access = policy.AccessRestricted
	if events[4] != nil && events[4].RedactedBy == "" {
		r.access = policy.ParseAccess(contentOf(events[4]))
	}
	order, err := h.store.CallOrders.ByRoom(ctx, roomID)
	if err != nil {
		return nil, wrap(err, "read call orders")
	}
	if order != nil {
		r.settings = r.settings.With(policy.ParseCallSettings(order.Orders))
	}
	return r, nil
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// parseLevels reads the power levels as the authorisation of events reads them.
func parseLevels(version id.RoomVersion, create, levels *storage.Event) (*auth.Levels, error) {
	if create == nil {
		return nil, nil
	}
	created, err := pdu.Trusted(version, create.ID, create.JSON)
	if err != nil {
		return nil, wrap(err, "read create event")
	}
	if levels == nil {
		return auth.ParsePowerLevels(version, created, nil)
	}
	set, err := pdu.Trusted(version, levels.ID, levels.JSON)
	if err != nil {
		return nil, wrap(err, "read power levels")
	}
	return auth.ParsePowerLevels(version, created, set)
}

func contentOf(e *storage.Event) []byte { return []byte(gjson.GetBytes(e.JSON, "content").Raw) }

// judge says what a member of the room may do in its call; false: not even be there.
func (h *house) judge(r *roomRules, m *Matrix) (ruling, bool) {
	server := m.User.Homeserver()
	ours := server == h.name
	if !ours && !h.allowed.Allows(server) {
		return ruling{}, false
	}
	if r == nil || !r.acl.Allows(server) || r.settings.Removes(m.User) || !h.externals.Admit(r.access, server) {
		return ruling{}, false
	}
	v := ruling{
		begins: ours || h.guestsStart && !policy.AnyServer(h.restricted, server),
		mute:   r.settings.Mutes(m.User), noVideo: r.settings.Blinds(m.User),
		locked: r.settings.Locked, most: r.settings.MaxParticipants, bitrate: r.settings.MaxBitrate,
	}
	v.start = v.begins
	level, needs, order := auth.Level(0), auth.Level(0), auth.Level(50)
	if r.levels != nil {
		level, needs, order = r.levels.User(m.User), publishLevel(r.levels, m.Legacy), r.levels.Event(policy.CallSettingsType, true)
	}
	if p := r.settings.PublishLevel; p != nil {
		needs = max(needs, auth.Level(*p))
	}
	v.moderate = level >= order && !h.externals.Name(server)
	may := rulePublish
	switch {
	case m.Watch:
		may = ruleWatch + "publishes at its own focus"
	case !ours && policy.AnyServer(h.viewOnly, server):
		may = ruleWatch + "server"
	case level < needs:
		may = ruleWatch + "power level"
	case r.settings.ViewOnly && !v.moderate:
		may = ruleWatch + "call is view-only"
	}
	v.publish, v.rule = may == rulePublish, v.bearer(ours)+may
	return v, true
}

// How a rule ends, as operators read it; what follows ruleWatch says why.
const (
	rulePublish = "may publish"
	ruleWatch   = "only to watch: "
)

// bearer is how a rule begins: as whom somebody is there.
func (v *ruling) bearer(ours bool) string {
	who := "member, "
	if v.locked && v.moderate {
		who = "moderator of a locked call, "
	}
	if !ours {
		return "guest: " + who
	}
	return who
}

// ruled names the rule by which p is there now. What an administrator has taken away since is not the room's doing.
func (p *Participant) ruled() string {
	if who, may := strings.CutSuffix(p.ruling.rule, rulePublish); may && !allowed(p.granted) {
		return who + ruleWatch + "administrator"
	}
	return p.ruling.rule
}

// publishLevel is the power level that publishing needs: that of the event by which a client says that it is in the call.
func publishLevel(l *auth.Levels, legacy bool) auth.Level {
	member := l.Event(callMember, true)
	if legacy {
		return member
	}
	// The newer membership is a message event. A level that is set for the older one holds too: a type that is listed has
	// one level, whether it is sent as state or not.
	needs := l.Event(rtcMember, false)
	if member == l.Event(callMember, false) {
		needs = max(needs, member)
	}
	return needs
}

// errLocked says that the call takes nobody new.
var errLocked = errors.New("the call is locked")
