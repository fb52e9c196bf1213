package policy

import (
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestEmailDomains(t *testing.T) {
	domains := EmailDomains{"*.Gouv.fr", "example.org"}
	for address, want := range map[string]bool{
		"a@interieur.gouv.fr": true, "a@x.y.gouv.fr": true, "a@gouv.fr": false, "a@notgouv.fr": false, "a@.gouv.fr": false,
		"a@example.org": true, "A@Example.Org": true, "a@sub.example.org": false, "a@example.org.evil": false, "example.org": false,
	} {
		if got := domains.Allow(address); got != want {
			t.Errorf("%s: got %v, want %v", address, got, want)
		}
	}
	if !EmailDomains(nil).Allow("a@b") {
		t.Error("no domains: got a refusal, want every domain")
	}
	for _, bad := range []string{"", "*", "*.", "a@b", "*.*.fr", ".fr", "a b"} {
		if (EmailDomains{bad}).Validate() == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := domains.Validate(); err != nil {
		t.Error(err)
	}
}

func TestExempt(t *testing.T) {
	for _, c := range []struct {
		parts Exempt
		user  id.UserID
		want  bool
	}{
		{nil, "@anna:interior", false},
		{Exempt{"@bot-"}, "@bot-news:interior", true},
		{Exempt{"@bot-"}, "@robot-news:interior", false},
		{Exempt{"support", ":finance"}, "@the.support.desk:interior", true},
		{Exempt{"support", ":finance"}, "@felix:finance", true},
		{Exempt{"support", ":finance"}, "@felix:interior", false},
	} {
		if got := c.parts.Names(c.user); got != c.want {
			t.Errorf("%v, %s: got %v, want %v", c.parts, c.user, got, c.want)
		}
	}
	for _, bad := range []string{"", "@", ":", " "} {
		if (Exempt{bad}).Validate() == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := (Exempt{"@bot-"}).Validate(); err != nil {
		t.Error(err)
	}
}
