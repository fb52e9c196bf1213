package calls

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"chancery/storage"
	"chancery/storage/bus"
)

// TestRecordsAreNotLost: when very many come and go while the database stands still, each is written down to its end, once it takes
// something again.
func TestRecordsAreNotLost(t *testing.T) {
	messages, err := bus.Open(t.Context(), bus.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(messages.Close)
	path := filepath.Join(t.TempDir(), "test.db")
	store, err := storage.Open(t.Context(), storage.Config{Database: path}, messages)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	rename := tables(t, path)
	const many = 3000
	r := newRecorder(store, 0, time.Now)
	row := func(n int) storage.CallRecord {
		return storage.CallRecord{Session: fmt.Sprint("PA_", n), CallSID: "RM_1", Call: "c", RoomID: "!a", UserID: "@ann:x", DeviceID: "D", Focus: r.own, Joined: 1, Rule: "member"}
	}
	for n := range many {
		if !r.note(row(n), true) {
			t.Fatalf("session %d is not recorded", n)
		}
	}
	rename("call_records", "away")
	r.write(t.Context())
	for n := range many {
		gone := row(n)
		gone.Ended, gone.Reason, gone.Kinds = 2, "CLIENT_INITIATED", "camera"
		if n%2 == 0 {
			r.note(gone, false)
		}
	}
	rename("away", "call_records")
	r.write(t.Context())
	got := map[string]int{}
	for offset := 0; ; offset += 1000 {
		page, err := store.CallRecords.Find(t.Context(), storage.CallSearch{Limit: 1000, Offset: offset})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			got[fmt.Sprint(r.Ended, r.Kinds)]++
		}
		if len(page) < 1000 {
			break
		}
	}
	if got["2camera"] != many/2 || got["0"] != many/2 {
		t.Errorf("got %v, want of %d sessions half ended, with their kinds", got, many)
	}

	// There is a bound, for those who come.
	for n := range recordsMost {
		r.note(row(n), true)
	}
	if r.note(row(recordsMost), true) || !r.note(row(1), false) {
		t.Errorf("beyond the bound: want nobody new, and the end of who is known")
	}
}

// tables gives a way to take a table of a SQLite database away from those who use it, and back: it gets another name.
func tables(t *testing.T, path string) (rename func(from, to string)) {
	t.Helper()
	raw, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	return func(from, to string) {
		t.Helper()
		if _, err := raw.Exec("ALTER TABLE " + from + " RENAME TO " + to); err != nil {
			t.Fatal(err)
		}
	}
}
