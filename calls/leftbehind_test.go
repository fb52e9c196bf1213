package calls

import (
	"context"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// TestWhoComesBackIsNoGhost: what a device had said of its call before its user was kicked is taken back once the user is in the room again; what
// it has said since is not, nor what another device says that is in the call. Nothing is where only a name has changed.
func TestWhoComesBackIsNoGhost(t *testing.T) {
	l := newTestLeaves(t)
	f, store, room, ben := l.focus, l.house.store, id.RoomID("!a:interior.test"), id.UserID("@ben:interior.test")
	f.ending, f.closeAfter, f.config.Told = make(chan struct{}), 10*time.Millisecond, "https://interior.test/calls"
	defer f.live.Wait()
	first, err := store.Numbers(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	chain, kicked, inside, kick, join, again, rename := first, first+1, first+2, first+3, first+4, first+5, first+6
	rows := &storage.RoomRows{
		Line: &storage.Line{}, Room: room, Chains: []storage.Chain{{Chain: chain, RoomID: room}},
		Head: &storage.Room{ID: room, Version: "12", State: storage.Snapshot{Chain: chain, Sequence: 3}}, ServersBefore: []string{l.house.name},
	}
	for n, number := range []int64{kicked, inside, again} {
		device := id.DeviceID(fmt.Sprint("D", n))
		key := memberKeys(ben, device)[0]
		rows.Events = append(rows.Events, &storage.Event{
			Number: number, ID: id.EventID(fmt.Sprint("$", n)), RoomID: room, Standing: storage.Accepted, Type: callMember, StateKey: &key, Sender: ben,
			JSON: []byte(`{"content":{"foci_preferred":[{"livekit_service_url":"` + f.config.Told + `"}]}}`),
		})
		rows.News = append(rows.News, true)
		rows.Entries = append(rows.Entries, storage.Entry{Chain: chain, Sequence: int64(n + 1), Key: storage.Key{Type: callMember, StateKey: key}, Event: number, News: true})
		record := storage.CallRecord{Session: fmt.Sprint("PA_", n), Call: "c", CallSID: "RM_1", RoomID: room, UserID: ben, DeviceID: device, Focus: "FO_1", Joined: 1, Rule: "member"}
		if number != inside {
			record.Ended, record.Reason = 2, "PARTICIPANT_REMOVED"
		}
		if err := store.CallRecords.Put(t.Context(), &record); err != nil {
			t.Fatal(err)
		}
	}
	for number, membership := range map[int64]event.Membership{kick: event.MembershipLeave, join: event.MembershipJoin, rename: event.MembershipJoin} {
		rows.Events = append(rows.Events, &storage.Event{
			Number: number, ID: id.EventID(fmt.Sprint("$member", number)), RoomID: room, Standing: storage.Accepted, Type: event.StateMember.Type,
			StateKey: (*string)(&ben), Sender: ben, JSON: []byte(`{"content":{"membership":"` + string(membership) + `"}}`),
		})
		rows.News = append(rows.News, true)
	}
	if err := store.RoomWriter(nil).WriteAndWait(rows); err != nil {
		t.Fatal(err)
	}
	emptied := make(chan string, 10)
	stop, err := bus.Answer(t.Context(), l.house.bus, bus.RoomDo(room), func(_ context.Context, _ string, q bus.RoomQuestion) (bus.RoomAnswer, error) {
		emptied <- *q.Propose.StateKey + string(q.Propose.Content)
		return bus.RoomAnswer{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, news := range []struct{ is, was int64 }{{rename, join}, {kick, join}, {join, kick}} {
		f.hears(t, &storage.Change{Kind: storage.StateNews, RoomID: room, State: &storage.StateChange{
			RoomID: room, Key: storage.Key{Type: event.StateMember.Type, StateKey: string(ben)}, Event: news.is, Old: news.was,
		}})
	}
	f.live.Wait()
	close(emptied)
	var got []string
	for one := range emptied {
		got = append(got, one)
	}
	if want := memberKeys(ben, "D0")[0] + "{}"; len(got) != 1 || got[0] != want {
		t.Errorf("taken back: %q, want %q", got, want)
	}
}
