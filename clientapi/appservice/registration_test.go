package appservice

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

const good = `
id: irc
url: http://127.0.0.1:1234/
as_token: a
hs_token: h
sender_localpart: bot
receive_ephemeral: true
something.else: {kept: here}
namespaces:
  users: [{regex: "@_irc_.*", exclusive: true}, {regex: "@open_.*|@wide_.*", exclusive: false}]
`

func TestParse(t *testing.T) {
	r, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if r.address() != "http://127.0.0.1:1234" || !r.Ephemeral || r.sender("x") != "@bot:x" {
		t.Errorf("got %+v", r)
	}
	app := &service{Registration: r, all: &Services{cfg: Config{ServerName: "x"}}, bot: r.sender("x")}
	for user, want := range map[id.UserID]bool{
		"@bot:x": true, "@_irc_a:x": true, "@wide_a:x": true, "@a_irc_:x": false, "@_irc_a:elsewhere": false, "@a@wide_:x": false, "@alice:x": false,
	} {
		if got := app.Owns(user); got != want {
			t.Errorf("owns %s: got %v, want %v", user, got, want)
		}
	}
	for name, change := range map[string][2]string{
		"no id":        {"id: irc", ""},
		"no token":     {"as_token: a", ""},
		"no hs token":  {"hs_token: h", ""},
		"no sender":    {"sender_localpart: bot", ""},
		"whole sender": {"sender_localpart: bot", `sender_localpart: "@bot:x"`},
		"no address":   {"http://127.0.0.1:1234/", "127.0.0.1:1234"},
		"no regex":     {`"@_irc_.*"`, `"@_irc_(.*"`},
		"empty regex":  {`"@_irc_.*"`, `""`},
		"no YAML":      {"id: irc", "id: ]"},
	} {
		if _, err := Parse([]byte(strings.Replace(good, change[0], change[1], 1))); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	if _, err := Parse(nil); err == nil {
		t.Error("an empty file was taken")
	}
}

func TestLoadRefusesTwins(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := write("a.yaml", good)
	write("notes.txt", "not a registration")
	list, err := load(Config{Folder: folder, Registrations: []string{first}})
	if err != nil || len(list) != 1 {
		t.Errorf("a file that is named twice: got %d, %v, want one", len(list), err)
	}
	write("b.yaml", strings.Replace(good, "as_token: a", "as_token: b", 1))
	if _, err := load(Config{Folder: folder}); err == nil {
		t.Error("two with one id were taken")
	}
	write("b.yaml", strings.Replace(good, "id: irc", "id: other", 1))
	if _, err := load(Config{Folder: folder}); err == nil {
		t.Error("two with one token were taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("id: [a]\nurl: null"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := Parse(raw)
		if err == nil {
			match(r.Namespaces.Users, "@somebody:x")
		}
	})
}
