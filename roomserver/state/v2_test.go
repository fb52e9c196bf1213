package state

import (
	"errors"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// both runs a case for the algorithm v2 and for v2.1.
func both(t *testing.T, test func(t *testing.T, r *room)) {
	for _, version := range []id.RoomVersion{id.RoomV2, id.RoomV6, id.RoomV11, id.RoomV12} {
		t.Run("version "+string(version), func(t *testing.T) { test(t, newRoom(t, version)) })
	}
}

func TestUncontestedStateIsKept(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		got := r.resolve(s, s, s)
		if len(got) != len(s) {
			t.Errorf("got %v, want %v", got, s)
		}
		got = r.resolve(s)
		if len(got) != len(s) {
			t.Errorf("a single state: got %v, want %v", got, s)
		}
	})
}

func TestJoinBesideClosingTheRoom(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		closed := r.rule(s, "$invite", "@alice:x", "invite")
		joined := r.join(s, "$mallory", "@mallory:x")
		r.want(r.resolve(closed, joined), "join_rules=$invite", "@mallory:x=", "@carol:x=$carol")
	})
}

func TestUninvitedJoinInOneState(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("invite")
		// A state that only another server can have made up.
		joined := r.join(s, "$mallory", "@mallory:x")
		named := r.send(s, "$name", "@alice:x", "m.room.name", "", `{"name":"n"}`)
		r.want(r.resolve(joined, named), "@mallory:x=", "name=$name")
	})
}

func TestBanBesideDemotion(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		banned := r.member(s, "$ban", "@bob:x", "@carol:x", "ban")
		demoted := r.powers(s, "$demote", "@alice:x", r.users("@alice:x", 100, "@bob:x", 0))
		// The demotion comes later by the clock, and goes first by its sender's power.
		r.want(r.resolve(banned, demoted), "power_levels=$demote", "@carol:x=$carol")
	})
}

func TestBanBesidePromotion(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		promoted := r.powers(s, "$promote", "@bob:x", r.users("@alice:x", 100, "@bob:x", 50, "@carol:x", 40))
		banned := r.member(s, "$ban", "@alice:x", "@bob:x", "ban")
		got := r.resolve(promoted, banned)
		// Alice's ban goes first; Bob's promotion then comes from somebody banned.
		r.want(got, "power_levels=$powers", "@bob:x=$ban")
	})
}

func TestTopicsGoByMainlineThenClock(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		raised := r.powers(s, "$raise", "@alice:x", r.users("@alice:x", 100, "@bob:x", 50, "@dave:x", 50))
		late := r.topic(raised, "$late", "@bob:x")
		early := r.at(900).topic(s, "$early", "@bob:x")
		// $early bears the later clock, but knows only the older power levels.
		r.want(r.resolve(late, early), "power_levels=$raise", "topic=$late")
	})
}

func TestTopicsGoByClock(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		one := r.at(100).topic(s, "$one", "@alice:x")
		two := r.at(101).topic(s, "$two", "@bob:x")
		r.want(r.resolve(one, two), "topic=$two")
		three := r.at(101).topic(s, "$three", "@bob:x")
		// The same clock: by event ID, the greater one last.
		r.want(r.resolve(one, two, three), "topic=$two")
	})
}

func TestTopicsOfOneWhoLeft(t *testing.T) {
	for version, want := range map[id.RoomVersion]string{id.RoomV11: "topic=", id.RoomV12: "topic=$two"} {
		t.Run("version "+string(version), func(t *testing.T) {
			r := newRoom(t, version)
			s := r.found("public")
			one := r.topic(s, "$one", "@bob:x")
			two := r.topic(s, "$two", "@bob:x")
			// Both states know that Bob left. v2 starts from that and refuses his
			// topics; v2.1 starts from nothing and takes them as they were sent.
			one = r.member(one, "$left", "@bob:x", "@bob:x", "leave")
			two[pdu.Key{Type: "m.room.member", StateKey: "@bob:x"}] = "$left"
			r.want(r.resolve(one, two), want, "@bob:x=$left")
		})
	}
}

func TestPowerLevelsWithAnUncontestedOneBetween(t *testing.T) {
	for version, want := range map[id.RoomVersion]string{id.RoomV11: "power_levels=$powers", id.RoomV12: "power_levels=$third"} {
		t.Run("version "+string(version), func(t *testing.T) {
			r := newRoom(t, version)
			old := r.found("public")
			second := r.powers(old, "$second", "@alice:x", r.users("@alice:x", 100, "@bob:x", 100))
			third := r.powers(second, "$third", "@bob:x", r.users("@alice:x", 100, "@bob:x", 100, "@dave:x", 50))
			// Both states have an event that cites $second, which thereby is in no
			// auth difference; only the conflicted state subgraph has it.
			key := pdu.Key{Type: "m.room.name"}
			name := r.send(second, "$name", "@alice:x", "m.room.name", "", `{"name":"n"}`)[key]
			old[key], third[key] = name, name
			r.want(r.resolve(old, third), want, "name=$name")
		})
	}
}

func TestAuthDifferenceIsReplayed(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		// One side: Dave is made moderator, and then unmade. The other: a topic.
		made := r.powers(s, "$made", "@alice:x", r.users("@alice:x", 100, "@bob:x", 50, "@dave:x", 50))
		ruled := r.rule(made, "$ruled", "@dave:x", "invite")
		unmade := r.powers(ruled, "$unmade", "@alice:x", r.users("@alice:x", 100, "@bob:x", 50))
		other := r.topic(s, "$topic", "@bob:x")
		got := r.resolve(unmade, other)
		// $ruled is allowed only after $made, and both go before $unmade's end of
		// Dave's power only if $unmade does not go first by Alice's power.
		r.want(got, "power_levels=$unmade", "topic=$topic", "join_rules=$public")
	})
}

func TestThreeStates(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		banned := r.member(s, "$ban", "@bob:x", "@carol:x", "ban")
		renamed := r.send(s, "$carolagain", "@carol:x", "m.room.member", "@carol:x", `{"membership":"join","displayname":"C"}`)
		closed := r.rule(s, "$invite", "@alice:x", "invite")
		r.want(r.resolve(banned, renamed, closed), "@carol:x=$ban", "join_rules=$invite")
	})
}

func TestRejectedAuthEventsAreNotUsed(t *testing.T) {
	r := newRoom(t, id.RoomV11)
	s := r.found("public")
	invited := r.rule(s, "$invite", "@alice:x", "invite")
	// Mallory's joins cite an invitation that was rejected here. It stands in no
	// state, and both sides cite it, so it is no part of the conflict.
	bidden := r.member(invited, "$bidden", "@dave:x", "@mallory:x", "invite")
	one := r.join(bidden, "$one", "@mallory:x")
	two := r.join(bidden, "$two", "@mallory:x")
	r.want(r.resolve(one, two), "@mallory:x=$two")
	r.reject("$bidden")
	r.want(r.resolve(one, two), "@mallory:x=")
}

func TestMissingEventIsNamed(t *testing.T) {
	for _, hidden := range []id.EventID{"$two", "$bob", "$powers", creation} {
		r := newRoom(t, id.RoomV12)
		s := r.found("public")
		one := r.topic(s, "$one", "@alice:x")
		two := r.topic(s, "$two", "@bob:x")
		r.hidden[hidden] = true
		_, err := resolve(t.Context(), r.version, []map[pdu.Key]id.EventID{one, two}, r)
		var missing *MissingError
		if !errors.As(err, &missing) || missing.EventID != hidden {
			t.Errorf("without %s: got error %v, want one that names it", hidden, err)
		}
	}
}

func TestEventThatCitesItself(t *testing.T) {
	r := newRoom(t, id.RoomV2)
	s := r.found("public")
	r.add("$hen", "@bob:x", "m.room.topic", "", `{}`, "$egg")
	r.add("$egg", "@bob:x", "m.room.topic", "", `{}`, "$hen")
	one, two := s, r.topic(s, "$two", "@alice:x")
	one[pdu.Key{Type: "m.room.topic"}] = "$hen"
	resolver := NewResolver(r.version, r)
	for range 2 {
		_, err := resolver.Resolve(t.Context(), newFork([]Map{one, two}))
		if err == nil || !strings.Contains(err.Error(), "cites itself") {
			t.Errorf("got error %v, want one about an event that cites itself", err)
		}
	}
}

func TestEventsThatCiteNothing(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		s := r.found("public")
		for _, name := range []string{"$one", "$two"} {
			r.add(name, "@bob:x", "m.room.join_rules", "", `{"join_rule":"invite"}`)
		}
		one, two := Map{}, Map{}
		for key, ev := range s {
			one[key], two[key] = ev, ev
		}
		one[keyJoinRules], two[keyJoinRules] = "$one", "$two"
		want := "join_rules=$two"
		if r.version == id.RoomV12 {
			want = "join_rules=" // Nobody is in the empty state that the replay starts from.
		}
		r.want(r.resolve(one, two), want)
		delete(one, keyCreate)
		r.resolve(one, two)
	})
}

func TestUnknownVersion(t *testing.T) {
	_, err := resolve(t.Context(), "quite new", []map[pdu.Key]id.EventID{{}}, newRoom(t, id.RoomV11))
	if err == nil {
		t.Error("got no error for an unknown room version")
	}
}

// TestForkByDifferences gives the states as differences that do not all name the same keys.
func TestForkByDifferences(t *testing.T) {
	both(t, func(t *testing.T, r *room) {
		common := r.found("public")
		one := r.topic(common, "$one", "@alice:x")
		two := r.topic(r.member(common, "$left", "@dave:x", "@dave:x", "leave"), "$two", "@bob:x")
		three := r.send(common, "$name", "@bob:x", "m.room.name", "", `{"name":"n"}`)
		delete(three, pdu.Key{Type: "m.room.member", StateKey: "@carol:x"})
		fork := Fork{Common: common, States: []Diff{
			{{Type: "m.room.topic"}: "$one"},
			{{Type: "m.room.topic"}: "$two", {Type: "m.room.member", StateKey: "@dave:x"}: "$left"},
			{{Type: "m.room.name"}: "$name", {Type: "m.room.member", StateKey: "@carol:x"}: ""},
		}}
		diff, err := NewResolver(r.version, r).Resolve(t.Context(), fork)
		if err != nil {
			t.Fatal(err)
		}
		got, want := over(diff, common), r.resolve(one, two, three)
		if len(got) != len(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for key, ev := range want {
			if got[key] != ev {
				t.Errorf("%v: got %s, want %s", key, got[key], ev)
			}
		}
		r.want(got, "topic=$two", "@dave:x=$left", "@carol:x=$carol", "name=$name")
	})
}

// TestUnconflictedStateIsNotLoaded holds the promise that a large room costs what its fork costs.
func TestUnconflictedStateIsNotLoaded(t *testing.T) {
	r := newRoom(t, id.RoomV11)
	s := manyMembers(r, r.found("public"), 300)
	one := r.topic(s, "$one", "@alice:x")
	two := r.topic(s, "$two", "@alice:x")
	r.want(r.resolve(one, two), "topic=$two")
	if r.asked > 50 {
		t.Errorf("asked for the links of %d events, want those of the fork alone", r.asked)
	}
}
