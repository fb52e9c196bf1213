package main

import (
	"context"
	"fmt"

	"chancery/storage/bus"
)

// assemble makes the chosen components with plain calls and puts them on the stack, bottom up: a reader sees who gets
// what. Nothing is changed in a component after it is made.
func (s *stack) assemble(ctx context.Context, config Config, chosen parts) error {
	messages, err := bus.Open(ctx, config.Bus)
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	s.closes("bus", messages.Close)

	return s.openDoors(ctx, config.Listen, handlers{
		health: func(context.Context) error { return nil },
	})
}
