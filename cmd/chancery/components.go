package main

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"chancery/clientapi"
	"chancery/storage"
	"chancery/storage/bus"
)

// assemble makes the chosen components with plain calls and puts them on the stack, bottom up: a reader sees who gets
// what. Nothing is changed in a component after it is made.
func (s *stack) assemble(ctx context.Context, config Config, chosen parts) error {
	log := *zerolog.Ctx(ctx)

	unlock, err := dataFolder(config)
	if err != nil {
		return err
	}
	s.closes("data folder", unlock)

	messages, err := bus.Open(ctx, config.Bus)
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	s.closes("bus", messages.Close)

	if !config.onPostgres() {
		config.Storage.Database = config.inData(config.Storage.Database)
	}
	store, err := storage.Open(ctx, config.Storage, messages)
	if err != nil {
		return err
	}
	s.closes("storage", func() {
		if err := store.Close(); err != nil {
			log.Error().Err(err).Msg("Storage did not close well")
		}
	})

	behind := handlers{health: func(context.Context) error { return nil }}
	if chosen.has("client") {
		config.Client.ServerName = config.ServerName
		client, err := clientapi.New(config.Client, log)
		if err != nil {
			return fmt.Errorf("client API: %w", err)
		}
		behind.client = client
	}
	return s.openDoors(ctx, config.Listen, behind)
}
