// Command chancery is a Matrix homeserver with a call focus inside.
//
// This package assembles the components and owns nothing else: the configuration they are given (config.go), who is
// handed what (components.go), the order in which they start and stop (serve.go), and the subcommands around them.
// Components never learn whether they run in one process or in several; that is decided here alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"
)

// subcommand is one verb of the command line. run gets what follows the verb.
type subcommand struct {
	name, does string
	run        func(ctx context.Context, args []string) error
}

// subcommands in the order in which usage shows them.
func subcommands() []subcommand {
	return []subcommand{
		{"serve", "run the homeserver, or with --only some of its components", serveCommand},
		{"check", "read the configuration, say what is wrong with it, start nothing", checkCommand},
		{"account", "make, list and close accounts, reset a password, make a registration token", accountCommand},
		{"room", "list rooms, delete one", roomCommand},
		{"focus", "ready a process of the call focus for its end", focusCommand},
		{"call", "list the calls that are open, end, lock and mute them", callCommand},
		{"federation", "how it stands with other servers", federationCommand},
		{"keygen", "make a signing key", keygenCommand},
		{"demo", "two ministries on this machine, to try things out", demoCommand},
	}
}

func main() {
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "chancery:", err)
		os.Exit(1)
	}
}

// run finds the verb and hands it the rest of the line.
func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		usage(os.Stderr)
		return errors.New("which of these?")
	}
	for _, command := range subcommands() {
		if command.name == args[0] {
			return command.run(ctx, args[1:])
		}
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(os.Stdout)
		return nil
	}
	usage(os.Stderr)
	return fmt.Errorf("no subcommand %q", args[0])
}

func usage(w io.Writer) {
	fmt.Fprint(w, "chancery: a Matrix homeserver with a call focus inside\n\n")
	for _, command := range subcommands() {
		fmt.Fprintf(w, "  chancery %-10s %s\n", command.name, command.does)
	}
	fmt.Fprint(w, "\n  chancery SUBCOMMAND -h lists its flags.\n\n")
}

// configFlag adds the flag that all subcommands with a configuration share.
func configFlag(flags *flag.FlagSet) *string {
	return flags.String("config", "chancery.yaml", "the configuration `file`; config.sample.yaml describes every key")
}
