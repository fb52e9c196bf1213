package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/rs/zerolog"

	"chancery/calls"
	"chancery/clientapi"
	"chancery/federation"
	"chancery/roomserver"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// assemble makes the chosen components with plain calls and puts them on the stack, bottom up: a reader sees who gets
// what. Nothing is changed in a component after it is made. It returns what is to stand behind the doors.
func (s *stack) assemble(ctx context.Context, config Config, chosen parts) (behind handlers, err error) {
	log := *zerolog.Ctx(ctx)
	behind.health = func(context.Context) error { return nil }
	if config.Calls.Standalone {
		return s.assembleFocus(ctx, config)
	}

	unlock, err := dataFolder(config)
	if err != nil {
		return behind, err
	}
	s.closes("data folder", unlock)

	messages, err := bus.Open(ctx, config.Bus)
	if err != nil {
		return behind, fmt.Errorf("bus: %w", err)
	}
	s.closes("bus", messages.Close)

	if !config.onPostgres() {
		config.Storage.Database = config.inData(config.Storage.Database)
	}
	store, err := storage.Open(ctx, config.Storage, messages)
	if err != nil {
		return behind, err
	}
	s.closes("storage", func() {
		if err := store.Close(); err != nil {
			log.Error().Err(err).Msg("Storage did not close well")
		}
	})

	switch owner, err := store.Secrets.ServerName(ctx, config.ServerName); {
	case err != nil:
		return behind, err
	case owner != config.ServerName:
		return behind, fmt.Errorf("server_name is %s, but the database is of %s: the name of a server can never be changed", config.ServerName, owner)
	}

	files, err := blobs.Open(config.inData(config.Media))
	if err != nil {
		return behind, err
	}
	behind.health = func(ctx context.Context) error { return cmp.Or(store.Healthy(ctx), messages.Away()) }
	behind.peers = servePeers(messages)

	keys, err := federation.LoadKeys(config.ServerName, config.inData(config.SigningKey))
	if err != nil {
		return behind, err
	}

	if chosen.has("rooms") {
		keyID, key := keys.Current()
		rooms := roomserver.New(config.Rooms, store, messages, pdu.Signer{ServerName: config.ServerName, KeyID: keyID, Key: key})
		s.run("rooms", rooms.Run)
	}
	if chosen.has("federation") {
		config.Federation.Calls = config.Calls.Enabled
		federated, err := federation.New(config.Federation, keys, store, files, messages, log)
		if err != nil {
			return behind, fmt.Errorf("federation: %w", err)
		}
		s.run("federation", federated.Run)
		behind.federation = federated.Handler()
	}
	var focus *calls.Focus
	if chosen.has("calls") && config.Calls.Enabled {
		config.Calls.RelayAddress, config.Calls.TURN.TLSPort = config.relayAddress(), config.turnTLSPort()
		config.Calls.TrustForwardedFor = config.Client.HTTP.TrustForwardedFor
		config.Calls.Told = config.foci()[0]
		config.Calls.AllowedServers = config.Federation.Remote.AllowedServers
		if config.Calls.URL == "" && config.Client.PublicURL != "" {
			config.Calls.URL = config.Calls.Told
		}
		if focus, err = calls.New(ctx, config.Calls, config.ServerName, store, messages); err != nil {
			return behind, err
		}
		focus.OnCrowd(tuneGarbage)
		s.run("calls", focus.Run)
		behind.client = focus.Handler()
		if config.Calls.ServiceListen != "" {
			behind.service, behind.serviceListen = focus.ServiceHandler(), config.Calls.ServiceListen
		}
		behind.drain = serveDrain(focus)
		behind.calls = ownCalls(focus, true) // until a client API is here too, which sees all foci
		behind.turn, behind.turnName = focus.ServeTURN, config.Calls.TURN.Host
		behind.webName = hostOf(config.foci()[0])
	}
	if chosen.has("client") {
		config.Client.ServerName = config.ServerName
		config.Client.Foci = config.foci()
		client, err := clientapi.New(config.Client, store, files, messages, log)
		if err != nil {
			return behind, fmt.Errorf("client API: %w", err)
		}
		s.run("client API", client.Run)
		behind.client = beside(config.Calls.Path, focus, client)
		behind.keepAccounts = keeper(client)
		behind.calls = &callKeeper{list: client.Admin().ListCalls, keep: client.Admin().KeepCalls}
		behind.exportAccount = client.Accounts().Export
	}
	return behind, nil
}

// hostOf is the name or address in a URL; empty where there is none.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// beside puts the focus, where this process has one, on the client door beside the client API.
func beside(path string, focus *calls.Focus, client http.Handler) http.Handler {
	if focus == nil {
		return client
	}
	calls := focus.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // no mux, which would redirect what has two slashes
		if r.URL.Path == path || strings.HasPrefix(r.URL.Path, path+"/") {
			calls.ServeHTTP(w, r)
			return
		}
		client.ServeHTTP(w, r)
	})
}

// assembleFocus makes the call focus alone, without a homeserver.
func (s *stack) assembleFocus(ctx context.Context, config Config) (behind handlers, err error) {
	config.Calls.TURN.TLSPort = config.turnTLSPort()
	focus, err := calls.NewStandalone(ctx, config.Calls)
	if err != nil {
		return behind, err
	}
	focus.OnCrowd(tuneGarbage)
	s.run("calls", focus.Run)
	return handlers{
		client: focus.Handler(), turn: focus.ServeTURN, turnName: config.Calls.TURN.Host, health: func(context.Context) error { return nil },
		calls: ownCalls(focus, false),
	}, nil
}
