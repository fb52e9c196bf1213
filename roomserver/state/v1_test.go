package state

import (
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestVersion1(t *testing.T) {
	r := newRoom(t, id.RoomV1)
	s := r.found("public")
	deep := r.at(200).topic(s, "$deep", "@alice:x")
	shallow := r.at(100).topic(s, "$shallow", "@bob:x")
	r.want(r.resolve(deep, shallow), "topic=$deep")

	// The deepest topic is by one who may not set it.
	forbidden := r.at(300).topic(s, "$forbidden", "@dave:x")
	r.want(r.resolve(deep, shallow, forbidden), "topic=$deep")

	// What only one state has is no conflict.
	r.want(r.resolve(s, deep), "topic=$deep")
	joined := r.join(s, "$erin", "@erin:x")
	r.want(r.resolve(s, joined), "@erin:x=$erin")
}

func TestVersion1PowersStopAtTheFirstForbidden(t *testing.T) {
	r := newRoom(t, id.RoomV1)
	s := r.found("public")
	first := r.at(100).powers(s, "$first", "@alice:x", r.users("@alice:x", 100))
	// Bob has no power in the first, so his is refused, and what is deeper is not looked at.
	second := r.at(101).powers(s, "$second", "@bob:x", r.users("@alice:x", 100, "@bob:x", 50, "@carol:x", 10))
	third := r.at(102).powers(s, "$third", "@alice:x", r.users("@alice:x", 100, "@bob:x", 60))
	r.want(r.resolve(first, second, third), "power_levels=$first")
	r.want(r.resolve(first, third), "power_levels=$third")
}

func TestVersion1Members(t *testing.T) {
	r := newRoom(t, id.RoomV1)
	s := r.found("public")
	banned := r.at(100).member(s, "$ban", "@bob:x", "@carol:x", "ban")
	again := r.at(101).join(s, "$again", "@carol:x")
	r.want(r.resolve(banned, again), "@carol:x=$ban")
	before := r.at(99).join(s, "$before", "@carol:x")
	r.want(r.resolve(banned, before), "@carol:x=$ban")
}
