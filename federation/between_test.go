package federation_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"
)

// TestWhatIsSaidDuringAJoin: events between make_join and send_join reach the joining server without any later event, and the
// state that they set is the state there.
func TestWhatIsSaidDuringAJoin(t *testing.T) {
	for _, version := range []id.RoomVersion{id.RoomV10, id.RoomV12} {
		t.Run(string(version), func(t *testing.T) {
			w := newTown(t, "interior.example", "finance.example")
			var during func()
			var once sync.Once
			w.around = func(name string, inside http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if name == "interior.example" && strings.Contains(r.URL.Path, "/send_join/") {
						once.Do(during)
					}
					inside.ServeHTTP(rw, r)
				})
			}
			interior, finance := w.open("interior.example"), w.open("finance.example")
			alice, bob := interior.account("alice"), finance.account("bob")
			room := interior.room(version, alice, "public")
			interior.say(room, alice, "long before")
			var said, topic id.EventID
			during = func() {
				said = interior.say(room, alice, "meanwhile")
				topic = interior.set(room, alice, "m.room.topic", "", `{"topic":"what is new"}`)
			}
			finance.join(room, bob, interior)
			finance.waitFor(said)
			finance.waitFor(topic)
			e, err := finance.store.State.Current(t.Context(), room, struct{ Type, StateKey string }{Type: "m.room.topic"})
			if err != nil || e == nil || e.ID != topic {
				t.Errorf("the topic at finance: got %v, %v, want %s", e, err, topic)
			}
			interior.waitFor(finance.say(room, bob, "I know"))
		})
	}
}
