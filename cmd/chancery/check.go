package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"chancery/federation"
)

// checkCommand reads the configuration as serve would, and says what it understood.
func checkCommand(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	path := configFlag(flags)
	only := flags.String("only", "", "check for `parts` alone, as serve takes them: "+strings.Join(allParts, ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, chosen, err := readParts(flags, *path, *only)
	if err != nil {
		return err
	}
	if config.Listen.Certificate != "" {
		if _, err := (&certificate{certFile: config.Listen.Certificate, keyFile: config.Listen.Key}).tlsConfig(); err != nil {
			return err
		}
	}
	fmt.Printf("%s: good. %s would run %s.\n", *path, config.ServerName, strings.Join(chosen, ", "))
	return nil
}

// keygenCommand makes a signing key file, for who wants it before the first start.
func keygenCommand(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("keygen", flag.ContinueOnError)
	out := flags.String("out", "signing.key", "write the key to this `file`, which must not exist")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if _, err := os.Lstat(*out); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is there already", *out)
	}
	// The name of the server is no part of the file.
	_, err := federation.LoadKeys("localhost", *out)
	return err
}
