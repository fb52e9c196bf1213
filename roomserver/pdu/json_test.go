package pdu

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// The spec's own examples, and the places where implementations differ. An empty want is a refusal.
var canonicalCases = []struct{ name, in, want string }{
	{"empty object", `{}`, `{}`},
	{"blanks", " {\t\"one\" :\n1 , \"two\":\r\"Two\" } ", `{"one":1,"two":"Two"}`},
	{"order", `{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
	{"order inside", `{"auth":{"success":true,"mxid":"@a:b","profile":{"z":[{"b":1,"a":2}],"display_name":"J"}}}`,
		`{"auth":{"mxid":"@a:b","profile":{"display_name":"J","z":[{"a":2,"b":1}]},"success":true}}`},
	{"unicode value", `{"a":"日本語"}`, `{"a":"日本語"}`},
	{"unicode order", `{"本":2,"日":1}`, `{"日":1,"本":2}`},
	{"escaped unicode", `{"a":"\u65E5"}`, `{"a":"日"}`},
	{"null", `{"a":null}`, `{"a":null}`},
	{"negative nought", `{"a":-0}`, `{"a":0}`},
	{"float that is whole", `{"a":1.0}`, ``},
	{"exponent", `{"a":1e3}`, ``},
	{"capital exponent", `{"a":1E10}`, ``},
	{"negative nought as float", `{"a":-0.0}`, ``},
	{"greatest", `{"a":9007199254740991}`, `{"a":9007199254740991}`},
	{"too great", `{"a":9007199254740992}`, ``},
	{"least", `{"a":-9007199254740991}`, `{"a":-9007199254740991}`},
	{"too small", `{"a":-9007199254740992}`, ``},
	{"far too great", `{"a":100000000000000000000}`, ``},
	{"leading nought", `{"a":01}`, ``},
	{"duplicate key", `{"a":1,"a":2}`, ``},
	{"duplicate key by escape", `{"a":1,"b":2,"\u0061":2}`, ``},
	{"lone high surrogate", `{"a":"\ud83d"}`, ``},
	{"lone low surrogate", `{"a":"\ude00"}`, ``},
	{"surrogate pair", `{"a":"\ud83d\uDE00"}`, `{"a":"😀"}`},
	{"invalid UTF-8", "{\"a\":\"\xff\"}", ``},
	{"overlong UTF-8", "{\"a\":\"\xc0\xaf\"}", ``},
	{"encoded surrogate", "{\"a\":\"\xed\xa0\x80\"}", ``},
	{"astral after the rest, not as UTF-16", `{"😀":1,"～":2}`, `{"～":2,"😀":1}`},
	{"short escapes", `{"a":"\u0008\u000c\u000A\u000d\u0009\u0001\u001F\/\u002f\"\\"}`, `{"a":"\b\f\n\r\t\u0001\u001f//\"\\"}`},
	{"escaped quote by number", `{"a":"\u0022\u005c"}`, `{"a":"\"\\"}`},
	{"delete is plain", `{"a":"\u007f"}`, "{\"a\":\"\u007f\"}"},
	{"control key sorts first", `{"A":1,"\u0001":2}`, `{"\u0001":2,"A":1}`},
	{"raw control character", "{\"a\":\"\n\"}", ``},
	{"cut off", `{"a":1`, ``},
	{"trailing comma", `{"a":1,}`, ``},
	{"two values", `{} {}`, ``},
	{"bare word", `{"a":nul}`, ``},
	{"not a number", `{"a":NaN}`, ``},
	{"lone minus", `{"a":-}`, ``},
	{"nothing", ``, ``},
	{"deep", strings.Repeat("[", 512) + strings.Repeat("]", 512), strings.Repeat("[", 512) + strings.Repeat("]", 512)},
	{"too deep", strings.Repeat("[", 513) + strings.Repeat("]", 513), ``},
	{"too deep and open", strings.Repeat(`{"a":`, 100000), ``},
}

func TestCanonical(t *testing.T) {
	for _, c := range canonicalCases {
		got, err := Canonical([]byte(c.in))
		if string(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
		if err != nil && !errors.Is(err, ErrBadJSON) {
			t.Errorf("%s: got error %v, want ErrBadJSON", c.name, err)
		}
		if err := CheckJSON([]byte(c.in), true); (err != nil) != (c.want == "") {
			t.Errorf("%s: CheckJSON got %v, want failure %v", c.name, err, c.want == "")
		}
	}
}

func TestCheckJSONWithoutIntegers(t *testing.T) {
	for in, want := range map[string]bool{
		`{"a":1.5}`: true, `{"a":1e300}`: true, `{"a":1e+3}`: true, `{"a":9007199254740992}`: true, `{"a":-0.5}`: true,
		`{"a":1.}`: false, `{"a":.5}`: false, `{"a":1e}`: false, `{"a":1,"a":1}`: false, `{"a":00.5}`: false,
	} {
		if err := CheckJSON([]byte(in), false); (err == nil) != want {
			t.Errorf("%s: got %v, want valid %v", in, err, want)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, c := range canonicalCases {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		once, err := Canonical(in)
		if err != nil {
			return
		}
		if !json.Valid(in) {
			t.Fatalf("accepted what is no JSON: %q", in)
		}
		twice, err := Canonical(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("got %q, %v after %q", twice, err, once)
		}
		if a, b := decode(t, in), decode(t, once); !reflect.DeepEqual(a, b) {
			t.Fatalf("meaning changed: %v to %v", a, b)
		}
	})
}

func FuzzCheckJSON(f *testing.F) {
	for _, c := range canonicalCases {
		f.Add([]byte(c.in), true)
		f.Add([]byte(c.in), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, integers bool) {
		if CheckJSON(in, integers) == nil && !json.Valid(in) {
			t.Fatalf("accepted what is no JSON: %q", in)
		}
	})
}

func decode(t *testing.T, raw []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("decode %q: %v", raw, err)
	}
	return v
}
