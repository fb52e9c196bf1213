package state

import (
	"fmt"
	"maps"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
)

// manyMembers lets people join until the state has the given size.
func manyMembers(r *room, s Map, size int) Map {
	s = maps.Clone(s)
	for i := 0; len(s) < size; i++ {
		user := fmt.Sprintf("@member%d:x", i)
		after := r.join(onlyAuth(s), "$"+user, user)
		s[pdu.Key{Type: "m.room.member", StateKey: user}] = after[pdu.Key{Type: "m.room.member", StateKey: user}]
	}
	return s
}

// onlyAuth is the part of a state that authorises a join to a public room.
func onlyAuth(s Map) Map {
	small := Map{}
	for _, key := range []pdu.Key{keyCreate, keyPowerLevels, keyJoinRules} {
		small[key] = s[key]
	}
	return small
}

// forked is two states of a room of the given size which differ in as many
// memberships. Where cited, one of the states rests on events that the other
// has never seen, so that the whole room is asked for its auth chains.
func forked(r *room, size, keys int, cited bool) (Map, []Diff) {
	s := manyMembers(r, r.found("public"), size)
	states := []Diff{{}, {}}
	for i := range keys {
		user := fmt.Sprintf("@member%d:x", i%(size-10))
		key := pdu.Key{Type: "m.room.member", StateKey: user}
		before := onlyAuth(s)
		before[key] = s[key]
		for side := range states {
			from := before
			if side == 1 && cited && i == 0 {
				from = r.send(before, "$between", user, "m.room.member", user, `{"membership":"join","displayname":"between"}`)
			}
			name := fmt.Sprintf("$%d of %s", side, user)
			r.send(from, name, user, "m.room.member", user, fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, side))
			states[side][key] = id.EventID(name)
		}
	}
	return s, states
}

func BenchmarkResolve(b *testing.B) {
	for _, size := range []struct{ state, keys int }{{1000, 100}, {1000, 1000}, {10000, 100}, {10000, 1000}} {
		for _, cited := range []bool{false, true} {
			r := newRoom(b, id.RoomV11)
			common, diffs := forked(r, size.state, min(size.keys, size.state-10), cited)
			name := fmt.Sprintf("%d of %d", size.keys, size.state)
			if cited {
				name += ", deep"
			}
			whole := []map[pdu.Key]id.EventID{over(diffs[0], common), over(diffs[1], common)}
			b.Run(name+"/whole", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := resolve(b.Context(), r.version, whole, r); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(name+"/fork", func(b *testing.B) {
				b.ReportAllocs()
				resolver := NewResolver(r.version, r)
				for b.Loop() {
					if _, err := resolver.Resolve(b.Context(), Fork{Common: common, States: diffs}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
