package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"strings"
)

// checkCommand reads the configuration as serve would, and says what it understood.
func checkCommand(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	path := configFlag(flags)
	only := flags.String("only", "", "check for `parts` alone, as serve takes them: "+strings.Join(allParts, ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := readConfig(*path)
	if err != nil {
		return err
	}
	chosen, err := chooseParts(*only)
	if err != nil {
		return err
	}
	if err := config.checkParts(chosen); err != nil {
		return err
	}
	fmt.Printf("%s: good. %s would run %s.\n", *path, config.ServerName, strings.Join(chosen, ", "))
	return nil
}

// keygenCommand makes a signing key file in the form that the federation uses everywhere: "ed25519 ID SEED".
func keygenCommand(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("keygen", flag.ContinueOnError)
	out := flags.String("out", "", "write the key to this `file`, which must not exist; without it the key is printed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	line, err := newSigningKey()
	if err != nil {
		return err
	}
	if *out == "" {
		fmt.Print(line)
		return nil
	}
	file, err := os.OpenFile(*out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := file.WriteString(line); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

// newSigningKey makes a key with a random ID, as one line of a key file.
func newSigningKey() (string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	return "ed25519 a_" + rand.Text()[:6] + " " + base64.RawStdEncoding.EncodeToString(private.Seed()) + "\n", nil
}
