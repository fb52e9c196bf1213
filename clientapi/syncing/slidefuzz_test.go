package syncing

import (
	"testing"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage"
)

// FuzzSlideRequest reads what clients send, in both shapes. What passes is within the bounds, and can be asked of any room.
func FuzzSlideRequest(f *testing.F) {
	f.Add([]byte(`{"conn_id":"room-list","lists":{"all_rooms":{"ranges":[[0,19]],"timeline_limit":1,"required_state":[["m.room.name",""],["m.room.member","$LAZY"],["m.room.member","$ME"],["*","*"]],"filters":{"is_dm":true,"room_types":[null,"m.space"]}}},"room_subscriptions":{"!a:b":{"timeline_limit":20,"required_state":[]}},"extensions":{"e2ee":{"enabled":true},"to_device":{"enabled":true,"since":"x","limit":5},"receipts":{"enabled":true,"rooms":["*"]}}}`))
	f.Add([]byte(`{"pos":"x","timeout":30000,"set_presence":"offline","lists":{"a":{"range":[0,19],"timeline_limit":1,"required_state":{"include":[{},{"type":"a"},{"state_key":"b"}],"exclude":[{"type":"c","state_key":""}],"lazy_members":true}}}}`))
	f.Add([]byte(`{"lists":{"":{"ranges":[[0,1],[2]]}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, sh := range []shape{unstableShape, mergedShape} {
			ask, _, err := parseSlide(raw, sh, rest.Requester{User: alice, Device: "PHONE"})
			if err != nil {
				continue
			}
			if len(ask.name) > maxSlideName || len(ask.lists) > maxSlideLists || len(ask.rooms) > maxSlideRooms {
				t.Fatalf("%q is beyond the bounds", raw)
			}
			var parts []*required
			for _, l := range ask.lists {
				if l.config.limit < 0 || l.config.limit > maxTimeline || len(l.ranges) > maxSlideRanges {
					t.Fatalf("%q: list %q is beyond the bounds", raw, l.name)
				}
				l.within(5)
				parts = append(parts, l.config.state)
			}
			w := wishesOf(parts)
			w.named()
			key := pdu.Key{Type: memberType, StateKey: string(alice)}
			if again := restoredWishes(w.text); again.matches(key) != w.matches(key) || again.lazy() != w.lazy() {
				t.Fatalf("%q: what is restored of %q wants something else", raw, w.text)
			}
			_, _ = storage.ParseSlidingPos(ask.pos)
		}
	})
}
