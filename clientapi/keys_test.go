package clientapi

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"maunium.net/go/mautrix/id"

	"chancery/storage/bus"
)

// deviceKeys are identity keys of a device, the same each time, with the device's own signature.
func deviceKeys(u *user) map[string]any { return deviceKeysOf(u, 1) }

func deviceKeysOf(u *user, seed byte) map[string]any {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	name := "ed25519:" + u.Device
	keys := map[string]any{
		"user_id": u.ID, "device_id": u.Device, "algorithms": []string{"m.megolm.v1.aes-sha2"},
		"keys": map[string]string{name: base64.RawStdEncoding.EncodeToString(private.Public().(ed25519.PublicKey)), "curve25519:" + u.Device: "public"},
	}
	raw, err := json.Marshal(keys)
	if err == nil {
		raw, err = gomatrixserverlib.SignJSON(string(u.ID), gomatrixserverlib.KeyID(name), private, raw)
	}
	if err == nil {
		err = json.Unmarshal(raw, &keys)
	}
	if err != nil {
		u.t.Fatal(err)
	}
	return keys
}

func TestK3DeviceKeysAreChecked(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	upload := func(keys map[string]any) *answer {
		return alice.do("POST", v3+"/keys/upload", map[string]any{"device_keys": keys})
	}
	forged := deviceKeys(alice)
	forged["keys"].(map[string]any)["curve25519:"+alice.Device] = "another"
	upload(forged).fails(400, "M_INVALID_SIGNATURE")
	for field, value := range map[string]any{"user_id": "@bob:interior", "device_id": "OTHER"} {
		bad := deviceKeys(alice)
		bad[field] = value
		upload(bad).fails(400, "M_INVALID_PARAM")
	}
	for _, field := range []string{"algorithms", "keys", "signatures"} {
		bad := deviceKeys(alice)
		delete(bad, field)
		upload(bad).fails(400, "M_BAD_JSON")
		bad[field] = "text"
		upload(bad).fails(400, "M_BAD_JSON")
	}
	float := deviceKeys(alice)
	delete(float["signatures"].(map[string]any), string(alice.ID))
	float["extra"] = 1.5
	upload(float).fails(400, "M_BAD_JSON")

	upload(deviceKeys(alice)).ok()
	upload(deviceKeys(alice)).ok()
	upload(deviceKeysOf(alice, 2)).fails(400, "M_INVALID_PARAM") // the first keys stay
	q := alice.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[id.UserID][]string{alice.ID: {}}}).ok()
	got := q.body.Get("device_keys").Get(escape(string(alice.ID))).Get(escape(alice.Device)).Get("keys." + escape("ed25519:"+alice.Device)).Str
	if want := deviceKeys(alice)["keys"].(map[string]any)["ed25519:"+alice.Device]; got != want {
		t.Errorf("key: got %s, want %s", got, want)
	}
}

func oneTimeKeys(n int) map[string]any {
	keys := map[string]any{}
	for i := range n {
		keys[fmt.Sprintf("signed_curve25519:%03d", i)] = map[string]any{"key": fmt.Sprint(i), "signatures": map[string]any{}}
	}
	return keys
}

func TestUploadAndQueryKeys(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	counts := alice.do("POST", v3+"/keys/upload", `{}`).ok()
	if got := counts.body.Raw; got != `{"one_time_key_counts":{"signed_curve25519":0}}` {
		t.Errorf("counts of nothing: got %s", got)
	}
	a := alice.do("POST", v3+"/keys/upload", map[string]any{"device_keys": deviceKeys(alice), "one_time_keys": oneTimeKeys(5)}).ok()
	if got := a.body.Get("one_time_key_counts.signed_curve25519").Int(); got != 5 {
		t.Errorf("count: got %d, want 5", got)
	}
	// The same again changes nothing; K2: other content under a known ID is refused, and the first stays.
	head := s.store.Head()
	alice.do("POST", v3+"/keys/upload", map[string]any{"device_keys": deviceKeys(alice), "one_time_keys": oneTimeKeys(5)}).ok()
	if s.store.Head() != head {
		t.Error("the same keys again are news")
	}
	alice.do("POST", v3+"/keys/upload", `{"one_time_keys":{"signed_curve25519:000":{"key":"other","signatures":{}}}}`).fails(400, "M_INVALID_PARAM")

	alice.do("PUT", v3+"/devices/"+alice.Device, map[string]string{"display_name": "Desk"}).ok()
	query := map[string]any{"device_keys": map[id.UserID][]string{alice.ID: {}, bob.ID: {}}}
	q := bob.do("POST", v3+"/keys/query", query).ok()
	device := q.body.Get("device_keys").Get(escape(string(alice.ID))).Get(escape(alice.Device))
	if device.Get("device_id").String() != alice.Device || device.Get("unsigned.device_display_name").String() != "Desk" {
		t.Errorf("query: got %s", q.body.Raw)
	}
	if !strings.Contains(q.body.Raw, `"@bob:interior":{}`) {
		t.Errorf("a user without keys: got %s", q.body.Raw)
	}
	bob.do("POST", v3+"/keys/query", `{"device_keys":{"@alice:interior":"all"}}`).fails(400, "M_BAD_JSON")
	bob.do("POST", v3+"/keys/query", `{"device_keys":{"alice":[]}}`).fails(400, "M_INVALID_PARAM")

	for name, spoil := range map[string]func(map[string]any){
		"another user":   func(k map[string]any) { k["user_id"] = bob.ID },
		"another device": func(k map[string]any) { k["device_id"] = "X" },
		"no algorithms":  func(k map[string]any) { delete(k, "algorithms") },
		"no signatures":  func(k map[string]any) { delete(k, "signatures") },
		"float":          func(k map[string]any) { k["more"] = 1.5 },
		"key of another": func(k map[string]any) { k["keys"] = map[string]string{"ed25519:X": "public"} },
		"keys a list":    func(k map[string]any) { k["keys"] = []string{} },
	} {
		k := deviceKeys(alice)
		spoil(k)
		if got := alice.do("POST", v3+"/keys/upload", map[string]any{"device_keys": k}); got.code != 400 {
			t.Errorf("K3 %s: got %d %s, want 400", name, got.code, got.body.Raw)
		}
	}
}

// escape makes a path of gjson out of a name.
func escape(name string) string {
	return strings.NewReplacer(".", `\.`, ":", `\:`, "*", `\*`, "@", `\@`).Replace(name)
}

func TestClaimKeys(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	alice.do("POST", v3+"/keys/upload", map[string]any{
		"one_time_keys": oneTimeKeys(8), "fallback_keys": map[string]any{"signed_curve25519:fall": map[string]any{"key": "f", "fallback": true}},
	}).ok()
	claim := map[string]any{"one_time_keys": map[id.UserID]map[string]string{alice.ID: {alice.Device: "signed_curve25519", "X": "signed_curve25519"}}}
	seen := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			a := bob.do("POST", v3+"/keys/claim", claim).ok()
			mu.Lock()
			defer mu.Unlock()
			for name := range a.body.Get("one_time_keys").Get(escape(string(alice.ID))).Get(escape(alice.Device)).Map() {
				seen[name]++
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		if name := fmt.Sprintf("signed_curve25519:%03d", i); seen[name] != 1 {
			t.Errorf("K1: %s was given %d times, want once", name, seen[name])
		}
	}
	if seen["signed_curve25519:fall"] != 4 {
		t.Errorf("the fallback key was given %d times, want 4", seen["signed_curve25519:fall"])
	}
	bob.do("POST", v3+"/keys/claim", `{}`).fails(400, "M_MISSING_PARAM")
}

func TestKeysOfOtherServers(t *testing.T) {
	s := start(t, testConfig())
	alice := s.register("alice")
	stop, err := bus.Answer(t.Context(), s.bus, bus.FederationDo, func(_ context.Context, _ string, q bus.FederationQuestion) (bus.FederationAnswer, error) {
		switch {
		case q.QueryKeys != nil && q.QueryKeys.Server == "finance":
			// It speaks of our user too, which is none of its business.
			return bus.FederationAnswer{Body: json.RawMessage(`{"device_keys":{"@carol:finance":{"C":{"device_id":"C"}},"@alice:interior":{"EVIL":{}}},"master_keys":{"@carol:finance":{"usage":["master"]}}}`)}, nil
		case q.ClaimKeys != nil && q.ClaimKeys.Server == "finance":
			return bus.FederationAnswer{Body: json.RawMessage(`{"one_time_keys":{"@carol:finance":{"C":{"signed_curve25519:1":{"key":"k"}}},"@alice:interior":{"EVIL":{"signed_curve25519:1":{}}}}}`)}, nil
		}
		return bus.FederationAnswer{}, bus.Refuse(502, "M_UNAVAILABLE", "No answer")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	q := alice.do("POST", v3+"/keys/query", `{"device_keys":{"@carol:finance":[],"@dave:gone":[]}}`).ok()
	if !strings.Contains(q.body.Raw, `"@carol:finance":{"C":{"device_id":"C"}}`) || strings.Contains(q.body.Raw, "EVIL") {
		t.Errorf("query: got %s", q.body.Raw)
	}
	if !q.body.Get("failures.gone").IsObject() || q.body.Get("failures.finance").Exists() {
		t.Errorf("failures: got %s", q.body.Get("failures").Raw)
	}
	c := alice.do("POST", v3+"/keys/claim", `{"one_time_keys":{"@carol:finance":{"C":"signed_curve25519"},"@dave:gone":{"D":"signed_curve25519"}}}`).ok()
	if !strings.Contains(c.body.Raw, `"signed_curve25519:1":{"key":"k"}`) || strings.Contains(c.body.Raw, "EVIL") || !c.body.Get("failures.gone").IsObject() {
		t.Errorf("claim: got %s", c.body.Raw)
	}
}

// signer is a key pair of a user.
type signer struct {
	name    string
	public  string
	private ed25519.PrivateKey
}

func newSigner(t *testing.T, name string) signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawStdEncoding.EncodeToString(public)
	if name == "" {
		name = text
	}
	return signer{"ed25519:" + name, text, private}
}

func (k signer) sign(t *testing.T, u *user, object map[string]any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(object)
	if err == nil {
		raw, err = gomatrixserverlib.SignJSON(string(u.ID), gomatrixserverlib.KeyID(k.name), k.private, raw)
	}
	var signed map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &signed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func crossSigning(u *user, k signer, usage string) map[string]any {
	return map[string]any{"user_id": u.ID, "usage": []string{usage}, "keys": map[string]string{k.name: k.public}}
}

func TestCrossSigning(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	const path = v3 + "/keys/device_signing/upload"
	upload := func(u *user, master, self, user signer) map[string]any {
		return map[string]any{
			"master_key":       crossSigning(u, master, "master"),
			"self_signing_key": master.sign(t, u, crossSigning(u, self, "self_signing")),
			"user_signing_key": master.sign(t, u, crossSigning(u, user, "user_signing")),
		}
	}
	master, self, users := newSigner(t, ""), newSigner(t, ""), newSigner(t, "")
	good := upload(alice, master, self, users)

	forged := upload(alice, newSigner(t, ""), self, users)
	forged["self_signing_key"] = good["self_signing_key"]
	alice.do("POST", path, forged).fails(400, "M_INVALID_SIGNATURE") // K4
	alice.do("POST", path, map[string]any{"self_signing_key": good["self_signing_key"]}).fails(400, "M_MISSING_PARAM")
	alice.do("POST", path, map[string]any{"master_key": crossSigning(bob, master, "master")}).fails(400, "M_INVALID_PARAM")
	alice.do("POST", path, `{}`).fails(400, "M_MISSING_PARAM")

	head := s.store.Head()
	alice.do("POST", path, good).ok() // MSC3967: the first need no confirmation
	if s.store.Head() == head {
		t.Error("new cross-signing keys are no news")
	}
	alice.do("POST", path, good).ok() // and the same again neither
	other := upload(alice, newSigner(t, ""), newSigner(t, ""), newSigner(t, ""))
	ask := alice.do("POST", path, other)
	if ask.code != 401 || ask.str("session") == "" {
		t.Fatalf("K4 replacing without confirmation: got %d %s, want 401", ask.code, ask.body.Raw)
	}
	alice.do("POST", path, alice.confirm(good, ask.str("session"))).ok() // nothing new: nothing to confirm
	alice.do("POST", path, alice.confirm(upload(alice, newSigner(t, ""), newSigner(t, ""), newSigner(t, "")), ask.str("session"))).fails(403, "M_FORBIDDEN")

	q := bob.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[id.UserID][]string{alice.ID: {}}}).ok()
	if !strings.Contains(q.body.Get("master_keys").Raw, master.public) || !strings.Contains(q.body.Get("self_signing_keys").Raw, self.public) || strings.Contains(q.body.Raw, users.public) {
		t.Errorf("bob sees: %s", q.body.Raw)
	}
	q = alice.do("POST", v3+"/keys/query", map[string]any{"device_keys": map[id.UserID][]string{alice.ID: {}}}).ok()
	if !strings.Contains(q.body.Get("user_signing_keys").Raw, users.public) {
		t.Errorf("alice sees: %s", q.body.Raw)
	}

	// Signatures: of her device by her self-signing key, of bob's master key by her user-signing key.
	device := deviceKeys(alice)
	alice.do("POST", v3+"/keys/upload", map[string]any{"device_keys": device}).ok()
	bobMaster := newSigner(t, "")
	bob.do("POST", path, upload(bob, bobMaster, newSigner(t, ""), newSigner(t, ""))).ok()
	changed := deviceKeys(alice)
	changed["algorithms"] = []string{"other"}
	res := alice.do("POST", v3+"/keys/signatures/upload", map[id.UserID]any{
		alice.ID: map[string]any{
			alice.Device: self.sign(t, alice, device),
			"UNKNOWN":    self.sign(t, alice, device),
		},
		bob.ID: map[string]any{bobMaster.public: users.sign(t, alice, crossSigning(bob, bobMaster, "master"))},
	}).ok()
	if got := res.body.Get("failures").Raw; !strings.Contains(got, `"UNKNOWN":{"errcode":"M_NOT_FOUND"`) || strings.Contains(got, string(bob.ID)) {
		t.Errorf("failures: got %s", got)
	}
	for name, object := range map[string]any{
		"by the wrong key":  users.sign(t, alice, device),
		"of another object": self.sign(t, alice, changed),
		"unsigned":          device,
	} {
		res := alice.do("POST", v3+"/keys/signatures/upload", map[id.UserID]any{alice.ID: map[string]any{alice.Device: object}}).ok()
		if !res.body.Get("failures").Get(escape(string(alice.ID))).Exists() {
			t.Errorf("K4 a signature %s passed: %s", name, res.body.Raw)
		}
	}
	both := map[string]any{"device_keys": map[id.UserID][]string{alice.ID: {}, bob.ID: {}}}
	q = alice.do("POST", v3+"/keys/query", both).ok()
	if !strings.Contains(q.body.Get("device_keys").Raw, self.name) || !strings.Contains(q.body.Get("master_keys").Raw, users.name) {
		t.Errorf("alice does not see her signatures: %s", q.body.Raw)
	}
	q = bob.do("POST", v3+"/keys/query", both).ok()
	if !strings.Contains(q.body.Get("device_keys").Raw, self.name) || strings.Contains(q.body.Get("master_keys").Raw, users.name) {
		t.Errorf("bob should see that alice signed her device, and not that she signed him: %s", q.body.Raw)
	}
}

func TestSendToDevice(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	phone := s.login("bob")
	send := func(u *user, txn string, body any) *answer {
		return u.do("PUT", v3+"/sendToDevice/a.type/"+txn, body)
	}
	waiting := func(u *user) int {
		t.Helper()
		list, err := s.store.ToDevice.After(t.Context(), u.ID, id.DeviceID(u.Device), 0, s.store.Head(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	one := map[string]any{"messages": map[id.UserID]map[string]any{bob.ID: {bob.Device: map[string]int{"n": 1}, "NONE": map[string]int{}}}}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { send(alice, "t1", one).ok() })
	}
	wg.Wait()
	if waiting(bob) != 1 || waiting(phone) != 0 {
		t.Errorf("K6: after 8 times the same: %d and %d wait, want 1 and 0", waiting(bob), waiting(phone))
	}
	send(s.login("alice"), "t1", one).ok() // another device: another transaction
	if waiting(bob) != 2 {
		t.Errorf("another device's transaction: %d wait, want 2", waiting(bob))
	}
	list, err := s.store.ToDevice.After(t.Context(), bob.ID, id.DeviceID(bob.Device), 0, s.store.Head(), 1)
	if err != nil || string(list[0].JSON) != `{"sender":"@alice:interior","type":"a.type","content":{"n":1}}` {
		t.Errorf("message: got %s, %v", list[0].JSON, err)
	}
	send(alice, "t2", map[string]any{"messages": map[id.UserID]map[string]any{bob.ID: {"*": map[string]any{}}}}).ok()
	if waiting(bob) != 3 || waiting(phone) != 1 {
		t.Errorf("to all devices: %d and %d wait, want 3 and 1", waiting(bob), waiting(phone))
	}

	carol := map[string]any{}
	for i := range 250 {
		carol[fmt.Sprintf("D%d", i)] = map[string]string{"n": strings.Repeat("x", 300)}
	}
	send(alice, "t3", map[string]any{"messages": map[string]any{"@carol:finance": carol}}).ok()
	out, err := s.store.Outbound.For(t.Context(), "finance", 100)
	if err != nil {
		t.Fatal(err)
	}
	devices := map[string]bool{}
	for _, edu := range out {
		var content struct {
			Sender    id.UserID
			MessageID string `json:"message_id"`
			Messages  map[string]map[string]any
		}
		if err := json.Unmarshal(edu.Content, &content); err != nil || content.Sender != alice.ID || content.MessageID == "" || len(edu.Content) > 64<<10 {
			t.Errorf("EDU of %d bytes: %+v, %v", len(edu.Content), content.Sender, err)
		}
		for device := range content.Messages["@carol:finance"] {
			devices[device] = true
		}
	}
	if len(devices) != 250 || len(out) < 3 {
		t.Errorf("%d devices in %d EDUs, want 250 in at least 3", len(devices), len(out))
	}
	send(alice, "t4", `{"messages":{"@bob:interior":{"*":"text"}}}`).fails(400, "M_BAD_JSON")
	send(alice, "t5", `{}`).fails(400, "M_MISSING_PARAM")
}

func TestKeyChanges(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	from := s.token()
	alice.do("POST", v3+"/keys/upload", map[string]any{"device_keys": deviceKeys(alice)}).ok()
	bob.do("POST", v3+"/keys/upload", map[string]any{"device_keys": deviceKeys(bob)}).ok()
	changes := func(from, to string) string {
		return alice.do("GET", v3+"/keys/changes?from="+url.QueryEscape(from)+"&to="+url.QueryEscape(to), nil).ok().body.Raw
	}
	// Bob shares no room with alice.
	if got := changes(from, s.token()); got != `{"changed":["@alice:interior"],"left":[]}` {
		t.Errorf("got %s", got)
	}
	if got := changes(s.token(), s.token()); got != `{"changed":[],"left":[]}` {
		t.Errorf("nothing since: got %s", got)
	}
	// Then he does.
	from = s.token()
	room := url.PathEscape(alice.do("POST", v3+"/createRoom", `{"preset":"public_chat"}`).ok().str("room_id"))
	bob.do("POST", v3+"/join/"+room, `{}`).ok()
	if got := changes(from, s.token()); got != `{"changed":["@bob:interior"],"left":[]}` {
		t.Errorf("after bob's joining: got %s", got)
	}
	from = s.token()
	bob.do("PUT", v3+"/profile/"+string(bob.ID)+"/displayname", `{"displayname":"Bob"}`).ok()
	if got := changes(from, s.token()); got != `{"changed":[],"left":[]}` {
		t.Errorf("after bob's renaming: got %s", got)
	}
	bob.do("DELETE", v3+"/devices/"+bob.Device, bob.confirm(nil, "")).ok()
	if got := changes(from, s.token()); got != `{"changed":["@bob:interior"],"left":[]}` {
		t.Errorf("after the end of bob's device: got %s", got)
	}
	from = s.token()
	s.login("bob").do("POST", v3+"/rooms/"+room+"/leave", `{}`).ok()
	if got := changes(from, s.token()); got != `{"changed":[],"left":["@bob:interior"]}` {
		t.Errorf("after bob's leaving: got %s", got)
	}
	alice.do("GET", v3+"/keys/changes?from=nonsense", nil).fails(400, "M_INVALID_PARAM")
}

func TestBackup(t *testing.T) {
	s := start(t, testConfig())
	alice, bob := s.register("alice"), s.register("bob")
	const path = v3 + "/room_keys/version"
	alice.do("GET", path, nil).fails(404, "M_NOT_FOUND")
	create := map[string]any{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": map[string]string{"public_key": "p"}}
	if v := alice.do("POST", path, create).ok().str("version"); v != "1" {
		t.Fatalf("version: got %q, want 1", v)
	}
	alice.do("POST", path, `{"algorithm":"a"}`).fails(400, "M_MISSING_PARAM")

	key := map[string]any{"first_message_index": 1, "forwarded_count": 0, "is_verified": false, "session_data": map[string]string{"c": "x"}}
	room := url.PathEscape("!r:interior")
	keys := v3 + "/room_keys/keys"
	put := alice.do("PUT", keys+"?version=1", map[string]any{"rooms": map[string]any{
		"!r:interior": map[string]any{"sessions": map[string]any{"s1": key, "s2": key}},
		"!q:interior": map[string]any{"sessions": map[string]any{"s3": key}},
	}}).ok()
	if put.body.Get("count").Int() != 3 || put.str("etag") == "" {
		t.Errorf("put: got %s", put.body.Raw)
	}
	alice.do("PUT", keys+"/"+room+"/s4?version=1", key).ok()
	alice.do("PUT", keys+"/"+room+"?version=1", map[string]any{"sessions": map[string]any{"s5": key}}).ok()
	if n := len(alice.do("GET", keys+"/"+room+"?version=1", nil).ok().body.Get("sessions").Map()); n != 4 {
		t.Errorf("keys of the room: got %d, want 4", n)
	}
	if n := len(alice.do("GET", keys+"?version=1", nil).ok().body.Get("rooms").Map()); n != 2 {
		t.Errorf("rooms: got %d, want 2", n)
	}
	if got := alice.do("GET", keys+"/"+room+"/s4?version=1", nil).ok().str("session_data.c"); got != "x" {
		t.Errorf("session: got %q", got)
	}
	alice.do("GET", keys+"/"+room+"/none?version=1", nil).fails(404, "M_NOT_FOUND")
	if got := alice.do("GET", keys+"/"+url.PathEscape("!none:interior")+"?version=1", nil).ok().body.Raw; got != `{"sessions":{}}` {
		t.Errorf("keys of another room: got %s", got)
	}
	alice.do("PUT", keys+"/"+room+"/s6?version=1", `{"first_message_index":1}`).fails(400, "M_BAD_JSON")
	alice.do("PUT", keys+"/"+room+"/s6", key).fails(400, "M_MISSING_PARAM")
	alice.do("PUT", keys+"/"+room+"/s6?version=9", key).fails(404, "M_NOT_FOUND")
	// K7
	bob.do("GET", keys+"?version=1", nil).fails(404, "M_NOT_FOUND")
	bob.do("PUT", keys+"/"+room+"/s1?version=1", key).fails(404, "M_NOT_FOUND")

	before := alice.do("GET", path, nil).ok().str("etag")
	if d := alice.do("DELETE", keys+"/"+room+"/s1?version=1", nil).ok(); d.body.Get("count").Int() != 4 || d.str("etag") == before {
		t.Errorf("delete: got %s", d.body.Raw)
	}
	alice.do("PUT", path+"/1", map[string]any{"algorithm": "other", "auth_data": map[string]any{}}).fails(400, "M_INVALID_PARAM")
	create["auth_data"] = map[string]string{"public_key": "q"}
	alice.do("PUT", path+"/1", create).ok()
	if got := alice.do("GET", path+"/1", nil).ok().str("auth_data.public_key"); got != "q" {
		t.Errorf("auth data: got %q", got)
	}

	alice.do("POST", path, create).ok()
	if a := alice.do("PUT", keys+"/"+room+"/s7?version=1", key).fails(403, "M_WRONG_ROOM_KEYS_VERSION"); a.str("current_version") != "2" {
		t.Errorf("current version: got %q, want 2", a.str("current_version"))
	}
	alice.do("DELETE", path+"/2", nil).ok()
	alice.do("GET", path+"/2", nil).fails(404, "M_NOT_FOUND")
	if got := alice.do("GET", path, nil).ok().str("version"); got != "1" {
		t.Errorf("newest after a deletion: got %q, want 1", got)
	}
}
