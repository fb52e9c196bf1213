package calls

import (
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pionturn "github.com/pion/turn/v5"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
	"chancery/calls/turn"
)

// urlsOf are all the URLs of a list of servers.
func urlsOf(servers []*signal.ICEServer) (urls []string) {
	for _, s := range servers {
		urls = append(urls, s.Urls...)
	}
	return urls
}

// TestICEServersAreOurs: threats.md C14, and no word to anybody's public servers.
func TestICEServersAreOurs(t *testing.T) {
	mine := ICEServer{URLs: []string{"turns:turn.example.org:443?transport=tcp"}, Secret: "shared with coturn"}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   []string // beginnings, in order
	}{
		{"as it is", func(*Config) {}, []string{"stun:127.0.0.1:", "turn:127.0.0.1:", "turn:127.0.0.1:"}},
		{"no relays", func(c *Config) { c.TURN.Relay = false }, []string{"stun:127.0.0.1:"}},
		{"no ports", func(c *Config) { c.TURN.UDPPort, c.TURN.TCPPort = -1, -1 }, []string{"stun:127.0.0.1:"}},
		{"TLS alone", func(c *Config) {
			c.TURN.UDPPort, c.TURN.TCPPort, c.TURN.TLSPort, c.TURN.Host = -1, -1, 443, "turn.example.org"
		}, []string{"turns:turn.example.org:443?transport=tcp"}},
		{"public address", func(c *Config) { c.PublicIPs = []string{"203.0.113.7", "2001:db8::7"}; c.TURN.TCPPort = -1 },
			[]string{"stun:203.0.113.7:", "stun:[2001:db8::7]:", "turn:203.0.113.7:", "turn:[2001:db8::7]:"}},
		{"the homeserver's name", func(c *Config) { c.Listen, c.Told = nil, "https://interior.test/calls" },
			[]string{"stun:interior.test:", "turn:interior.test:", "turn:interior.test:"}},
		{"another one of ours", func(c *Config) { c.TURN.UDPPort, c.TURN.TCPPort = -1, -1; c.ICEServers = []ICEServer{mine} },
			[]string{"turns:turn.example.org:443?transport=tcp"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, base := newTestFocus(t, c.change)
			servers := join(t, base, "room", "ann").joined.IceServers
			got := urlsOf(servers)
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			for _, s := range servers {
				if strings.HasPrefix(s.Urls[0], "turn") && (s.Username == "" || s.Credential == "") {
					t.Errorf("%v has no credential", s.Urls)
				}
			}
		})
	}
}

// TestCredentialsAreTheUsers: whoever joins again, or with another device, has no more relays for it; and its name is on the wire nowhere.
func TestCredentialsAreTheUsers(t *testing.T) {
	f, base := newTestFocus(t, func(c *Config) {
		c.ICEServers = []ICEServer{{URLs: []string{"turn:turn.example.org"}, Secret: "shared with coturn"}}
	})
	f.admit = &strictHouse{}
	accounts := func(token string) (ours, other string) {
		t.Helper()
		ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {token}})
		res, err := readResponse(ws)
		if err != nil || res.GetJoin() == nil {
			t.Fatalf("got %v, %v, want a welcome", res, err)
		}
		for _, s := range res.GetJoin().IceServers {
			if _, who, _ := strings.Cut(s.Username, ":"); s.Username != "" && slices.Contains(s.Urls, "turn:turn.example.org") {
				other = who
			} else if s.Username != "" {
				ours = who
			}
		}
		if ours == "" || other == "" || strings.Contains(ours+other, "ann") || strings.Contains(ours+other, "bob") {
			t.Fatalf("got relays for %q, and at the other server for %q, want them for somebody unnamed", ours, other)
		}
		return ours, other
	}
	ann, annThere := accounts(seatToken(t, "@ann:x", "A", false, 0))
	for _, c := range []struct {
		name, token string
		same        bool
	}{
		{"again", seatToken(t, "@ann:x", "A", false, 0), true},
		{"another device", seatToken(t, "@ann:x", "B", false, 0), true},
		{"another user", seatToken(t, "@bob:x", "A", false, 0), false},
		{"no user", testToken(t, "room", "ann"), false},
	} {
		ours, other := accounts(c.token)
		if (ours == ann) != c.same || (other == annThere) != c.same {
			t.Errorf("%s: got %q and %q, at first %q and %q, want the same: %v", c.name, ours, other, ann, annThere, c.same)
		}
	}
	first, _ := accounts(testToken(t, "room", "cat"))
	if again, _ := accounts(testToken(t, "room", "cat")); again != first {
		t.Errorf("an identity without a user came again: got %q, at first %q, want the same", again, first)
	}
}

// TestMediaThroughTURN lets two participants meet who reach the focus through its TURN server alone: over UDP, and over TCP.
func TestMediaThroughTURN(t *testing.T) {
	for _, way := range []string{"udp", "tcp"} {
		t.Run(way, func(t *testing.T) {
			_, base := newTestFocus(t)
			relayOnly := func(c *testClient) webrtc.Configuration {
				t.Helper()
				var servers []webrtc.ICEServer
				for _, s := range c.joined.IceServers {
					for _, u := range s.Urls {
						if strings.HasPrefix(u, "turn:") && strings.HasSuffix(u, way) {
							servers = append(servers, webrtc.ICEServer{URLs: []string{u}, Username: s.Username, Credential: s.Credential})
						}
					}
				}
				if len(servers) != 1 {
					t.Fatalf("got %d ways to TURN over %s, want 1", len(servers), way)
				}
				return webrtc.Configuration{ICEServers: servers, ICETransportPolicy: webrtc.ICETransportPolicyRelay}
			}
			ann, bob := joinWith(t, base, "room", "ann", relayOnly), joinWith(t, base, "room", "bob", relayOnly)
			ann.publish("ann")
			bob.hears("ann")
			for _, c := range []*testClient{ann, bob} {
				if pair := chosenPair(t, c); pair.Local.Typ != webrtc.ICECandidateTypeRelay {
					t.Errorf("got a pair of %v, want a relay", pair)
				}
			}
		})
	}
}

// chosenPair is how a client's media travel.
func chosenPair(t *testing.T, c *testClient) *webrtc.ICECandidatePair {
	t.Helper()
	pc := c.sub
	if len(pc.GetTransceivers()) == 0 {
		pc = c.pub
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // Pion has no event for it
		if sctp := pc.SCTP(); sctp != nil && sctp.Transport() != nil {
			if pair, err := sctp.Transport().ICETransport().GetSelectedCandidatePair(); err == nil && pair != nil {
				return pair
			}
		}
		if time.Now().After(end) {
			t.Fatal("no pair was chosen")
		}
	}
}

func TestServeTURNTakesConnections(t *testing.T) {
	f, _ := newTestFocus(t)
	near, far := net.Pipe()
	defer far.Close()
	go f.ServeTURN(near)
	if err := far.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("something that is not TURN was answered")
	}
	if turn.IsSTUN([]byte("GET")) {
		t.Error("HTTP is taken for STUN")
	}
}

// TestDeniedNetworks: what the configuration denies is relayed to for nobody, though it is public.
func TestDeniedNetworks(t *testing.T) {
	f, _ := newTestFocus(t, func(c *Config) { c.TURN.DeniedNetworks = []string{"8.8.8.0/24"} })
	username, password := turn.Credential(f.turnSecret(), turn.ToPublic, "ann", time.Now())
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(f.turn.UDP()))
	client, err := pionturn.NewClient(&pionturn.ClientConfig{
		STUNServerAddr: address, TURNServerAddr: address, Conn: conn, Username: username, Password: password, Realm: turn.Realm,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Listen(); err != nil {
		t.Fatal(err)
	}
	relay, err := client.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	for ip, want := range map[string]bool{"8.8.8.8": false, "9.9.9.9": true, "10.1.2.3": false} {
		err := client.CreatePermission(&net.UDPAddr{IP: net.ParseIP(ip), Port: 5000}) // sends nothing there
		if (err == nil) != want {
			t.Errorf("a permission for %s: got %v, want it given: %v", ip, err, want)
		}
	}
	config := testConfig()
	if config.TURN.DeniedNetworks = []string{"ministry.example"}; config.Check() == nil {
		t.Error("a name was taken for a network")
	}
}
