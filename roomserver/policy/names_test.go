package policy

import "testing"

func TestLocalpart(t *testing.T) {
	for address, want := range map[string]string{
		"John.Doe@Example.com": "john.doe-example.com",
		"user+tag@domain.com":  "usertag-domain.com",
		"zoë@exämple.org":      "zo-exmple.org",
		"a_b=c/d@x.y":          "a_b=c/d-x.y",
		"":                     "",
	} {
		if got := Localpart(address); got != want {
			t.Errorf("Localpart(%q): got %q, want %q", address, got, want)
		}
	}
}

func TestDisplayName(t *testing.T) {
	for address, want := range map[string]string{
		"jean-philippe.martin@example.com": "Jean-Philippe Martin [Example]",
		"x@gendarmerie.interieur.gouv.fr":  "X [Interieur]",
		"x@interieur.gouv.fr":              "X [Interieur]",
		"anna@gouv.fr":                     "Anna [Gouv]",
		"anna@mail.example.com":            "Anna [Example]",
		"éric.blanc@example.org":           "Éric Blanc [Example]",
		"anna..b@example.org":              "Anna B [Example]",
		"anna@localhost":                   "Anna [Localhost]",
		"nobody":                           "",
		"@example.com":                     "",
		"a@b@c":                            "",
		"anna@notgouv.fr":                  "Anna [Notgouv]",
		"marie.de-la-tour@culture.gouv.fr": "Marie De-La-Tour [Culture]",
	} {
		if got := DisplayName(address, []string{"gouv.fr"}); got != want {
			t.Errorf("DisplayName(%q): got %q, want %q", address, got, want)
		}
	}
}
