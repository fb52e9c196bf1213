package pdu

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/id"
)

func signerOf(name string) Signer {
	seed := bytes.Repeat([]byte{byte(len(name))}, ed25519.SeedSize)
	return Signer{ServerName: name, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed)}
}

var alpha, beta = signerOf("alpha.example"), signerOf("b.example")

// ring knows some servers' keys, valid until a time.
type ring struct {
	signers []Signer
	until   spec.Timestamp
}

func (r ring) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i, q := range requests {
		results[i].Error = errors.New("no such key")
		for _, s := range r.signers {
			if s.ServerName != string(q.ServerName) {
				continue
			}
			if !q.ValidityCheckingFunc(q.AtTS, r.until) {
				results[i].Error = errors.New("key not valid then")
				continue
			}
			public := s.Key.Public().(ed25519.PublicKey)
			results[i].Error = gomatrixserverlib.VerifyJSON(s.ServerName, gomatrixserverlib.KeyID(s.KeyID), public, q.Message)
		}
	}
	return results, nil
}

var always = spec.Timestamp(1 << 52)

func pointer(s string) *string { return &s }

func roomFor(version id.RoomVersion) id.RoomID {
	if version == id.RoomV12 {
		return id.RoomID("!" + strings.Repeat("a", 43))
	}
	return "!room:alpha.example"
}

func refsFor(version id.RoomVersion, n int) []id.EventID {
	ids := make([]id.EventID, n)
	for i := range ids {
		ids[i] = id.EventID(fmt.Sprintf("$%043d", i))
		if version == id.RoomV1 || version == id.RoomV2 {
			ids[i] += ":alpha.example"
		}
	}
	return ids
}

func draft(version id.RoomVersion, kind, content string, stateKey *string) Draft {
	return Draft{
		Type: kind, StateKey: stateKey, Sender: "@a:alpha.example", RoomID: roomFor(version), Content: []byte(content),
		PrevEvents: refsFor(version, 1), AuthEvents: refsFor(version, 3), Depth: 7, Timestamp: time.UnixMilli(1700000000123),
	}
}

func build(t testing.TB, version id.RoomVersion, d Draft) gomatrixserverlib.PDU {
	t.Helper()
	ev, err := Build(version, d, alpha)
	if err != nil {
		t.Fatalf("build %s in version %s: %v", d.Type, version, err)
	}
	return ev
}

// samples are events of many kinds, for the tests that compare ways through.
func samples(version id.RoomVersion) []Draft {
	d := func(kind, content string, sk *string) Draft { return draft(version, kind, content, sk) }
	redaction := d("m.room.redaction", `{"reason":"x"}`, nil)
	redaction.Redacts = refsFor(version, 1)[0]
	all := []Draft{
		d("m.room.message", `{"body":"héllo \u0007 \"q\"","msgtype":"m.text","n":[1,{"b":2,"a":-3}]}`, nil),
		d("m.room.topic", `{"topic":"日本"}`, pointer("")),
		d("m.room.member", `{"membership":"join","displayname":"A","join_authorised_via_users_server":"@a:alpha.example"}`, pointer("@a:alpha.example")),
		d("m.room.power_levels", `{"users":{"@a:alpha.example":100},"invite":0,"notifications":{"room":20}}`, pointer("")),
		d("m.room.join_rules", `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!x:y"}]}`, pointer("")),
		d("m.room.history_visibility", `{"history_visibility":"shared","x":1}`, pointer("")),
		d("m.room.aliases", `{"aliases":["#a:alpha.example"]}`, pointer("alpha.example")),
		redaction,
	}
	create := d("m.room.create", `{"creator":"@a:alpha.example","room_version":"`+string(version)+`","m.federate":true}`, pointer(""))
	create.PrevEvents, create.AuthEvents, create.Depth = nil, nil, 1
	if version == id.RoomV12 {
		create.RoomID = ""
	}
	return append(all, create)
}

func TestBuildParseVerify(t *testing.T) {
	for _, version := range Versions() {
		lib := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(version))
		for _, d := range samples(version) {
			ev := build(t, version, d)
			name := fmt.Sprintf("%s in version %s", d.Type, version)
			if again, err := Canonical(ev.JSON()); err != nil || !bytes.Equal(again, ev.JSON()) {
				t.Errorf("%s: built %s, which is not canonical (%v)", name, ev.JSON(), err)
			}
			parsed, err := Parse(version, ev.JSON())
			if err != nil {
				t.Fatalf("%s: parse: %v", name, err)
			}
			if parsed.EventID() != ev.EventID() || parsed.Redacted() {
				t.Errorf("%s: parsed as %s (redacted %v), want %s", name, parsed.EventID(), parsed.Redacted(), ev.EventID())
			}
			if err := Verify(t.Context(), []gomatrixserverlib.PDU{parsed}, ring{[]Signer{alpha}, always})[0]; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if eventID, err := EventID(version, ev.JSON()); err != nil || string(eventID) != ev.EventID() {
				t.Errorf("%s: EventID got %s, %v, want %s", name, eventID, err, ev.EventID())
			}
			theirs, err := lib.NewEventFromUntrustedJSON(ev.JSON())
			if err != nil || theirs.EventID() != ev.EventID() || theirs.Redacted() {
				t.Errorf("%s: the library says %v, %v, want %s", name, theirs, err, ev.EventID())
				continue
			}
			samePDU(t, name, parsed, theirs)
			stored, err := Trusted(version, "", ev.JSON())
			if err != nil {
				t.Fatalf("%s: trusted: %v", name, err)
			}
			samePDU(t, name+" stored", stored, theirs)
		}
	}
}

// samePDU compares our answers with the library's.
func samePDU(t *testing.T, name string, ours, theirs gomatrixserverlib.PDU) {
	t.Helper()
	show := func(ev gomatrixserverlib.PDU) string {
		room := ev.RoomID()
		sk := "none"
		if ev.StateKey() != nil {
			sk = "=" + *ev.StateKey()
		}
		return fmt.Sprint(ev.EventID(), room.String(), ev.Type(), sk, ev.SenderID(), string(ev.Content()), ev.Depth(), ev.OriginServerTS(),
			ev.PrevEventIDs(), ev.AuthEventIDs(), ev.Redacted(), ev.Version())
	}
	if got, want := show(ours), show(theirs); got != want {
		t.Errorf("%s:\n got %s\nwant %s", name, got, want)
	}
}

func TestRedactsField(t *testing.T) {
	for _, version := range Versions() {
		d := draft(version, "m.room.redaction", `{"reason":"x"}`, nil)
		d.Redacts = refsFor(version, 1)[0]
		ev := build(t, version, d)
		if ev.Redacts() != string(d.Redacts) {
			t.Errorf("version %s: redacts %q, want %q", version, ev.Redacts(), d.Redacts)
		}
		inContent := gjson.GetBytes(ev.JSON(), "content.redacts").Exists()
		onTop := gjson.GetBytes(ev.JSON(), "redacts").Exists()
		if want := version == "11" || version == "12"; inContent != want || onTop == want {
			t.Errorf("version %s: redacts in content %v, on top %v", version, inContent, onTop)
		}
	}
}

func TestTamperedContentIsRedacted(t *testing.T) {
	for _, version := range Versions() {
		ev := build(t, version, draft(version, "m.room.member", `{"membership":"join","displayname":"A"}`, pointer("@a:alpha.example")))
		raw, _ := sjson.SetBytes(bytes.Clone(ev.JSON()), "content.displayname", "B")
		got, err := Parse(version, raw)
		if err != nil {
			t.Fatalf("version %s: %v", version, err)
		}
		if !got.Redacted() || string(got.Content()) != `{"membership":"join"}` || got.EventID() != ev.EventID() {
			t.Errorf("version %s: got %s redacted %v with %s, want %s redacted", version, got.EventID(), got.Redacted(), got.Content(), ev.EventID())
		}
		if err := Verify(t.Context(), []gomatrixserverlib.PDU{got}, ring{[]Signer{alpha}, always})[0]; err != nil {
			t.Errorf("version %s: %v", version, err)
		}
		raw, _ = sjson.SetBytes(bytes.Clone(ev.JSON()), "content.membership", "leave")
		if got, err = Parse(version, raw); err != nil {
			t.Fatalf("version %s: %v", version, err)
		}
		if err := Verify(t.Context(), []gomatrixserverlib.PDU{got}, ring{[]Signer{alpha}, always})[0]; err == nil {
			t.Errorf("version %s: a changed membership passes the signature", version)
		}
	}
}

func TestUnsignedAndEventIDAreStripped(t *testing.T) {
	ev := build(t, "11", draft("11", "m.room.message", `{"body":"x"}`, nil))
	raw, _ := sjson.SetRawBytes(bytes.Clone(ev.JSON()), "unsigned", []byte(`{"age":5,"redacted_because":{}}`))
	raw, _ = sjson.SetBytes(raw, "event_id", "$false")
	raw, _ = sjson.SetBytes(raw, "age_ts", 1)
	got, err := Parse("11", raw)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.JSON(), ev.JSON()) || got.EventID() != ev.EventID() || got.Redacted() {
		t.Errorf("got %s %s, want %s %s", got.EventID(), got.JSON(), ev.EventID(), ev.JSON())
	}
}

func TestVerifySigners(t *testing.T) {
	member := func(content string) Draft {
		return draft("11", "m.room.member", content, pointer("@b:b.example"))
	}
	cases := []struct {
		name    string
		version id.RoomVersion
		draft   Draft
		ring    ring
		ok      bool
	}{
		{"invite needs no second signature", "11", member(`{"membership":"invite"}`), ring{[]Signer{alpha}, always}, true},
		{"unknown key", "11", member(`{"membership":"invite"}`), ring{[]Signer{beta}, always}, false},
		{"restricted join unsigned by authoriser", "11",
			member(`{"membership":"join","join_authorised_via_users_server":"@b:b.example"}`), ring{[]Signer{alpha, beta}, always}, false},
		{"authoriser means nothing before version 8", "7",
			member(`{"membership":"join","join_authorised_via_users_server":"@b:b.example"}`), ring{[]Signer{alpha}, always}, true},
		{"authoriser is no user", "11", member(`{"membership":"join","join_authorised_via_users_server":5}`), ring{[]Signer{alpha}, always}, false},
		{"invite by e-mail from elsewhere", "11",
			member(`{"membership":"invite","third_party_invite":{"signed":{}}}`), ring{nil, always}, true},
		{"key expired", "5", draft("5", "m.room.message", `{}`, nil), ring{[]Signer{alpha}, 1000}, false},
		{"key expired, version 4", "4", draft("4", "m.room.message", `{}`, nil), ring{[]Signer{alpha}, 1000}, true},
	}
	var batch []gomatrixserverlib.PDU
	for _, c := range cases {
		ev := build(t, c.version, c.draft)
		batch = append(batch, ev)
		err := Verify(t.Context(), []gomatrixserverlib.PDU{ev}, c.ring)[0]
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v, want valid %v", c.name, err, c.ok)
		}
	}
	for i, err := range Verify(t.Context(), batch, ring{[]Signer{alpha}, always}) {
		if want := cases[i].name != "authoriser is no user" && cases[i].name != "restricted join unsigned by authoriser"; (err == nil) != want {
			t.Errorf("batch, %s: got %v, want valid %v", cases[i].name, err, want)
		}
	}
	joined := build(t, "11", member(`{"membership":"join","join_authorised_via_users_server":"@b:b.example"}`))
	raw, err := Sign("11", joined.JSON(), beta)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Parse("11", raw)
	if err != nil || signed.EventID() != joined.EventID() {
		t.Fatalf("after the second signature: %v, %v", signed, err)
	}
	if err := Verify(t.Context(), []gomatrixserverlib.PDU{signed}, ring{[]Signer{alpha, beta}, always})[0]; err != nil {
		t.Errorf("signed by the authoriser's server: %v", err)
	}
}

func TestVerifyEventIDServerInOldRooms(t *testing.T) {
	d := draft("1", "m.room.message", `{}`, nil)
	d.Sender = "@b:b.example"
	ev := build(t, "1", d) // the ID is made by alpha, the sender is of b
	if err := Verify(t.Context(), []gomatrixserverlib.PDU{ev}, ring{[]Signer{alpha, beta}, always})[0]; err == nil {
		t.Error("passes without the sender's signature")
	}
	raw, _ := Sign("1", ev.JSON(), beta)
	ev, err := Parse("1", raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(t.Context(), []gomatrixserverlib.PDU{ev}, ring{[]Signer{alpha, beta}, always})[0]; err != nil {
		t.Errorf("with both signatures: %v", err)
	}
	if err := Verify(t.Context(), []gomatrixserverlib.PDU{ev}, ring{[]Signer{beta}, always})[0]; err == nil {
		t.Error("passes without the signature of the event ID's server")
	}
}

func TestTemplateCarriesHashesOfOldRooms(t *testing.T) {
	first := build(t, "2", draft("2", "m.room.message", `{}`, nil))
	hash, err := ReferenceHash(first)
	if err != nil {
		t.Fatal(err)
	}
	d := draft("2", "m.room.member", `{"membership":"join"}`, pointer("@b:b.example"))
	d.PrevEvents = []id.EventID{id.EventID(first.EventID())}
	d.Hashes = map[id.EventID][]byte{id.EventID(first.EventID()): hash}
	template, err := Template("2", d)
	if err != nil {
		t.Fatal(err)
	}
	prev := gjson.GetBytes(template, "prev_events.0")
	if got, _ := decodeBase64(prev.Get("1.sha256").Str); !bytes.Equal(got, hash) || prev.Get("0").Str != first.EventID() {
		t.Errorf("got %s, want a reference to %s with hash %x", prev, first.EventID(), hash)
	}
}

func TestVersion12RoomID(t *testing.T) {
	all := samples("12")
	create := build(t, "12", all[len(all)-1])
	room := RoomIDOf(create)
	if want := "!" + create.EventID()[1:]; string(room) != want || len(room) != 44 {
		t.Errorf("got room %s, want %s", room, want)
	}
	if gjson.GetBytes(create.JSON(), "room_id").Exists() {
		t.Errorf("create event carries a room ID: %s", create.JSON())
	}
	d := draft("12", "m.room.message", `{}`, nil)
	d.RoomID = room
	ev := build(t, "12", d)
	if got := ev.AuthEventIDs(); len(got) != 4 || got[0] != create.EventID() {
		t.Errorf("auth events %v, want %s first of four", got, create.EventID())
	}
	if got := AuthEvents(ev); len(got) != 3 {
		t.Errorf("own auth events %v, want three", got)
	}
	signed := ev.Sign("b.example", "ed25519:1", beta.Key)
	if len(signed.AuthEventIDs()) != 4 || RoomIDOf(signed) != room || signed.EventID() != ev.EventID() {
		t.Errorf("signing lost something: %v", signed.AuthEventIDs())
	}
}

func TestSetUnsigned(t *testing.T) {
	ev := build(t, "11", draft("11", "m.room.message", `{"body":"x"}`, nil))
	before := string(ev.JSON())
	changed, err := ev.SetUnsigned(map[string]any{"age": 3})
	if err != nil || string(changed.Unsigned()) != `{"age":3}` || string(changed.Content()) != `{"body":"x"}` {
		t.Errorf("got %s, %v", changed.JSON(), err)
	}
	if string(ev.JSON()) != before {
		t.Errorf("the event itself changed: %s", ev.JSON())
	}
	if err := changed.SetUnsignedField("prev_content.a", 1); err != nil || string(changed.Unsigned()) != `{"age":3,"prev_content":{"a":1}}` {
		t.Errorf("got %s, %v", changed.Unsigned(), err)
	}
	changed.Redact()
	if !changed.Redacted() || string(changed.Content()) != `{}` || changed.EventID() != ev.EventID() {
		t.Errorf("redacted: %s", changed.JSON())
	}
}
