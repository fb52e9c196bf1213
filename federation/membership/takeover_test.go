package membership

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestReadAnswer(t *testing.T) {
	var many []string
	for n := range 1000 {
		many = append(many, fmt.Sprintf(`{"n":%d}`, n))
	}
	answer := fmt.Sprintf(`{"servers_in_room":["a","b"],"auth_chain":[%s],"members_omitted":false,"event":{"x":1},"state":[%s]}`,
		strings.Join(many[:3], ","), strings.Join(many, ","))
	got := map[bool][]string{}
	event, err := readAnswer(context.Background(), strings.NewReader(answer), func(raws []json.RawMessage, state bool) {
		if len(raws) > takenAtOnce {
			t.Errorf("%d events at once, want at most %d", len(raws), takenAtOnce)
		}
		for _, raw := range raws {
			got[state] = append(got[state], string(raw))
		}
	})
	if err != nil || string(event) != `{"x":1}` {
		t.Errorf("got event %s and error %v", event, err)
	}
	if state, chain := strings.Join(got[true], ","), strings.Join(got[false], ","); state != strings.Join(many, ",") || chain != strings.Join(many[:3], ",") {
		t.Errorf("got %d events of the state and %d of the chain, want %d and 3", len(got[true]), len(got[false]), len(many))
	}
	for name, bad := range map[string]string{
		"a list":             `[]`,
		"nothing":            ``,
		"an end too early":   `{"state":[{"n":1}`,
		"state no list":      `{"state":{"n":1}}`,
		"a value too long":   `{"state":["` + strings.Repeat("x", 3*maxValue) + `"]}`,
		"another too long":   `{"other":["` + strings.Repeat("x", 3*maxValue) + `"]}`,
		"a key too long":     `{"` + strings.Repeat("x", 3*maxValue) + `":1}`,
		"blanks without end": `{` + strings.Repeat(" ", 3*maxValue) + `}`,
	} {
		if _, err := readAnswer(context.Background(), strings.NewReader(bad), func([]json.RawMessage, bool) {}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzSendJoin reads answers to send_join.
func FuzzSendJoin(f *testing.F) {
	f.Add([]byte(`{"state":[{"type":"m.room.create"},5,null],"auth_chain":[],"event":{},"servers_in_room":["x"]}`))
	f.Add([]byte(`{"state":[[[[]]]],"state":[{}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		size := 0
		event, err := readAnswer(context.Background(), strings.NewReader(string(raw)), func(raws []json.RawMessage, _ bool) {
			for _, one := range raws {
				if size += len(one); !json.Valid(one) {
					t.Errorf("%q is no JSON", one)
				}
			}
		})
		if size += len(event); err == nil && size > len(raw) {
			t.Errorf("%d bytes of %d", size, len(raw))
		}
	})
}
