package pdu

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/id"
)

func TestParseRefuses(t *testing.T) {
	long := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	ids := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`"$x",`, n), ",") + "]"
	}
	cases := []struct {
		name    string
		version id.RoomVersion
		path    string
		value   string // raw; empty deletes
		want    error
	}{
		{"no type", "11", "type", ``, ErrMalformed},
		{"type a number", "11", "type", `5`, ErrMalformed},
		{"type too long", "11", "type", long(256), ErrTooLarge},
		{"type just fits", "11", "type", long(255), nil},
		{"type in code points, version 10", "10", "type", `"` + strings.Repeat("é", 255) + `"`, nil},
		{"type in bytes, version 11", "11", "type", `"` + strings.Repeat("é", 128) + `"`, ErrTooLarge},
		{"type too many code points, version 10", "10", "type", `"` + strings.Repeat("é", 256) + `"`, ErrTooLarge},
		{"NUL in type", "11", "type", `"a\u0000b"`, ErrMalformed},
		{"state key null", "11", "state_key", `null`, ErrMalformed},
		{"state key a number", "11", "state_key", `1`, ErrMalformed},
		{"state key too long", "11", "state_key", long(256), ErrTooLarge},
		{"NUL in state key", "11", "state_key", `"\u0000"`, ErrMalformed},
		{"no sender", "11", "sender", ``, ErrMalformed},
		{"sender without domain", "11", "sender", `"@a"`, ErrMalformed},
		{"sender with a bad domain", "11", "sender", `"@a:b c"`, ErrMalformed},
		{"sender with another sigil", "11", "sender", `"!a:b.example"`, ErrMalformed},
		{"sender too long", "11", "sender", `"@` + strings.Repeat("a", 250) + `:b.example"`, ErrTooLarge},
		{"no room", "11", "room_id", ``, ErrMalformed},
		{"room without domain", "11", "room_id", `"!` + strings.Repeat("a", 43) + `"`, ErrMalformed},
		{"room without opaque part", "11", "room_id", `"!:b.example"`, ErrMalformed},
		{"room with domain, version 12", "12", "room_id", `"!a:b.example"`, ErrMalformed},
		{"room too short, version 12", "12", "room_id", `"!` + strings.Repeat("a", 42) + `"`, ErrMalformed},
		{"no content", "11", "content", ``, ErrMalformed},
		{"content a list", "11", "content", `[]`, ErrMalformed},
		{"no depth", "11", "depth", ``, ErrMalformed},
		{"depth negative", "11", "depth", `-1`, ErrMalformed},
		{"depth a string", "11", "depth", `"1"`, ErrMalformed},
		{"depth too great, version 6", "6", "depth", `9007199254740992`, ErrBadJSON},
		{"depth great, version 5", "5", "depth", `9223372036854775807`, nil},
		{"depth too great, version 5", "5", "depth", `9223372036854775808`, ErrMalformed},
		{"no time", "11", "origin_server_ts", ``, ErrMalformed},
		{"time negative", "11", "origin_server_ts", `-5`, ErrMalformed},
		{"no parents key", "11", "prev_events", ``, ErrMalformed},
		{"parents no list", "11", "prev_events", `{}`, ErrMalformed},
		{"parents as pairs", "11", "prev_events", `[["$x",{"sha256":""}]]`, ErrMalformed},
		{"parents as IDs, version 1", "1", "prev_events", `["$x:y"]`, ErrMalformed},
		{"20 parents", "11", "prev_events", ids(20), nil},
		{"21 parents", "11", "prev_events", ids(21), ErrMalformed},
		{"10 auth events", "11", "auth_events", ids(10), nil},
		{"11 auth events", "11", "auth_events", ids(11), ErrMalformed},
		{"auth event without sigil", "11", "auth_events", `["x"]`, ErrMalformed},
		{"hashes no object", "11", "hashes", `"x"`, ErrMalformed},
		{"signatures no object", "11", "signatures", `[]`, ErrMalformed},
		{"no hashes", "11", "hashes", ``, nil},
		{"float", "6", "content.x", `1.5`, ErrBadJSON},
		{"float, version 5", "5", "content.x", `1.5`, nil},
		{"no event ID, version 1", "1", "event_id", ``, ErrMalformed},
		{"event ID without domain, version 1", "1", "event_id", `"$x"`, ErrMalformed},
		{"too large", "11", "content.x", long(65536), ErrTooLarge},
		{"unknown version", "13", "content.x", `1`, ErrUnknownVersion},
	}
	for _, c := range cases {
		source := c.version
		if !Known(source) {
			source = "11"
		}
		raw := bytes.Clone(build(t, source, draft(source, "m.room.topic", `{"topic":"x"}`, pointer(""))).JSON())
		var err error
		if c.value == "" {
			raw, err = sjson.DeleteBytes(raw, c.path)
		} else {
			raw, err = sjson.SetRawBytes(raw, c.path, []byte(c.value))
		}
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if _, err := Parse(c.version, raw); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	empty := build(t, "11", draft("11", "m.room.message", `{"body":""}`, nil))
	room := MaxSize - len(empty.JSON())
	body := func(n int) string { return `{"body":"` + strings.Repeat("x", n) + `"}` }
	fits := build(t, "11", draft("11", "m.room.message", body(room), nil))
	if len(fits.JSON()) != MaxSize {
		t.Fatalf("built %d bytes, want %d", len(fits.JSON()), MaxSize)
	}
	if _, err := Parse("11", fits.JSON()); err != nil {
		t.Errorf("%d bytes: %v", len(fits.JSON()), err)
	}
	if _, err := Build("11", draft("11", "m.room.message", body(room+1), nil), alpha); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte more: got %v, want ErrTooLarge", err)
	}
	if _, err := Parse("11", []byte(`{"a":"`+strings.Repeat("x", maxRaw)+`"}`)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("huge: got %v, want ErrTooLarge", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Draft)
		want   error
	}{
		"float":              {func(d *Draft) { d.Content = []byte(`{"a":1.5}`) }, ErrBadJSON},
		"content a list":     {func(d *Draft) { d.Content = []byte(`[]`) }, ErrMalformed},
		"content empty":      {func(d *Draft) { d.Content = nil }, ErrBadJSON},
		"state key in bytes": {func(d *Draft) { d.StateKey = pointer(strings.Repeat("é", 128)) }, ErrTooLarge},
		"type too long":      {func(d *Draft) { d.Type = strings.Repeat("x", 256) }, ErrTooLarge},
		"too many parents":   {func(d *Draft) { d.PrevEvents = refsFor("10", 21) }, ErrMalformed},
	} {
		d := draft("10", "m.room.topic", `{}`, pointer(""))
		c.change(&d)
		if _, err := Build("10", d, alpha); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestDepthIsClamped(t *testing.T) {
	d := draft("11", "m.room.message", `{}`, nil)
	d.Depth = 1<<63 - 1
	if ev := build(t, "11", d); ev.Depth() != MaxDepth {
		t.Errorf("got depth %d, want %d", ev.Depth(), MaxDepth)
	}
}

func TestServerNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a.example:8448": true, "1.2.3.4": true, "1.2.3.4:1": true, "[::1]": true, "[::1]:80": true,
		"": false, "a:": false, "a:65536": false, "a:123456": false, "a b": false, "a/b": false, "[::1": false, "[x]": false,
		"[::1]80": false, ":80": false, "a_b": false, "a:80:80": false, "é.example": false,
	} {
		if got := ValidServerName(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, version := range Versions() {
		for _, d := range samples(version) {
			f.Add(string(version), build(f, version, d).JSON())
		}
	}
	f.Add("12", []byte(`{"type":"m.room.create","state_key":"","content":{},"sender":"@a:b","depth":0,"origin_server_ts":0,"prev_events":[],"auth_events":[]}`))
	f.Fuzz(func(t *testing.T, version string, raw []byte) {
		ev, err := Parse(id.RoomVersion(version), raw)
		if err != nil {
			return
		}
		again, err := Parse(id.RoomVersion(version), ev.JSON())
		if err != nil || again.EventID() != ev.EventID() {
			t.Fatalf("parsed again: %v, %v", again, err)
		}
		use(t, ev)
	})
}

// use calls everything that might panic.
func use(t *testing.T, ev gomatrixserverlib.PDU) {
	t.Helper()
	_ = ev.RoomID()
	_, _ = ev.Membership()
	_, _ = ev.JoinRule()
	_, _ = ev.PowerLevels()
	_, _ = ev.HistoryVisibility()
	_ = Verify(t.Context(), []gomatrixserverlib.PDU{ev}, ring{})
	version, eventID := id.RoomVersion(ev.Version()), ev.EventID()
	if stored, err := Trusted(version, "", ev.JSON()); err != nil || stored.EventID() != eventID {
		t.Fatalf("as stored: %v, %v, want %s", stored, err, eventID)
	}
	pruned, err := Redact(version, ev.JSON())
	if err != nil {
		t.Fatalf("redact: %v", err)
	}
	if got, err := EventID(version, pruned); err != nil || string(got) != eventID {
		t.Fatalf("redaction changes the ID from %s to %s, %v", eventID, got, err)
	}
	_ = fmt.Sprint(ev.AuthEventIDs(), ev.Redacts())
}

var messageBody = `{"body":"` + strings.Repeat("Lorem ipsum dolor sit amet. ", 8) + `","msgtype":"m.text","m.mentions":{}}`

func BenchmarkBuild(b *testing.B) {
	d := draft("11", "m.room.message", messageBody, nil)
	b.ReportAllocs()
	for b.Loop() {
		build(b, "11", d)
	}
}

func BenchmarkParse(b *testing.B) {
	raw := build(b, "11", draft("11", "m.room.message", messageBody, nil)).JSON()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("11", raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTrusted(b *testing.B) {
	ev := build(b, "11", draft("11", "m.room.message", messageBody, nil))
	b.SetBytes(int64(len(ev.JSON())))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Trusted("11", id.EventID(ev.EventID()), ev.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}
