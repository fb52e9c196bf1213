package policy

import "testing"

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
