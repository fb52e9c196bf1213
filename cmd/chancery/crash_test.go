package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// TestCrash kills a whole server under load, again and again: what it has acknowledged is there exactly once, and the
// retries of what it has not are not doubled. It is usable again within ten seconds.
func TestCrash(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		const speakers, shared, rounds = 6, 3, 3
		config := testConfigs(t, database, "interior.test")[0]
		server := newProcess(t, config, "")
		server.start()
		var people []*mautrix.Client
		for n := range speakers {
			people = append(people, signIn(t, config.Client.PublicURL, fmt.Sprintf("speaker%d", n)))
		}
		var rooms []id.RoomID
		for range shared {
			room := must(people[0].CreateRoom(t.Context(), &mautrix.ReqCreateRoom{Preset: "public_chat"}))(t, "create room").RoomID
			for _, who := range people[1:] {
				must(who.JoinRoomByID(t.Context(), room))(t, "join")
			}
			rooms = append(rooms, room)
		}

		quit := make(chan struct{})
		said := make([]map[id.RoomID][]string, speakers)
		var speaking sync.WaitGroup
		for i, who := range people {
			said[i] = map[id.RoomID][]string{}
			speaking.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-quit:
						return
					default:
					}
					room := rooms[rand.IntN(len(rooms))]
					text := fmt.Sprintf("%s %06d", who.UserID.Localpart(), n)
					sendSurely(t, who, room, text)
					said[i][room] = append(said[i][room], text)
				}
			})
		}
		for range rounds {
			time.Sleep(time.Duration(300+rand.IntN(500)) * time.Millisecond) // load, up to a random moment
			server.kill()
			begun := time.Now()
			server.start()
			if _, err := people[0].Whoami(t.Context()); err != nil {
				t.Errorf("after the crash: %v", err)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("usable again after %v, want at most 10s", took)
			}
		}
		close(quit)
		speaking.Wait()

		total := 0
		for _, room := range rooms {
			stored := map[string][]string{}
			for _, text := range historyBy(t, people[0], room, 500) {
				name, _, _ := strings.Cut(text, " ")
				stored[name] = append(stored[name], text)
			}
			for i, who := range people {
				sameTexts(t, fmt.Sprintf("%s has of %s", room, who.UserID), stored[who.UserID.Localpart()], said[i][room])
				total += len(said[i][room])
				delete(stored, who.UserID.Localpart())
			}
			if len(stored) > 0 {
				t.Errorf("%s has messages that nobody sent: %v", room, stored)
			}
		}
		t.Logf("%d messages over %d crashes", total, rounds)
	})
}
