package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

const (
	// doorPatience is how long requests under way may still take once a door closes.
	doorPatience = 4 * time.Second
	// pollPatience is how long they may take before their contexts end: long polls answer then.
	pollPatience = 500 * time.Millisecond
	// certificateAge is how often the certificate's file is looked at.
	certificateAge = time.Minute
)

// door is one HTTP listener.
type door struct {
	name     string
	listener net.Listener
	server   *http.Server
	cancel   context.CancelFunc
}

// openDoor listens on an address. The listener exists when it returns, so that whoever starts the process may connect.
// wrap makes what the door accepts from; nil: the listener itself.
func openDoor(ctx context.Context, name, address string, handler http.Handler, wrap func(net.Listener) net.Listener) (*door, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s listener: %w", name, err)
	}
	if wrap != nil {
		listener = wrap(listener)
	}
	log := zerolog.Ctx(ctx).With().Str("door", name).Logger()
	base, cancel := context.WithCancel(log.WithContext(context.WithoutCancel(ctx)))
	return &door{name: name, listener: listener, cancel: cancel, server: &http.Server{
		Handler:           bounded(handler, unreadPatience),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          stdlog.New(connectionLog{log}, "", 0),
	}}, nil
}

// Run serves until ctx ends, and then until the requests under way are answered or their patience is used up.
func (d *door) Run(ctx context.Context) error {
	zerolog.Ctx(ctx).Info().Str("door", d.name).Stringer("address", d.listener.Addr()).Msg("Door open")
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(d.listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	defer time.AfterFunc(pollPatience, d.cancel).Stop()
	defer d.cancel()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), doorPatience)
	defer cancel()
	if err := d.server.Shutdown(drain); err != nil {
		return errors.Join(err, d.server.Close())
	}
	return nil
}

// certificate serves the key pair of two files, and reads them again when they have changed.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	pair    *tls.Certificate
	read    time.Time // modification time of the file that pair came from
	checked time.Time
}

// tlsConfig reads the pair once, so that a wrong file is an error at start.
func (c *certificate) tlsConfig() (*tls.Config, error) {
	if _, err := c.current(time.Now()); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current(time.Now())
		},
	}, nil
}

func (c *certificate) current(now time.Time) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != nil && now.Sub(c.checked) < certificateAge {
		return c.pair, nil
	}
	c.checked = now
	info, err := os.Stat(c.certFile)
	if err == nil && c.pair != nil && info.ModTime().Equal(c.read) {
		return c.pair, nil
	}
	pair, pairErr := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err == nil {
		err = pairErr
	}
	if err != nil {
		if c.pair != nil {
			return c.pair, nil // half-written files: the old pair serves until they are whole
		}
		return nil, fmt.Errorf("listen.certificate and listen.key: %w", err)
	}
	c.pair, c.read = &pair, info.ModTime()
	return c.pair, nil
}

// adminHandler serves those who watch and measure: metrics, health, profiles, peers; and whoever may keep accounts without
// asking. Never to be reached from outside.
func adminHandler(behind handlers) http.Handler {
	mux := http.NewServeMux()
	elsewhere := func(pattern, what string) { // what the subcommands ask for, where it is not
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "this process has no "+what+": -config has to name the configuration of one that has", http.StatusNotFound)
		})
	}
	if behind.peers != nil {
		mux.HandleFunc("GET /federation", behind.peers)
	}
	if behind.drain != nil {
		mux.HandleFunc("POST /calls/drain", behind.drain)
	} else {
		elsewhere("POST /calls/drain", "call focus")
	}
	if behind.calls != nil {
		behind.calls.routes(mux)
	} else {
		elsewhere("/calls", "client API")
		elsewhere("GET /calls/list", "client API")
	}
	if behind.keepAccounts != nil {
		mux.HandleFunc("POST /accounts", serveAccounts(behind.keepAccounts))
		mux.HandleFunc("POST /accounts/export", serveExport(behind.exportAccount))
	} else {
		elsewhere("POST /accounts", "client API")
		elsewhere("POST /accounts/export", "client API")
	}
	mux.Handle("GET /metrics", promhttp.Handler())
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if err := behind.health(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// connectionLog takes what net/http would print: broken handshakes and the like, of interest to us only.
type connectionLog struct{ log zerolog.Logger }

func (c connectionLog) Write(line []byte) (int, error) {
	c.log.Debug().Msg(strings.TrimSpace(string(line)))
	return len(line), nil
}
