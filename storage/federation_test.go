package storage

import (
	"reflect"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix/id"
)

func TestServerKeys(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		req := gomatrixserverlib.PublicKeyLookupRequest{ServerName: "a.example", KeyID: "ed25519:1"}
		other := gomatrixserverlib.PublicKeyLookupRequest{ServerName: "a.example", KeyID: "ed25519:2"}
		res := gomatrixserverlib.PublicKeyLookupResult{VerifyKey: gomatrixserverlib.VerifyKey{Key: spec.Base64Bytes("key")}, ValidUntilTS: 5}
		for _, until := range []spec.Timestamp{5, 7} {
			res.ValidUntilTS = until
			if err := s.ServerKeys.StoreKeys(t.Context(), map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult{req: res}); err != nil {
				t.Fatal(err)
			}
			got, err := s.ServerKeys.FetchKeys(t.Context(), map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp{req: 0, other: 0})
			if err != nil || len(got) != 1 || string(got[req].Key) != "key" || got[req].ValidUntilTS != until {
				t.Errorf("got %v and error %v, want the key until %d", got, err, until)
			}
		}
	})
}

func TestOutbound(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		before := s.Head()
		rows := []*Outbound{
			{Server: "a.example", Type: "m.direct_to_device", Content: []byte(`{"n":1}`)},
			{Server: "b.example", Content: []byte(`{"n":2}`)},
			{Server: "a.example", Content: []byte(`{"n":3}`)},
		}
		if err := s.Outbound.Add(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
		got, err := s.Outbound.For(t.Context(), "a.example", 10)
		if err != nil || len(got) != 2 || string(got[1].Content) != `{"n":3}` || got[0].Position >= got[1].Position {
			t.Fatalf("got %v and error %v, want the first and the third", got, err)
		}
		news, _, ok := s.Since(before)
		stored, err := s.Changes(t.Context(), before, s.Head())
		if !ok || err != nil || len(news) != 3 || len(stored) != 3 || stored[1].Row.(*Outbound).Server != "b.example" {
			t.Errorf("got news %v, from the tables %v and error %v, want three each", news, stored, err)
		}
		if err := s.Outbound.Remove(t.Context(), []Position{got[0].Position}); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Outbound.For(t.Context(), "a.example", 10); len(got) != 1 {
			t.Errorf("after removal: got %d rows, want 1", len(got))
		}
		if got, _ := s.Outbound.Servers(t.Context()); len(got) != 2 {
			t.Errorf("got servers %v, want two", got)
		}
	})
}

func TestDestinations(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		if d, err := s.Destinations.ByName(t.Context(), "a.example"); d != nil || err != nil {
			t.Errorf("unknown: got %v and error %v, want none", d, err)
		}
		if err := s.Destinations.Attempted(t.Context(), "a.example", 3, 99); err != nil {
			t.Fatal(err)
		}
		for want, next := range map[Position]Position{0: 7} {
			if before, err := s.Destinations.NextDeviceList(t.Context(), "a.example", next); before != want || err != nil {
				t.Errorf("device list: got %d and error %v, want %d", before, err, want)
			}
		}
		if before, _ := s.Destinations.NextDeviceList(t.Context(), "a.example", 9); before != 7 {
			t.Errorf("device list: got %d, want 7", before)
		}
		d, err := s.Destinations.ByName(t.Context(), "a.example")
		if err != nil || d.Failures != 3 || d.RetryAt != 99 || d.DeviceList != 9 {
			t.Errorf("got %+v and error %v", d, err)
		}
		lag := Lag{Server: "a.example", RoomID: "!r:x", Position: 5}
		if err := s.Destinations.AddLags(t.Context(), []Lag{lag}); err != nil {
			t.Fatal(err)
		}
		later := lag
		later.Position = 8
		if err := s.Destinations.AddLags(t.Context(), []Lag{later}); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Destinations.Lags(t.Context()); err != nil || len(got) != 1 || got[0] != lag {
			t.Errorf("got %v and error %v, want %v", got, err, lag)
		}
		later.Position = 0
		if err := s.Destinations.MoveLag(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Destinations.Lags(t.Context()); len(got) != 0 {
			t.Errorf("got %v, want none", got)
		}
	})
}

func TestReceived(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		if a, err := s.Received.Answer(t.Context(), "a.example", "1"); a != nil || err != nil {
			t.Errorf("unknown transaction: got %s and error %v, want none", a, err)
		}
		if err := s.Received.Answered(t.Context(), "a.example", "1", []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		if a, err := s.Received.Answer(t.Context(), "a.example", "1"); string(a) != `{}` || err != nil {
			t.Errorf("got %s and error %v, want {}", a, err)
		}
		aside := []Aside{{EventID: "$b", RoomID: "!r:x", Origin: "a.example", JSON: []byte(`{}`)}, {EventID: "$a", RoomID: "!r:x", Origin: "a.example", JSON: []byte(`{}`)}}
		if err := s.Received.SetAside(t.Context(), aside); err != nil {
			t.Fatal(err)
		}
		got, err := s.Received.AsideIn(t.Context(), "!r:x", 10)
		if err != nil || len(got) != 2 || got[0].EventID != "$b" {
			t.Errorf("aside: got %v and error %v, want both in order", got, err)
		}
		if err := s.Received.NoLongerAside(t.Context(), []id.EventID{"$b"}); err != nil {
			t.Fatal(err)
		}
		if rooms, _ := s.Received.RoomsAside(t.Context()); len(rooms) != 1 {
			t.Errorf("got rooms %v, want one", rooms)
		}
		if err := s.Received.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestUnansweredTransaction: the last transaction of a server is kept as it is, until it is answered.
func TestUnansweredTransaction(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		want := &Unanswered{Server: "a.example", ID: "2", Body: []byte(`{"pdus":[]}`), PDUs: 3, EDUs: 1, Outbound: []Position{7}, Reached: map[id.RoomID]Position{"!r:a": 9}}
		for _, u := range []*Unanswered{{Server: "a.example", ID: "1", Body: []byte("x")}, want} {
			if err := s.Destinations.PutUnanswered(t.Context(), u, 2, 1000); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Destinations.Unanswered(t.Context(), "a.example")
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v and error %v, want %+v", got, err, want)
		}
		if failing, err := s.Destinations.Failing(t.Context()); err != nil || len(failing) != 1 || failing[0].Failures != 2 {
			t.Errorf("failing: got %v and error %v, want one", failing, err)
		}
		if servers, err := s.Destinations.WithUnanswered(t.Context()); err != nil || len(servers) != 1 {
			t.Errorf("got %v and error %v, want one server", servers, err)
		}
		if err := s.Destinations.Answered(t.Context(), "a.example"); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Destinations.Unanswered(t.Context(), "a.example"); err != nil || got != nil {
			t.Errorf("after the answer: got %+v and error %v, want none", got, err)
		}
		if failing, err := s.Destinations.Failing(t.Context()); err != nil || len(failing) != 0 {
			t.Errorf("after the answer: %v fail and error %v, want none", failing, err)
		}
	})
}

// TestKeyAnswers: what servers said of their keys is kept by key, the latest first; and what waits for servers is counted.
func TestKeyAnswers(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		for at, keyIDs := range [][]string{{"ed25519:old", "ed25519:both"}, {"ed25519:both", "ed25519:new"}} {
			if err := s.ServerKeys.PutAnswer(t.Context(), "a.example", keyIDs, []byte{byte('a' + at)}, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
		answers, err := s.ServerKeys.Answers(t.Context(), "a.example")
		got := map[string]string{}
		for _, a := range answers {
			got[a.KeyID] = string(a.JSON)
		}
		if want := map[string]string{"ed25519:old": "a", "ed25519:both": "b", "ed25519:new": "b"}; err != nil || !reflect.DeepEqual(got, want) || answers[0].Fetched != 1 {
			t.Errorf("got %v and error %v, want %v, the latest first", got, err, want)
		}
		if err := s.Outbound.Add(t.Context(), []*Outbound{{Server: "a.example", Content: []byte(`{}`)}, {Server: "a.example", Content: []byte(`{}`)}}); err != nil {
			t.Fatal(err)
		}
		if counts, err := s.Outbound.Counts(t.Context()); err != nil || len(counts) != 1 || counts["a.example"] != 2 {
			t.Errorf("got %v and error %v, want two for a.example", counts, err)
		}
		if servers, err := s.Rooms.AllServers(t.Context(), 10); err != nil || len(servers) != 0 {
			t.Errorf("got %v and error %v, want no servers", servers, err)
		}
	})
}
