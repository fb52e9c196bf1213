package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.yaml.in/yaml/v3"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/federation"
)

// TestOnly runs two servers as four processes each, on PostgreSQL and an external NATS: people of both meet in a room, and
// go on after each process in turn was killed and started again.
func TestOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("starts eight processes")
	}
	nats := externalNATS(t)
	configs := testConfigs(t, func() string { return postgresDatabase(t) }, "interior.test", "finance.test")
	var urls []string
	processes := map[string]*process{}
	for n, config := range configs {
		config.Bus.URL, config.Bus.User, config.Bus.Password = nats, natsUser, natsPassword
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
	sendSurely(t, anna, room, "hello from four processes")
	atClaire.untilText(room, "hello from four processes")

	for _, name := range []string{"0 rooms", "1 rooms", "0 client", "1 client", "0 federation", "1 federation", "0 calls", "1 calls"} {
		p := processes[name]
		p.kill()
		said := make(chan struct{})
		go func() {
			defer close(said)
			sendSurely(t, anna, room, "anna, while "+name+" was away")
			sendSurely(t, claire, room, "claire, while "+name+" was away")
		}()
		p.start()
		<-said
		atClaire.untilText(room, "anna, while "+name+" was away")
		atAnna.untilText(room, "claire, while "+name+" was away")
	}
	for _, l := range []*listener{atAnna, atClaire} {
		times := map[string]int{}
		for _, ev := range l.seen {
			if ev.Type == event.EventMessage {
				times[ev.Content.AsMessage().Body]++
			}
		}
		for body, n := range times {
			if n != 1 {
				t.Errorf("%s saw %q %d times, want once", l.client.UserID, body, n)
			}
		}
	}
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
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, Username: natsUser, Password: natsPassword, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(patience) {
		t.Fatal("NATS did not start")
	}
	return ns.ClientURL()
}

// process is one part of a server, in a process of its own.
type process struct {
	t      *testing.T
	part   string
	file   string
	health string
	cmd    *exec.Cmd
	log    bytes.Buffer
}

func newProcess(t *testing.T, config Config, part string) *process {
	t.Helper()
	config.Listen.Admin = loopback("tcp", 0)
	switch part {
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
	p := &process{t: t, part: part, file: filepath.Join(t.TempDir(), part+".yaml"), health: "http://" + config.Listen.Admin + "/health"}
	if err := os.WriteFile(p.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s of %s printed:\n%s", part, config.ServerName, p.log.String())
		}
	})
	return p
}

// start runs the process and waits until it says that it is well.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], "serve", "--config", p.file, "--only", p.part)
	p.cmd.Env = append(os.Environ(), "CHANCERY_BE_THE_SERVER=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		answer, err := http.Get(p.health)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			p.kill()
			p.t.Fatalf("%s did not come up: %v\n%s", p.part, err, p.log.String())
		}
		time.Sleep(20 * time.Millisecond) // polling a port that does not listen yet
	}
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
