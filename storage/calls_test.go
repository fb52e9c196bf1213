package storage

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

// TestCallRecordsAreFoundByIndex: a search for a room's or a user's records does not read all that there are.
func TestCallRecordsAreFoundByIndex(t *testing.T) {
	s := openStore(t, Config{Database: filepath.Join(t.TempDir(), "test.db")})
	for name, q := range map[string]CallSearch{
		"call_records_room": {RoomID: "!a", Limit: 10}, "call_records_user": {UserID: "@ann:x", Limit: 10}, "call_records_": {RoomID: "!a", UserID: "@ann:x", Limit: 10},
		"call_records_joined": {Limit: 10},
	} {
		question, args := q.question()
		plan := ""
		rows, err := s.query(t.Context(), "EXPLAIN QUERY PLAN "+question, args...)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan += detail + "\n"
		}
		rows.Close()
		if by := strings.Contains(plan, "_id=?"); !strings.Contains(plan, "INDEX "+name) || by != (q.RoomID != "" || q.UserID != "") {
			t.Errorf("%+v: got %s, want a search by %s", q, plan, name)
		}
	}
}

func TestCallRecords(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		ctx := t.Context()
		for _, r := range []CallRecord{
			{Session: "PA_1", CallSID: "RM_1", Call: "c", RoomID: "!a", UserID: "@ann:x", DeviceID: "D\x00", Focus: "F1", Joined: 100, Rule: "member"},
			{Session: "PA_2", CallSID: "RM_1", Call: "c", RoomID: "!a", UserID: "@bob:x", DeviceID: "D", Focus: "F2", Joined: 200, Rule: "member"},
			{Session: "PA_3", CallSID: "RM_2", Call: "d", RoomID: "!b", UserID: "@ann:x", DeviceID: "D", Focus: "F2", Joined: 300, Rule: "member"},
		} {
			if err := s.CallRecords.Put(ctx, &r); err != nil {
				t.Fatal(err)
			}
		}
		gone := CallRecord{
			Session: "PA_1", CallSID: "RM_1", Call: "c", RoomID: "!a", UserID: "@ann:x", DeviceID: "D\x00", Focus: "F1", Joined: 100, Rule: "member",
			Ended: 150, Reason: "CLIENT_INITIATED", Kinds: "camera,microphone",
		}
		late := gone
		late.Ended, late.Reason = 160, "after its end"
		other := CallRecord{Session: "PA_3", CallSID: "RM_2", Call: "d", RoomID: "!b", UserID: "@ann:x", DeviceID: "D", Focus: "F2", Joined: 300, Rule: "member", Kinds: "screen"}
		for _, now := range [][]*CallRecord{{&gone, &other}, {&late}} {
			if err := s.CallRecords.Put(ctx, now...); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Foci.Begin(ctx, "F1", ""); err != nil {
			t.Fatal(err)
		}
		if err := s.CallRecords.Orphans(ctx, false); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name string
			q    CallSearch
			want []string
		}{
			{"all", CallSearch{Limit: 10}, []string{"PA_3", "PA_2", "PA_1"}},
			{"a room", CallSearch{RoomID: "!a", Limit: 10}, []string{"PA_2", "PA_1"}},
			{"a user", CallSearch{UserID: "@ann:x", Limit: 10}, []string{"PA_3", "PA_1"}},
			{"a time", CallSearch{From: 150, To: 300, Limit: 10}, []string{"PA_2"}},
			{"a page", CallSearch{Limit: 1, Offset: 1}, []string{"PA_2"}},
		} {
			rows, err := s.CallRecords.Find(ctx, c.q)
			var got []string
			for _, r := range rows {
				got = append(got, r.Session)
			}
			if err != nil || len(got) != len(c.want) || got[0] != c.want[0] || got[len(got)-1] != c.want[len(c.want)-1] {
				t.Errorf("%s: got %v (%v), want %v", c.name, got, err, c.want)
			}
			for _, r := range rows {
				if r.Session == "PA_1" && (r.Ended != 150 || r.Reason != "CLIENT_INITIATED" || r.Kinds != "camera,microphone" || r.DeviceID != "D\x00") {
					t.Errorf("got %+v", r)
				}
				if r.Session == "PA_3" && r.Kinds != "screen" {
					t.Errorf("of who shares a screen: %+v", r)
				}
				if r.Session == "PA_2" && (r.Ended == 0 || r.Reason != "FOCUS_ENDED") {
					t.Errorf("of a focus that is no more: %+v", r)
				}
			}
		}
		if err := s.CallRecords.Sweep(ctx, 250); err != nil {
			t.Fatal(err)
		}
		if rows, err := s.CallRecords.Find(ctx, CallSearch{Limit: 10}); err != nil || len(rows) != 2 {
			t.Errorf("after the sweep %d are left (%v), want those that came later or ended later", len(rows), err)
		}
	})
}

func TestCallLeaves(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		ctx := t.Context()
		old := &CallLeave{Call: "c", Identity: "@ann:x:D", RoomID: "!a", UserID: "@ann:x", DelayID: "d1", Timeout: 1000, Since: 5, Restart: 50}
		now := *old
		now.DelayID, now.Restart = "d2", 70
		for _, l := range []*CallLeave{old, &now} {
			if err := s.CallLeaves.Put(ctx, l); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.CallLeaves.Saw(ctx, 60, [][2]string{{"c", "@ann:x:D"}, {"c", "@bob:x:D"}}); err != nil {
			t.Fatal(err)
		}
		old.Restart = 999
		if err := s.CallLeaves.Again(ctx, old); err != nil {
			t.Fatal(err)
		}
		if err := s.CallLeaves.Delete(ctx, old); err != nil {
			t.Fatal(err)
		}
		got, err := s.CallLeaves.Of(ctx, "c", "@ann:x:D")
		if err != nil || got == nil || got.DelayID != "d2" || got.Restart != 70 || got.Seen != 60 {
			t.Errorf("got %+v (%v), want the newest, as it was", got, err)
		}
		for _, l := range []*CallLeave{
			{Call: "d", Identity: "i", RoomID: "!a", UserID: "@ann:x", DelayID: "d3"},
			{Call: "c", Identity: "j", RoomID: "!a", UserID: "@bob:x", DelayID: "d4"},
			{Call: "c", Identity: "k", RoomID: "!a", UserID: "@ann:y.x", DelayID: "d5"},
		} {
			if err := s.CallLeaves.Put(ctx, l); err != nil {
				t.Fatal(err)
			}
		}
		for ours, want := range map[string]CallLeaveCounts{"x": {1, 2, 1}, "z": {1, 2, 3}} {
			if got, err := s.CallLeaves.Count(ctx, &now, ours); err != nil || got != want {
				t.Errorf("beside ann's, at %s: got %+v (%v), want %+v", ours, got, err, want)
			}
		}
		if err := s.CallLeaves.Delete(ctx, &now); err != nil {
			t.Fatal(err)
		}
		if all, err := s.CallLeaves.All(ctx, 10); err != nil || len(all) != 3 {
			t.Errorf("%d are left (%v), want 3", len(all), err)
		}
	})
}

func TestCallOrders(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		ctx := t.Context()
		for _, orders := range []string{`{"locked":true}`, `{}`} {
			if err := s.CallOrders.Put(ctx, &CallOrder{RoomID: "!a", Orders: []byte(orders), By: "@root:x"}); err != nil {
				t.Fatal(err)
			}
			if got, err := s.CallOrders.ByRoom(ctx, "!a"); err != nil || got == nil || string(got.Orders) != orders || got.Since == 0 {
				t.Errorf("got %+v (%v), want %s", got, err, orders)
			}
		}
		before, err := s.CallOrders.Written(ctx, []id.RoomID{"!a", "!b"})
		if err != nil || len(before) != 1 || before["!a"] == 0 {
			t.Errorf("got %v (%v), want the room's", before, err)
		}
		clock := s.now
		s.now = func() time.Time { return clock().Add(-time.Hour) } // as in a process whose clock is behind
		if err := s.CallOrders.Put(ctx, &CallOrder{RoomID: "!a", Orders: []byte(`{}`), By: "@root:x"}); err != nil {
			t.Fatal(err)
		}
		s.now = clock
		if after, err := s.CallOrders.Written(ctx, []id.RoomID{"!a"}); err != nil || after["!a"] <= before["!a"] {
			t.Errorf("by a clock that is behind: got %v (%v), want more than %v", after, err, before)
		}
		if none, err := s.CallOrders.Written(ctx, nil); err != nil || len(none) != 0 {
			t.Errorf("of no rooms: got %v (%v), want none", none, err)
		}
		if got, err := s.CallOrders.ByRoom(ctx, "!b"); got != nil || err != nil {
			t.Errorf("another room: got %+v (%v), want none", got, err)
		}
		for until, want := range map[int64]bool{1: false, 1 << 60: true} {
			if err := s.CallOrders.Begin(ctx, "c", until); err != nil {
				t.Fatal(err)
			}
			if got, err := s.CallOrders.Begun(ctx, "c"); got != want || err != nil {
				t.Errorf("until %d: got %v (%v), want %v", until, got, err, want)
			}
		}
	})
}

func TestBarredAccounts(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		ctx := t.Context()
		users := []id.UserID{"@good:x", "@locked:x", "@suspended:x", "@closed:x", "@nobody:x"}
		err := s.Do(ctx, func(ctx context.Context) error {
			for _, user := range users[:4] {
				if _, err := s.Accounts.Create(ctx, &Account{UserID: user}); err != nil {
					return err
				}
			}
			if err := s.Accounts.SetStanding(ctx, &Account{UserID: "@locked:x", Locked: true}); err != nil {
				return err
			}
			if err := s.Accounts.SetStanding(ctx, &Account{UserID: "@suspended:x", Suspended: true}); err != nil {
				return err
			}
			return s.Accounts.Deactivate(ctx, "@closed:x", false)
		})
		if err != nil {
			t.Fatal(err)
		}
		barred, err := s.Accounts.Barred(ctx, users)
		slices.Sort(barred)
		if want := []id.UserID{"@closed:x", "@locked:x", "@suspended:x"}; err != nil || !slices.Equal(barred, want) {
			t.Errorf("got %v (%v), want %v: who has no account is an application service's", barred, err, want)
		}
	})
}
