package account

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix"
)

func TestNewPasswords(t *testing.T) {
	for _, c := range []struct {
		password string
		needs    []string
		errcode  string
	}{
		{"", nil, "M_MISSING_PARAM"},
		{"seven77", nil, "M_PASSWORD_TOO_SHORT"},
		{"ééééééé", nil, "M_PASSWORD_TOO_SHORT"}, // characters, not bytes
		{strings.Repeat("x", 513), nil, "M_INVALID_PARAM"},
		{"Password1", nil, "M_WEAK_PASSWORD"},
		{"azertyuiop", nil, "M_WEAK_PASSWORD"},
		{"no digit here", []string{"digit"}, "M_PASSWORD_NO_DIGIT"},
		{"n0symb0lhere", []string{"symbol"}, "M_PASSWORD_NO_SYMBOL"},
		{"NO SMALL 1", []string{"lowercase"}, "M_PASSWORD_NO_LOWERCASE"},
		{"no capital 1", []string{"uppercase"}, "M_PASSWORD_NO_UPPERCASE"},
		{"A good 1, at last", []string{"digit", "symbol", "lowercase", "uppercase"}, ""},
		{"correct horse battery", nil, ""},
	} {
		cfg := DefaultConfig()
		cfg.PasswordNeeds = c.needs
		err := NewPasswords(cfg, nil).checkNew(c.password)
		var refusal mautrix.RespError
		errors.As(err, &refusal)
		if refusal.ErrCode != c.errcode || err != nil && refusal.StatusCode != 400 {
			t.Errorf("%.20q with %v: got %v, want %q", c.password, c.needs, err, c.errcode)
		}
	}
	if checkNeeds([]string{"emoji"}) == nil {
		t.Error("an unknown need was taken")
	}
}

func TestBreachedPasswords(t *testing.T) {
	var lines []string
	known := map[string]bool{}
	for i := range 500 {
		password := fmt.Sprintf("password number %d", i)
		known[password] = i%2 == 0
		if i%2 == 0 {
			lines = append(lines, fmt.Sprintf("%X:%d", sha1.Sum([]byte(password)), i))
		}
	}
	slices.Sort(lines)
	path := filepath.Join(t.TempDir(), "breached")
	for _, text := range []string{strings.Join(lines, "\n"), strings.Join(lines, "\n") + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for password, want := range known {
			if got, err := breached(path, password); got != want || err != nil {
				t.Errorf("%s: got %v, %v, want %v", password, got, err, want)
			}
		}
	}
	cfg := DefaultConfig()
	cfg.BreachedPasswords = path
	if err := NewPasswords(cfg, nil).checkNew("password number 4"); err == nil || !strings.Contains(err.Error(), "M_WEAK_PASSWORD") {
		t.Errorf("a breached password: got %v", err)
	}
	for name, text := range map[string]string{"empty": "", "one line": lines[0], "no lines": strings.Repeat("A", 10000)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := breached(path, "something else"); got {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestHashesAreRenewed(t *testing.T) {
	cheap := NewPasswords(Config{PasswordHash: Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}}, nil)
	dear := NewPasswords(Config{PasswordHash: Argon2{MemoryKiB: 16, Passes: 2, Lanes: 1}}, nil)
	hash, err := cheap.Hash(t.Context(), "a password")
	if err != nil {
		t.Fatal(err)
	}
	if good, err := dear.matches(t.Context(), hash, "a password"); !good || err != nil {
		t.Errorf("a hash of another cost: got %v, %v", good, err)
	}
	if strings.HasPrefix(hash, dear.prefix()) || !strings.HasPrefix(hash, cheap.prefix()) {
		t.Errorf("%s: cannot be told by its cost", hash)
	}
	if n := dear.hashed.Load(); n != 1 {
		t.Errorf("checking hashed %d times, want once", n)
	}
}
