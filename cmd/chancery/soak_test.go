package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// TestSoak lets people of two servers talk in shared rooms for as long as CHANCERY_SOAK says, while the servers are stopped
// and started now and then: at the end everybody has seen every message once, and both servers hold the same state.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("CHANCERY_SOAK"))
	if err != nil {
		t.Skip("CHANCERY_SOAK names no duration; `make soak` does")
	}
	const people, rooms = 3, 3
	houses := openHouses(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
	var clients []*mautrix.Client
	var ears []*listener
	for _, house := range houses {
		for n := range people {
			client := house.person(fmt.Sprintf("person%d", n))
			clients, ears = append(clients, client), append(ears, listen(t, client))
		}
	}
	var shared []id.RoomID
	for n := range rooms {
		room := must(clients[n%len(clients)].CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
		for _, client := range clients {
			must(client.JoinRoom(t.Context(), room.String(), &mautrix.ReqJoinRoom{Via: []string{houses[0].config.ServerName, houses[1].config.ServerName}}))(t, "join")
		}
		shared = append(shared, room)
	}

	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	said := make([]map[string]id.RoomID, len(clients)) // what each has said, and where
	var speaking sync.WaitGroup
	for i, client := range clients {
		said[i] = map[string]id.RoomID{}
		speaking.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				room := shared[rand.IntN(len(shared))]
				text := fmt.Sprintf("%s says %d", client.UserID, n)
				sendSurely(t, client, room, text)
				said[i][text] = room
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(20+rand.IntN(100)) * time.Millisecond):
				}
			}
		})
	}
	restarts := time.NewTicker(20 * time.Second)
	defer restarts.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case <-ctx.Done():
		case <-restarts.C:
			houses[n%2].close()
			houses[n%2].open()
		}
	}
	speaking.Wait()

	all := map[string]id.RoomID{}
	for _, one := range said {
		maps.Copy(all, one)
	}
	t.Logf("%d messages by %d people in %d rooms", len(all), len(clients), rooms)
	for _, ear := range ears {
		for text, room := range all {
			ear.untilText(room, text)
		}
		times := map[string]int{}
		for _, ev := range ear.seen {
			if ev.Type == event.EventMessage {
				times[ev.Content.AsMessage().Body]++
			}
		}
		for text, n := range times {
			if n != 1 {
				t.Errorf("%s saw %q %d times, want once", ear.client.UserID, text, n)
			}
		}
	}
	for _, room := range shared {
		one, two := stateIDs(t, clients[0], room), stateIDs(t, clients[people], room)
		if !slices.Equal(one, two) {
			t.Errorf("state of %s differs:\n%s: %v\n%s: %v", room, houses[0].config.ServerName, one, houses[1].config.ServerName, two)
		}
	}
}

// stateIDs lists the events of a room's current state, as one person's server holds it.
func stateIDs(t *testing.T, client *mautrix.Client, room id.RoomID) (ids []id.EventID) {
	t.Helper()
	for _, ev := range must(client.StateAsArray(t.Context(), room))(t, "state") {
		ids = append(ids, ev.ID)
	}
	slices.Sort(ids)
	return ids
}
