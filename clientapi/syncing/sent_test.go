package syncing

import (
	"fmt"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

// TestUnsentMembers follows what one connection is sent of a room's members, answer by answer.
func TestUnsentMembers(t *testing.T) {
	users := func(numbers ...int) (list []id.UserID) {
		for _, n := range numbers {
			list = append(list, id.UserID(fmt.Sprintf("@u%d:test", n)))
		}
		return list
	}
	type answer struct {
		since, to storage.Position
		asked     []id.UserID
		fresh     []id.UserID
	}
	for name, answers := range map[string][]answer{
		"each once": {
			{5, 10, users(1, 2), users(1, 2)}, {10, 12, users(1, 2, 3), users(3)}, {12, 13, users(1, 3), nil},
		},
		"an answer that never arrived": {
			{5, 10, users(1, 2), users(1, 2)}, {5, 12, users(1, 2, 3), users(1, 2, 3)}, {12, 13, users(1, 2, 3), nil},
		},
		"an answer asked for twice": {
			{5, 10, users(1), users(1)}, {5, 10, users(1), users(1)}, {10, 11, users(1), nil},
		},
		"an answer of two parts": {
			{5, 10, users(1), users(1)}, {5, 10, users(2), users(2)}, {10, 11, users(1, 2), nil},
		},
		"the connection's own user": {
			{5, 10, users(0, 1), users(0, 1)}, {5, 11, users(0), users(0)}, {11, 12, users(0, 1), nil},
		},
		"a client that goes back": {
			{5, 10, users(0, 1), users(0, 1)}, {10, 12, users(2), users(2)}, {12, 13, users(0, 1, 2), nil}, {5, 14, users(0, 1, 2), users(0, 1, 2)},
		},
		"all anew": {
			{5, 10, users(1), users(1)}, {10, 11, users(1), nil}, {-1, 12, users(1), users(1)}, {12, 13, users(1), nil},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newSentMembers()
			c := connection{user: "@u0:test", device: "D"}
			for i, a := range answers {
				if fresh := m.unsent(c, "!room", a.asked, a.since, a.to); !slices.Equal(fresh, a.fresh) {
					t.Fatalf("answer %d: fresh are %v, want %v", i, fresh, a.fresh)
				}
			}
		})
	}
}

// TestUnsentMembersAreShared: a thousand who were sent the same hold one list.
func TestUnsentMembersAreShared(t *testing.T) {
	m := newSentMembers()
	var lists [2][]uint64
	for i, user := range []id.UserID{"@a:test", "@b:test"} {
		c := connection{user: user, device: "D"}
		m.unsent(c, "!room", []id.UserID{"@x:test", "@y:test", user}, 1, 2)
		m.unsent(c, "!room", nil, 2, 3)
		lists[i] = m.young[c]["!room"].known
	}
	if len(lists[0]) != 2 || &lists[0][0] != &lists[1][0] {
		t.Fatalf("the lists %v and %v are not one", lists[0], lists[1])
	}
}
