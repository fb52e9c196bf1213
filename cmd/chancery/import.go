package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"chancery/clientapi"
)

const importUsage = `chancery account import [flags] FILE      make accounts that come from another server

FILE has one account a line, as JSON; - is standard input. Whoever has an account here already is left as they are.

    {"name":"anna","password_hash":"$2b$12$...","display_name":"Anna","emails":["anna@example.org"],"external_ids":{"staff":"4711"}}

`

const (
	// importBatch bounds the lines that are sent at once, in bytes, and maxImport one of them.
	importBatch = 32 << 10
	maxImport   = 16 << 10
)

// importCommand has accounts made, some at a time, at the running server or in the database when none runs.
func importCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("account import", flag.ContinueOnError)
	path := configFlag(flags)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), importUsage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return errors.New("want: account import [flags] FILE")
	}
	config, err := readConfig(*path)
	if err != nil {
		return err
	}
	in := io.Reader(os.Stdin)
	if name := flags.Arg(0); name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	return importFrom(in, func(lines string) error {
		wish := accountWish{Do: "import", Lines: lines}
		said, err := askAdmin(ctx, config.Listen.Admin, wish)
		if errors.Is(err, syscall.ECONNREFUSED) || config.Listen.Admin == "" {
			said, err = keepAlone(ctx, config, wish)
		}
		if said != "" {
			fmt.Println(said)
		}
		return err
	})
}

// importFrom sends the lines on, as many at once as fit.
func importFrom(in io.Reader, send func(lines string) error) error {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, maxImport)
	var batch strings.Builder
	flush := func() error {
		if batch.Len() == 0 {
			return nil
		}
		defer batch.Reset()
		return send(batch.String())
	}
	for scanner.Scan() {
		line := strings.TrimSpace(scanner.Text())
		if line == "" {
			continue
		}
		if batch.Len()+len(line) > importBatch {
			if err := flush(); err != nil {
				return err
			}
		}
		batch.WriteString(line + "\n")
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read accounts: %w", err)
	}
	return flush()
}

// importAccounts makes the accounts of these lines, and says how each went that is not simply made. One that cannot be made
// does not keep the others from it.
func importAccounts(ctx context.Context, client *clientapi.Server, lines string) (string, error) {
	made, known := 0, 0
	var failed []string
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		var one clientapi.Imported
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&one); err != nil {
			failed = append(failed, fmt.Sprintf("a line that cannot be read: %v", err))
			continue
		}
		_, err := client.Accounts().Import(ctx, one)
		switch {
		case err == nil:
			made++
		case clientapi.IsTaken(err):
			known++
		case ctx.Err() != nil:
			return "", ctx.Err()
		default:
			failed = append(failed, fmt.Sprintf("%s: %v", one.Name, err))
		}
	}
	said := fmt.Sprintf("%d accounts made, %d there already, %d failed", made, known, len(failed))
	return strings.Join(append(failed, said), "\n"), nil
}
