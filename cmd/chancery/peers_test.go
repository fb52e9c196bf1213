package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"chancery/storage/bus"
)

func TestPeersTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	ms := func(ago time.Duration) int64 { return now.Add(-ago).UnixMilli() }
	skew := int64(-4200)
	pages := []bus.PeerList{
		{Total: 2, Next: "finance.example", Peers: []bus.Peer{{
			Server: "finance.example", Allowed: true, Reachable: true, Tried: true, Answered: ms(3 * time.Second), Heard: ms(time.Minute), Skew: &skew,
			Certificate: ms(-40 * 24 * time.Hour), Accepted: 1204, Rejected: 2, Reasons: map[string]int{"rejected: the sender is not in the room": 2},
		}}},
		{Total: 2, Peers: []bus.Peer{{
			Server: "justice.example", Allowed: true, Tried: true, Failures: 4, RetryAt: ms(-4 * time.Second), Failure: "dial tcp: connection refused", Queue: 3, Lagging: 2,
		}}},
	}
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := pages[0]
		if r.FormValue("after") == "finance.example" {
			page = pages[1]
		}
		_ = json.NewEncoder(w).Encode(page)
	}))
	defer admin.Close()
	peers, err := askPeers(t.Context(), strings.TrimPrefix(admin.URL, "http://"), "")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := printPeers(&out, peers, now); err != nil {
		t.Fatal(err)
	}
	const want = `SERVER           REACHABLE  ANSWERED  HEARD     QUEUE  LAGGING  RETRY                   CLOCK  CERTIFICATE           ACCEPTED  SOFT-FAILED  REJECTED  DROPPED
finance.example  yes        3s ago    1m0s ago  0      0        -                       -4s    2027-01-01 (40 days)  1204      0            2         0
justice.example  no         never     never     3      2        in 4s (failed 4 times)  -      -                     0         0            0         0

finance.example
  2 rejected: the sender is not in the room

justice.example
  not reached: dial tcp: connection refused
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}
