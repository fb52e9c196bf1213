package calls

import (
	"errors"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TestTokensWhenTheClockIsSet: threats.md D8. A token of ours opens the door when the clock was set back since. Set forward by more than its
// life, the clock ends it, but not the next one. What other services give still begins and ends when it says, to
// a minute.
func TestTokensWhenTheClockIsSet(t *testing.T) {
	var set time.Duration
	keys := tokens{key: testKey, secret: []byte(testSecret), now: func() time.Time { return time.Now().Add(set) }}
	give := func(matrix *Matrix) string {
		t.Helper()
		token, err := keys.sign(Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: "ann"}, Video: Grant{Room: "room", RoomJoin: true}, Matrix: matrix}, tokenLife)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for _, c := range []struct {
		name        string
		step        time.Duration
		ours, other bool // what was given before is still good
	}{
		{"not at all", 0, true, true},
		{"back a moment", -tokenSkew / 2, true, true},
		{"back half a minute", -tokenSkew - 30*time.Second, true, true},
		{"back five minutes", -5 * time.Minute, true, false},
		{"back an hour", -time.Hour, true, false},
		{"forward half an hour", tokenLife / 2, true, true},
		{"forward its life and half a minute", tokenLife + 30*time.Second, false, true},
		{"forward its life and five minutes", tokenLife + 5*time.Minute, false, false},
		{"forward a day", 24 * time.Hour, false, false},
	} {
		set = 0
		ann := &Matrix{User: "@ann:x", Device: "D", Room: "!room:x"}
		ours, other := give(ann), give(nil)
		set = c.step
		for name, token := range map[string]struct {
			token string
			good  bool
		}{"ours": {ours, c.ours}, "another service's": {other, c.other}, "our next": {give(ann), true}, "another service's next": {give(nil), true}} {
			claims, err := keys.verify(token.token)
			if (err == nil) != token.good || err != nil && !errors.Is(err, ErrBadToken) {
				t.Errorf("%s, %s: got %v, want it good: %v", c.name, name, err, token.good)
			}
			if err == nil && claims.given().IsZero() {
				t.Errorf("%s, %s: nobody knows when it was given", c.name, name)
			}
		}
	}
}
