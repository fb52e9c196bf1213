package storage

import (
	"fmt"
	"path/filepath"
	"testing"

	"maunium.net/go/mautrix/id"
)

// BenchmarkManyEvents reads the events of a room's five thousand members.
func BenchmarkManyEvents(b *testing.B) {
	s, err := Open(b.Context(), Config{Database: filepath.Join(b.TempDir(), "test.db"), TailBytes: 1 << 20}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const members = 5000
	var numbers []int64
	for from := 0; from < members; from += 500 {
		var rows []*Event
		for n := range 500 {
			key := fmt.Sprintf("@user%d:example.org", from+n)
			rows = append(rows, &Event{
				ID: id.EventID(fmt.Sprintf("$event%d", from+n)), RoomID: "!room:example.org", Type: "m.room.member", StateKey: &key, Sender: id.UserID(key),
				JSON: []byte(fmt.Sprintf(`{"content":{"membership":"join","displayname":"User %d"},"filler":"%0500d"}`, from+n, 0)),
			})
		}
		if err := s.Events.AddOutliers(b.Context(), rows); err != nil {
			b.Fatal(err)
		}
		for _, r := range rows {
			numbers = append(numbers, r.Number)
		}
	}
	for b.Loop() {
		if events, err := s.Events.ByNumbers(b.Context(), numbers); err != nil || len(events) != members {
			b.Fatal(len(events), err)
		}
	}
}
