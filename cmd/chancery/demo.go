package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/synapseadmin"
)

// ministry is one of the demo's two homeservers.
type ministry struct {
	// What the page shows of it.
	Name   string `json:"name"`
	Short  string `json:"short"`
	Server string `json:"server"`
	Accent string `json:"accent"`
	Motto  string `json:"motto"`
	URL    string `json:"url"`

	accounts []resident
	secret   string // for registration
	clients  map[string]*mautrix.Client
}

// resident is one of the demo's people.
type resident struct {
	User     string `json:"user"`
	Name     string `json:"name"`
	Role     string `json:"role"`
	Password string `json:"password"`
	bot      bool
}

func demoMinistries() []*ministry {
	return []*ministry{
		{
			Name: "Ministry of the Interior", Short: "Interior", Server: "interior.example", Accent: "#2f47b2",
			Motto:    "Messages and calls that stay in the house, and reach the house next door.",
			accounts: []resident{{User: "anna", Name: "Anna Weber", Role: "Crisis desk"}, {User: "jonas", Name: "Jonas Lind", Role: "Border liaison"}},
		},
		{
			Name: "Ministry of Finance", Short: "Finance", Server: "finance.example", Accent: "#0d7a5f",
			Motto:    "One room, two ministries, and nobody else in between.",
			accounts: []resident{{User: "claire", Name: "Claire Fontaine", Role: "Budget office"}, {User: "tomasz", Name: "Tomasz Nowak", Role: "Treasury"}, {User: "clerk", Name: "The Clerk", Role: "Answers questions", bot: true}},
		},
	}
}

// demoCommand starts two ministries on loopback, with people, a room that both share, a bot and a page each.
func demoCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	keep := flags.String("data", "", "keep everything in this `folder`, in place of a temporary one that is removed at the end")
	level := flags.String("log", "warn", "what the servers log to demo.log: debug, info, warn, error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return demo(ctx, os.Stdout, *keep, *level, nil)
}

// demo runs until ctx ends; ready, if not nil, is called when all is up.
func demo(ctx context.Context, out io.Writer, folder, level string, ready func([]*ministry)) (err error) {
	show := &progress{out: out, since: time.Now()}
	fmt.Fprintf(out, "\n  Chancery: two ministries on this machine\n\n")
	if folder == "" {
		if folder, err = os.MkdirTemp("", "chancery-demo-"); err != nil {
			return err
		}
		defer os.RemoveAll(folder)
	} else if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(folder, "demo.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	parsed, err := zerolog.ParseLevel(level)
	if err != nil {
		return err
	}

	houses := demoMinistries()
	stacks, page, err := openMinistries(ctx, show, houses, folder, zerolog.New(logFile).Level(parsed).With().Timestamp().Logger())
	defer func() {
		fmt.Fprintf(out, "\n  Stopping both ministries")
		// They stop side by side: neither stands on the other.
		done := make(chan struct{})
		for _, s := range stacks {
			go func() { s.stop(stopPatience); done <- struct{}{} }()
		}
		for range stacks {
			<-done
		}
		fmt.Fprintf(out, ". Good bye.\n\n")
	}()
	if err != nil {
		return err
	}
	if err := show.step("People", func() error { return settle(ctx, houses) }); err != nil {
		return err
	}
	var room id.RoomID
	if err := show.step("A room of both ministries", func() (err error) {
		room, err = furnish(ctx, houses)
		return err
	}); err != nil {
		return err
	}
	page.room.Store(room)
	clerk := houses[1].clients["clerk"]
	stacks[1].run("clerk", func(ctx context.Context) error { return serveClerk(ctx, clerk, room) })
	explain(out, houses, folder, time.Since(show.since))
	if ready != nil {
		ready(houses)
	}
	select {
	case err = <-stacks[0].failed:
	case err = <-stacks[1].failed:
	case <-ctx.Done():
	}
	return err
}

// openMinistries starts the two servers; the stacks that it returns are to be stopped even after an error.
func openMinistries(ctx context.Context, show *progress, houses []*ministry, folder string, log zerolog.Logger) (stacks []*stack, page *demoPage, err error) {
	page = &demoPage{houses: houses}
	var ca *authority
	if err := show.step("An authority and certificates", func() (err error) {
		ca, err = newAuthority(folder)
		return err
	}); err != nil {
		return nil, nil, err
	}
	configs := make([]Config, len(houses))
	hosts := map[string]string{}
	for i, house := range houses {
		configs[i] = demoConfig(house, i, filepath.Join(folder, house.Server), ca)
		if configs[i].Listen.Certificate, configs[i].Listen.Key, err = ca.issue(house.Server); err != nil {
			return nil, nil, err
		}
		hosts[house.Server] = configs[i].Listen.Federation
	}
	for i, house := range houses {
		configs[i].Federation.Remote.Hosts = hosts
		ctx := log.With().Str("ministry", house.Server).Logger().WithContext(ctx)
		s := newStack(ctx)
		stacks = append(stacks, s)
		if err := show.step(house.Name, func() error {
			behind, err := s.assemble(ctx, configs[i], allParts)
			if err != nil {
				return err
			}
			behind.client = page.before(house, behind.client)
			return s.openDoors(ctx, configs[i].Listen, behind)
		}); err != nil {
			return stacks, nil, fmt.Errorf("%s: %w", house.Name, err)
		}
	}
	return stacks, page, nil
}

// demoConfig is a server for loopback: open to its neighbour, patient with people who try things.
func demoConfig(house *ministry, n int, folder string, ca *authority) Config {
	config := DefaultConfig()
	config.ServerName = house.Server
	config.Data = folder
	config.Listen.Client = loopback("tcp", 8101+n)
	config.Listen.Federation = loopback("tcp", 8151+n)
	config.Listen.Admin = ""
	house.URL = "http://" + config.Listen.Client
	house.secret = rand.Text()
	config.Client.PublicURL = house.URL
	config.Client.HTTP.Limits.Enabled = false
	config.Client.Account.SharedSecret = house.secret
	config.Calls.UDPPort, config.Calls.TCPPort, config.Calls.Loopback, config.Calls.Limits = 0, 0, true, false
	config.Calls.Listen = []string{"127.0.0.1"}
	config.Calls.TURN.UDPPort, config.Calls.TURN.TCPPort = 0, 0
	config.Federation.Remote.CAFiles = []string{ca.file()}
	config.Federation.Remote.AllowedNetworks = []string{"127.0.0.0/8"}
	return config
}

// Ports from here on are none that systems usually give to outgoing connections: one that is free now is free when it is opened in earnest.
const (
	calmPorts = 16_000
	calmMany  = 16_000
)

// loopback gives the address with the wished-for port, or with another if that one is taken or 0.
func loopback(network string, port int) string {
	var tries []int
	if port != 0 {
		tries = append(tries, port)
	}
	for range 16 {
		tries = append(tries, calmPorts+mathrand.IntN(calmMany))
	}
	for _, try := range append(tries, 0) {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(try))
		if network == "udp" {
			if conn, err := net.ListenPacket(network, address); err == nil {
				defer conn.Close()
				return conn.LocalAddr().String()
			}
			continue
		}
		if listener, err := net.Listen(network, address); err == nil {
			defer listener.Close()
			return listener.Addr().String()
		}
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) // opening it will say what is wrong
}

// settle registers the people and signs them in.
func settle(ctx context.Context, houses []*ministry) error {
	for _, house := range houses {
		house.clients = map[string]*mautrix.Client{}
		for i := range house.accounts {
			person := &house.accounts[i]
			person.Password = password()
			client, err := mautrix.NewClient(house.URL, "", "")
			if err != nil {
				return err
			}
			if _, err := (&synapseadmin.Client{Client: client}).SharedSecretRegister(ctx, house.secret, synapseadmin.ReqSharedSecretRegister{
				Username: person.User, Password: person.Password, Displayname: person.Name, InhibitLogin: true,
			}); err != nil && !errors.Is(err, mautrix.MUserInUse) {
				return fmt.Errorf("register %s: %w", person.User, err)
			}
			if _, err := client.Login(ctx, &mautrix.ReqLogin{
				Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: person.User},
				Password: person.Password, StoreCredentials: true, InitialDeviceDisplayName: "Chancery demo",
			}); err != nil {
				return fmt.Errorf("sign in %s: %w", person.User, err)
			}
			if err := client.SetDisplayName(ctx, person.Name); err != nil {
				return fmt.Errorf("name %s: %w", person.User, err)
			}
			house.clients[person.User] = client
		}
	}
	return nil
}

// password makes one that can be read aloud.
func password() string {
	words := []string{"amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "inkwell", "juniper", "lantern", "meadow", "nectar", "orchard", "quill", "river"}
	var random [3]byte
	rand.Read(random[:])
	return fmt.Sprintf("%s-%s-%02d", words[random[0]%16], words[random[1]%16], random[2]%100)
}

// furnish makes the shared room, with everybody in it, and some words to read.
func furnish(ctx context.Context, houses []*ministry) (id.RoomID, error) {
	host := houses[0].clients["anna"]
	var guests []id.UserID
	for _, house := range houses {
		for _, person := range house.accounts {
			if who := house.clients[person.User].UserID; who != host.UserID {
				guests = append(guests, who)
			}
		}
	}
	room, err := host.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", Name: "Joint desk", Topic: "Interior and Finance, in one room on two servers", Invite: guests,
		PowerLevelOverride: &event.PowerLevelsEventContent{
			Users:  map[id.UserID]int{host.UserID: 100},
			Events: map[string]int{"org.matrix.msc3401.call.member": 0, "m.room.name": 50, "m.room.power_levels": 100},
		},
	})
	if err != nil {
		return "", fmt.Errorf("create room: %w", err)
	}
	for _, house := range houses {
		for _, person := range house.accounts {
			client := house.clients[person.User]
			if client == host {
				continue
			}
			if err := eventually(ctx, func() error {
				_, err := client.JoinRoom(ctx, room.RoomID.String(), &mautrix.ReqJoinRoom{Via: []string{houses[0].Server}})
				return err
			}); err != nil {
				return "", fmt.Errorf("join %s: %w", person.User, err)
			}
		}
	}
	for _, line := range []struct {
		house      *ministry
		user, text string
	}{
		{houses[0], "anna", "Good morning. This room lives on two servers: ours and yours."},
		{houses[1], "claire", "Good morning from Finance! What you write arrives here over the federation, signed."},
		{houses[1], "clerk", "I am the Clerk, a small bot at Finance. Write “clerk, help”."},
	} {
		if _, err := line.house.clients[line.user].SendText(ctx, room.RoomID, line.text); err != nil {
			return "", fmt.Errorf("say as %s: %w", line.user, err)
		}
	}
	return room.RoomID, nil
}

// eventually repeats what may fail while news is still under way between the servers.
func eventually(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// progress shows the steps as they are taken.
type progress struct {
	out   io.Writer
	since time.Time
}

func (p *progress) step(name string, do func() error) error {
	begun := time.Now()
	fmt.Fprintf(p.out, "  … %s", name)
	if err := do(); err != nil {
		fmt.Fprintf(p.out, "\r  ✗ %s\n", name)
		return err
	}
	fmt.Fprintf(p.out, "\r  ✓ %-32s %4d ms\n", name, time.Since(begun).Milliseconds())
	return nil
}

// explain prints where to go, as whom, and what to try.
func explain(out io.Writer, houses []*ministry, folder string, took time.Duration) {
	fmt.Fprintf(out, "\n  Both are up after %.1f s.\n", took.Seconds())
	for _, house := range houses {
		fmt.Fprintf(out, "\n  %-26s %s\n", house.Name, house.URL)
		for _, person := range house.accounts {
			if !person.bot {
				fmt.Fprintf(out, "    %-8s %-20s %s, %s\n", person.User, person.Password, person.Name, strings.ToLower(person.Role))
			}
		}
	}
	fmt.Fprintf(out, `
  What to try
    1. Open both addresses, in two windows side by side, and sign in as one person in each.
    2. Write something. It is on the other side before you look. Ask the bot: "clerk, help".
    3. Press "Start call" in one window and "Join" in the other; allow camera and microphone.
    4. Any Matrix client works too: its homeserver is the address above.

  Everything lies in %s
  and is logged to demo.log there. Ctrl-C stops both ministries and cleans up.

`, folder)
}
