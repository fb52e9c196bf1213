package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"chancery/storage/bus"
)

const federationUsage = `chancery federation [flags] status [SERVER]    how it stands with other servers, or with one

The running server is asked, at its admin listener. Flags stand before the verb.

`

// federationCommand shows operators what the running server knows of others.
func federationCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("federation", flag.ContinueOnError)
	path := configFlag(flags)
	raw := flags.Bool("json", false, "as JSON, one peer a line")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), federationUsage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.Arg(0) != "status" || flags.NArg() > 2 {
		flags.Usage()
		return errors.New("want: federation [flags] status [SERVER]")
	}
	config, err := readConfig(*path)
	if err != nil {
		return err
	}
	if config.Listen.Admin == "" {
		return errors.New("listen.admin is empty: the running server cannot be asked")
	}
	peers, err := askPeers(ctx, config.Listen.Admin, flags.Arg(1))
	if err != nil {
		return err
	}
	if *raw {
		for _, p := range peers {
			if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
				return err
			}
		}
		return nil
	}
	return printPeers(os.Stdout, peers, time.Now())
}

// askPeers asks the admin listener for all peers, a page at a time.
func askPeers(ctx context.Context, address, server string) ([]bus.Peer, error) {
	if strings.HasPrefix(address, ":") {
		address = net.JoinHostPort("localhost", address[1:])
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var peers []bus.Peer
	for query := (url.Values{"server": {server}}); ; {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/federation?"+query.Encode(), nil)
		if err != nil {
			return nil, err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
		answer.Body.Close()
		if err != nil {
			return nil, err
		}
		if answer.StatusCode != http.StatusOK {
			return nil, errors.New(strings.TrimSpace(string(body)))
		}
		var list bus.PeerList
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, err
		}
		peers = append(peers, list.Peers...)
		if list.Next == "" {
			return peers, nil
		}
		query.Set("after", list.Next)
	}
}

// printPeers writes a table, a peer a line; below it why events were not accepted, and why some servers cannot be reached.
func printPeers(out io.Writer, peers []bus.Peer, now time.Time) error {
	if len(peers) == 0 {
		_, err := fmt.Fprintln(out, "No other server is known.")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "SERVER\tREACHABLE\tANSWERED\tHEARD\tQUEUE\tLAGGING\tRETRY\tCLOCK\tCERTIFICATE\tACCEPTED\tSOFT-FAILED\tREJECTED\tDROPPED")
	for _, p := range peers {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%d\t%d\t%d\t%d\n", p.Server, reachable(p), ago(p.Answered, now), ago(p.Heard, now),
			p.Queue, p.Lagging, retry(p, now), skew(p.Skew), until(p.Certificate, now), p.Accepted, p.SoftFailed, p.Rejected, p.Dropped)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, p := range peers {
		if p.Failure == "" && len(p.Reasons) == 0 {
			continue
		}
		fmt.Fprintf(out, "\n%s\n", p.Server)
		if p.Failure != "" {
			fmt.Fprintf(out, "  not reached: %s\n", p.Failure)
		}
		for _, reason := range slices.Sorted(maps.Keys(p.Reasons)) {
			fmt.Fprintf(out, "  %d %s\n", p.Reasons[reason], reason)
		}
	}
	return nil
}

func reachable(p bus.Peer) string {
	switch {
	case !p.Allowed:
		return "not allowed"
	case p.Reachable:
		return "yes"
	case p.Tried || p.Failures > 0:
		return "no"
	}
	return "not tried"
}

func ago(ms int64, now time.Time) string {
	if ms == 0 {
		return "never"
	}
	return now.Sub(time.UnixMilli(ms)).Round(time.Second).String() + " ago"
}

func retry(p bus.Peer, now time.Time) string {
	if p.Failures == 0 {
		return "-"
	}
	return fmt.Sprintf("in %v (failed %d times)", max(0, time.UnixMilli(p.RetryAt).Sub(now)).Round(time.Second), p.Failures)
}

func skew(ms *int64) string {
	if ms == nil {
		return "-"
	}
	return fmt.Sprintf("%+.0fs", float64(*ms)/1000)
}

func until(ms int64, now time.Time) string {
	if ms == 0 {
		return "-"
	}
	end := time.UnixMilli(ms)
	return fmt.Sprintf("%s (%d days)", end.UTC().Format(time.DateOnly), int(end.Sub(now).Hours()/24))
}

// servePeers handles GET /federation of the admin listener.
func servePeers(messages *bus.Bus) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		answer, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, messages, bus.FederationDo, bus.FederationQuestion{
			Peers: &bus.Peers{Server: r.FormValue("server"), After: r.FormValue("after")},
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer.Body) // a reader who has gone away is not our fault
	}
}
