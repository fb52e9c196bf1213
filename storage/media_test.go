package storage

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"
)

const ourName = "interior"

// addFile remembers a file whose blob is named like the content.
func addFile(t *testing.T, s *Store, f File) MXC {
	t.Helper()
	if added, err := s.Media.Add(t.Context(), &f); err != nil || !added {
		t.Fatalf("add %s: %v (%v)", f.MediaID, added, err)
	}
	return MXC{f.Server, f.MediaID}
}

func ids(files []*File) (list []string) {
	for _, f := range files {
		list = append(list, f.MediaID)
	}
	return list
}

func TestMediaOfUser(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		for i, size := range []int64{30, 10, 20} {
			addFile(t, s, File{Server: ourName, MediaID: string(rune('a' + i)), User: "@alice:interior", Size: size, Hash: fmt.Sprint(i), Created: int64(i), Name: "n\x00"})
		}
		addFile(t, s, File{Server: ourName, MediaID: "z", User: "@bob_x:interior", Size: 5, Hash: "z", Created: 9})
		addFile(t, s, File{Server: ourName, MediaID: "later", User: "@alice:interior", Expires: 1 << 60})
		addFile(t, s, File{Server: "other", MediaID: "copy", Size: 7, Hash: "copy"})
		for _, c := range []struct {
			page MediaPage
			want []string
		}{
			{MediaPage{Limit: 10}, []string{"a", "b", "c"}},
			{MediaPage{Limit: 2, Skip: 1, Descending: true}, []string{"b", "a"}},
			{MediaPage{Limit: 10, Order: MediaBySize}, []string{"b", "c", "a"}},
			{MediaPage{Limit: 10, Order: "nonsense; DROP TABLE media"}, []string{"a", "b", "c"}},
		} {
			got, total, err := s.Media.OfUser(t.Context(), "@alice:interior", c.page)
			if err != nil || total != 3 || !slices.Equal(ids(got), c.want) {
				t.Errorf("%+v: got %v of %d (%v), want %v of 3", c.page, ids(got), total, err, c.want)
			}
		}
		if n, bytes, err := s.Media.Usage(t.Context(), "@alice:interior"); err != nil || n != 3 || bytes != 60 {
			t.Errorf("usage: %d files, %d bytes (%v), want 3 and 60", n, bytes, err)
		}
		if err := s.Do(t.Context(), func(ctx context.Context) error {
			return s.Profiles.Put(ctx, "@bob_x:interior", "displayname", []byte(`"Robert"`))
		}); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			query MediaStatistics
			want  string
			total int64
		}{
			{MediaStatistics{Limit: 10}, "[@alice:interior 3 60] [@bob_x:interior 1 5] ", 2},
			{MediaStatistics{Limit: 1, Order: UsersByBytes}, "[@bob_x:interior 1 5] ", 2},
			{MediaStatistics{Limit: 10, From: 1, Until: 8}, "[@alice:interior 2 30] ", 1},
			{MediaStatistics{Limit: 10, Search: "ROBERT"}, "[@bob_x:interior 1 5] ", 1},
			{MediaStatistics{Limit: 10, Search: "b_"}, "[@bob_x:interior 1 5] ", 1},
			{MediaStatistics{Limit: 10, Search: "e_i"}, "", 0},
			{MediaStatistics{Limit: 10, Order: UsersByDisplayname, Descending: true}, "[@bob_x:interior 1 5] [@alice:interior 3 60] ", 2},
		} {
			users, total, err := s.Media.Statistics(t.Context(), c.query)
			got := ""
			for _, u := range users {
				got += fmt.Sprintf("[%s %d %d] ", u.User, u.Files, u.Bytes)
			}
			if err != nil || got != c.want || total != c.total {
				t.Errorf("%+v: got %s of %d (%v), want %s of %d", c.query, got, total, err, c.want, c.total)
			}
		}
	})
}

func TestQuarantine(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		const admin = id.UserID("@admin:interior")
		a := addFile(t, s, File{Server: ourName, MediaID: "a", User: "@alice:interior", Hash: "one"})
		same := addFile(t, s, File{Server: ourName, MediaID: "same", User: "@bob:interior", Hash: "one"})
		kept := addFile(t, s, File{Server: ourName, MediaID: "kept", User: "@alice:interior", Hash: "two"})
		copied := addFile(t, s, File{Server: "other", MediaID: "copy", Hash: "three"})
		later := addFile(t, s, File{Server: ourName, MediaID: "later", User: "@carol:interior", Expires: 1})
		hidden := func(f MXC) bool {
			t.Helper()
			got, err := s.Media.ByID(t.Context(), f.Server, f.MediaID)
			if err != nil || got == nil {
				t.Fatalf("%s: %v (%v)", f, got, err)
			}
			return got.Quarantined()
		}
		if found, err := s.Media.Protect(t.Context(), kept, true); err != nil || !found {
			t.Fatalf("protect: %v (%v)", found, err)
		}
		if n, err := s.Media.QuarantineUser(t.Context(), admin, "@alice:interior"); err != nil || n != 2 {
			t.Errorf("user: %d quarantined (%v), want 2: hers that is not protected, and the same content", n, err)
		}
		if !hidden(a) || !hidden(same) || hidden(kept) || hidden(later) {
			t.Errorf("hidden: %v %v %v %v, want true true false false", hidden(a), hidden(same), hidden(kept), hidden(later))
		}
		again := addFile(t, s, File{Server: ourName, MediaID: "again", User: "@dave:interior", Hash: "one"})
		if filled, err := s.Media.Fill(t.Context(), &File{Server: ourName, MediaID: "later", Hash: "one"}); err != nil || !filled || !hidden(again) || !hidden(later) {
			t.Errorf("the same content, uploaded again: filled %v (%v), hidden %v and %v, want both", filled, err, hidden(again), hidden(later))
		}
		if changed, err := s.Media.Unquarantine(t.Context(), same); err != nil || !changed || hidden(a) {
			t.Errorf("brought back: %v (%v), the other is hidden: %v", changed, err, hidden(a))
		}
		if changed, err := s.Media.Unquarantine(t.Context(), same); err != nil || changed {
			t.Errorf("brought back twice: %v (%v)", changed, err)
		}
		room := id.RoomID("!room:interior")
		w := s.RoomWriter(nil)
		for _, json := range []string{
			`{"content":{"url":"` + copied.String() + `","info":{"thumbnail_url":"mxc://other/thumb"}}}`,
			`{"content":{"file":{"url":"` + a.String() + `"}}}`, `{"content":{"body":"mxc://other/text"}}`, `{"content":{"url":"` + copied.String() + `"}}`,
		} {
			e := anEvent(s, t, room)
			e.ID, e.JSON = id.EventID(fmt.Sprintf("$media%d", e.Number)), []byte(json)
			if err := w.WriteAndWait(&RoomRows{Line: &Line{}, Room: room, Events: []*Event{e}, News: []bool{true}}); err != nil {
				t.Fatal(err)
			}
		}
		named, err := s.Media.InRoom(t.Context(), room)
		if want := []MXC{copied, a, {"other", "thumb"}}; err != nil || !slices.Equal(named, want) {
			t.Errorf("in the room: %v (%v), want %v", named, err, want)
		}
		if n, err := s.Media.QuarantineRoom(t.Context(), admin, room); err != nil || n != 5 || !hidden(copied) || !hidden(a) {
			t.Errorf("room: %d quarantined (%v), want 5: the copy, and all of one content", n, err)
		}
	})
}

func TestMediaRemoval(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		a := addFile(t, s, File{Server: ourName, MediaID: "a", User: "@alice:interior", Hash: "one", Created: 10, Size: 100})
		b := addFile(t, s, File{Server: ourName, MediaID: "b", User: "@bob:interior", Hash: "one", Created: 20, Size: 5})
		avatar := addFile(t, s, File{Server: ourName, MediaID: "avatar", User: "@bob:interior", Hash: "two", Created: 10, Size: 100})
		copied := addFile(t, s, File{Server: "other", MediaID: "copy", Hash: "three", Created: 10, Size: 1})
		hidden := addFile(t, s, File{Server: "other", MediaID: "hidden", Hash: "four", Created: 10, Size: 1, QuarantinedBy: "@admin:interior"})
		thumb := Thumbnail{Server: ourName, MediaID: "a", Width: 32, Height: 32, Method: "crop", Hash: "small"}
		if err := s.Media.AddThumbnail(t.Context(), thumb); err != nil {
			t.Fatal(err)
		}
		if err := s.Media.AddThumbnail(t.Context(), Thumbnail{Server: ourName, MediaID: "gone", Hash: "orphan"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Do(t.Context(), func(ctx context.Context) error {
			return s.Profiles.Put(ctx, "@bob:interior", "avatar_url", []byte(`"`+avatar.String()+`"`))
		}); err != nil {
			t.Fatal(err)
		}
		unused := func(want ...string) {
			t.Helper()
			hashes, err := s.Media.Discarded(t.Context(), "", 100)
			if err != nil {
				t.Fatal(err)
			}
			used, err := s.Media.Used(t.Context(), hashes)
			if err != nil {
				t.Fatal(err)
			}
			hashes = slices.DeleteFunc(hashes, func(h string) bool { return used[h] })
			if !slices.Equal(hashes, want) {
				t.Errorf("unused blobs: %v, want %v", hashes, want)
			}
		}
		unused("orphan")
		avatars, err := s.Media.Avatars(t.Context())
		if err != nil || len(avatars) != 1 || !avatars[avatar] {
			t.Errorf("avatars: %v (%v), want %s", avatars, err, avatar)
		}
		gone, err := s.Media.DeleteOld(t.Context(), OldMedia{Own: ourName, Before: 15, LargerThan: 50, Keep: avatars})
		if err != nil || !slices.Equal(gone, []MXC{a}) {
			t.Errorf("old and large: deleted %v (%v), want %s", gone, err, a)
		}
		unused("orphan", "small") // b has the content of a
		if gone, err := s.Media.Delete(t.Context(), []MXC{a, b}); err != nil || !slices.Equal(gone, []MXC{b}) {
			t.Errorf("deleted %v (%v), want %s", gone, err, b)
		}
		unused("one", "orphan", "small")
		if err := s.Media.Touch(t.Context(), map[MXC]int64{copied: 30, hidden: 5}); err != nil {
			t.Fatal(err)
		}
		if gone, err := s.Media.DeleteOld(t.Context(), OldMedia{Own: ourName, Remote: true, Before: 25}); err != nil || len(gone) != 0 {
			t.Errorf("a copy that was asked for, and a hidden one: deleted %v (%v), want neither", gone, err)
		}
		if gone, err := s.Media.DeleteOld(t.Context(), OldMedia{Own: ourName, Remote: true, Before: 31}); err != nil || !slices.Equal(gone, []MXC{copied}) {
			t.Errorf("an old copy: deleted %v (%v), want %s", gone, err, copied)
		}
		if err := s.Media.Swept(t.Context(), []string{"one", "orphan", "small", "three"}); err != nil {
			t.Fatal(err)
		}
		unused()
		addFile(t, s, File{Server: ourName, MediaID: "r", User: "@bob:interior", Expires: 50})
		if n, err := s.Media.DeleteReservations(t.Context(), 51); err != nil || n != 1 {
			t.Errorf("ended reservations: %d deleted (%v), want 1", n, err)
		}
	})
}

func TestPreviews(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		for _, p := range []Preview{{"https://a/", 5, 100, []byte(`{"n":1}`)}, {"https://a/", 7, 200, []byte(`{"n":2}`)}, {"https://a/", 7, 200, []byte(`{"n":3}`)}} {
			if err := s.Previews.Put(t.Context(), &p); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			bucket, now int64
			want        string
		}{{4, 0, ""}, {5, 0, `{"n":1}`}, {6, 99, `{"n":1}`}, {6, 100, ""}, {8, 150, `{"n":3}`}} {
			p, err := s.Previews.At(t.Context(), "https://a/", c.bucket, c.now)
			got := ""
			if p != nil {
				got = string(p.Answer)
			}
			if err != nil || got != c.want {
				t.Errorf("bucket %d at %d: got %q (%v), want %q", c.bucket, c.now, got, err, c.want)
			}
		}
		if n, err := s.Previews.Expire(t.Context(), 150, 10); err != nil || n != 1 {
			t.Errorf("expired: %d (%v), want 1", n, err)
		}
	})
}
