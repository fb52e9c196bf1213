package account

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/bus"
)

func openStore(t *testing.T) (*storage.Store, *bus.Bus) {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(t.Context(), storage.Config{Database: filepath.Join(t.TempDir(), "test.db")}, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(); b.Close() })
	return store, b
}

// How much is hashed may tell nobody whether there is such a user. Work is counted, not time.
func TestA3UnknownUsersCostAHashToo(t *testing.T) {
	store, b := openStore(t)
	cfg := DefaultConfig()
	cfg.ServerName, cfg.PasswordHash = "interior", Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}
	passwords := NewPasswords(cfg, store)
	h := New(cfg, Deps{Store: store, Bus: b, Passwords: passwords, UIA: rest.NewUIA(store, nil, "")})
	for _, name := range []string{"alice", "closed"} {
		if _, err := h.Create(t.Context(), NewAccount{Username: name, Password: "password of " + name}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Create(t.Context(), NewAccount{Username: "nopassword"}); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(t.Context(), "@closed:interior", false); err != nil {
		t.Fatal(err)
	}
	limits := rest.DefaultConfig()
	limits.Limits.Enabled = false
	door := rest.NewMux([]rest.Route{{Method: "POST", Path: "/login", Handler: h.Login}}, rest.Options{Config: limits, Log: zerolog.Nop()})
	login := func(identifier, password string) (int, string, int64) {
		before := passwords.hashed.Load()
		w := httptest.NewRecorder()
		door.ServeHTTP(w, httptest.NewRequest("POST", "/login", strings.NewReader(`{"type":"m.login.password","identifier":`+identifier+`,"password":"`+password+`"}`)))
		return w.Code, w.Body.String(), passwords.hashed.Load() - before
	}
	_, want, _ := login(`{"type":"m.id.user","user":"alice"}`, "wrong")
	for _, who := range []string{
		`{"type":"m.id.user","user":"alice"}`, `{"type":"m.id.user","user":"nobody"}`, `{"type":"m.id.user","user":"closed"}`,
		`{"type":"m.id.user","user":"nopassword"}`, `{"type":"m.id.user","user":"@nobody:interior"}`,
		`{"type":"m.id.thirdparty","medium":"email","address":"nobody@example.org"}`, `{"type":"m.id.thirdparty","medium":"email","address":"no address"}`,
	} {
		code, body, work := login(who, "wrong")
		if code != 403 || body != want || work != 1 {
			t.Errorf("%s: got %d %s with %d hashes, want 403 %s with one", who, code, body, work, want)
		}
	}
	if code, body, work := login(`{"type":"m.id.user","user":"alice"}`, "password of alice"); code != 200 || work != 1 {
		t.Errorf("the right password: got %d %s with %d hashes, want 200 with one", code, body, work)
	}

	// At another cost the right password is hashed anew, once.
	dearer := cfg
	dearer.PasswordHash.Passes = 2
	passwords = NewPasswords(dearer, store)
	h = New(dearer, Deps{Store: store, Bus: b, Passwords: passwords, UIA: rest.NewUIA(store, nil, "")})
	door = rest.NewMux([]rest.Route{{Method: "POST", Path: "/login", Handler: h.Login}}, rest.Options{Config: limits, Log: zerolog.Nop()})
	for _, want := range []int64{2, 1} {
		if code, body, work := login(`{"type":"m.id.user","user":"alice"}`, "password of alice"); code != 200 || work != want {
			t.Errorf("at another cost: got %d %s with %d hashes, want %d", code, body, work, want)
		}
	}
	account, err := store.Accounts.ByID(context.Background(), "@alice:interior")
	if err != nil || !strings.HasPrefix(account.Password, passwords.prefix()) {
		t.Errorf("stored: got %+v, %v, want the new cost", account, err)
	}
}
