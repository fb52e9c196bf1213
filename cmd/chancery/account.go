package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"maunium.net/go/mautrix/id"
)

// newAccount is what an administrator asks for, on the command line and at the admin listener.
type newAccount struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Admin    bool   `json:"admin"`
}

// createAccount makes an account in a running client API.
type createAccount func(ctx context.Context, want newAccount) (id.UserID, error)

// accountCommand makes an account: at the admin listener of the running server, or in the database when none runs.
func accountCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("account", flag.ContinueOnError)
	path := configFlag(flags)
	admin := flags.Bool("admin", false, "make an administrator")
	secret := flags.String("password-file", "-", "the `file` whose first line is the password; - is standard input")
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "chancery account [flags] create NAME\n\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 || flags.Arg(0) != "create" {
		flags.Usage()
		return errors.New("want: account [flags] create NAME")
	}
	config, err := readConfig(*path)
	if err != nil {
		return err
	}
	password, err := readPassword(*secret)
	if err != nil {
		return err
	}
	want := newAccount{Name: flags.Arg(1), Password: password, Admin: *admin}
	user, err := askAdmin(ctx, config.Listen.Admin, want)
	if errors.Is(err, syscall.ECONNREFUSED) || config.Listen.Admin == "" {
		user, err = createAlone(ctx, config, want)
	}
	if err != nil {
		return err
	}
	fmt.Println(user)
	return nil
}

// readPassword reads the first line of a file or of standard input.
func readPassword(path string) (string, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer file.Close()
		in = file
	} else if isTerminal(os.Stdin) {
		fmt.Fprint(os.Stderr, "Password (it will be seen): ")
	}
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("the password is empty")
	}
	return line, nil
}

// askAdmin has the running server make the account.
func askAdmin(ctx context.Context, address string, want newAccount) (id.UserID, error) {
	if strings.HasPrefix(address, ":") {
		address = net.JoinHostPort("localhost", address[1:])
	}
	body, err := json.Marshal(want)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/accounts", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(raw))
	if answer.StatusCode != http.StatusOK {
		return "", errors.New(text)
	}
	return id.UserID(text), nil
}

// createAlone opens the database, makes the account, and closes it again. With SQLite the folder's lock keeps it from
// doing so behind a running server's back.
func createAlone(ctx context.Context, config Config, want newAccount) (id.UserID, error) {
	log := config.logger(os.Stderr)
	ctx = log.WithContext(ctx)
	s := newStack(ctx)
	defer s.stop(stopPatience)
	behind, err := s.assemble(ctx, config, parts{"client"})
	if err != nil {
		return "", err
	}
	return behind.createAccount(ctx, want)
}

// serveAccounts handles POST /accounts of the admin listener. It wants the content type that a foreign page in the
// administrator's browser cannot send without being asked first.
func serveAccounts(create createAccount) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "want application/json", http.StatusUnsupportedMediaType)
			return
		}
		var want newAccount
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&want); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		user, err := create(r.Context(), want)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, user)
	}
}
