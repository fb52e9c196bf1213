package calls

import (
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// TestRules: a rule says as whom somebody is there and what they may do, in words that are true.
func TestRules(t *testing.T) {
	levels, err := parseLevels("11",
		&storage.Event{ID: "$create", JSON: []byte(`{"type":"m.room.create","state_key":"","sender":"@root:interior.test","content":{"room_version":"11"}}`)},
		&storage.Event{ID: "$levels", JSON: []byte(`{"type":"m.room.power_levels","state_key":"","sender":"@root:interior.test","content":{
			"users":{"@mod:interior.test":50,"@mod:finance.test":50,"@mod:press.test":50,"@mod:externe.test":50,"@quiet:interior.test":-1},"events":{"org.matrix.msc3401.call.member":0}}}`)})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{name: "interior.test", guestsStart: true, viewOnly: []string{"press.test"}, externals: policy.Externals{"externe.test"}}
	open, viewOnly, locked := policy.CallSettings{}, policy.CallSettings{ViewOnly: true}, policy.CallSettings{Locked: true}
	both := policy.CallSettings{ViewOnly: true, Locked: true}
	for _, c := range []struct {
		user     id.UserID
		watch    bool
		settings policy.CallSettings
		publish  bool
		rule     string
	}{
		{"@ann:interior.test", false, open, true, "member, may publish"},
		{"@mod:interior.test", false, open, true, "member, may publish"},
		{"@ann:finance.test", false, open, true, "guest: member, may publish"},
		{"@ann:finance.test", true, open, false, "guest: member, only to watch: publishes at its own focus"},
		{"@ann:finance.test", true, viewOnly, false, "guest: member, only to watch: publishes at its own focus"},
		{"@ann:press.test", false, open, false, "guest: member, only to watch: server"},
		{"@quiet:interior.test", false, open, false, "member, only to watch: power level"},
		{"@ann:interior.test", false, viewOnly, false, "member, only to watch: call is view-only"},
		{"@ann:finance.test", false, viewOnly, false, "guest: member, only to watch: call is view-only"},
		{"@mod:interior.test", false, viewOnly, true, "member, may publish"},
		{"@ann:interior.test", false, locked, true, "member, may publish"}, // was in already
		{"@mod:interior.test", false, locked, true, "moderator of a locked call, may publish"},
		{"@mod:interior.test", false, both, true, "moderator of a locked call, may publish"},
		{"@mod:finance.test", false, locked, true, "guest: moderator of a locked call, may publish"},
		{"@mod:finance.test", true, locked, false, "guest: moderator of a locked call, only to watch: publishes at its own focus"},
		{"@mod:press.test", false, locked, false, "guest: moderator of a locked call, only to watch: server"},
		{"@mod:externe.test", false, locked, true, "guest: member, may publish"}, // never moderates
	} {
		rules := &roomRules{levels: levels, settings: c.settings, access: policy.AccessUnrestricted}
		v, ok := h.judge(rules, &Matrix{User: c.user, Watch: c.watch})
		if !ok || v.rule != c.rule || v.publish != c.publish {
			t.Errorf("%s, elsewhere %v, %+v: got %v, %q, publishes %v, want %q, %v", c.user, c.watch, c.settings, ok, v.rule, v.publish, c.rule, c.publish)
		}
	}
}

// TestTheRuleIsTold: the record and the live page name the rule that holds of a participant, also where an administrator took publishing away.
func TestTheRuleIsTold(t *testing.T) {
	f := newTestLeaves(t).focus
	f.ctx, f.records = t.Context(), newRecorder(f.house.store, 0, time.Now)
	yes, no := true, false
	for _, c := range []struct {
		name    string
		user    id.UserID
		watch   bool
		granted *bool
		want    string
	}{
		{"a member", "@ann:interior.test", false, nil, "member, may publish"},
		{"a guest", "@ann:finance.test", false, nil, "guest: member, may publish"},
		{"one who publishes elsewhere", "@ann:finance.test", true, nil, "guest: member, only to watch: publishes at its own focus"},
		{"allowed by an administrator", "@ann:interior.test", false, &yes, "member, may publish"},
		{"forbidden by an administrator", "@ann:interior.test", false, &no, "member, only to watch: administrator"},
		{"a guest, forbidden", "@ann:finance.test", false, &no, "guest: member, only to watch: administrator"},
		{"one who publishes elsewhere, forbidden", "@ann:finance.test", true, &no, "guest: member, only to watch: publishes at its own focus"},
	} {
		m := &Matrix{User: c.user, Device: "D", Room: "!a:interior.test", Watch: c.watch}
		v, ok := f.house.judge(&roomRules{}, m)
		if !ok {
			t.Fatalf("%s: not let in", c.name)
		}
		p := newParticipant(f.rooms["c"], &entry{single: true, claims: &Claims{Matrix: m, Granted: c.granted}, join: &signal.Join{}, ruling: v})
		p.enters()
		p.measure()
		f.records.write(t.Context())
		if got, err := f.house.store.CallRecords.Find(t.Context(), storage.CallSearch{Limit: 100}); err != nil {
			t.Fatal(err)
		} else if !slices.ContainsFunc(got, func(r *storage.CallRecord) bool { return r.Session == p.sid && r.Rule == c.want }) {
			t.Errorf("%s: no record says %q", c.name, c.want)
		}
		if got := p.measured.Load().Rule; got != c.want {
			t.Errorf("%s: the live page says %q, want %q", c.name, got, c.want)
		}
		if may := strings.HasSuffix(c.want, rulePublish); may != p.info.Permission.CanPublish {
			t.Errorf("%s: may publish %v, and is told of as %q", c.name, p.info.Permission.CanPublish, c.want)
		}
	}
}
