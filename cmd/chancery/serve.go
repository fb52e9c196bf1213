package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// stopPatience bounds a graceful stop, all components together.
const stopPatience = 9 * time.Second

// parts are the components that one process may run.
type parts []string

// allParts is what serve runs without --only. The last ones belong to client until they are processes of their own.
var allParts = parts{"rooms", "client", "federation", "calls"}

func (p parts) has(name string) bool { return slices.Contains(p, name) }

// serveCommand runs the homeserver until a signal comes.
func serveCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	path := configFlag(flags)
	only := flags.String("only", "", "run these `parts` alone, parted by commas: "+strings.Join(allParts, ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, chosen, err := readParts(flags, *path, *only)
	if err != nil {
		return err
	}
	log := config.logger(os.Stderr)
	return serve(log.WithContext(ctx), config, chosen)
}

// readParts reads the configuration and the chosen parts, as serve and check do once their flags are parsed.
func readParts(flags *flag.FlagSet, path, only string) (config Config, chosen parts, err error) {
	if flags.NArg() > 0 { // a forgotten -only would run everything
		return config, nil, fmt.Errorf("%s takes flags alone, and no %q: the parts to run stand behind -only, the configuration behind -config", flags.Name(), flags.Arg(0))
	}
	if config, err = readConfig(path); err != nil {
		return config, nil, err
	}
	if chosen, err = chooseParts(only); err != nil {
		return config, nil, err
	}
	return config, chosen, config.checkParts(chosen)
}

// chooseParts reads the value of --only.
func chooseParts(only string) (parts, error) {
	if only == "" {
		return allParts, nil
	}
	var chosen parts
	for name := range strings.SplitSeq(only, ",") {
		name = strings.TrimSpace(name)
		if !allParts.has(name) {
			return nil, errors.New("--only knows " + strings.Join(allParts, ", ") + ", not " + name)
		}
		chosen = append(chosen, name)
	}
	return chosen, nil
}

// serve starts the chosen parts bottom up, waits for ctx to end or for one of them to fail, and stops them in reverse.
func serve(ctx context.Context, config Config, chosen parts) error {
	log := zerolog.Ctx(ctx)
	begun := time.Now()
	tuneGarbage(0)
	s := newStack(ctx)
	defer func() { s.stop(stopPatience) }()
	behind, err := s.assemble(ctx, config, chosen)
	if err != nil {
		return err
	}
	if err := s.openDoors(ctx, config.Listen, behind); err != nil {
		return err
	}
	log.Info().Str("server_name", config.ServerName).Strs("parts", chosen).Dur("took", time.Since(begun)).Msg("Chancery is up")
	if err = s.wait(ctx); err != nil {
		log.Error().Err(err).Msg("A component failed, stopping")
	} else {
		log.Info().Msg("Stopping")
	}
	s.stop(stopPatience)
	return err
}

// handlers are what stands behind the doors; nil for a door that this process has not.
type handlers struct {
	client, federation http.Handler
	// health says whether the process can do its work.
	health func(ctx context.Context) error
	// keepAccounts keeps accounts for administrators; nil where there is no client API.
	keepAccounts keepAccounts
	// exportAccount goes with it.
	exportAccount exportAccount
	// peers tells administrators of other servers; nil without a homeserver.
	peers http.HandlerFunc
	// turn serves connections that speak TURN; nil where this process has no focus. turnName is the name that they ask for.
	turn     func(net.Conn)
	turnName string
	// webName is the name of what HTTPS serves.
	webName string
	// drain readies the call focus for its end; nil where this process has none.
	drain http.HandlerFunc
	// service is the calls' room service on an address of its own; nil where it has none.
	service       http.Handler
	serviceListen string
	// calls shows and keeps the live calls; nil where there are none.
	calls *callKeeper
}

// both is the client API and, where it is in this process, the federation API beside it, for proxies that have one address for
// both. What comes there is authenticated as it is at the federation's own door.
func (h handlers) both() http.Handler {
	if h.client == nil || h.federation == nil {
		return h.client
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_matrix/federation/") || strings.HasPrefix(r.URL.Path, "/_matrix/key/") {
			h.federation.ServeHTTP(w, r)
			return
		}
		h.client.ServeHTTP(w, r)
	})
}

// openDoors adds the listeners: all of them listen before the first one serves.
func (s *stack) openDoors(ctx context.Context, listen Listen, behind handlers) error {
	var federation, both func(net.Listener) net.Listener
	if listen.Certificate != "" {
		secure, err := (&certificate{certFile: listen.Certificate, keyFile: listen.Key}).tlsConfig()
		if err != nil {
			return err
		}
		federation = func(l net.Listener) net.Listener { return tls.NewListener(l, secure) }
		both = func(l net.Listener) net.Listener {
			return newSplitter(l, secure, behind.webName, behind.turnName, behind.turn)
		}
	}
	var nothing http.Handler // is what HTTP finds at TURN's own door
	if behind.turn != nil {
		nothing = http.NotFoundHandler()
	}
	var doors []*door
	for _, way := range []struct {
		name, address string
		handler       http.Handler
		wrap          func(net.Listener) net.Listener
	}{
		{"admin", listen.Admin, adminHandler(behind), nil},
		{"federation", listen.Federation, behind.federation, federation},
		{"TURN", listen.TURNS, nothing, both},
		{"secure", listen.Secure, overTLS(behind.both()), both},
		{"client", listen.Client, behind.both(), nil},
		{"room service", behind.serviceListen, behind.service, nil},
	} {
		if way.address == "" || way.handler == nil {
			continue
		}
		d, err := openDoor(ctx, way.name, way.address, way.handler, way.wrap)
		if err != nil {
			for _, opened := range doors {
				err = errors.Join(err, opened.listener.Close())
			}
			return err
		}
		doors = append(doors, d)
	}
	for _, d := range doors {
		s.run(d.name+" door", d.Run)
	}
	return nil
}
