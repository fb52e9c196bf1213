package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestStackStopsInReverse holds that what stands on something has ended before that something is told to.
func TestStackStopsInReverse(t *testing.T) {
	var mu sync.Mutex
	var ended []string
	end := func(name string) { mu.Lock(); ended = append(ended, name); mu.Unlock() }

	s := newStack(t.Context())
	s.closes("bus", func() { end("bus") })
	for _, name := range []string{"rooms", "door"} {
		s.run(name, func(ctx context.Context) error {
			<-ctx.Done()
			end(name)
			return ctx.Err()
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.wait(ctx); err != nil {
		t.Errorf("wait after a signal: got %v, want nil", err)
	}
	s.stop(time.Minute)
	if want := []string{"door", "rooms", "bus"}; !slices.Equal(ended, want) {
		t.Errorf("ended %v, want %v", ended, want)
	}
}

// TestStackFails ends the wait when a component ends by itself, with its name and error.
func TestStackFails(t *testing.T) {
	s := newStack(t.Context())
	s.run("rooms", func(context.Context) error { return errors.New("lease lost") })
	if err := s.wait(t.Context()); err == nil || err.Error() != "rooms: lease lost" {
		t.Errorf("got %v, want rooms: lease lost", err)
	}
	s.stop(time.Minute)
}

// TestStackIsImpatient goes on without a component that does not stop.
func TestStackIsImpatient(t *testing.T) {
	s := newStack(t.Context())
	closed := make(chan struct{})
	s.closes("storage", func() { close(closed) })
	s.run("stuck", func(context.Context) error { select {} })
	s.stop(10 * time.Millisecond)
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("storage was not closed behind a component that hangs")
	}
}

// TestDoorLetsPollsGo holds that a long poll is answered when the door closes, and does not hold the stop up.
func TestDoorLetsPollsGo(t *testing.T) {
	inside := make(chan struct{})
	d, err := openDoor(t.Context(), "test", "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
		_, _ = io.WriteString(w, "nothing new")
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newStack(t.Context())
	s.run("door", d.Run)
	answers := make(chan string, 1)
	go func() {
		answer, err := http.Get("http://" + d.listener.Addr().String())
		if err != nil {
			answers <- err.Error()
			return
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		answers <- string(text)
	}()
	<-inside
	begun := time.Now()
	s.stop(stopPatience)
	if took := time.Since(begun); took > doorPatience {
		t.Errorf("the door took %v to close, want less than %v", took, doorPatience)
	}
	if got := <-answers; !strings.Contains(got, "nothing new") {
		t.Errorf("the long poll got %q, want its answer", got)
	}
}
