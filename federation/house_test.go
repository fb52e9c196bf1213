package federation_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation"
	"chancery/federation/remote"
	"chancery/roomserver"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// authority signs the certificates of the servers of one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, file}
}

func (a *authority) certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{strings.Split(name, ":")[0]},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

// town is a few servers that federate over real TLS on loopback.
type town struct {
	*testing.T
	ca        *authority
	hosts     map[string]string
	listeners map[string]net.Listener
	// change, if set, changes the configuration of houses opened from then on.
	change func(*config)
	// around, if set, stands before the doors of houses opened from then on.
	around func(name string, inside http.Handler) http.Handler
}

type config = federation.Config

// newTown reserves a place for each server.
func newTown(t *testing.T, names ...string) *town {
	t.Helper()
	w := &town{T: t, ca: newAuthority(t), hosts: map[string]string{}, listeners: map[string]net.Listener{}}
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		w.listeners[name], w.hosts[name] = l, l.Addr().String()
	}
	return w
}

func (w *town) config() federation.Config {
	cfg := federation.DefaultConfig()
	cfg.Remote.CAFiles, cfg.Remote.AllowedNetworks, cfg.Remote.Hosts = []string{w.ca.file}, []string{"127.0.0.0/8"}, w.hosts
	cfg.Sender.FirstRetry = 20 * time.Millisecond
	if w.change != nil {
		w.change(&cfg)
	}
	return cfg
}

// house is one server: store, bus, rooms, federation.
type house struct {
	*town
	name  string
	dir   string
	keys  *remote.Keys
	bus   *bus.Bus
	store *storage.Store
	blobs *blobs.Store
	// answering: the federation door is open.
	door *http.Server
	stop func()
	// via, if set, is where this house finds the others.
	via map[string]string
}

// open starts the server of that name.
func (w *town) open(name string) *house { return w.openVia(name, nil) }

// openVia starts it with addresses of its own for the others.
func (w *town) openVia(name string, via map[string]string) *house {
	w.Helper()
	h := &house{town: w, name: name, dir: w.TempDir(), via: via}
	var err error
	if h.keys, err = federation.LoadKeys(name, filepath.Join(h.dir, "signing.key")); err != nil {
		w.Fatal(err)
	}
	h.start()
	w.Cleanup(func() { h.stop() })
	return h
}

func (h *house) start() {
	h.Helper()
	log := zerolog.New(zerolog.NewTestWriter(h.T)).Level(zerolog.WarnLevel).With().Str("server", h.name).Logger()
	if os.Getenv("TEST_LOG") != "" {
		log = log.Level(zerolog.DebugLevel)
	}
	ctx, cancel := context.WithCancel(log.WithContext(context.Background()))
	var err error
	if h.bus, err = bus.Open(ctx, bus.DefaultConfig()); err != nil {
		h.Fatal(err)
	}
	if h.store, err = storage.Open(ctx, storage.Config{Database: filepath.Join(h.dir, "test.db")}, h.bus); err != nil {
		h.Fatal(err)
	}
	if h.blobs, err = blobs.Open(filepath.Join(h.dir, "media")); err != nil {
		h.Fatal(err)
	}
	cfg := h.config()
	if h.via != nil {
		cfg.Remote.Hosts = h.via
	}
	f, err := federation.New(cfg, h.keys, h.store, h.blobs, h.bus, log)
	if err != nil {
		h.Fatal(err)
	}
	rooms := roomserver.New(roomserver.DefaultConfig(), h.store, h.bus, h.keys.Signer())
	var running sync.WaitGroup
	for name, run := range map[string]func(context.Context) error{"rooms": rooms.Run, "federation": f.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				h.Errorf("%s of %s ended: %v", name, h.name, err)
			}
		})
	}
	h.openDoor(f.Handler())
	h.stop = func() {
		h.door.Close()
		cancel()
		running.Wait()
		if err := h.store.Close(); err != nil {
			h.Error(err)
		}
		h.bus.Close()
	}
}

func (h *house) openDoor(handler http.Handler) {
	h.Helper()
	l := h.listeners[h.name]
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", h.hosts[h.name]); err != nil {
			h.Fatal(err)
		}
	}
	delete(h.listeners, h.name)
	if h.around != nil {
		handler = h.around(h.name, handler)
	}
	h.door = &http.Server{Handler: handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{h.ca.certificate(h.T, h.name)}}}
	go h.door.ServeTLS(l, "", "")
}

// restart ends the server and starts it again with what it has on disk.
func (h *house) restart() {
	h.Helper()
	h.stop()
	h.start()
}

func (h *house) user(localpart string) id.UserID { return id.NewUserID(localpart, h.name) }

// account makes a user with a device of the name DEVICE.
func (h *house) account(localpart string) id.UserID {
	h.Helper()
	user := h.user(localpart)
	h.do(func(ctx context.Context) error {
		if _, err := h.store.Accounts.Create(ctx, &storage.Account{UserID: user}); err != nil {
			return err
		}
		return h.store.Devices.Put(ctx, &storage.Device{UserID: user, DeviceID: "DEVICE"})
	})
	return user
}

func (h *house) do(fn func(ctx context.Context) error) {
	h.Helper()
	if err := h.store.Do(h.Context(), fn); err != nil {
		h.Fatal(err)
	}
}

// room makes a room of that version with a join rule.
func (h *house) room(version id.RoomVersion, creator id.UserID, joinRule string, more ...bus.Proposal) id.RoomID {
	h.Helper()
	member, empty := string(creator), ""
	events := []bus.Proposal{
		{Sender: creator, Type: "m.room.member", StateKey: &member, Content: json.RawMessage(`{"membership":"join"}`)},
		{Sender: creator, Type: "m.room.power_levels", StateKey: &empty, Content: powerLevels(version, creator)},
		{Sender: creator, Type: "m.room.join_rules", StateKey: &empty, Content: json.RawMessage(`{"join_rule":"` + joinRule + `"}`)},
	}
	created, err := bus.Ask[bus.Create, bus.Created](h.Context(), h.bus, bus.CreateRoom, bus.Create{
		Version: version, Content: json.RawMessage(`{}`), Sender: creator, Events: append(events, more...),
	})
	if err != nil {
		h.Fatal(err)
	}
	return created.RoomID
}

func powerLevels(version id.RoomVersion, creator id.UserID) json.RawMessage {
	if version == id.RoomV12 {
		return json.RawMessage(`{"users":{}}`)
	}
	return json.RawMessage(`{"users":{"` + string(creator) + `":100}}`)
}

// propose has a user do something in a room; it gives the event's ID.
func (h *house) propose(room id.RoomID, p bus.Proposal) (id.EventID, error) {
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](h.Context(), h.bus, bus.RoomDo(room), bus.RoomQuestion{Propose: &p})
	if err != nil {
		return "", err
	}
	return answer.Outcomes[0].EventID, nil
}

func (h *house) say(room id.RoomID, user id.UserID, text string) id.EventID {
	h.Helper()
	body, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	eventID, err := h.propose(room, bus.Proposal{Sender: user, Type: "m.room.message", Content: body})
	if err != nil {
		h.Fatalf("%s says %q: %v", user, text, err)
	}
	return eventID
}

func (h *house) set(room id.RoomID, user id.UserID, typ, key, content string) id.EventID {
	h.Helper()
	eventID, err := h.propose(room, bus.Proposal{Sender: user, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	if err != nil {
		h.Fatalf("%s sets %s: %v", user, typ, err)
	}
	return eventID
}

// federate puts a question to the federation component.
func (h *house) federate(q bus.FederationQuestion) (bus.FederationAnswer, error) {
	return bus.Ask[bus.FederationQuestion, bus.FederationAnswer](h.Context(), h.bus, bus.FederationDo, q)
}

func (h *house) join(room id.RoomID, user id.UserID, through ...*house) {
	h.Helper()
	if err := h.tryJoin(room, user, through...); err != nil {
		h.Fatalf("%s joins: %v", user, err)
	}
}

func (h *house) tryJoin(room id.RoomID, user id.UserID, through ...*house) error {
	var servers []string
	for _, other := range through {
		servers = append(servers, other.name)
	}
	_, err := h.federate(bus.FederationQuestion{Join: &bus.JoinRemote{RoomID: room, UserID: user, Servers: servers}})
	return err
}

// wait waits for something to become true, looking again whenever the stream moves.
func (h *house) wait(what string, true_ func() bool) {
	h.Helper()
	deadline := time.After(15 * time.Second)
	for {
		_, moved := h.store.Moved()
		if true_() {
			return
		}
		select {
		case <-moved:
		case <-time.After(50 * time.Millisecond): // for what is no news, such as rows that go
		case <-deadline:
			h.Fatalf("%s: waited in vain for %s", h.name, what)
		}
	}
}

func (h *house) has(eventID id.EventID) bool {
	e, err := h.store.Events.ByID(h.Context(), eventID)
	if err != nil {
		h.Error(err)
	}
	return e != nil && e.Standing == storage.Accepted
}

func (h *house) waitFor(eventID id.EventID) {
	h.Helper()
	h.wait("event "+string(eventID), func() bool { return h.has(eventID) })
}

func (h *house) membership(room id.RoomID, user id.UserID) event.Membership {
	m, err := h.store.Memberships.Of(h.Context(), room, user)
	if err != nil {
		h.Fatal(err)
	}
	if m == nil {
		return ""
	}
	return m.Membership
}

// texts gives the messages that a server has of a room, in the order of their places.
func (h *house) texts(room id.RoomID) []string {
	h.Helper()
	events, err := h.store.Events.Forwards(h.Context(), room, storage.Page{Place: -1 << 60}, 10_000)
	if err != nil {
		h.Fatal(err)
	}
	var texts []string
	for _, e := range events {
		if e.Type == "m.room.message" {
			texts = append(texts, gjson.GetBytes(e.JSON, "content.body").Str)
		}
	}
	return texts
}

// stranger is another server that a test plays by hand: it has keys and a door, and speaks through a client of its own.
type stranger struct {
	*town
	name   string
	keys   *remote.Keys
	client *remote.Client
	mux    *http.ServeMux
	// keyAnswer, if set, answers who asks for its keys.
	keyAnswer func() (json.RawMessage, int)
	// missing and events are what history answers with; questions counts what it was asked.
	missing   func() []json.RawMessage
	events    map[string]json.RawMessage
	questions atomic.Int32
}

func (w *town) stranger(name string) *stranger {
	w.Helper()
	s := &stranger{town: w, name: name, keys: remote.GenerateKeys(name), mux: http.NewServeMux()}
	var err error
	if s.client, err = remote.New(w.config().Remote, s.keys); err != nil {
		w.Fatal(err)
	}
	s.mux.HandleFunc("GET /_matrix/key/v2/server", func(rw http.ResponseWriter, _ *http.Request) {
		if s.keyAnswer != nil {
			raw, status := s.keyAnswer()
			rw.WriteHeader(status)
			rw.Write(raw)
			return
		}
		raw, _ := s.keys.Publish(time.Now())
		rw.Write(raw)
	})
	server := &http.Server{Handler: s.mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{w.ca.certificate(w.T, name)}}}
	l := w.listeners[name]
	delete(w.listeners, name)
	go server.ServeTLS(l, "", "")
	w.Cleanup(func() { server.Close() })
	return s
}

// ask puts a signed question, and gives status, errcode and body.
func (s *stranger) ask(to *house, method string, path []string, body any) (int, string, json.RawMessage) {
	s.Helper()
	var answer json.RawMessage
	err := s.client.Ask(s.Context(), remote.Request{Server: to.name, Method: method, Path: path, Body: body}, &answer)
	if said, ok := remote.Refused(err); ok {
		return said.StatusCode, said.ErrCode, nil
	}
	if err != nil {
		s.Fatalf("%s %v: %v", method, path, err)
	}
	return 200, "", answer
}

// build makes an event of the stranger's.
func (s *stranger) build(version id.RoomVersion, d pdu.Draft) json.RawMessage {
	s.Helper()
	if d.Timestamp.IsZero() {
		d.Timestamp = time.Now()
	}
	ev, err := pdu.Build(version, d, s.keys.Signer())
	if err != nil {
		s.Fatal(err)
	}
	return ev.JSON()
}

func eventIDOf(t *testing.T, version id.RoomVersion, raw json.RawMessage) id.EventID {
	t.Helper()
	eventID, err := pdu.EventID(version, raw)
	if err != nil {
		t.Fatal(err)
	}
	return eventID
}

// forgetKeys has the server ask anew for others' keys.
func (h *house) forgetKeys() {
	h.Helper()
	h.stop()
	db, err := sql.Open("sqlite3", filepath.Join(h.dir, "test.db"))
	if err == nil {
		_, err = db.Exec("DELETE FROM server_keys")
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		h.Fatal(err)
	}
	h.start()
}

// raw asks a server over plain https, with whatever headers.
func (h *house) raw(method, path, authorization string, body []byte) (int, string) {
	h.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(h.ca.cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: h.name}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequest(method, "https://"+h.hosts[h.name]+path, bytes.NewReader(body))
	if err != nil {
		h.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := client.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Code string `json:"errcode"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		h.Errorf("%s %s: the answer is no JSON: %v", method, path, err)
	}
	return resp.StatusCode, answer.Code
}

func numbered(n int) string { return fmt.Sprintf("message %03d", n) }

func join(lines []string) string { return strings.Join(lines, ", ") }

// current is the snapshot of the room's current state.
func current(h *house, room id.RoomID) storage.Snapshot {
	r, err := h.store.Rooms.ByID(h.Context(), room)
	if err != nil || r == nil {
		h.Errorf("room %s: %v, %v", room, r, err)
		return storage.Snapshot{}
	}
	return r.State
}
