package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"
	"pgregory.net/rapid"

	"chancery/roomserver/auth"
	"chancery/roomserver/pdu"
)

// history draws a room that forks again and again, in which people do what the
// state they know allows them to do, and answers the states at its ends.
func history(draw *rapid.T, r *room) []Map {
	people := []string{"@alice:x", "@bob:x", "@carol:x", "@dave:x", "@erin:y"}
	sides := []Map{r.found("public")}
	for i := range rapid.IntRange(1, 25).Draw(draw, "events") {
		side := rapid.IntRange(0, len(sides)-1).Draw(draw, "side")
		if len(sides) < 4 && rapid.IntRange(0, 3).Draw(draw, "fork") == 0 {
			sides = append(sides, maps.Clone(sides[side]))
		}
		sender := rapid.SampledFrom(people).Draw(draw, "sender")
		other := rapid.SampledFrom(people).Draw(draw, "other")
		// Clocks that go wrong, and meet.
		r.at(int64(rapid.IntRange(50, 70).Draw(draw, "clock")))
		name := fmt.Sprintf("$%d", i)
		var eventType, stateKey, content string
		switch rapid.IntRange(0, 6).Draw(draw, "kind") {
		case 0:
			eventType, stateKey, content = "m.room.member", sender, fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i)
		case 1:
			membership := rapid.SampledFrom([]string{"leave", "ban", "invite"}).Draw(draw, "membership")
			eventType, stateKey, content = "m.room.member", other, `{"membership":"`+membership+`"}`
		case 2:
			rule := rapid.SampledFrom([]string{"public", "invite"}).Draw(draw, "rule")
			eventType, content = "m.room.join_rules", `{"join_rule":"`+rule+`"}`
		case 3, 4:
			users := r.users("@alice:x", 100, "@bob:x", rapid.SampledFrom([]int{0, 50, 100}).Draw(draw, "bob"),
				"@carol:x", rapid.SampledFrom([]int{0, 50, 100}).Draw(draw, "carol"))
			eventType, content = "m.room.power_levels", `{"users":`+users+`}`
		default:
			eventType, content = "m.room.topic", fmt.Sprintf(`{"topic":"%d"}`, i)
		}
		sides[side] = r.sendAllowed(sides[side], name, sender, eventType, stateKey, content)
		if rapid.IntRange(0, 9).Draw(draw, "rejected") == 0 && r.events[id.EventID(name)].PDU != nil {
			r.reject(id.EventID(name))
		}
	}
	return sides
}

// TestRandomRooms compares the resolution of random rooms, in every order,
// with the definitions of the spec written down as they stand.
func TestRandomRooms(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV1, id.RoomV2, id.RoomV11, id.RoomV12} {
		t.Run("version "+string(version), func(t *testing.T) {
			rapid.Check(t, func(draw *rapid.T) {
				r := newRoom(t, version)
				states := history(draw, r)
				got := r.resolve(states...)
				if version == id.RoomV1 {
					return
				}
				if want := literal(r, states); !maps.Equal(got, want) {
					draw.Fatalf("states %v:\n got %v,\nwant %v", states, got, want)
				}
			})
		})
	}
}

// TestResolvingTwiceChangesNothing resolves a result with itself and with the states it came from.
func TestResolvingTwiceChangesNothing(t *testing.T) {
	rapid.Check(t, func(draw *rapid.T) {
		r := newRoom(t, id.RoomV12)
		states := history(draw, r)
		got := r.resolve(states...)
		if again := r.resolve(got, got); !maps.Equal(again, got) {
			draw.Fatalf("got %v, want %v", again, got)
		}
		if again := r.resolve(slices.Concat(states, states[:1])...); !maps.Equal(again, got) {
			draw.Fatalf("with a state given twice: got %v, want %v", again, got)
		}
	})
}

type ids map[id.EventID]bool

// literal is the algorithm as the spec tells it, without thought of its cost.
func literal(r *room, states []Map) Map {
	unconflicted, conflicted := Map{}, ids{}
	for _, s := range states {
		for key, ev := range s {
			if !slices.ContainsFunc(states, func(other Map) bool { return other[key] != ev }) {
				unconflicted[key] = ev
			} else {
				conflicted[ev] = true
			}
		}
	}
	if len(conflicted) == 0 {
		return unconflicted
	}
	full := maps.Clone(conflicted)
	for ev := range literalDifference(r, states) {
		full[ev] = true
	}
	start := unconflicted
	if r.version == id.RoomV12 {
		start = Map{}
		for from := range conflicted {
			for ev := range chainOf(r, from) {
				for to := range chainOf(r, ev) {
					if conflicted[to] {
						full[ev] = true
					}
				}
			}
		}
	}
	x := ids{}
	for ev := range full {
		if isPowerEvent(r.events[ev].PDU) {
			x[ev] = true
			for above := range chainOf(r, ev) {
				if full[above] {
					x[above] = true
				}
			}
		}
	}
	resolved := literalReplay(r, start, literalPowerOrder(r, x))
	rest := []id.EventID{}
	for ev := range full {
		if !x[ev] {
			rest = append(rest, ev)
		}
	}
	literalMainline(r, resolved[keyPowerLevels], rest)
	resolved = literalReplay(r, resolved, rest)
	maps.Copy(resolved, unconflicted)
	return resolved
}

func chainOf(r *room, ev id.EventID) ids {
	chain := ids{}
	for _, cited := range linkOf(r.events[ev].PDU).Auth {
		chain[cited] = true
		maps.Copy(chain, chainOf(r, cited))
	}
	return chain
}

func literalDifference(r *room, states []Map) ids {
	union, count := ids{}, map[id.EventID]int{}
	for _, s := range states {
		chain := ids{}
		for _, ev := range s {
			maps.Copy(chain, chainOf(r, ev))
		}
		maps.Copy(union, chain)
		for ev := range chain {
			count[ev]++
		}
	}
	maps.DeleteFunc(union, func(ev id.EventID, _ bool) bool { return count[ev] == len(states) })
	return union
}

func literalPowerOrder(r *room, x ids) []id.EventID {
	left := maps.Clone(x)
	var ordered []id.EventID
	for len(left) > 0 {
		var smallest id.EventID
		for ev := range left {
			above := chainOf(r, ev)
			free := true
			for other := range left {
				free = free && !above[other]
			}
			if free && (smallest == "" || literalBefore(r, ev, smallest)) {
				smallest = ev
			}
		}
		delete(left, smallest)
		ordered = append(ordered, smallest)
	}
	return ordered
}

func literalBefore(r *room, x, y id.EventID) bool {
	return cmp.Or(
		cmp.Compare(literalLevel(r, y), literalLevel(r, x)),
		cmp.Compare(r.events[x].PDU.OriginServerTS(), r.events[y].PDU.OriginServerTS()),
		cmp.Compare(x, y),
	) < 0
}

func literalLevel(r *room, ev id.EventID) auth.Level {
	state := Map{}
	for _, cited := range linkOf(r.events[ev].PDU).Auth {
		if key, ok := keyOf(r, cited); ok {
			state[key] = cited
		}
	}
	levels, err := auth.ParsePowerLevels(r.version, allOf{r, state}.Event(keyCreate), allOf{r, state}.Event(keyPowerLevels))
	if err != nil {
		r.t.Fatal(err)
	}
	return levels.User(id.UserID(r.events[ev].PDU.SenderID()))
}

func keyOf(r *room, ev id.EventID) (pdu.Key, bool) {
	event := r.events[ev].PDU
	return pdu.Key{Type: event.Type(), StateKey: *event.StateKey()}, true
}

func literalMainline(r *room, power id.EventID, events []id.EventID) {
	citedPower := func(ev id.EventID) id.EventID {
		for _, cited := range linkOf(r.events[ev].PDU).Auth {
			if key, _ := keyOf(r, cited); key == keyPowerLevels {
				return cited
			}
		}
		return ""
	}
	var line []id.EventID
	for p := power; p != ""; p = citedPower(p) {
		line = append(line, p)
	}
	position := func(ev id.EventID) int {
		for e := citedPower(ev); e != ""; e = citedPower(e) {
			if i := slices.Index(line, e); i >= 0 {
				return i
			}
		}
		return 1 << 30
	}
	slices.SortFunc(events, func(x, y id.EventID) int {
		return cmp.Or(
			cmp.Compare(position(y), position(x)),
			cmp.Compare(r.events[x].PDU.OriginServerTS(), r.events[y].PDU.OriginServerTS()),
			cmp.Compare(x, y),
		)
	})
}

func literalReplay(r *room, start Map, events []id.EventID) Map {
	state := maps.Clone(start)
	for _, ev := range events {
		known := maps.Clone(state)
		for _, cited := range linkOf(r.events[ev].PDU).Auth {
			if key, ok := keyOf(r, cited); ok && known[key] == "" && !r.events[cited].Rejected {
				known[key] = cited
			}
		}
		if auth.Check(r.version, r.events[ev].PDU, allOf{r, known}) == nil {
			key, _ := keyOf(r, ev)
			state[key] = ev
		}
	}
	return state
}
