package clientapi

import (
	"archive/zip"
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"chancery/storage"
)

func TestExport(t *testing.T) {
	s, box := withMail(t, nil)
	alice, bob := s.register("alice"), s.register("bob")
	root := s.administrator("root")
	alice.addAddress(box, "alice@example.org")
	if err := s.store.Do(t.Context(), func(ctx context.Context) error {
		_, err := s.store.ExternalIDs.Link(ctx, alice.ID, storage.ExternalID{Provider: "staff", ExternalID: "4711"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	alice.do("PUT", v3+"/profile/"+string(alice.ID)+"/displayname", map[string]string{"displayname": "Alice"}).ok()
	alice.do("PUT", v3+"/user/"+string(alice.ID)+"/account_data/org.example", map[string]int{"n": 7}).ok()
	alice.do("POST", v3+"/keys/upload", map[string]any{"device_keys": deviceKeys(alice)}).ok()
	room := alice.do("POST", v3+"/createRoom", map[string]any{"preset": "public_chat"}).ok().str("room_id")
	alice.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "what alice said"}).ok()
	bob.do("POST", v3+"/join/"+room, "{}").ok()
	bob.do("PUT", v3+"/rooms/"+room+"/send/m.room.message/2", map[string]any{"msgtype": "m.text", "body": "what bob said"}).ok()
	media := alice.do("POST", "/_matrix/media/v3/upload?filename=note.txt", "a note of alice").ok().str("content_uri")

	path := "/_chancery/admin/v1/users/" + string(alice.ID) + "/export"
	alice.do("GET", path, nil).fails(403, "M_FORBIDDEN")
	s.do("", "GET", path, nil).fails(401, "M_MISSING_TOKEN")
	root.do("GET", strings.Replace(path, "alice", "nobody", 1), nil).fails(404, "M_NOT_FOUND")
	req, err := http.NewRequest("GET", s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+root.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get("Content-Type") != "application/zip" {
		t.Fatalf("got %s, %v", resp.Header.Get("Content-Type"), err)
	}
	archive, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	files, whole := map[string]string{}, ""
	for _, f := range archive.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = string(text)
		whole += string(text)
	}
	for _, c := range []struct{ file, path, want string }{
		{"account.json", "user_id", "@alice:interior"}, {"account.json", "profile.displayname", "Alice"},
		{"account.json", "external_ids.0.external_id", "4711"},
		{"account.json", "threepids.0.address", "alice@example.org"}, {"account.json", "devices.0.device_id", alice.Device},
		{"account_data.json", `#(type=="org.example").content.n`, "7"}, {"rooms.json", "0.room_id", room}, {"rooms.json", "0.membership", "join"},
		{"keys.json", "device_keys." + escape(alice.Device) + ".user_id", "@alice:interior"},
		{"media.json", "0.uri", media}, {"media.json", "0.name", "note.txt"},
	} {
		if got := gjson.Get(files[c.file], c.path).String(); got != c.want {
			t.Errorf("%s, %s: got %q, want %q", c.file, c.path, got, c.want)
		}
	}
	if !strings.Contains(files[gjson.Get(files["rooms.json"], "0.events").String()], "what alice said") {
		t.Errorf("events: got %v", files)
	}
	if got := files[gjson.Get(files["media.json"], "0.file").String()]; got != "a note of alice" {
		t.Errorf("file: got %q", got)
	}
	for _, never := range []string{"what bob said", alice.Token, "$argon2id$"} {
		if strings.Contains(whole, never) {
			t.Errorf("%q stands in the archive", never)
		}
	}
}
