package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/storage/testdb"
)

// encryptionTest is how large a run of the encryption test is; browser/encryption.mjs reads it.
type encryptionTest struct {
	People       []encryptedPerson `json:"people"`
	Devices      int               `json:"devices"` // of each person
	Rooms        int               `json:"rooms"`
	Messages     int               `json:"messages"`
	Disturbances int               `json:"disturbances"` // how often a device goes to sleep, or goes and another comes
	Crashes      []int             `json:"crashes"`      // which servers, in this order, evenly over the time
	Pause        int               `json:"pause"`        // of each device between two messages, in milliseconds
	Seed         uint32            `json:"seed"`
	Lines        string            `json:"lines,omitempty"` // a folder for what the clients' library says about a fault
}

type encryptedPerson struct {
	User     string `json:"user"`
	Password string `json:"password"`
	House    string `json:"house"`
}

// TestBrowserEncryption lets people of two servers talk with matrix-js-sdk and its crypto in real browsers, with several devices each:
// cross-signing, secret storage and backup are set up, devices verified by emoji or recovery key; then devices come, go and are away,
// and servers crash. Each device must read all that it is entitled to. CHANCERY_ENCRYPTION names the number of messages of a great run.
func TestBrowserEncryption(t *testing.T) {
	needBrowser(t, false)
	size := encryptionTest{Devices: 2, Rooms: 4, Messages: 100, Disturbances: 6, Crashes: []int{1}, Pause: 500}
	people, wait := 3, 4*time.Minute
	if great := os.Getenv("CHANCERY_ENCRYPTION"); great != "" {
		messages, err := strconv.Atoi(great)
		if err != nil {
			t.Fatalf("CHANCERY_ENCRYPTION is %q, want a number of messages", great)
		}
		size = encryptionTest{Devices: 3, Rooms: 20, Messages: messages, Disturbances: max(12, messages/80), Crashes: []int{0, 1}, Pause: 2000}
		people, wait = 5, 2*time.Hour
	}
	size.Seed = uint32(time.Now().UnixNano())
	if seed, err := strconv.ParseUint(os.Getenv("CHANCERY_ENCRYPTION_SEED"), 10, 32); err == nil {
		size.Seed = uint32(seed)
	}
	size.Lines = os.Getenv("CHANCERY_ENCRYPTION_LINES")

	// One house on each database, where there are two.
	databases := []string{DefaultConfig().Storage.Database, DefaultConfig().Storage.Database}
	if os.Getenv("TEST_POSTGRES") != "" {
		databases[1] = testdb.Postgres(t)
	}
	next := 0
	configs := testConfigs(t, func() string { next++; return databases[next-1] }, "interior.test", "finance.test")
	var servers []*process
	for _, config := range configs {
		server := newProcess(t, config, "")
		server.start()
		servers = append(servers, server)
	}
	for n := range people {
		name, house := fmt.Sprintf("person%d", n), configs[n%2].Client.PublicURL
		// This first session has no keys, and no part in it.
		must(signIn(t, house, name).Logout(t.Context()))(t, "sign out")
		size.People = append(size.People, encryptedPerson{name, testPassword(name), house})
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	size.run(ctx, t, servers)
}

// run starts the browsers, shows their progress, and crashes the servers they name.
func (size encryptionTest) run(ctx context.Context, t *testing.T, servers []*process) {
	facts, err := json.Marshal(size)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "node", "browser/run.mjs", "encryption", string(facts))
	cmd.WaitDelay = 5 * time.Second
	answers, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("seed %d\n", size.Seed)
	for lines := bufio.NewScanner(said); lines.Scan(); {
		house, isCrash := strings.CutPrefix(lines.Text(), "crash ")
		if !isCrash {
			fmt.Println(lines.Text())
			continue
		}
		n, err := strconv.Atoi(house)
		if err != nil || n < 0 || n >= len(servers) {
			t.Fatalf("the browsers want server %q to crash", house)
		}
		servers[n].kill()
		servers[n].start()
		if _, err := io.WriteString(answers, "up\n"); err != nil {
			t.Errorf("tell the browsers: %v", err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("encryption: %v", err)
	}
}
