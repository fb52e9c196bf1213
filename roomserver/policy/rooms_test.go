package policy

import "testing"

func TestAccess(t *testing.T) {
	externals := Externals{"agent.externe.*", "e.example"}
	for _, c := range []struct {
		content, server string
		want            bool
	}{
		{`{"rule":"restricted"}`, "interior.example", true},
		{`{"rule":"restricted"}`, "e.example", false},
		{`{"rule":"restricted"}`, "E.example:8448", false},
		{`{"rule":"restricted"}`, "agent.externe.tchap.example", false},
		{`{"rule":"unrestricted"}`, "e.example", true},
		{`{"rule":"direct"}`, "e.example", true},
		{``, "e.example", false},
		{`{}`, "e.example", false},
		{`{"rule":"open"}`, "e.example", false},
		{`{"rule":["unrestricted"]}`, "e.example", false},
		{`{"rule":"restricted"}`, "the.example", true},
	} {
		if got := externals.Admit(ParseAccess([]byte(c.content)), c.server); got != c.want {
			t.Errorf("%s, %s: got %v, want %v", c.content, c.server, got, c.want)
		}
	}
	if !Externals(nil).Admit(AccessRestricted, "e.example") {
		t.Error("without externals somebody was refused")
	}
}
