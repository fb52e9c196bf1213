package main

import (
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
)

// TestRedactedRulesHoldNoMore: what a room said of its calls, or of whom it takes in, ends in the calls too when it is redacted.
func TestRedactedRulesHoldNoMore(t *testing.T) {
	configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "e.test")
	configs[0].Calls.ExternalServers = []string{"e.*"}
	houses := openConfigured(t, configs)
	interior := houses[0]
	anna, eric := interior.person("anna"), houses[1].person("eric")
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
	says := func(kind string, content map[string]any) id.EventID {
		t.Helper()
		return must(anna.SendStateEvent(t.Context(), room, event.Type{Type: kind, Class: event.StateEventType}, "", content))(t, kind).EventID
	}
	access := says("im.vector.room.access_rules", map[string]any{"rule": "unrestricted"})
	interior.takesIn(t, eric, room)
	socket, token := callToken(t, eric, interior, room)
	ws := enterCall(t, socket, token)
	next := func() *signal.Response { return heard(t, ws) }
	settings := says("chancery.call.settings", map[string]any{"publish_level": 10})
	permission(t, next, string(eric.UserID), false)
	must(anna.RedactEvent(t.Context(), room, settings))(t, "redact")
	permission(t, next, string(eric.UserID), true)
	begun := time.Now()
	must(anna.RedactEvent(t.Context(), room, access))(t, "redact")
	if reason := sentAway(t, ws); reason != signal.DisconnectReason_PARTICIPANT_REMOVED {
		t.Errorf("an external in a room that says nothing of externals any more: got %v, want PARTICIPANT_REMOVED", reason)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("the session ended after %v, want within a second", took)
	}
}
