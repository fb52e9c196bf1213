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

	"chancery/clientapi"
)

// accountWish is what an administrator asks for, on the command line and at the admin listener.
type accountWish struct {
	// Do is one of the verbs of the account and the room subcommands.
	Do       string `json:"do"`
	Name     string `json:"name,omitempty"`
	Password string `json:"password,omitempty"`
	Admin    bool   `json:"admin,omitempty"`
	// Erase goes with deactivate, Open with delete-room: the room may be joined again.
	Erase bool `json:"erase,omitempty"`
	Open  bool `json:"open,omitempty"`
	// Uses and Lifetime bound a registration token; 0 is no bound.
	Uses     int64         `json:"uses,omitempty"`
	Lifetime time.Duration `json:"lifetime,omitempty"`
	// Until goes with renew: in ms since 1970; 0: as long as the configuration says.
	Until int64 `json:"until,omitempty"`
	// Lines are accounts to import, one a line as JSON.
	Lines string `json:"lines,omitempty"`
}

// keepAccounts does what is wished in a running client API. It returns what the administrator wants to see: the user, or
// the token.
type keepAccounts func(ctx context.Context, wish accountWish) (string, error)

// keeper is the keepAccounts of this client API.
func keeper(client *clientapi.Server) keepAccounts {
	return func(ctx context.Context, wish accountWish) (string, error) {
		switch wish.Do {
		case "create":
			user, err := client.Accounts().Create(ctx, clientapi.NewAccount{Username: wish.Name, Password: wish.Password, Admin: wish.Admin})
			return user.String(), err
		case "password":
			user, err := client.Accounts().ReplacePassword(ctx, wish.Name, wish.Password)
			return user.String(), err
		case "import":
			return importAccounts(ctx, client, wish.Lines)
		case "token":
			return client.Accounts().NewRegistrationToken(ctx, wish.Uses, wish.Lifetime)
		}
		return steward(ctx, client, wish)
	}
}

const accountUsage = `chancery account [flags] create NAME      make an account
chancery account [flags] password NAME    give it a new password, and end all its sessions
chancery account [flags] list [TEXT]      list accounts, and how they stand
chancery account [flags] admin NAME       make it an administrator's; with -admin=false no longer
chancery account [flags] renew NAME       let it not expire for another period; with -until DATE until then
chancery account [flags] deactivate NAME  close it for ever
chancery account [flags] token            make a token with which people register themselves
chancery account [flags] tokens           list such tokens
chancery account [flags] revoke TOKEN     withdraw one
chancery account export [flags] NAME      write all that this server holds of somebody into a zip archive
chancery account import [flags] FILE      make accounts that come from another server

Flags stand before the verb, but for export and import.

`

// accountCommand keeps accounts: at the admin listener of the running server, or in the database when none runs.
func accountCommand(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "export" {
		return exportCommand(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "import" {
		return importCommand(ctx, args[1:])
	}
	wish, path, err := readWish(args)
	if err != nil {
		return err
	}
	config, err := readConfig(path)
	if err != nil {
		return err
	}
	return fulfil(ctx, config, wish)
}

// fulfil has a wish done, and prints what is said.
func fulfil(ctx context.Context, config Config, wish accountWish) error {
	said, err := askAdmin(ctx, config.Listen.Admin, wish)
	if errors.Is(err, syscall.ECONNREFUSED) || config.Listen.Admin == "" {
		said, err = keepAlone(ctx, config, wish)
	}
	if err != nil {
		return err
	}
	if said != "" {
		fmt.Println(said)
	}
	return nil
}

// readWish reads the command line, and the password where one is needed.
func readWish(args []string) (wish accountWish, config string, err error) {
	flags := flag.NewFlagSet("account", flag.ContinueOnError)
	path := configFlag(flags)
	flags.BoolVar(&wish.Admin, "admin", false, "create: make an administrator; admin: false takes the flag away")
	flags.BoolVar(&wish.Erase, "erase", false, "deactivate: hide what the user wrote from those who come later")
	secret := flags.String("password-file", "-", "create, password: the `file` whose first line is the password; - is standard input")
	flags.Int64Var(&wish.Uses, "uses", 1, "token: how many people may register with it; 0 is any number")
	flags.DurationVar(&wish.Lifetime, "lifetime", 7*24*time.Hour, "token: how long it is good; 0 is for ever")
	until := flags.String("until", "", "renew: the `date` on which the account expires (2027-01-31, UTC)")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), accountUsage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return wish, "", err
	}
	wish.Do, wish.Name = flags.Arg(0), flags.Arg(1)
	given := false
	flags.Visit(func(f *flag.Flag) { given = given || f.Name == "admin" })
	if wish.Do == "admin" && !given {
		wish.Admin = true
	}
	switch {
	case (wish.Do == "token" || wish.Do == "tokens") && flags.NArg() == 1, wish.Do == "list" && flags.NArg() <= 2:
		return wish, *path, nil
	case (wish.Do == "admin" || wish.Do == "deactivate" || wish.Do == "revoke") && flags.NArg() == 2:
		return wish, *path, nil
	case wish.Do == "renew" && flags.NArg() == 2:
		if *until != "" {
			day, err := time.Parse(time.DateOnly, *until)
			if err != nil {
				return wish, "", fmt.Errorf("-until: %w", err)
			}
			wish.Until = day.UnixMilli()
		}
		return wish, *path, nil
	case (wish.Do == "create" || wish.Do == "password") && flags.NArg() == 2:
		wish.Password, err = readPassword(*secret)
		return wish, *path, err
	}
	flags.Usage()
	return wish, "", errors.New("want: account [flags] and one of the verbs above")
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

// askAdmin has the running server do it.
func askAdmin(ctx context.Context, address string, wish accountWish) (string, error) {
	if strings.HasPrefix(address, ":") {
		address = net.JoinHostPort("localhost", address[1:])
	}
	body, err := json.Marshal(wish)
	if err != nil {
		return "", err
	}
	patience := 30 * time.Second
	if wish.Do == "delete-room" {
		patience = 24 * time.Hour // as long as there are rows
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
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
	raw, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(raw))
	if answer.StatusCode != http.StatusOK {
		return "", errors.New(text)
	}
	return text, nil
}

// keepAlone opens the database, does what is wished, and closes it again. With SQLite the folder's lock keeps it from
// doing so behind a running server's back.
func keepAlone(ctx context.Context, config Config, wish accountWish) (string, error) {
	log := config.logger(os.Stderr)
	ctx = log.WithContext(ctx)
	s := newStack(ctx)
	defer s.stop(stopPatience)
	chosen := parts{"client"}
	if wish.Do == "delete-room" || wish.Do == "deactivate" {
		chosen = append(chosen, "rooms") // somebody leaves
	}
	behind, err := s.assemble(ctx, config, chosen)
	if err != nil {
		return "", err
	}
	return behind.keepAccounts(ctx, wish)
}

// serveAccounts handles POST /accounts of the admin listener. It wants the content type that a foreign page in the
// administrator's browser cannot send without being asked first.
func serveAccounts(keep keepAccounts) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "want application/json", http.StatusUnsupportedMediaType)
			return
		}
		var wish accountWish
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&wish); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		said, err := keep(r.Context(), wish)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, said)
	}
}
