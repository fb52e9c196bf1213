package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// netem is set in the environment of a process whose loopback the kernel makes bad.
const netem = "CHANCERY_TEST_NETEM"

// TestBadLinks: three servers over links with 100 ms delay and two packets in a hundred lost, one of them cut off for a while: all
// messages arrive everywhere, once and in their senders' order, and all three agree on the state.
func TestBadLinks(t *testing.T) {
	bad := weather{delay: 100 * time.Millisecond, stall: 0.02, reset: 0.002}
	switch {
	case os.Getenv(netem) != "":
		t.Log("links: netem on the loopback of a namespace")
		bad = weather{}
	case kernelCan():
		again := exec.Command("unshare", "-rn", "sh", "-c", onLoopback+` && exec "$0" "$@"`, os.Args[0], "-test.run", "^TestBadLinks$", "-test.v")
		again.Env = append(os.Environ(), netem+"=1")
		out, err := again.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	default:
		t.Log("links: a relay that delays, stalls at random for 200 to 800 ms, and breaks connections (no netem here)")
	}
	for _, cut := range []time.Duration{5 * time.Second, time.Minute} {
		t.Run(fmt.Sprint("cut for ", cut), func(t *testing.T) {
			t.Parallel()
			badLinks(t, bad, cut)
		})
	}
}

// onLoopback makes a namespace's loopback bad: both ways pass it, so each gets the whole delay.
const onLoopback = "ip link set lo up && tc qdisc add dev lo root netem delay 100ms loss 2%"

// kernelCan says whether namespaces and netem may be had.
func kernelCan() bool { return exec.Command("unshare", "-rn", "sh", "-c", onLoopback).Run() == nil }

func badLinks(t *testing.T, bad weather, cut time.Duration) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	names := []string{"one.example", "two.example", "three.example"}
	w := newTown(t, names...)
	w.change = func(cfg *config) { cfg.Sender.LastRetry = 10 * time.Second }
	relays := map[string]map[string]*relay{}
	houses := map[string]*house{}
	for i, from := range names {
		relays[from] = map[string]*relay{}
		via := map[string]string{}
		for k, to := range names {
			if to != from {
				relays[from][to] = newRelay(t, w.hosts[to], bad, seed+uint64(3*i+k))
				via[to] = relays[from][to].address()
			}
		}
		houses[from] = w.openVia(from, via)
	}
	one, two, three := houses[names[0]], houses[names[1]], houses[names[2]]
	alice, bob, carol := one.account("alice"), two.account("bob"), three.account("carol")
	room := one.room(id.RoomV11, alice, "public")
	two.joinStubbornly(room, bob, one)
	three.joinStubbornly(room, carol, one)
	for _, h := range []*house{one, two, three} {
		h.waitLong("all three", func() bool {
			return h.membership(room, bob) == "join" && h.membership(room, carol) == "join" && h.membership(room, alice) == "join"
		})
	}
	one.set(room, alice, "m.room.power_levels", "", `{"users":{"`+string(alice)+`":100,"`+string(bob)+`":60,"`+string(carol)+`":60}}`)
	for _, h := range []*house{two, three} {
		h.waitLong("the power levels", func() bool {
			e, err := h.store.State.Current(t.Context(), room, pdu.Key{Type: "m.room.power_levels"})
			return err == nil && e != nil && strings.Contains(string(e.JSON), ":60")
		})
	}

	// All speak, also while one is cut off; the state is changed on both sides; and messages go to devices.
	const pace = 250 * time.Millisecond
	quiet := make(chan struct{})
	var wait sync.WaitGroup
	said := make([][]string, 3)
	for i, speaker := range []struct {
		*house
		user id.UserID
	}{{one, alice}, {two, bob}, {three, carol}} {
		wait.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for n := 0; ; n++ {
				text := fmt.Sprintf("%s %05d", speaker.name, n)
				speaker.say(room, speaker.user, text)
				said[i] = append(said[i], text)
				if n%7 == 3 {
					speaker.set(room, speaker.user, "m.room.topic", "", `{"topic":"`+text+`"}`)
				}
				select {
				case <-tick.C:
				case <-quiet:
					return
				}
			}
		})
	}
	const toDevice = 20
	time.AfterFunc(time.Second, func() {
		for from := range relays {
			for to, r := range relays[from] {
				if from == three.name || to == three.name {
					r.cut()
				}
			}
		}
	})
	for n := range toDevice {
		content, _ := json.Marshal(map[string]any{
			"sender": alice, "type": "m.test", "message_id": fmt.Sprint("m", n),
			"messages": map[id.UserID]any{carol: map[string]any{"*": map[string]any{"n": n}}},
		})
		one.do(func(ctx context.Context) error { return one.store.ToDevice.PutOutgoing(ctx, three.name, content) })
		pause(t, cut/toDevice)
	}
	for from := range relays {
		for _, r := range relays[from] {
			if r.isCut.Load() {
				r.heal()
			}
		}
	}
	healed := time.Now()
	pause(t, 2*time.Second)
	close(quiet)
	wait.Wait()

	want := slices.Concat(said...)
	slices.Sort(want)
	for _, h := range []*house{one, two, three} {
		h.waitLong(fmt.Sprintf("all %d messages", len(want)), func() bool { return len(h.texts(room)) >= len(want) })
		texts := h.texts(room)
		for i := range said {
			var own []string
			for _, text := range texts {
				if strings.HasPrefix(text, names[i]+" ") {
					own = append(own, text)
				}
			}
			if cut > longGap {
				slices.Sort(own) // as they were said: they are numbered
			}
			if !slices.Equal(own, said[i]) {
				t.Errorf("%s: of %s's %d messages got %d, or in another order", h.name, names[i], len(said[i]), len(own))
			}
		}
		if len(texts) != len(want) {
			t.Errorf("%s: got %d messages, want %d", h.name, len(texts), len(want))
		}
	}
	three.waitLong("the messages to carol's device", func() bool { return len(three.toDevice(carol)) >= toDevice })
	if got := len(three.toDevice(carol)); got != toDevice {
		t.Errorf("carol's device: got %d messages, want %d", got, toDevice)
	}
	for _, h := range []*house{two, three} {
		h.waitLong("the same state as "+one.name, func() bool { return maps.Equal(h.stateNow(room), one.stateNow(room)) })
	}
	t.Logf("%d messages, cut for %v: all the same %v after the cut", len(want), cut, time.Since(healed).Round(100*time.Millisecond))
}

// longGap is how long a cut may be for the order to be the sender's: a longer one leaves a gap of more events than a server may ask
// for at once, and then what is beyond it comes after what the third server has told meanwhile.
const longGap = 10 * time.Second

// pause lets the world go on for a while.
func pause(t *testing.T, span time.Duration) {
	select {
	case <-time.After(span):
	case <-t.Context().Done():
	}
}

// waitLong is wait with the patience that bad links need.
func (h *house) waitLong(what string, true_ func() bool) {
	h.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !true_(); {
		if time.Now().After(deadline) {
			h.Fatalf("%s: waited in vain for %s", h.name, what)
		}
		_, moved := h.store.Moved()
		select {
		case <-moved:
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// stateNow is the room's current state as a house sees it.
func (h *house) stateNow(room id.RoomID) map[pdu.Key]id.EventID {
	h.Helper()
	state, err := h.store.State.At(h.Context(), current(h, room))
	if err != nil {
		h.Fatal(err)
	}
	ids, err := h.store.Events.IDs(h.Context(), slices.Collect(maps.Values(state)))
	if err != nil {
		h.Fatal(err)
	}
	named := make(map[pdu.Key]id.EventID, len(state))
	for key, number := range state {
		named[key] = ids[number]
	}
	return named
}

func (h *house) toDevice(user id.UserID) []storage.ToDeviceMessage {
	h.Helper()
	messages, err := h.store.ToDevice.After(h.Context(), user, "DEVICE", 0, h.store.Head(), 100)
	if err != nil {
		h.Fatal(err)
	}
	return messages
}

// joinStubbornly tries as often as somebody would whose line is bad: a connection may break in any attempt.
func (h *house) joinStubbornly(room id.RoomID, user id.UserID, through *house) {
	h.Helper()
	var err error
	for range 5 {
		if err = h.tryJoin(room, user, through); err == nil {
			return
		}
	}
	h.Fatalf("%s joins, at the fifth attempt: %v", user, err)
}
