package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"chancery/calls"
)

const focusUsage = `chancery focus [flags] drain     take no new calls in this focus process; those that run end by themselves, or move
chancery focus [flags] resume    take new calls again

The running process is asked, at the admin listener of its configuration. Flags stand before the verb.

`

// focusCommand readies a focus process for its end, while others go on.
func focusCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("focus", flag.ContinueOnError)
	path := configFlag(flags)
	within := flags.Duration("within", time.Hour, "with drain: calls that still run after `so long` move to other processes; 0: at once")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), focusUsage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	verb := flags.Arg(0)
	if flags.NArg() != 1 || verb != "drain" && verb != "resume" {
		flags.Usage()
		return errors.New("want: focus [flags] drain, or resume")
	}
	config, err := readConfig(*path)
	if err != nil {
		return err
	}
	if config.Listen.Admin == "" {
		return errors.New("listen.admin is empty: the running process cannot be asked")
	}
	address := config.Listen.Admin
	if strings.HasPrefix(address, ":") {
		address = net.JoinHostPort("localhost", address[1:])
	}
	query := url.Values{"within": {within.String()}, "undo": {strconv.FormatBool(verb == "resume")}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/calls/drain?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	fmt.Print(string(body))
	return nil
}

// serveDrain handles POST /calls/drain of the admin listener. It wants the content type that serveAccounts wants.
func serveDrain(focus *calls.Focus) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/json" { // see serveAccounts
			http.Error(w, "want application/json", http.StatusUnsupportedMediaType)
			return
		}
		within, err := time.ParseDuration(r.URL.Query().Get("within"))
		if err != nil || within < 0 {
			http.Error(w, "within is no span of time", http.StatusBadRequest)
			return
		}
		undo := r.URL.Query().Get("undo") == "true"
		if err := focus.Drain(within, undo); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		if undo {
			fmt.Fprintln(w, "New calls are taken again.")
			return
		}
		fmt.Fprintf(w, "No new calls are taken; those that run after %v move.\n", within)
	}
}

// relayAddress is where other focus processes reach this one: what the configuration says, or its client door.
func (c *Config) relayAddress() string {
	if c.Calls.RelayAddress != "" {
		return c.Calls.RelayAddress
	}
	host, port, err := net.SplitHostPort(c.Listen.Client)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}
