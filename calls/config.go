package calls

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/pion/stun/v4"

	"chancery/roomserver/policy"
)

// Config is the call focus's part of the configuration.
type Config struct {
	// Enabled offers calls to the clients of this server. Default: true.
	Enabled bool `yaml:"enabled"`
	// URL is the address under which clients reach the focus, without a slash at the end, such as
	// https://matrix.example.org/calls; its path must be Path. Empty: the client API's public address and Path.
	// Default empty.
	URL string `yaml:"url"`
	// Path is where the focus's HTTP interface begins. Default: /calls.
	Path string `yaml:"path"`
	// Key names the secret in the tokens that let clients in. Default: chancery.
	Key string `yaml:"key"`
	// Secret signs those tokens. Empty: a random one is made, and kept in the database where there is one.
	// All processes of one server need the same. Default empty.
	Secret string `yaml:"secret"`
	// Standalone runs the focus without a homeserver's rules: whoever holds a token signed with Key and Secret comes
	// in, and rooms are made by joining. For measuring and for other token services only. Default: false.
	Standalone bool `yaml:"standalone"`

	// TrustForwardedFor is the client API's: the clients' addresses are what the proxy says.
	TrustForwardedFor bool `yaml:"-"`
	// Told is the address of the focus that the homeserver tells its clients: URL, or what stands for it where that is empty.
	Told string `yaml:"-"`
	// AllowedServers are the federation's: users of other servers are in no call here. Empty: of any server.
	AllowedServers []string `yaml:"-"`

	// RelayAddress is where the other focus processes of this server reach this one's signalling, plain HTTP within the
	// server's own network, such as http://10.0.0.5:8009. Empty: http:// and listen.client, which does for one host.
	// Default empty.
	RelayAddress string `yaml:"relay_address"`

	// UDPPort is the one UDP port for media; clients must reach it. Default: 7882.
	UDPPort int `yaml:"udp_port"`
	// TCPPort is the port for media of clients that cannot use UDP; -1: none. Default: 7881.
	TCPPort int `yaml:"tcp_port"`
	// Listen names the addresses to take media on. None: all of this host's. Default: none.
	Listen []string `yaml:"listen"`
	// PublicIPs are told to clients in place of the host's own addresses, where a router translates them. Default: none.
	PublicIPs []string `yaml:"public_ips"`
	// Loopback offers 127.0.0.1 to clients too, for tests and demonstrations on one machine. Default: false.
	Loopback bool `yaml:"loopback"`
	// TURN is the STUN and TURN server inside the focus.
	TURN TURN `yaml:"turn"`
	// ICEServers are STUN and TURN servers of yours that clients are told to use beside that one. No other is ever told.
	// Default: none.
	ICEServers []ICEServer `yaml:"ice_servers"`

	// MaxParticipants bounds one call. Default: 1000.
	MaxParticipants int `yaml:"max_participants"`
	// MaxTotalParticipants bounds all calls of one focus process together; one user is in 50 places of them at most, and users of other servers
	// are in three quarters. 0: no bound. Default: 5000.
	MaxTotalParticipants int `yaml:"max_total_participants"`
	// MaxTracks bounds what one participant publishes. Default: 16.
	MaxTracks int `yaml:"max_tracks"`
	// GuestsStart lets users of other servers begin a call here, and not only join one. Default: true.
	GuestsStart bool `yaml:"guests_start"`
	// RestrictedServers are servers whose users may join a call here, but not begin one; "*.example.org" names all below.
	// Default: none.
	RestrictedServers []string `yaml:"restricted_servers"`
	// ViewOnlyServers are servers whose users may watch and listen, but send nothing. Default: none.
	ViewOnlyServers []string `yaml:"view_only_servers"`
	// ExternalServers are servers whose users are in a call only where the room's im.vector.room.access_rules let them be: not
	// in restricted rooms, as those are that say nothing. They never moderate. Default: none.
	ExternalServers []string `yaml:"external_servers"`
	// MaxGuests bounds how many users of one other server are in calls of one focus process at once; 0: as many as the calls take.
	// Default: 0.
	MaxGuests int `yaml:"max_guests"`
	// MaxParticipantBitrate bounds what one participant sends, in bits a second, and its packets with them: one for each 4000 bits, at least 1000.
	// The default has room for a camera in three sizes beside a large screen; pictures stop before voices. 0: no bound. Default: 30000000.
	MaxParticipantBitrate int64 `yaml:"max_participant_bitrate"`
	// MaxCallBitrate bounds what the participants of one call send together, in bits a second; pictures stop before voices.
	// 0: no bound but that of each participant. Default: 0.
	MaxCallBitrate int64 `yaml:"max_call_bitrate"`
	// MaxGuestBitrate bounds what the users of one other server send to all calls of one focus process together, likewise. Default: 0.
	MaxGuestBitrate int64 `yaml:"max_guest_bitrate"`
	// ServiceListen is the address of a listener of its own for the room service (LiveKit's Twirp interface), for an
	// internal network. Empty: it is served beside the signalling, to bearers of administrators' tokens. Default empty.
	ServiceListen string `yaml:"service_listen"`
	// ServiceKey and ServiceSecret sign the tokens for the room service, and webhooks. Empty: key and secret above.
	// Default empty.
	ServiceKey    string `yaml:"service_key"`
	ServiceSecret string `yaml:"service_secret"`
	// Webhook is an address that is told of each call's life, as LiveKit tells it and signs it. Default: none.
	Webhook string `yaml:"webhook"`
	// KeepRecords is how long it is remembered who was in which call, and when; 0: for ever. Default: 2160h, ninety days.
	KeepRecords time.Duration `yaml:"keep_records"`
	// Limits bounds how often tokens are asked for, by user and in vain by address. Default: true.
	Limits bool `yaml:"limits"`
	// EmptyTimeout is how long a call stays open after its last participant left. Default: 20s.
	EmptyTimeout time.Duration `yaml:"empty_timeout"`
	// Grace is how long a participant whose connection was lost may take to come back, and how long an offer may stay unanswered.
	// Default: 15s.
	Grace time.Duration `yaml:"grace"`
}

// ICEServer is a STUN or TURN server.
type ICEServer struct {
	// URLs such as turns:turn.example.org:443?transport=tcp.
	URLs []string `yaml:"urls"`
	// Username and Credential for TURN. Default empty.
	Username   string `yaml:"username"`
	Credential string `yaml:"credential"`
	// Secret is what that server shares with us (coturn's static-auth-secret): each participant then gets a credential
	// of its own for an hour, in place of Username and Credential. Default empty.
	Secret string `yaml:"secret"`
}

// TURN is the STUN and TURN server inside the focus: for clients whose networks let neither of the media ports through.
type TURN struct {
	// Relay gives clients relays; false: they are told their own address (STUN), and nothing is relayed. Default: true.
	Relay bool `yaml:"relay"`
	// Host is the name or address under which clients reach it; TURN over TLS needs the name in the certificate. Empty:
	// the first of public_ips or listen, or else the host of the focus's address. Default empty.
	Host string `yaml:"host"`
	// UDPPort and TCPPort are its ports; -1: none. Default: 3478.
	UDPPort int `yaml:"udp_port"`
	TCPPort int `yaml:"tcp_port"`
	// TLSPort is the port that clients are told for TURN over TLS: where listen.secure or listen.turns are, or 443 where a
	// proxy hands connections over to listen.turns. 0: the port of listen.secure or listen.turns. Default: 0.
	TLSPort int `yaml:"tls_port"`
	// MinPort and MaxPort bound the UDP ports that are relayed from. Calls through the focus need none of them open in a
	// firewall; calls between two devices do. Both 0: whatever the host gives. Default: 0.
	MinPort int `yaml:"min_port"`
	MaxPort int `yaml:"max_port"`
	// MaxRelays bounds the relays of all together; a participant may need a handful. Default: 4096.
	MaxRelays int `yaml:"max_relays"`
	// MaxKbps bounds one relay in each direction, in kilobits a second; what is more is dropped. Default: 20000.
	MaxKbps int `yaml:"max_kbps"`
	// MaxTotalMbps bounds all of them together, in megabits a second. One user has an eighth of it, but never less than one allocation may
	// have in both directions. Default: 1000.
	MaxTotalMbps int `yaml:"max_total_mbps"`
	// DeniedNetworks are networks (CIDR) that nothing is relayed to in calls between two devices, such as your own public ones.
	// Default: none beyond the private ones.
	DeniedNetworks []string `yaml:"denied_networks"`
}

// DefaultConfig is what holds for keys that are left out.
func DefaultConfig() Config {
	return Config{
		Enabled: true, Path: "/calls", Key: "chancery", UDPPort: 7882, TCPPort: 7881,
		TURN:            TURN{Relay: true, UDPPort: 3478, TCPPort: 3478, MaxRelays: 4096, MaxKbps: 20_000, MaxTotalMbps: 1000},
		MaxParticipants: 1000, MaxTotalParticipants: 5000, MaxTracks: 16, MaxParticipantBitrate: 30_000_000, GuestsStart: true, Limits: true, KeepRecords: 90 * 24 * time.Hour,
		EmptyTimeout: 20 * time.Second, Grace: 15 * time.Second,
	}
}

// minSecret is the least length of a signing secret that is not for measuring only.
const minSecret = 32

// Check names the first thing that cannot work.
func (c *Config) Check() error {
	switch {
	case c.Path != "" && !strings.HasPrefix(c.Path, "/") || strings.HasSuffix(c.Path, "/"):
		return fmt.Errorf("calls.path %q must begin with a slash and not end with one", c.Path)
	case c.Path == "" && !c.Standalone:
		return errors.New("calls.path is empty: the focus stands beside the client API")
	case strings.HasSuffix(c.URL, "/"):
		return fmt.Errorf("calls.url %q must not end with a slash", c.URL)
	case c.URL != "" && (!overHTTP(c.URL) || !strings.HasSuffix(c.URL, c.Path)):
		return fmt.Errorf("calls.url %q is not of the form https://host%s, with calls.path at its end", c.URL, c.Path)
	case c.ServiceSecret != "" && (len(c.ServiceSecret) < minSecret || c.ServiceKey == ""):
		return fmt.Errorf("calls.service_secret needs %d bytes, and calls.service_key beside it", minSecret)
	case c.ServiceSecret == "" && c.ServiceKey != "":
		return errors.New("calls.service_key needs calls.service_secret beside it")
	case c.Webhook != "" && !overHTTP(c.Webhook):
		return fmt.Errorf("calls.webhook %q is no http address", c.Webhook)
	case c.Standalone && (c.Key == "" || c.Secret == ""):
		return errors.New("calls.standalone needs calls.key and calls.secret")
	case !c.Standalone && c.Secret != "" && len(c.Secret) < minSecret:
		return fmt.Errorf("calls.secret has %d bytes, it needs %d", len(c.Secret), minSecret)
	}
	if u, err := url.Parse(c.RelayAddress); err != nil || c.RelayAddress != "" && (u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "") {
		return fmt.Errorf("calls.relay_address %q is not of the form http://host:port", c.RelayAddress)
	}
	if t := c.TURN; t.MinPort < 0 || t.MaxPort > 65535 || t.MinPort > t.MaxPort || t.MinPort == 0 && t.MaxPort > 0 {
		return fmt.Errorf("calls.turn: no ports to relay from lie between min_port %d and max_port %d", t.MinPort, t.MaxPort)
	}
	if err := c.checkNumbers(); err != nil {
		return err
	}
	if _, err := policy.NewAddresses(nil, c.TURN.DeniedNetworks); err != nil {
		return fmt.Errorf("calls.turn.denied_networks: %w", err)
	}
	for _, s := range c.ICEServers {
		if err := s.check(); err != nil {
			return fmt.Errorf("calls.ice_servers: %w", err)
		}
	}
	for name, list := range map[string][]string{"restricted_servers": c.RestrictedServers, "view_only_servers": c.ViewOnlyServers, "external_servers": c.ExternalServers} {
		for _, s := range list {
			if s == "" || strings.ContainsAny(s, "/@# ") {
				return fmt.Errorf("calls.%s: %q is no server name, such as partner.example or *.partner.example", name, s)
			}
		}
	}
	for _, list := range [][]string{c.Listen, c.PublicIPs} {
		for _, s := range list {
			if net.ParseIP(s) == nil {
				return fmt.Errorf("calls: %q is no IP address", s)
			}
		}
	}
	return nil
}

// checkNumbers names the first number that lies outside of what can be.
func (c *Config) checkNumbers() error {
	const port, endless = 65535, math.MaxInt64
	for _, n := range []struct {
		name            string
		is, least, most int64
	}{
		{"udp_port", int64(c.UDPPort), 0, port},
		{"tcp_port", int64(c.TCPPort), -1, port},
		{"turn.udp_port", int64(c.TURN.UDPPort), -1, port},
		{"turn.tcp_port", int64(c.TURN.TCPPort), -1, port},
		{"turn.tls_port", int64(c.TURN.TLSPort), 0, port},
		{"turn.max_relays", int64(c.TURN.MaxRelays), 1, endless},
		{"turn.max_kbps", int64(c.TURN.MaxKbps), 1, endless},
		{"turn.max_total_mbps", int64(c.TURN.MaxTotalMbps), 1, endless},
		{"max_participants", int64(c.MaxParticipants), 0, endless},
		{"max_total_participants", int64(c.MaxTotalParticipants), 0, endless},
		{"max_tracks", int64(c.MaxTracks), 0, endless},
		{"max_guests", int64(c.MaxGuests), 0, endless},
		{"max_participant_bitrate", c.MaxParticipantBitrate, 0, endless},
		{"max_call_bitrate", c.MaxCallBitrate, 0, endless},
		{"max_guest_bitrate", c.MaxGuestBitrate, 0, endless},
		{"keep_records", int64(c.KeepRecords), 0, endless},
		{"empty_timeout", int64(c.EmptyTimeout), 0, endless},
		{"grace", int64(c.Grace), 0, endless},
	} {
		switch {
		case n.is < n.least:
			return fmt.Errorf("calls.%s must not be below %d", n.name, n.least)
		case n.is > n.most:
			return fmt.Errorf("calls.%s must not be above %d", n.name, n.most)
		}
	}
	return nil
}

// check names what a browser would refuse, and with it the whole call.
func (s *ICEServer) check() error {
	if len(s.URLs) == 0 {
		return errors.New("an entry has no urls")
	}
	for _, u := range s.URLs {
		uri, err := stun.ParseURI(u)
		if err != nil {
			return fmt.Errorf("%q is not of the form turns:host:port?transport=tcp: %w", u, err)
		}
		relays := uri.Scheme == stun.SchemeTypeTURN || uri.Scheme == stun.SchemeTypeTURNS
		if relays && s.Secret == "" && (s.Username == "" || s.Credential == "") {
			return fmt.Errorf("%q needs a secret, or username and credential", u)
		}
	}
	return nil
}

// overHTTP says whether an address is one of HTTP, with a host.
func overHTTP(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func parseIPs(list []string) (ips []net.IP) {
	for _, s := range list {
		if ip := net.ParseIP(s); ip != nil {
			ips = append(ips, ip)
		}
	}
	return ips
}
