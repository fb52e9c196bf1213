package account

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"chancery/storage"
	"chancery/storage/bus"
)

func importStore(t *testing.T) *storage.Store {
	t.Helper()
	messages, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(messages.Close)
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, messages)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func TestImportedHashes(t *testing.T) {
	cfg := DefaultConfig()
	cfg.ServerName, cfg.ImportedPepper = "interior", " and pepper"
	cfg.PasswordHash = Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}
	store := importStore(t)
	passwords := NewPasswords(cfg, store)
	h := New(cfg, Deps{Store: store, Passwords: passwords})
	hash, err := bcrypt.GenerateFromPassword([]byte("café and pepper"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Import(t.Context(), Imported{Name: "Anna", PasswordHash: string(hash), Emails: []string{"Anna@Example.org"}, ExternalIDs: map[string]string{"staff": "4711"}}); err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{"café": true, "cafe\u0301": true, "cafe": false, "café and pepper": false, "": false} {
		if got, err := passwords.matches(t.Context(), string(hash), password); err != nil || got != want {
			t.Errorf("%q: got %v %v, want %v", password, got, err, want)
		}
	}
	if user, err := store.ExternalIDs.User(t.Context(), storage.ExternalID{Provider: "staff", ExternalID: "4711"}); err != nil || user != "@anna:interior" {
		t.Errorf("who is 4711: got %s %v", user, err)
	}
	if known, err := store.ThreePIDs.ByAddress(t.Context(), "email", "anna@example.org"); err != nil || known == nil || known.UserID != "@anna:interior" {
		t.Errorf("whose address: got %v %v", known, err)
	}
	// Nothing of one that cannot be made stays.
	if _, err := h.Import(t.Context(), Imported{Name: "ben", Emails: []string{"ben@example.org", "anna@example.org"}}); err == nil {
		t.Error("another's address: got no error")
	}
	if known, err := store.ThreePIDs.ByAddress(t.Context(), "email", "ben@example.org"); err != nil || known != nil {
		t.Errorf("what stayed: got %v %v, want nothing", known, err)
	}
	for _, bad := range []string{"plain", "$2b$31$" + strings.Repeat("a", 53), "$2b$12$short", "$argon2i$v=19$m=8,t=1,p=1$AAAA$AAAA", "$argon2id$v=19$m=99999999,t=1,p=1$AAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"} {
		if _, err := h.Import(t.Context(), Imported{Name: "carl", PasswordHash: bad}); err == nil {
			t.Errorf("hash %q: got no error", bad)
		}
	}
}

// TestImportsTellNobodyWhoIsKnown looks at the hashes that stand in for unknown names: of both kinds, and the same ones
// each time.
func TestImportsTellNobodyWhoIsKnown(t *testing.T) {
	cfg := DefaultConfig()
	cfg.ServerName = "interior"
	cfg.PasswordHash = Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}
	store := importStore(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg, Deps{Store: store, Passwords: NewPasswords(cfg, store)}).Import(t.Context(), Imported{Name: "anna", PasswordHash: string(hash)}); err != nil {
		t.Fatal(err)
	}
	passwords, kinds := NewPasswords(cfg, store), map[bool]int{}
	for i := range 64 {
		user, _ := New(cfg, Deps{Store: store, Passwords: passwords}).userID(strings.Repeat("u", i+1))
		first, err := passwords.dummyFor(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		again, err := passwords.dummyFor(t.Context(), user)
		if err != nil || again != first {
			t.Fatalf("%s: got %q and then %q %v", user, first, again, err)
		}
		if good, err := passwords.matches(t.Context(), first, "x"); err != nil || good {
			t.Fatalf("%s: got %v %v, want that nothing matches", user, good, err)
		}
		kinds[isBcrypt(first)]++
	}
	if kinds[true] < 8 || kinds[false] < 8 {
		t.Errorf("kinds of hashes for unknown names: got %v, want both", kinds)
	}
}
