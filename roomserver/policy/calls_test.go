package policy

import (
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestCallSettings(t *testing.T) {
	for _, c := range []struct {
		name, content          string
		user                   id.UserID
		locked, view           bool
		most                   int
		mutes, blinds, removes bool
	}{
		{name: "nothing", content: `{}`, user: "@a:x"},
		{name: "no object", content: `[]`, user: "@a:x"},
		{name: "garbage", content: `{"locked":`, user: "@a:x"},
		{name: "all", content: `{"locked":true,"view_only":true,"max_participants":7,"muted":["@a:x"],"no_video":["@a:x"],"removed":["@a:x"]}`,
			user: "@a:x", locked: true, view: true, most: 7, mutes: true, blinds: true, removes: true},
		{name: "wrong types leave the rest", content: `{"locked":"yes","view_only":1,"max_participants":"9","muted":["@a:x",7,"b"],"removed":"@a:x"}`,
			user: "@a:x", mutes: true},
		{name: "less than none", content: `{"max_participants":-3}`, user: "@a:x"},
		{name: "globs", content: `{"muted":["@*:x"],"removed":["@b?:x"]}`, user: "@bc:x", mutes: true, removes: true},
		{name: "others", content: `{"muted":["@a:x"]}`, user: "@a:xx"},
	} {
		s := ParseCallSettings([]byte(c.content))
		if s.Locked != c.locked || s.ViewOnly != c.view || s.MaxParticipants != c.most ||
			s.Mutes(c.user) != c.mutes || s.Blinds(c.user) != c.blinds || s.Removes(c.user) != c.removes {
			t.Errorf("%s: got %+v", c.name, s)
		}
	}
}

func TestCallSettingsTogether(t *testing.T) {
	five, fifty := int64(5), int64(50)
	room := CallSettings{Locked: true, MaxParticipants: 10, PublishLevel: &five, Muted: []string{"@a:x"}}
	server := CallSettings{ViewOnly: true, MaxParticipants: 4, MaxBitrate: 100, PublishLevel: &fifty, Removed: []string{"@b:x"}}
	for _, got := range []CallSettings{room.With(server), server.With(room)} {
		if !got.Locked || !got.ViewOnly || got.MaxParticipants != 4 || got.MaxBitrate != 100 || *got.PublishLevel != 50 || !got.Mutes("@a:x") || !got.Removes("@b:x") {
			t.Errorf("got %+v, want the stricter of both", got)
		}
	}
}

func TestCallCommands(t *testing.T) {
	for content, want := range map[string]bool{
		`{"command":"mute","user_id":"@a:x"}`: true, `{"command":"mute"}`: false, `{"command":"remove","user_id":"@a:x"}`: true,
		`{"command":"end"}`: true, `{"command":"tea"}`: false, `{}`: false, `7`: false,
	} {
		if _, got := ParseCallCommand([]byte(content)); got != want {
			t.Errorf("%s: got %v, want %v", content, got, want)
		}
	}
}

func FuzzCallSettings(f *testing.F) {
	f.Add([]byte(`{"locked":true,"muted":["@a:x"],"publish_level":50}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := ParseCallSettings(raw)
		if s.MaxParticipants < 0 || s.MaxBitrate < 0 || len(s.Muted) > maxNamed {
			t.Errorf("%q: got %+v", raw, s)
		}
		s.With(s).Mutes("@a:x")
		ParseCallCommand(raw)
	})
}
