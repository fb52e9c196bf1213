package rooms

import (
	"encoding/json"
	"testing"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage"
)

// FuzzCreate reads bodies of createRoom as the handler does, up to the question that is put to the room server.
func FuzzCreate(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"preset":"trusted_private_chat","room_version":"12","invite":["@bob:interior"],"creation_content":{"additional_creators":["@eve:x",1]}}`,
		`{"initial_state":[{"type":"m.room.name","content":{"name":"x"}},{"type":"a","state_key":"b","content":{}}],"power_level_content_override":{"users":null}}`,
		`{"room_alias_name":"a","name":"n","topic":"t","visibility":"public","is_direct":true,"invite_3pid":[{}]}`, `{"creation_content":null,"room_version":null}`,
	} {
		f.Add([]byte(seed))
	}
	h := &Handlers{cfg: Config{ServerName: "interior", DefaultVersion: "11"}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var req createRequest
		if rest.Decode(raw, &req) != nil {
			return
		}
		version, err := h.check(&req)
		if err != nil {
			return
		}
		content, err := createContent(version, "@alice:interior", &req)
		if err != nil {
			return
		}
		if !json.Valid(content) {
			t.Fatalf("content of m.room.create: %q", content)
		}
		levels, err := h.powerLevels(version, "@alice:interior", content, &req)
		if err == nil && !json.Valid(levels) {
			t.Fatalf("power levels: %q", levels)
		}
	})
}

// FuzzSend looks at what clients send as an event's content: relations, what is redacted along, the event itself.
func FuzzSend(f *testing.F) {
	for _, seed := range []string{
		`{"body":"x","msgtype":"m.text"}`, `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"+"}}`,
		`{"org.matrix.msc3912.with_relations":["m.thread",1,null],"with_rel_types":["*"],"reason":"x"}`, `{"alias":"#a:b","alt_aliases":["#c:d",5]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if rest.CheckJSON(raw) != nil || len(raw) == 0 || raw[0] != '{' {
			return
		}
		_, kept, err := withRelations(raw)
		if err == nil && !json.Valid(kept) {
			t.Fatalf("without relations: %q", kept)
		}
		if canonical, err := pdu.Canonical(raw); err == nil && !json.Valid(canonical) {
			t.Fatalf("canonical: %q", canonical)
		}
	})
}

// FuzzSearch reads a search, its filter and what it looks for.
func FuzzSearch(f *testing.F) {
	for _, seed := range []string{
		`{"search_categories":{"room_events":{"search_term":"word \"two\"","keys":["content.body"],"order_by":"recent","filter":{"limit":3,"types":["m.*"],"not_rooms":["!x"]}}}}`,
		`{"search_categories":{"room_events":{"search_term":"","event_context":{"before_limit":-1},"groupings":{"group_by":[{"key":"sender"}]}}}}`, `{"search_categories":{}}`,
	} {
		f.Add([]byte(seed))
	}
	typ := "m.room.message"
	e := &storage.Event{Type: typ, Sender: "@alice:interior", RoomID: "!r", JSON: []byte(`{"content":{"body":"word","url":1}}`)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var req searchRequest
		if rest.Decode(raw, &req) != nil || req.Categories.RoomEvents == nil {
			return
		}
		q := req.Categories.RoomEvents
		q.Filter.allows(e)
		highlights(storage.SearchWords(q.Term), []*storage.Event{e})
	})
}

// FuzzTokens reads every token that this chapter gives out.
func FuzzTokens(f *testing.F) {
	for _, seed := range []string{
		searchToken{Place: 3, Number: 4, Count: 5, Group: groupBySender, Value: "@a:b"}.String(), hierarchyToken{Skip: 3, Room: "!a", Depth: 2}.String(),
		storage.ThreadToken(7), "p1_2", "sabc_1_2_x_3", "12_d", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := parseSearchToken(text); err == nil && token != nil {
			if again, err := parseSearchToken(token.String()); err != nil || *again != *token {
				t.Errorf("search: %q is read as %+v, and that as %+v (%v)", text, token, again, err)
			}
		}
		if token, err := parseHierarchyToken(text); err == nil && token != nil {
			if again, err := parseHierarchyToken(token.String()); err != nil || *again != *token {
				t.Errorf("hierarchy: %q is read as %+v, and that as %+v (%v)", text, token, again, err)
			}
			token.after(nil)
		}
		if at, err := subscriptionToken(text); err == nil && at < 0 {
			t.Errorf("threads: %q is read as %d", text, at)
		}
		if page, err := storage.ParsePage(text); err == nil {
			_ = page.String()
		}
	})
}
