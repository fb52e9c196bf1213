package clientapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/account"
	"chancery/clientapi/rest"
	"chancery/storage"
)

// The tests of this file are named for the rules on accounts, tokens, user-interactive authentication and keys of which no other test
// is. Where each rule is tried:
//
//	A1   TestA1A2GuessesAreCountedAtEveryDoor, TestA1A2GuessesAreCountedByAddress; TestFailedLoginsAreCounted, TestSignInIsLimited (the pages); rest.TestAnswers
//	     (Retry-After)
//	A2   the same two; TestRegisterWithToken
//	A3   TestA3NobodyLearnsWhichNamesExist; account.TestA3UnknownUsersCostAHashToo (time); TestResetTellsNobodyWhoseAddressItIs
//	A4   TestA4A5LongPasswords
//	A5   TestA4A5LongPasswords, TestRegister (513 bytes)
//	A6   TestRegister (names that are none), TestA6HistoricalNamesAreRead
//	A7   TestA7NamesAreTakenForEver; storage.TestANameIsTakenForEver
//	A8   TestA8TokensAreKeptAsHashes; storage.TestA8TokensAreStoredAsHashes
//	A9   TestRegisterBySharedSecret, TestA9OldNoncesAreNone
//	A10  TestA10DeviceIDsAtLogin
//	A11  TestA11EndedSessionsLeaveNothing, TestAccountPages, TestOAuthRevocationAndIntrospection; storage.TestAnEndedDeviceLeavesNothing; syncing.TestEndedDeviceStopsWaiting;
//	     cmd/chancery TestCallsEndWithMembership
//	A12  TestA12ConfirmationsAreForOneThing; TestA12ConfirmationsGrowOld; TestResetOnThePage
//	A13  TestA13ClosedAccountsComeInByNoDoor, TestA13SSOLetsInNobodyWhoIsOut, TestLockedOutOfThePages
//	A14  TestA14NoPasswordIsKeptBetweenStages
//	A15  TestRefreshTokens, TestOAuthCodeFlow; storage.TestRefresh
//	A16  TestA16OthersPrivateThings
//	A17  TestA17TheServersOwnAccountData
//	A18  appservice.TestRights; rest.TestAnswers
//	A19  TestLoginToken, TestA19LoginTokensGrowOld, TestSSOSignsIn, TestSSORefuses, TestTrusted (upstream),
//	     TestOAuthRequestsRefused, TestOAuthCodeIsGoodOnce; oauth.TestClientsAreJudged, oauth.TestAfterSignInNobodyLeavesTheHouse
//	A20  TestA20OpenIDTokensOpenNothing; storage.TestPassesAreForOnePurpose
//	A21  TestA21StrangersSeeNobody; syncing.TestPresence
//	A22  TestA22FloodsAreForWhoMakesThem; rest.TestLimits
//	K1   TestClaimKeys; storage.TestAOneTimeKeyIsGivenOnce; cmd/chancery TestOneTimeKeysAreGivenOnce (federation, restart)
//	K2   TestUploadAndQueryKeys
//	K3   TestK3DeviceKeysAreChecked; TestUploadAndQueryKeys
//	K4   TestCrossSigning
//	K5   TestA11EndedSessionsLeaveNothing, TestKeyChanges; storage.TestAnEndedDeviceLeavesNothing
//	K6   TestSendToDevice; storage.TestToDeviceWaitsUntilFetched, storage.TestK6TheOldestOfTooManyGo; federation.TestHostileEDUs
//	K7   TestK7BackupsOfOthersAndOldOnes; TestBackup
//
// V3 stands in erase_test.go.

// A1 and A2: guesses are counted, whichever door they come to, and do not disturb who is logged in.
func TestA1A2GuessesAreCountedAtEveryDoor(t *testing.T) {
	for name, guess := range map[string]func(u *user) *answer{
		"login":   func(u *user) *answer { return u.testServer.do("", "POST", v3+"/login", loginBody("alice", "wrong")) },
		"confirm": func(u *user) *answer { return u.do("POST", v3+"/account/deactivate", guessing("")) },
		"change": func(u *user) *answer {
			body := guessing("")
			body["new_password"] = "a better password"
			return u.do("POST", v3+"/account/password", body)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.HTTP.Limits.Enabled = true
			s := start(t, cfg)
			alice := s.register("alice")
			var wg sync.WaitGroup
			var mu sync.Mutex
			codes := map[int]int{}
			for range 10 { // at once
				wg.Go(func() {
					a := guess(alice)
					mu.Lock()
					defer mu.Unlock()
					codes[a.code]++
				})
			}
			wg.Wait()
			if codes[429] < 6 {
				t.Errorf("got %v, want most of ten guesses refused with 429", codes)
			}
			refused := guess(alice).fails(429, "M_LIMIT_EXCEEDED")
			if refused.body.Get("retry_after_ms").Int() <= 0 {
				t.Errorf("refusal: got %s, want retry_after_ms", refused.body.Raw)
			}
			alice.do("GET", v3+"/account/whoami", nil).ok()
		})
	}
}

func guessing(session string) map[string]any {
	auth := map[string]any{"type": "m.login.password", "password": "wrong", "identifier": map[string]string{"type": "m.id.user", "user": "alice"}}
	if session != "" {
		auth["session"] = session
	}
	return map[string]any{"auth": auth}
}

// A1 and A2: guesses from one address are counted together, whoever they are about and whatever is guessed.
func TestA1A2GuessesAreCountedByAddress(t *testing.T) {
	for name, guess := range map[string]func(s *testServer, n int) *answer{
		"logins": func(s *testServer, n int) *answer {
			return s.do("", "POST", v3+"/login", loginBody(fmt.Sprintf("user%d", n), "wrong"))
		},
		"registration tokens": func(s *testServer, n int) *answer {
			return s.do("", "GET", fmt.Sprintf("/_matrix/client/v1/register/m.login.registration_token/validity?token=guess%d", n), nil)
		},
		"token stages": func(s *testServer, n int) *answer {
			return s.do("", "POST", v3+"/register", map[string]any{
				"username": "mallory", "password": "long enough", "auth": map[string]string{"type": "m.login.registration_token", "token": fmt.Sprint(n)},
			})
		},
		"MACs": func(s *testServer, n int) *answer {
			nonce := s.do("", "GET", "/_synapse/admin/v1/register", nil).str("nonce")
			return s.do("", "POST", "/_synapse/admin/v1/register", map[string]any{"nonce": nonce, "username": "mallory", "password": "long enough", "mac": fmt.Sprintf("%040d", n)})
		},
		"proofs of addresses": func(s *testServer, n int) *answer {
			return s.do("", "POST", account.SubmitPath, map[string]string{"sid": "1", "token": fmt.Sprint(n)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Account.OpenRegistration, cfg.Account.RegistrationTokens = false, true
			cfg.HTTP.Limits.Enabled = true
			for kind := range cfg.HTTP.Limits.Rates {
				cfg.HTTP.Limits.Rates[kind] = rest.Rate{PerSecond: 1000, Burst: 1000}
			}
			cfg.HTTP.Limits.Rates[rest.LimitFailedAddress] = rest.Rate{PerSecond: 0.001, Burst: 5}
			s := start(t, cfg)
			if err := s.store.Do(t.Context(), func(ctx context.Context) error {
				return s.store.RegistrationTokens.Put(ctx, storage.RegistrationToken{Token: "secret"})
			}); err != nil {
				t.Fatal(err)
			}
			for n := range 5 {
				if a := guess(s, n); a.code == http.StatusTooManyRequests {
					t.Fatalf("guess %d: got %d %s, want it heard", n+1, a.code, a.body.Raw)
				}
			}
			guess(s, 5).fails(429, "M_LIMIT_EXCEEDED")
		})
	}
}

// A3: nobody learns which names exist, or existed.
func TestA3NobodyLearnsWhichNamesExist(t *testing.T) {
	s := start(t, testConfig())
	s.register("alice")
	bob := s.register("bob")
	bob.do("POST", v3+"/account/deactivate", bob.confirm(nil, "")).ok()
	want := s.do("", "POST", v3+"/login", loginBody("nobody", "wrong")).fails(403, "M_FORBIDDEN").body.Raw
	for name, password := range map[string]string{"alice": "wrong", "bob": "wrong", "BOB": "password of bob", "@nobody:finance": "wrong"} {
		if got := s.do("", "POST", v3+"/login", loginBody(name, password)); got.code != 403 || got.body.Raw != want {
			t.Errorf("%s with %q: got %d %s, want 403 %s", name, password, got.code, got.body.Raw, want)
		}
	}
}

// A6: names that nobody could take today are read where they come from elsewhere.
func TestA6HistoricalNamesAreRead(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	room := alice.do("POST", v3+"/createRoom", "{}").ok().str("room_id")
	for _, name := range []string{"@Old Name:finance", "@ÄÖÜ:finance", "@a!b#c:finance"} {
		body := map[string]any{"one_time_keys": map[string]any{name: map[string]string{"X": "signed_curve25519"}}}
		if a := alice.do("POST", v3+"/keys/claim", body).ok(); !a.body.Get("failures.finance").Exists() {
			t.Errorf("%s: its server was not asked: %s", name, a.body.Raw)
		}
		alice.do("POST", v3+"/rooms/"+room+"/ban", map[string]string{"user_id": name}).ok()
	}
	long := "@" + strings.Repeat("x", 255) + ":finance"
	alice.do("POST", v3+"/rooms/"+room+"/ban", map[string]string{"user_id": long}).fails(400, "M_INVALID_PARAM")
}

// A9: a nonce is good for a minute.
func TestA9OldNoncesAreNone(t *testing.T) {
	s := start(t, testConfig())
	if err := s.store.RegistrationTokens.PutNonce(t.Context(), "stale", time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, []byte("secret"))
	mac.Write([]byte("stale\x00carol\x00long enough\x00notadmin"))
	s.do("", "POST", "/_synapse/admin/v1/register", map[string]any{
		"nonce": "stale", "username": "carol", "password": "long enough", "mac": hex.EncodeToString(mac.Sum(nil)),
	}).fails(403, "M_FORBIDDEN")
}

// A4 and A5: the whole of a long password counts, and an endless one costs nothing.
func TestA4A5LongPasswords(t *testing.T) {
	s := start(t, testConfig())
	long := strings.Repeat("long enough ", 16)
	s.do("", "POST", v3+"/register", map[string]any{"username": "alice", "password": long, "auth": map[string]string{"type": "m.login.dummy"}}).ok()
	s.do("", "POST", v3+"/login", loginBody("alice", long)).ok()
	s.do("", "POST", v3+"/login", loginBody("alice", long[:72])).fails(403, "M_FORBIDDEN")
	s.do("", "POST", v3+"/login", loginBody("alice", long[:len(long)-1])).fails(403, "M_FORBIDDEN")
	s.do("", "POST", v3+"/login", loginBody("alice", strings.Repeat("x", 900_000))).fails(403, "M_FORBIDDEN")
	s.do("", "POST", v3+"/register", map[string]any{"username": "bob", "password": strings.Repeat("x", 900_000), "auth": map[string]string{"type": "m.login.dummy"}}).fails(400, "M_INVALID_PARAM")
}

// A7: a name is taken for ever, in capitals too.
func TestA7NamesAreTakenForEver(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	alice.do("POST", v3+"/account/deactivate", alice.confirm(nil, "")).ok()
	for _, name := range []string{"alice", "ALICE", "Alice"} {
		s.do("", "POST", v3+"/register", map[string]any{"username": name, "password": "long enough", "auth": map[string]string{"type": "m.login.dummy"}}).fails(400, "M_USER_IN_USE")
		s.do("", "GET", v3+"/register/available?username="+name, nil).fails(400, "M_USER_IN_USE")
	}
}

// A8: a token in the address is no token, and what is stored is no token either.
func TestA8TokensAreKeptAsHashes(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	s.do("", "GET", v3+"/account/whoami?access_token="+alice.Token, nil).fails(401, "M_MISSING_TOKEN")
	if len(alice.Token) < 26 { // in base32 130 bits
		t.Errorf("token: got %d characters", len(alice.Token))
	}
	// Who has read the database has nothing to come in with: what is stored is looked up by its hash once more.
	for _, guess := range []string{"", "cha_", alice.Token + "x", alice.Token[:len(alice.Token)-1], strings.ToUpper(alice.Token)} {
		if guess != "" {
			s.do(guess, "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
		}
	}
}

// A10: a device of somebody else's is not touched, and logging in again on one's own ends its old token.
func TestA10DeviceIDsAtLogin(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	body := loginBody("bob", "password of bob")
	body["device_id"] = alice.Device
	s.do("", "POST", v3+"/login", body).ok()
	alice.do("GET", v3+"/account/whoami", nil).ok()
	body["device_id"] = bob.Device
	s.do("", "POST", v3+"/login", body).ok()
	bob.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	body["device_id"] = strings.Repeat("x", 256)
	s.do("", "POST", v3+"/login", body).fails(400, "M_INVALID_PARAM")
}

// A11: whatever ends a session takes its token, refresh token, pushers and keys.
func TestA11EndedSessionsLeaveNothing(t *testing.T) {
	for name, end := range map[string]func(u, other *user){
		"logout":        func(u, _ *user) { u.do("POST", v3+"/logout", "{}").ok() },
		"logout of all": func(_, other *user) { other.do("POST", v3+"/logout/all", "{}").ok() },
		"deletion": func(u, other *user) {
			other.do("DELETE", v3+"/devices/"+u.Device, other.confirm(nil, "")).ok()
		},
		"new password": func(_, other *user) {
			other.do("POST", v3+"/account/password", other.confirm(map[string]any{"new_password": "a better password"}, "")).ok()
		},
		"deactivation": func(_, other *user) { other.do("POST", v3+"/account/deactivate", other.confirm(nil, "")).ok() },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, testConfig())
			other, bob := s.register("alice"), s.register("bob")
			body := loginBody("alice", "password of alice")
			body["refresh_token"] = true
			a := s.do("", "POST", v3+"/login", body).ok()
			u := &user{testServer: s, ID: other.ID, Token: a.str("access_token"), Device: a.str("device_id")}
			u.do("POST", v3+"/keys/upload", map[string]any{"device_keys": deviceKeys(u), "one_time_keys": oneTimeKeys(2)}).ok()
			end(u, other)
			u.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
			s.do("", "POST", v3+"/refresh", map[string]string{"refresh_token": a.str("refresh_token")}).fails(401, "M_UNKNOWN_TOKEN")
			// K5: nobody finds its keys any more.
			found := bob.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[id.UserID][]string{u.ID: {}}}).ok()
			claimed := bob.do("POST", v3+"/keys/claim", map[string]any{"one_time_keys": map[id.UserID]map[string]string{u.ID: {u.Device: "signed_curve25519"}}}).ok()
			if strings.Contains(found.body.Raw+claimed.body.Raw, u.Device) {
				t.Errorf("keys: got %s and %s", found.body.Raw, claimed.body.Raw)
			}
		})
	}
}

// A12: a session of user-interactive authentication is good for what it was opened for, once.
func TestA12ConfirmationsAreForOneThing(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	phone, desk, tablet := s.login("alice"), s.login("alice"), s.login("alice")
	open := func() string {
		return alice.do("POST", v3+"/delete_devices", map[string]any{"devices": []string{phone.Device}}).str("session")
	}
	session := open()
	for name, a := range map[string]*answer{
		"another body":   alice.do("POST", v3+"/delete_devices", alice.confirm(map[string]any{"devices": []string{desk.Device}}, session)),
		"another path":   alice.do("DELETE", v3+"/devices/"+phone.Device, alice.confirm(nil, session)),
		"another device": desk.do("POST", v3+"/delete_devices", desk.confirm(map[string]any{"devices": []string{phone.Device}}, session)),
		"another user":   bob.do("POST", v3+"/delete_devices", bob.confirm(map[string]any{"devices": []string{phone.Device}}, session)),
		"no session":     alice.do("POST", v3+"/delete_devices", alice.confirm(map[string]any{"devices": []string{phone.Device}}, "made up")),
	} {
		if a.code != 403 || a.str("errcode") != "M_FORBIDDEN" {
			t.Errorf("%s: got %d %s, want 403", name, a.code, a.body.Raw)
		}
	}
	phone.do("GET", v3+"/account/whoami", nil).ok()

	// Of many who come at once with one session, one gets through.
	body := alice.confirm(map[string]any{"devices": []string{phone.Device}}, session)
	codes := make(chan int, 8)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { codes <- alice.do("POST", v3+"/delete_devices", body).code })
	}
	wg.Wait()
	close(codes)
	won := 0
	for code := range codes {
		if code == 200 {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d of 8 got through with one session, want one", won)
	}
	phone.do("GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	tablet.do("GET", v3+"/account/whoami", nil).ok()
}

// A12: and it dies of age.
func TestA12ConfirmationsGrowOld(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	session := alice.do("DELETE", v3+"/devices/"+alice.Device, nil).str("session")
	old, err := s.store.Confirmations.BySession(t.Context(), session)
	if err != nil || old == nil {
		t.Fatalf("session: got %v, %v", old, err)
	}
	old.Created = time.Now().Add(-16 * time.Minute)
	if err := s.store.Do(t.Context(), func(ctx context.Context) error {
		if _, err := s.store.Confirmations.Delete(ctx, session); err != nil {
			return err
		}
		return s.store.Confirmations.Put(ctx, old)
	}); err != nil {
		t.Fatal(err)
	}
	alice.do("DELETE", v3+"/devices/"+alice.Device, alice.confirm(nil, session)).fails(403, "M_FORBIDDEN")
}

// A13: who has closed the account comes in by no door.
func TestA13ClosedAccountsComeInByNoDoor(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	pass := alice.do("POST", "/_matrix/client/v1/login/get_token", alice.confirm(nil, "")).ok().str("login_token")
	alice.do("POST", v3+"/account/deactivate", alice.confirm(nil, "")).ok()
	s.do("", "POST", v3+"/login", loginBody("alice", "password of alice")).fails(403, "M_FORBIDDEN")
	s.do("", "POST", v3+"/login", map[string]string{"type": "m.login.token", "token": pass}).fails(403, "M_FORBIDDEN")
}

// A14: what is kept between the stages holds no password.
func TestA14NoPasswordIsKeptBetweenStages(t *testing.T) {
	cfg := testConfig()
	cfg.Account.Terms = []account.Terms{{Name: "t", Version: "1", Languages: map[string]account.TermsText{"en": {Title: "T", URL: "https://t"}}}}
	s := start(t, cfg)
	session := s.do("", "POST", v3+"/register", map[string]any{"username": "alice", "password": "a secret to keep"}).str("session")
	kept, err := s.store.Confirmations.BySession(context.Background(), session)
	if err != nil || kept == nil {
		t.Fatalf("session: got %v, %v", kept, err)
	}
	if text := fmt.Sprintf("%+v %s", kept, kept.Bound); strings.Contains(text, "secret") {
		t.Errorf("kept: %s", text)
	}
}

// A16: what is private is for its owner.
func TestA16OthersPrivateThings(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	room := alice.do("POST", v3+"/createRoom", "{}").ok().str("room_id")
	of := v3 + "/user/" + string(alice.ID)
	for _, c := range [][3]string{
		{"GET", of + "/account_data/x", ""}, {"PUT", of + "/account_data/x", "{}"}, {"GET", of + "/rooms/" + room + "/tags", ""},
		{"PUT", of + "/rooms/" + room + "/tags/u.x", "{}"}, {"POST", of + "/filter", "{}"}, {"GET", of + "/filter/1", ""},
		{"PUT", v3 + "/profile/" + string(alice.ID) + "/displayname", `{"displayname":"x"}`},
		{"PUT", v3 + "/presence/" + string(alice.ID) + "/status", `{"presence":"online"}`}, {"POST", of + "/openid/request_token", "{}"},
	} {
		var body any
		if c[2] != "" {
			body = c[2]
		}
		bob.do(c[0], c[1], body).fails(403, "M_FORBIDDEN")
	}
}

// A17: what the server writes, nobody else does.
func TestA17TheServersOwnAccountData(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	for _, typ := range []string{"m.fully_read", "m.push_rules"} {
		if a := alice.do("PUT", v3+"/user/"+string(alice.ID)+"/account_data/"+typ, "{}"); a.code != http.StatusMethodNotAllowed {
			t.Errorf("%s: got %d %s, want 405", typ, a.code, a.body.Raw)
		}
	}
}

// A19: a login token is good for two minutes.
func TestA19LoginTokensGrowOld(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	given := alice.do("POST", "/_matrix/client/v1/login/get_token", alice.confirm(nil, "")).ok()
	if in := given.body.Get("expires_in_ms").Int(); in <= 0 || in > 120_000 {
		t.Errorf("expires_in_ms: got %d, want two minutes at most", in)
	}
	if err := s.store.Do(t.Context(), func(ctx context.Context) error {
		return s.store.Tokens.PutPass(ctx, storage.LoginPass, "stale", alice.ID, "", time.Now().Add(-time.Second))
	}); err != nil {
		t.Fatal(err)
	}
	s.do("", "POST", v3+"/login", map[string]string{"type": "m.login.token", "token": "stale"}).fails(403, "M_FORBIDDEN")
}

// A21: who shares no room with somebody sees neither how they are, nor them in the directory, nor a copy of their devices.
func TestA21StrangersSeeNobody(t *testing.T) {
	s := start(t, testConfig())
	alice, eve := s.register("alice"), s.register("eve")
	alice.do("POST", v3+"/createRoom", `{"preset":"private_chat"}`).ok()
	eve.do("GET", v3+"/presence/"+string(alice.ID)+"/status", nil).fails(403, "M_FORBIDDEN")
	if found := eve.do("POST", v3+"/user_directory/search", map[string]string{"search_term": "alice"}).ok(); found.str("results.#") != "0" {
		t.Errorf("directory: got %s, want nobody", found.body.Raw)
	}
	carol := id.UserID("@carol:finance")
	if err := s.store.Do(t.Context(), func(ctx context.Context) error {
		if err := s.store.DeviceLists.PutRemote(ctx, storage.RemoteDeviceList{UserID: carol}); err != nil {
			return err
		}
		return s.store.Keys.PutDevice(ctx, storage.DeviceKeys{UserID: carol, DeviceID: "COPY", JSON: []byte(`{"device_id":"COPY"}`)})
	}); err != nil {
		t.Fatal(err)
	}
	asked := eve.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[id.UserID][]string{carol: {}}}).ok()
	if strings.Contains(asked.body.Raw, "COPY") {
		t.Errorf("keys: got our copy, %s, want her server asked", asked.body.Raw)
	}
}

// A22: who floods is held back, and nobody else.
func TestA22FloodsAreForWhoMakesThem(t *testing.T) {
	for name, flood := range map[string]func(u *user, room string, n int) *answer{
		"messages": func(u *user, room string, n int) *answer {
			return u.do("PUT", fmt.Sprintf("%s/rooms/%s/send/m.room.message/%d", v3, room, n), `{"body":"x","msgtype":"m.text"}`)
		},
		"rooms": func(u *user, _ string, _ int) *answer { return u.do("POST", v3+"/createRoom", "{}") },
		"invites": func(u *user, room string, n int) *answer {
			return u.do("POST", v3+"/rooms/"+room+"/invite", map[string]string{"user_id": fmt.Sprintf("@nobody%d:interior", n)})
		},
		"joins": func(u *user, room string, _ int) *answer { return u.do("POST", v3+"/join/"+room, "{}") },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.HTTP.Limits.Enabled = true
			s := start(t, cfg)
			mallory, bob := s.register("mallory"), s.register("bob")
			room := mallory.do("POST", v3+"/createRoom", `{"preset":"public_chat"}`).ok().str("room_id")
			bob.do("POST", v3+"/join/"+room, "{}").ok()
			held := false
			for n := 0; n < 60 && !held; n++ {
				held = flood(mallory, room, n).code == http.StatusTooManyRequests
			}
			if !held {
				t.Fatal("sixty at once: none was refused")
			}
			if a := flood(bob, room, 0); a.code == http.StatusTooManyRequests {
				t.Errorf("another user: got %d %s, want no limit", a.code, a.body.Raw)
			}
		})
	}
}

// A20: what proves to others who one is opens nothing here.
func TestA20OpenIDTokensOpenNothing(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	token := alice.do("POST", v3+"/user/"+string(alice.ID)+"/openid/request_token", "{}").ok()
	s.do(token.str("access_token"), "GET", v3+"/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	if in := token.body.Get("expires_in").Int(); in <= 0 || in > 3600 {
		t.Errorf("expires_in: got %d, want an hour at most", in)
	}
}

// K7: a backup is its owner's, and only its newest version grows.
func TestK7BackupsOfOthersAndOldOnes(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	create := func() string {
		return alice.do("POST", v3+"/room_keys/version", map[string]any{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": map[string]string{"public_key": "x"}}).ok().str("version")
	}
	old := create()
	newest := create()
	keys := map[string]any{"rooms": map[string]any{}}
	refusal := alice.do("PUT", v3+"/room_keys/keys?version="+old, keys).fails(403, "M_WRONG_ROOM_KEYS_VERSION")
	if got := refusal.str("current_version"); got != newest {
		t.Errorf("current_version: got %q, want %q", got, newest)
	}
	bob.do("GET", v3+"/room_keys/version/"+newest, nil).fails(404, "M_NOT_FOUND")
	bob.do("PUT", v3+"/room_keys/keys?version="+newest, keys).fails(404, "M_NOT_FOUND")
	bob.do("GET", v3+"/room_keys/keys?version="+newest, nil).fails(404, "M_NOT_FOUND")
}
