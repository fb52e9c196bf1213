package calls

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/calls/signal"
	"chancery/roomserver/policy"
	"chancery/storage"
)

// inRoom makes a participant of a user's, whose goroutine does not run.
func (l *leaves) inRoom(room id.RoomID, user id.UserID) *Participant {
	return newParticipant(l.focus.rooms["c"], &entry{
		single: true, claims: &Claims{Matrix: &Matrix{User: user, Device: "D", Room: room}}, join: &signal.Join{}, ruling: unbound,
	})
}

// aRoom writes a room that says nothing, in which these users are.
func (l *leaves) aRoom(t *testing.T, room id.RoomID, users ...id.UserID) {
	t.Helper()
	rows := &storage.RoomRows{Line: &storage.Line{}, Room: room, Head: &storage.Room{ID: room, Version: "12"}, ServersBefore: []string{l.house.name}}
	for _, user := range users {
		rows.Memberships = append(rows.Memberships, &storage.Membership{RoomID: room, UserID: user, Membership: event.MembershipJoin, EventID: "$a", Sender: user})
	}
	if err := l.house.store.RoomWriter(nil).WriteAndWait(rows); err != nil {
		t.Fatal(err)
	}
}

func (l *leaves) order(t *testing.T, room id.RoomID, orders string) {
	t.Helper()
	if err := l.house.store.CallOrders.Put(t.Context(), &storage.CallOrder{RoomID: room, Orders: []byte(orders), By: "@root:interior.test"}); err != nil {
		t.Fatal(err)
	}
}

func rulesChanged(room id.RoomID) *storage.Change {
	return &storage.Change{Kind: storage.StateNews, RoomID: room, State: &storage.StateChange{RoomID: room, Key: storage.Key{Type: policy.CallSettingsType}}}
}

func (f *Focus) hears(t *testing.T, news *storage.Change) {
	t.Helper()
	if err := f.heard(t.Context(), news); err != nil {
		t.Fatal(err)
	}
}

// TestRoomsDoNotWaitForOneAnother: however long it takes to judge a full room by rules that somebody made for that, a kick in another is
// obeyed at once.
func TestRoomsDoNotWaitForOneAnother(t *testing.T) {
	l := newTestLeaves(t)
	f, slow, other, ben := l.focus, id.RoomID("!slow:evil.test"), id.RoomID("!other:interior.test"), id.UserID("@ben:interior.test")
	defer f.live.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.aRoom(t, slow)
	var muted []string
	for n := range 900 {
		muted = append(muted, fmt.Sprintf("@%s%d", strings.Repeat("a*", 28), n))
	}
	orders, err := json.Marshal(map[string]any{"muted": muted})
	if err != nil {
		t.Fatal(err)
	}
	l.order(t, slow, string(orders))
	all := []*Participant{l.inRoom(other, ben)}
	for range 500 {
		all = append(all, l.inRoom(slow, id.UserID("@"+strings.Repeat("a", 200)+":evil.test")))
	}
	f.rooms["c"].everyone.Store(&all)
	if err := f.heard(ctx, rulesChanged(slow)); err != nil {
		t.Fatal(err)
	}
	f.hears(t, &storage.Change{Kind: storage.MembershipNews, RoomID: other, Membership: &storage.Membership{RoomID: other, UserID: ben, Membership: event.MembershipLeave}})
	if !all[0].ended() {
		t.Error("who was kicked is still in the call")
	}
	if last := all[len(all)-1]; len(last.inbox) > 0 {
		t.Error("the kick waited until another room had been judged")
	}
}

// complaints is told of each line of a log.
type complaints chan struct{}

func (c complaints) Write(line []byte) (int, error) {
	select {
	case c <- struct{}{}:
	default:
	}
	return len(line), nil
}

// TestARoomIsHeardAgain: rules that cannot be read are asked for again, and nothing else waits for that.
func TestARoomIsHeardAgain(t *testing.T) {
	l := newTestLeaves(t)
	f, room, ann := l.focus, id.RoomID("!a:interior.test"), id.UserID("@ann:finance.test")
	path := filepath.Join(t.TempDir(), "calls.db")
	store, err := storage.Open(t.Context(), storage.Config{Database: path}, l.house.bus)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	rename := tables(t, path)
	f.house.store = store
	defer f.live.Wait()
	l.aRoom(t, room, ann)
	p := l.inRoom(room, ann)
	f.rooms["c"].everyone.Store(&[]*Participant{p})
	rename("call_orders", "away")
	complained := make(complaints, 100)
	if err := f.heard(zerolog.New(complained).WithContext(t.Context()), rulesChanged(room)); err != nil {
		t.Fatalf("one room's rules fail all rooms: %v", err)
	}
	select {
	case <-complained:
	case <-time.After(patience):
		t.Fatal("the room's rules were not asked for")
	}
	rename("away", "call_orders")
	select {
	case judged := <-p.inbox:
		judged()
	case <-time.After(patience):
		t.Fatal("the room was not heard once its rules could be read")
	}
}

// TestOldNewsOfAMembership: who was kicked and has come back by the time that the kick is heard of is let be.
func TestOldNewsOfAMembership(t *testing.T) {
	l := newTestLeaves(t)
	f, room, ann, ben := l.focus, id.RoomID("!a:interior.test"), id.UserID("@ann:finance.test"), id.UserID("@ben:finance.test")
	l.aRoom(t, room, ann)
	back, kicked := l.inRoom(room, ann), l.inRoom(room, ben)
	f.rooms["c"].everyone.Store(&[]*Participant{back, kicked})
	for _, user := range []id.UserID{ann, ben} {
		f.hears(t, &storage.Change{Kind: storage.MembershipNews, RoomID: room, Membership: &storage.Membership{RoomID: room, UserID: user, Membership: event.MembershipLeave}})
	}
	if back.ended() || !kicked.ended() {
		t.Errorf("who has come back is out: %v, who has not: %v; want false and true", back.ended(), kicked.ended())
	}
}
