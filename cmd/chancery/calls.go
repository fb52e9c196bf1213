package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/calls"
	"chancery/clientapi"
	"chancery/storage/bus"
)

const callUsage = `chancery call [flags] list                 list the calls that are open, and how they are
chancery call [flags] end ROOM             end the call of a room
chancery call [flags] mute ROOM USER       mute all that somebody sends, until they unmute it
chancery call [flags] remove ROOM USER     send somebody out of it
chancery call [flags] lock ROOM            let nobody come in but moderators; unlock ROOM undoes it
chancery call [flags] view-only ROOM       let nobody send but moderators; open ROOM undoes it

The running server is asked, at its admin listener. ROOM is a room ID or one of its aliases here. Flags stand before the verb.

`

// callCommand keeps calls, at the admin listener of the running server.
func callCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	path := configFlag(flags)
	raw := flags.Bool("json", false, "list: as JSON, one call a line")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), callUsage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	wish := clientapi.CallWish{Do: flags.Arg(0), Room: flags.Arg(1), User: id.UserID(flags.Arg(2))}
	want, known := map[string]int{"list": 1, "end": 2, "mute": 3, "remove": 3, "lock": 2, "unlock": 2, "view-only": 2, "open": 2}[wish.Do]
	if !known || flags.NArg() != want {
		flags.Usage()
		return errors.New("want: call [flags] and one of the verbs above")
	}
	config, err := readConfig(*path)
	if err != nil {
		return err
	}
	if config.Listen.Admin == "" {
		return errors.New("listen.admin is empty: the running server cannot be asked")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if wish.Do != "list" {
		said, err := askCalls(ctx, config.Listen.Admin, http.MethodPost, "/calls", wish)
		if err == nil {
			fmt.Print(string(said))
		}
		return err
	}
	said, err := askCalls(ctx, config.Listen.Admin, http.MethodGet, "/calls/list", nil)
	if err != nil {
		return err
	}
	var list callList
	if err := json.Unmarshal(said, &list); err != nil {
		return err
	}
	if *raw {
		for _, c := range list.Calls {
			if err := json.NewEncoder(os.Stdout).Encode(c); err != nil {
				return err
			}
		}
		return nil
	}
	return printCalls(os.Stdout, list, time.Now())
}

// askCalls asks the admin listener.
func askCalls(ctx context.Context, address, method, path string, wish any) ([]byte, error) {
	if strings.HasPrefix(address, ":") {
		address = net.JoinHostPort("localhost", address[1:])
	}
	body, err := json.Marshal(wish)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(said)))
	}
	return said, err
}

// callList is what the admin listener tells of the live calls.
type callList struct {
	Calls []bus.LiveCall `json:"calls"`
	More  bool           `json:"more"`
	// Part: there may be others, in other processes.
	Part bool `json:"part,omitempty"`
}

// partOnly says where all calls are seen.
const partOnly = "These are the calls of this process alone: the one with the client API sees all."

// printCalls writes a table: a call, and below it a participant a line.
func printCalls(out io.Writer, list callList, now time.Time) error {
	if list.Part {
		defer fmt.Fprintln(out, partOnly)
	}
	if len(list.Calls) == 0 {
		_, err := fmt.Fprintln(out, "No call is open.")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, c := range list.Calls {
		name := c.RoomID.String()
		if name == "" {
			name = c.Name
		}
		fmt.Fprintf(table, "%s\t%d in it (%s)\tsince %s\t%s\n", name, c.Count, c.Class, ago(c.Since, now), c.Focus)
		fmt.Fprintln(table, "  WHO\tDEVICE\tSENDS\tUP\tDOWN\tLOSS\tROUND TRIP\tJITTER\tKEY FRAMES\tSINCE")
		for _, p := range c.Participants {
			who := p.UserID.String()
			if who == "" {
				who = p.Identity
			}
			fmt.Fprintf(table, "  %s\t%s\t%s\t%d kbit/s\t%d kbit/s\t%d%%\t%.0f ms\t%.0f ms\t%d\t%s\n", who, p.DeviceID, sends(p.Tracks),
				p.Up/1000, p.Down/1000, p.Loss, p.RoundTrip, p.Jitter, p.KeyAsks, ago(p.Joined, now))
		}
		if beyond := c.Count - len(c.Participants); beyond > 0 {
			fmt.Fprintf(table, "  and %d more\n", beyond)
		}
	}
	if list.More {
		fmt.Fprintln(table, "Not everything is listed: there is more than one answer holds.")
	}
	return table.Flush()
}

// sends names what somebody publishes: of pictures the heights of the layers that come.
func sends(tracks []bus.LiveTrack) string {
	var kinds []string
	for _, t := range tracks {
		kind := t.Kind
		for _, l := range t.Layers {
			if l.Alive && l.Height > 0 {
				kind += fmt.Sprintf(" %dp", l.Height)
			}
		}
		if t.Muted {
			kind += " (muted)"
		}
		kinds = append(kinds, kind)
	}
	if len(kinds) == 0 {
		return "-"
	}
	return strings.Join(kinds, ", ")
}

//go:embed live/index.html
var livePage []byte

// callKeeper is what the admin listener needs of calls.
type callKeeper struct {
	list func(ctx context.Context) (live []bus.LiveCall, more bool, err error)
	// part: list gives those of this process, and there may be others.
	part bool
	// keep is nil where no client API is.
	keep func(ctx context.Context, wish clientapi.CallWish) (string, error)
}

// ownCalls shows those of one focus process; part: it is one of several.
func ownCalls(focus *calls.Focus, part bool) *callKeeper {
	return &callKeeper{part: part, list: func(context.Context) (live []bus.LiveCall, more bool, err error) {
		live, more = focus.Calls()
		return live, more, nil
	}}
}

// routes puts the page, its list, and the wishes of the call subcommand on the admin listener.
func (k *callKeeper) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write(livePage) // who has gone away does not read
	})
	mux.HandleFunc("GET /calls/list", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		live, more, err := k.list(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(callList{Calls: live, More: more, Part: k.part}) // as above
	})
	mux.HandleFunc("POST /calls", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/json" { // see serveAccounts
			http.Error(w, "want application/json", http.StatusUnsupportedMediaType)
			return
		}
		var wish clientapi.CallWish
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&wish); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if k.keep == nil {
			http.Error(w, "this process only lists its calls: ask the one with the client API", http.StatusNotFound)
			return
		}
		said, err := k.keep(r.Context(), wish)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, said)
	})
}
