package syncing

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"chancery/storage"
	"chancery/storage/bus"
)

// TestFilterSections sets each field of a filter beside what it must leave of one and the same news, from memory and from the tables.
// Spec: client-server-api/#filtering
func TestFilterSections(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) { filterSections(t, restarted) })
	}
}

func filterSections(t *testing.T, restarted bool) {
	h := newHouse(t)
	room, other := h.create(alice, "public"), h.create(alice, "public")
	h.member(room, bob, bob, "join")
	h.member(other, bob, bob, "join")
	since := next(h.answerTo(alice, ""))
	h.state(room, alice, "m.room.topic", "", content(`{"topic":"t"}`))
	h.state(room, bob, "m.room.member", string(bob), content(`{"membership":"join","displayname":"B"}`))
	one := h.say(room, alice, "one")
	h.say(room, bob, "two")
	h.propose(room, bus.Proposal{Sender: bob, Type: "m.reaction", Content: content(`{"body":"yes","m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":"+"}}`, one)})
	h.propose(room, bus.Proposal{Sender: bob, Type: "m.room.message", Content: content(`{"body":"picture","url":"mxc://a/b"}`)})
	h.say(other, bob, "elsewhere")
	h.read(room, bob, one, "")
	err := h.store.Do(t.Context(), func(ctx context.Context) error {
		for _, d := range []storage.AccountData{{Type: "a.x"}, {Type: "b.x"}, {RoomID: room, Type: "a.y"}, {RoomID: room, Type: "b.y"}, {RoomID: other, Type: "a.z"}} {
			d.UserID, d.Content = alice, json.RawMessage(`{}`)
			if err := h.store.AccountData.Put(ctx, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if restarted {
		h.again()
	}
	h.sync.typed(bus.Typing{RoomID: room, UserID: bob, Typing: true, Until: time.Now().Add(time.Minute).UnixMilli()})
	h.sync.appeared(bus.Presence{UserID: bob, Presence: online})

	rooms := strings.NewReplacer("ROOM", string(room), "OTHER", string(other))
	all := "topic member one two yes picture"
	for _, c := range []struct{ section, filter, want string }{
		{"timeline", `{}`, all},
		{"timeline", `{"room":{"timeline":{"types":["m.room.message"]}}}`, "one two picture"},
		{"timeline", `{"room":{"timeline":{"types":["m.room.*"]}}}`, "topic member one two picture"},
		{"timeline", `{"room":{"timeline":{"types":["*.topic","*re*on"]}}}`, "topic yes"},
		{"timeline", `{"room":{"timeline":{"types":["m.room.*"],"not_types":["m.room.m*"]}}}`, "topic"},
		{"timeline", `{"room":{"timeline":{"types":[]}}}`, ""},
		{"timeline", `{"room":{"timeline":{"senders":["@alice:interior"]}}}`, "topic one"},
		{"timeline", `{"room":{"timeline":{"senders":[]}}}`, ""},
		{"timeline", `{"room":{"timeline":{"senders":["@alice:interior","@bob:interior"],"not_senders":["@alice:interior"]}}}`, "member two yes picture"},
		{"timeline", `{"room":{"timeline":{"contains_url":true}}}`, "picture"},
		{"timeline", `{"room":{"timeline":{"contains_url":false}}}`, "topic member one two yes"},
		{"timeline", `{"room":{"timeline":{"limit":2}}}`, "yes picture"},
		{"timeline", `{"room":{"timeline":{"limit":0}}}`, ""},
		{"timeline", `{"room":{"timeline":{"rooms":["ROOM"]}}}`, all},
		{"timeline", `{"room":{"timeline":{"rooms":["OTHER"]}}}`, ""},
		{"timeline", `{"room":{"timeline":{"not_rooms":["ROOM"]}}}`, ""},
		{"timeline", `{"room":{"timeline":{"related_by_rel_types":["m.annotation"]}}}`, "one"},
		{"timeline", `{"room":{"timeline":{"related_by_rel_types":["m.thread"]}}}`, ""},
		{"timeline", `{"room":{"timeline":{"related_by_senders":["@bob:interior"]}}}`, "one"},
		{"timeline", `{"room":{"timeline":{"related_by_senders":["@alice:interior"]}}}`, ""},
		{"timeline", `{"room":{"timeline":{"org.matrix.msc3874.rel_types":["m.annotation"]}}}`, "yes"},
		{"timeline", `{"room":{"timeline":{"org.matrix.msc3874.not_rel_types":["m.annotation"]}}}`, "topic member one two picture"},
		{"timeline", `{"room":{"rooms":["ROOM"]}}`, all},
		{"timeline", `{"room":{"rooms":["OTHER"]}}`, ""},
		{"timeline", `{"room":{"rooms":["ROOM"],"not_rooms":["ROOM"]}}`, ""},
		// What the timeline's filter keeps out, the state does not lose.
		{"state", `{"room":{"timeline":{"types":[]}}}`, "topic member"},
		{"state", `{"room":{"timeline":{"limit":1}}}`, "topic member"},
		{"state", `{"room":{"timeline":{"limit":0},"state":{"types":["m.room.topic"]}}}`, "topic"},
		{"state", `{"room":{"timeline":{"limit":0},"state":{"not_types":["m.room.top*"]}}}`, "member"},
		{"state", `{"room":{"timeline":{"limit":0},"state":{"senders":["@bob:interior"]}}}`, "member"},
		{"state", `{"room":{"timeline":{"limit":0},"state":{"not_senders":["@bob:interior"]}}}`, "topic"},
		{"state", `{"room":{"timeline":{"limit":0},"state":{"not_rooms":["ROOM"]}}}`, ""},
		{"state", `{"room":{"timeline":{"limit":0},"state":{"rooms":["ROOM"]}}}`, "topic member"},
		{"ephemeral", `{}`, "m.typing m.receipt"},
		{"ephemeral", `{"room":{"ephemeral":{"types":["m.receipt"]}}}`, "m.receipt"},
		{"ephemeral", `{"room":{"ephemeral":{"not_types":["m.receipt"]}}}`, "m.typing"},
		{"ephemeral", `{"room":{"ephemeral":{"not_types":["*"]}}}`, ""},
		{"ephemeral", `{"room":{"ephemeral":{"not_rooms":["ROOM"]}}}`, ""},
		{"account_data", `{}`, "a.y b.y"},
		{"account_data", `{"room":{"account_data":{"types":["a.*"]}}}`, "a.y"},
		{"account_data", `{"room":{"account_data":{"not_types":["a.*"]}}}`, "b.y"},
		{"account_data", `{"room":{"account_data":{"not_rooms":["ROOM"]}}}`, ""},
		{"account_data", `{"room":{"account_data":{"rooms":["OTHER"]}}}`, ""},
		{"global", `{}`, "a.x b.x"},
		{"global", `{"account_data":{"types":["a.*"]}}`, "a.x"},
		{"global", `{"account_data":{"not_types":["*"]}}`, ""},
		{"presence", `{}`, "@bob:interior"},
		{"presence", `{"presence":{"types":[]}}`, ""},
		{"presence", `{"presence":{"not_types":["m.presence"]}}`, ""},
		{"presence", `{"presence":{"not_senders":["@bob:interior"]}}`, ""},
		{"presence", `{"presence":{"senders":["@bob:interior"]}}`, "@bob:interior"},
		{"formats", `{"event_format":"federation"}`, "auth_events content depth hashes origin_server_ts prev_events room_id sender signatures type"},
		{"formats", `{"event_fields":["type","content.url"]}`, "content type"},
		{"formats", `{"event_fields":["type","content.b\\.x","sender"]}`, "sender type"},
	} {
		r := h.answerTo(alice, since, "filter", rooms.Replace(c.filter), "set_presence", "offline")
		got := strings.Join(section(r, in(r, "join", room), c.section), " ")
		if got != c.want {
			t.Errorf("%s with %s: got %q, want %q", c.section, c.filter, got, c.want)
		}
	}
}

// section names what a section of an answer holds.
func section(answer, joined gjson.Result, name string) (list []string) {
	switch name {
	case "timeline", "state":
		for _, e := range joined.Get(name + ".events").Array() {
			if body := e.Get("content.body"); body.Exists() {
				list = append(list, body.Str)
			} else {
				list = append(list, strings.TrimPrefix(e.Get("type").Str, "m.room."))
			}
		}
	case "ephemeral", "account_data":
		list = types(joined.Get(name + ".events"))
	case "global":
		list = types(answer.Get("account_data.events"))
	case "presence":
		for _, e := range answer.Get("presence.events").Array() {
			if e.Get("sender").Str != string(alice) {
				list = append(list, e.Get("sender").Str)
			}
		}
	case "formats":
		events := joined.Get("timeline.events").Array()
		for key := range events[len(events)-1].Map() {
			if key != "unsigned" && key != "event_id" {
				list = append(list, key)
			}
		}
		slices.Sort(list)
	}
	return list
}
