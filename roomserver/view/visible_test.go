package view

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"chancery/storage"
)

// The first setting of a script is seen by whoever joins later: what holds before
// it is the default, shared.
//
// Each case is a script of what happens in a room, the user who looks, and what
// that user sees of it: one letter for each step, "." for what is not seen.
var visibilityCases = []struct {
	name, script, user, seen string
}{
	{"never there, nothing set", "@u:x join; $a", "@w:x", ".."},
	{"never there, world readable", "world_readable; @u:x join; $a", "@w:x", "xxx"},
	{"never there, shared", "shared; @u:x join; $a", "@w:x", "..."},
	{"joined, shared: all that was before", "shared; $a; @u:x join; $b", "@u:x", "xxxx"},
	{"joined, nothing set counts as shared", "$a; @u:x join; $b", "@u:x", "xxx"},
	{"joined, nonsense set counts as shared", "nonsense; $a; @u:x join; $b", "@u:x", "xxxx"},
	{"joined, invited: from the invitation on", "invited; $a; @u:x invite; $b; @u:x join; $c", "@u:x", "x.xxxx"},
	{"joined, joined: from the join on", "joined; $a; @u:x invite; $b; @u:x join; $c", "@u:x", "x...xx"},
	{"invited only, invited", "invited; $a; @u:x invite; $b", "@u:x", "..xx"},
	{"invited only, shared", "shared; $a; @u:x invite; $b", "@u:x", "...."},
	{"left, shared: up to the leave", "shared; $a; @u:x join; $b; @u:x leave; $c", "@u:x", "xxxxx."},
	{"left, joined: while there, and the leave itself", "joined; $a; @u:x join; $b; @u:x leave; $c", "@u:x", "x.xxx."},
	{"banned, shared: up to the ban", "shared; @u:x join; $b; @u:x ban; $c", "@u:x", "xxxx."},
	{"left and invited again, shared: up to the leave", "shared; @u:x join; @u:x leave; $a; @u:x invite; $b", "@u:x", "xxx..."},
	{"left, unbanned and invited again", "shared; @u:x join; @u:x ban; $a; @u:x leave; @u:x invite; $b", "@u:x", "xxx...."},
	{"left and came again, shared: all", "shared; @u:x join; @u:x leave; $a; @u:x join; $b", "@u:x", "xxxxxx"},
	{"left and came again, joined: not the time between", "joined; @u:x join; @u:x leave; $a; @u:x join; $b", "@u:x", "xxx.xx"},
	{"invitation refused, shared: nothing", "shared; $a; @u:x invite; $b; @u:x leave; $c", "@u:x", "......"},
	{"invitation refused, invited: while invited", "invited; $a; @u:x invite; $b; @u:x leave; $c", "@u:x", "..xxx."},
	{"from shared to joined: the change is seen", "shared; $a; joined; $b; @u:x join; $c", "@u:x", "xxx.xx"},
	{"from joined to shared: the change is seen", "joined; $a; shared; $b; @u:x join; $c", "@u:x", "x.xxxx"},
	{"from world readable to joined, never there", "world_readable; $a; joined; $b", "@w:x", "xxx."},
	{"from joined to world readable, never there", "joined; $a; world_readable; $b", "@w:x", "..xx"},
	{"knocked", "shared; $a; @u:x knock; $b", "@u:x", "...."},
}

func TestVisibility(t *testing.T) {
	eachDatabase(t, func(t *testing.T, r *room) {
		for i, c := range visibilityCases {
			fresh := newCase(r, i)
			events := fresh.play(strings.ReplaceAll(c.script, "$", fmt.Sprintf("$%d-", i)))
			for range 2 { // the second time from memory
				got, err := r.reader.Visible(t.Context(), idOf(c.user), events)
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				if seen := letters(events, got); seen != c.seen {
					t.Errorf("%s: %q as %s: got %s, want %s", c.name, c.script, c.user, seen, c.seen)
				}
			}
		}
	})
}

// TestStickyEventsAreSeenByWhoIsJoined looks at several rooms in one question, as a search does.
// Spec: MSC4354
func TestStickyEventsAreSeenByWhoIsJoined(t *testing.T) {
	eachDatabase(t, func(t *testing.T, r *room) {
		var events []*storage.Event
		for n, joins := range []bool{true, false, true} {
			fresh := newCase(r, n)
			fresh.play("joined")
			sticky := fresh.message(fmt.Sprintf("$sticky%d", n), "@a:x", func(e *storage.Event) { e.StickyUntil = time.Now().Add(time.Hour).UnixMilli() })
			if joins {
				fresh.state(fmt.Sprintf("$join%d", n), "@u:x", "m.room.member", "@u:x", `{"membership":"join"}`)
			}
			events = append(events, sticky, fresh.message(fmt.Sprintf("$after%d", n), "@a:x"))
		}
		got, err := r.reader.Visible(t.Context(), "@u:x", events)
		if err != nil {
			t.Fatal(err)
		}
		if seen := letters(events, got); seen != "xx..xx" {
			t.Errorf("sticky event and the one after it, in rooms joined, not joined and joined: got %s, want xx..xx", seen)
		}
	})
}

func letters(events, seen []*storage.Event) string {
	var b strings.Builder
	for _, e := range events {
		if len(seen) > 0 && seen[0] == e {
			b.WriteByte('x')
			seen = seen[1:]
		} else {
			b.WriteByte('.')
		}
	}
	if len(seen) > 0 {
		b.WriteString(" and more")
	}
	return b.String()
}

func TestWhatIsNoHistoryIsNotSeen(t *testing.T) {
	eachDatabase(t, func(t *testing.T, r *room) {
		r.play("world_readable; @u:x join")
		var events []*storage.Event
		for i, standing := range []storage.Standing{storage.Outlier, storage.SoftFailed, storage.Rejected} {
			events = append(events, r.message(fmt.Sprintf("$bad%d", i), "@u:x", func(e *storage.Event) { e.Standing = standing }))
		}
		got, err := r.reader.Visible(t.Context(), "@u:x", events)
		if err != nil || len(got) != 0 {
			t.Errorf("got %d events (%v), want none", len(got), err)
		}
	})
}

func TestServersVisibility(t *testing.T) {
	cases := []struct {
		name, script, server, whole string
	}{
		{"shared", "shared; $a; @u:y join; $b", "y", "xxxx"},
		{"joined", "joined; $a; @u:y join; $b; @u:y leave; $c", "y", "x.xxx."},
		{"joined, another server", "joined; $a; @u:y join; $b", "z", "x.x."},
		{"invited", "invited; $a; @u:y invite; $b; @u:y leave; $c", "y", "x.xxx."},
		{"joined, invited one", "joined; $a; @u:y invite; $b", "y", "x.x."},
		{"own events", "joined; $a", "x", "xx"},
	}
	eachDatabase(t, func(t *testing.T, r *room) {
		for i, c := range cases {
			fresh := newCase(r, i)
			events := fresh.play(strings.ReplaceAll(c.script, "$", fmt.Sprintf("$%d-", i)))
			got, err := r.reader.ForServer(t.Context(), c.server, events)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			var whole strings.Builder
			for i, raw := range got {
				if events[i].StateKey != nil || gjson.GetBytes(raw, "content.body").Exists() {
					whole.WriteByte('x')
				} else {
					whole.WriteByte('.')
				}
			}
			if whole.String() != c.whole {
				t.Errorf("%s: %q to %s: got %s, want %s", c.name, c.script, c.server, whole.String(), c.whole)
			}
		}
	})
}
