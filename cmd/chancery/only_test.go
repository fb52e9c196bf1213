package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.yaml.in/yaml/v3"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation"
	"chancery/storage/testdb"
)

// TestOnly runs two servers as four processes each, on PostgreSQL and an external NATS: people of both meet in a room, and
// go on after each process in turn was killed and started again.
func TestOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("starts eight processes")
	}
	nats := startNATS(t, -1)
	configs := testConfigs(t, func() string { return testdb.Postgres(t) }, "interior.test", "finance.test")
	var urls []string
	processes := map[string]*process{}
	for n, config := range configs {
		config.Bus.URL, config.Bus.User, config.Bus.Password = nats.ClientURL(), natsUser, natsPassword
		config.Bus.Prefix = fmt.Sprintf("house%d", n)
		if err := os.MkdirAll(config.Data, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := federation.LoadKeys(config.ServerName, config.inData(config.SigningKey)); err != nil {
			t.Fatal(err)
		}
		urls = append(urls, config.Client.PublicURL)
		for _, part := range allParts {
			p := newProcess(t, config, part)
			p.start()
			processes[fmt.Sprint(n, " ", part)] = p
		}
	}

	anna, claire := signIn(t, urls[0], "anna"), signIn(t, urls[1], "claire")
	atAnna, atClaire := listen(t, anna), listen(t, claire)
	room := must(anna.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{claire.UserID}}))(t, "create room").RoomID
	atClaire.untilMember(room, claire.UserID, event.MembershipInvite)
	must(claire.JoinRoomByID(t.Context(), room))(t, "join")
	atAnna.untilMember(room, claire.UserID, event.MembershipJoin)

	// Both speak all the time, while each process in turn is killed and started again.
	fromAnna, fromClaire := chat(t, anna, room), chat(t, claire, room)
	for _, name := range []string{"0 rooms", "1 rooms", "0 client", "1 client", "0 federation", "1 federation", "0 calls", "1 calls"} {
		p, begun := processes[name], time.Now()
		p.kill()
		p.start()
		up := time.Since(begun)
		atClaire.untilText(room, fromAnna.later())
		atAnna.untilText(room, fromClaire.later())
		t.Logf("%s: up after %v, both heard again after %v", name, up.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	}

	// Then what links them is away for a while: each says so, and goes on once it is back.
	port := nats.Addr().(*net.TCPAddr).Port
	nats.Shutdown()
	nats.WaitForShutdown()
	for name, p := range processes {
		p.untilHealth(http.StatusServiceUnavailable)
		if got := p.gauge("chancery_bus_connected"); got != "0" {
			t.Errorf("%s without NATS: chancery_bus_connected is %q, want 0", name, got)
		}
	}
	startNATS(t, port)
	for _, p := range processes {
		p.untilHealth(http.StatusOK)
	}
	begun := time.Now()
	atClaire.untilText(room, fromAnna.later())
	atAnna.untilText(room, fromClaire.later())
	t.Logf("both heard again %v after NATS was back", time.Since(begun).Round(time.Millisecond))

	said := map[string][]string{"anna": fromAnna.stop(), "claire": fromClaire.stop()}
	t.Logf("%d and %d messages", len(said["anna"]), len(said["claire"]))
	for _, l := range []*listener{atAnna, atClaire} {
		for _, texts := range said {
			l.untilText(room, texts[len(texts)-1])
		}
	}
	for who, l := range map[*mautrix.Client]*listener{anna: atAnna, claire: atClaire} {
		heard, stored := map[string][]string{}, map[string][]string{}
		for _, ev := range l.seen {
			if ev.Type == event.EventMessage {
				heard[ev.Sender.Localpart()] = append(heard[ev.Sender.Localpart()], ev.Content.AsMessage().Body)
			}
		}
		for _, text := range historyBy(t, who, room, 100) {
			name, _, _ := strings.Cut(text, " ")
			stored[name] = append(stored[name], text)
		}
		for name, want := range said {
			sameTexts(t, fmt.Sprintf("%s heard of %s", who.UserID, name), heard[name], want)
			sameTexts(t, fmt.Sprintf("the history of %s has of %s", who.UserID, name), stored[name], want)
		}
	}
	sameState(t, room, anna, claire)
}

// chatter is somebody who speaks all the time.
type chatter struct {
	name string
	sent atomic.Int64 // how many messages were taken
	quit chan struct{}
	said chan []string
}

// chat begins to send numbered messages, each soon after the one before was taken.
func chat(t *testing.T, client *mautrix.Client, room id.RoomID) *chatter {
	c := &chatter{name: client.UserID.Localpart(), quit: make(chan struct{}), said: make(chan []string, 1)}
	go func() {
		var said []string
		defer func() { c.said <- said }()
		for {
			select {
			case <-t.Context().Done():
				return
			case <-c.quit:
				return
			case <-time.After(50 * time.Millisecond): // the pace of the speaker
			}
			said = append(said, c.text(int64(len(said))))
			sendSurely(t, client, room, said[len(said)-1])
			c.sent.Store(int64(len(said)))
		}
	}()
	return c
}

func (c *chatter) text(n int64) string { return fmt.Sprintf("%s %05d", c.name, n) }

// later is a message that will be sent after this moment.
func (c *chatter) later() string { return c.text(c.sent.Load() + 1) }

// stop ends the speech and gives all that was said.
func (c *chatter) stop() []string {
	close(c.quit)
	return <-c.said
}

// sameTexts fails unless got is want, each once and in order; it names the first that differ.
func sameTexts(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	times := map[string]int{}
	for _, text := range got {
		times[text]++
	}
	var lost, doubled []string
	for _, text := range want {
		if times[text] == 0 {
			lost = append(lost, text)
		} else if times[text] > 1 {
			doubled = append(doubled, text)
		}
	}
	lost, doubled = lost[:min(len(lost), 20)], doubled[:min(len(doubled), 20)]
	t.Errorf("%s: %d messages, want %d; lost %q, doubled %q, in order: %v", what, len(got), len(want), lost, doubled, slices.IsSorted(got))
}

// sendSurely repeats a message under one transaction ID until the server takes it, as a good client does.
func sendSurely(t *testing.T, client *mautrix.Client, room id.RoomID, text string) {
	deadline := time.Now().Add(patience)
	txn := client.TxnID()
	for {
		_, err := client.SendMessageEvent(t.Context(), room, event.EventMessage,
			&event.MessageEventContent{MsgType: event.MsgText, Body: text}, mautrix.ReqSendEvent{TransactionID: txn})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("send %q: %v", text, err)
			return
		}
		time.Sleep(100 * time.Millisecond) // between two tries of a client, not a wait for a state
	}
}

const natsUser, natsPassword = "chancery", "a password for tests"

// externalNATS starts a NATS server that listens, with a password; the test's end stops it.
func externalNATS(t *testing.T) (url string) {
	t.Helper()
	return startNATS(t, -1).ClientURL()
}

// startNATS does so on a port; -1 is a free one.
func startNATS(t *testing.T, port int) *server.Server {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, Username: natsUser, Password: natsPassword, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(patience) {
		t.Fatal("NATS did not start")
	}
	return ns
}

// process is one part of a server, or all of it, in a process of its own.
type process struct {
	t      *testing.T
	part   string
	file   string
	client string // the address of its client listener, if it has one
	health string
	cmd    *exec.Cmd
	log    bytes.Buffer
}

func newProcess(t *testing.T, config Config, part string) *process {
	t.Helper()
	config.Listen.Admin = loopback("tcp", 0)
	switch part {
	case "": // all of it
	case "client":
		config.Listen.Federation = ""
	case "federation":
		config.Listen.Client = ""
	default:
		config.Listen.Federation = ""
		config.Listen.Client = loopback("tcp", 0)
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, part: part, file: filepath.Join(t.TempDir(), "chancery.yaml"), client: config.Listen.Client, health: "http://" + config.Listen.Admin + "/health"}
	if err := os.WriteFile(p.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() || os.Getenv("CHANCERY_TEST_LOG") != "" {
			t.Logf("%s of %s printed:\n%s", part, config.ServerName, p.log.String())
		}
	})
	return p
}

// admin is the address of its admin listener.
func (p *process) admin() string {
	return strings.TrimSuffix(strings.TrimPrefix(p.health, "http://"), "/health")
}

// start runs the process and waits until it says that it is well.
func (p *process) start() {
	p.t.Helper()
	arguments := []string{"serve", "--config", p.file}
	if p.part != "" {
		arguments = append(arguments, "--only", p.part)
	}
	p.cmd = exec.Command(os.Args[0], arguments...)
	p.cmd.Env = append(os.Environ(), "CHANCERY_BE_THE_SERVER=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.untilHealth(http.StatusOK)
}

// untilHealth waits until the process's health is as wanted.
func (p *process) untilHealth(want int) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		answer, err := http.Get(p.health)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == want {
				return
			}
			err = errors.New(answer.Status)
		}
		if time.Now().After(deadline) {
			p.kill()
			p.t.Fatalf("%s is not at %d: %v\n%s", p.part, want, err, p.log.String())
		}
		time.Sleep(20 * time.Millisecond) // polling a port that may not listen yet
	}
}

// gauge reads one of the process's numbers; empty while it is away.
func (p *process) gauge(name string) string {
	answer, err := http.Get("http://" + p.admin() + "/metrics")
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kill ends the process without a word, as a crash would.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	// The process may have ended by itself; then there is nothing to kill, and Wait says why.
	_ = p.cmd.Process.Kill()
	if err := p.cmd.Wait(); err != nil && !strings.Contains(err.Error(), "signal: killed") {
		p.t.Logf("%s had ended: %v", p.part, err)
	}
	p.cmd = nil
}
