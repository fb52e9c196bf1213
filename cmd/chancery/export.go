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
	"os"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
)

// exportAccount writes all that is held of an account into one archive.
type exportAccount func(ctx context.Context, name string, w io.Writer) error

const exportUsage = `chancery account export [flags] NAME      write all that this server holds of somebody into a zip archive

`

// exportCommand asks the running server for the archive, or makes it from the database when none runs.
func exportCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("account export", flag.ContinueOnError)
	path := configFlag(flags)
	out := flags.String("out", "", "the `file` to write, which must not exist yet; default NAME.zip")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), exportUsage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return errors.New("want: account export [flags] NAME")
	}
	name := flags.Arg(0)
	if *out == "" {
		local, _, _ := strings.Cut(strings.TrimPrefix(name, "@"), ":")
		*out = strings.ReplaceAll(local, "/", "_") + ".zip"
	}
	config, err := readConfig(*path)
	if err != nil {
		return err
	}
	if err := exportTo(ctx, config, name, *out); err != nil {
		return err
	}
	fmt.Println(*out)
	return nil
}

// exportTo writes the archive to a file, which nobody but who asked for it may read.
func exportTo(ctx context.Context, config Config, name, out string) error {
	file, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fetchExport(ctx, config.Listen.Admin, name, file)
	if errors.Is(err, syscall.ECONNREFUSED) || config.Listen.Admin == "" {
		err = exportAlone(ctx, config, name, file)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(out))
	}
	return nil
}

// fetchExport has the running server write it.
func fetchExport(ctx context.Context, address, name string, w io.Writer) error {
	if address == "" {
		return nil
	}
	if strings.HasPrefix(address, ":") {
		address = net.JoinHostPort("localhost", address[1:])
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/accounts/export?"+url.Values{"name": {name}}.Encode(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
		return errors.New(strings.TrimSpace(string(raw)))
	}
	_, err = io.Copy(w, answer.Body)
	return err
}

// exportAlone opens the database, writes it, and closes the database again.
func exportAlone(ctx context.Context, config Config, name string, w io.Writer) error {
	log := config.logger(os.Stderr)
	ctx = log.WithContext(ctx)
	s := newStack(ctx)
	defer s.stop(stopPatience)
	behind, err := s.assemble(ctx, config, parts{"client"})
	if err != nil {
		return err
	}
	return behind.exportAccount(ctx, name, w)
}

// serveExport handles POST /accounts/export of the admin listener. Like serveAccounts it wants the content type that a
// foreign page in the administrator's browser cannot send without being asked first.
func serveExport(export exportAccount) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "want application/json", http.StatusUnsupportedMediaType)
			return
		}
		begun := &beginning{w: w}
		if err := export(r.Context(), r.URL.Query().Get("name"), begun); err != nil {
			if begun.begun {
				zerolog.Ctx(r.Context()).Warn().Err(err).Msg("An export broke off")
				panic(http.ErrAbortHandler) // so that nobody takes half of it for the whole
			}
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
}

// beginning knows whether anything was written.
type beginning struct {
	w     http.ResponseWriter
	begun bool
}

func (b *beginning) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.w.Header().Set("Content-Type", "application/zip")
	}
	return b.w.Write(p)
}
