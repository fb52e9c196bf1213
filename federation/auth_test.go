package federation

import "testing"

func TestParseXMatrix(t *testing.T) {
	full := xMatrix{"a.example:8448", "b.example", "ed25519:k", "AB+/cd"}
	for _, c := range []struct {
		name, header string
		want         xMatrix
		ok, fails    bool
	}{
		{"as the spec writes it", `X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k",sig="AB+/cd"`, full, true, false},
		{"without quotes", `X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:k,sig=AB+/cd`, full, true, false},
		{"blanks, case, order, unknown names", "x-matrix  SIG=\"AB+/cd\" ,\tkey=\"ed25519:k\", more=\"a,b=c\",Destination=\"b.example\" , ORIGIN=\"a.example:8448\"", full, true, false},
		{"comma and backslash inside quotes", `X-Matrix origin="a.exam\ple:8448",destination="b.example",key="ed25519:k",sig="AB+/cd",x="a\",b"`, full, true, false},
		{"no destination", `X-Matrix origin="a",key="ed25519:k",sig="s"`, xMatrix{"a", "", "ed25519:k", "s"}, true, false},
		{"another scheme", `Bearer abc`, xMatrix{}, false, false},
		{"nothing", ``, xMatrix{}, false, false},
		{"scheme only", `X-Matrix`, xMatrix{}, true, true},
		{"no signature", `X-Matrix origin="a",key="ed25519:k"`, xMatrix{}, true, true},
		{"origin twice", `X-Matrix origin="a",origin="b",key="ed25519:k",sig="s"`, xMatrix{}, true, true},
		{"not closed", `X-Matrix origin="a,key=b,sig=c`, xMatrix{}, true, true},
		{"junk behind a value", `X-Matrix origin="a"b,key="ed25519:k",sig="s"`, xMatrix{}, true, true},
		{"no value", `X-Matrix origin,key="ed25519:k",sig="s"`, xMatrix{}, true, true},
	} {
		got, ok, err := parseXMatrix(c.header)
		if ok != c.ok || (err != nil) != c.fails || err == nil && got != c.want {
			t.Errorf("%s: got %+v, %v, %v; want %+v, %v, failure %v", c.name, got, ok, err, c.want, c.ok, c.fails)
		}
	}
}

func FuzzXMatrix(f *testing.F) {
	f.Add(`X-Matrix origin="a",destination="b",key="ed25519:k",sig="s"`)
	f.Add(`X-Matrix origin=a ,key=b\,sig="c\`)
	f.Fuzz(func(t *testing.T, header string) {
		x, ok, err := parseXMatrix(header)
		if ok && err == nil && (x.origin == "" || x.key == "" || x.signature == "") {
			t.Errorf("%q: got %+v without an error", header, x)
		}
	})
}
