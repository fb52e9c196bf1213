package calls

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/calls/sfu"
	"chancery/calls/signal"
	"chancery/calls/turn"
	"chancery/roomserver/policy"
	"chancery/storage/bus"
)

// openTURN starts the STUN and TURN server beside the media ports.
func (f *Focus) openTURN(ports sfu.Ports) (err error) {
	addresses, err := ports.Addresses()
	if err != nil {
		return err
	}
	f.reach.Store(turn.NewFoci(f.ownMedia()))
	config := f.config.TURN
	peers, err := policy.NewAddresses(nil, config.DeniedNetworks)
	if err != nil {
		return fmt.Errorf("calls.turn.denied_networks: %w", err)
	}
	settings := turn.Settings{
		Listen: addresses, Told: ports.Public, UDP: config.UDPPort, TCP: config.TCPPort,
		Foci: f.reach.Load, Public: peers.Allows,
		MinPort: config.MinPort, MaxPort: config.MaxPort, Allocations: config.MaxRelays,
		Rate: config.MaxKbps * 1000 / 8, TotalRate: config.MaxTotalMbps * 1_000_000 / 8,
	}
	if config.Relay {
		settings.Secret = f.turnSecret()
	}
	f.turn, err = turn.New(settings)
	return err
}

// turnSecret is what all processes of this server make TURN credentials with.
func (f *Focus) turnSecret() []byte {
	mac := hmac.New(sha256.New, f.tokens.secret)
	mac.Write([]byte("turn"))
	return mac.Sum(nil)
}

// ownMedia are our media addresses, as clients are told them and as they are.
func (f *Focus) ownMedia() (own []turn.Media) {
	for _, at := range f.engine.UDP() {
		told := false
		for _, ip := range parseIPs(f.config.PublicIPs) {
			if outer, ok := netip.AddrFromSlice(ip); ok && outer.Unmap().Is4() == at.Addr().Unmap().Is4() {
				own = append(own, turn.Media{Told: netip.AddrPortFrom(outer.Unmap(), at.Port()), At: at})
				told = true
			}
		}
		if !told {
			own = append(own, turn.Media{Told: at, At: at})
		}
	}
	return own
}

// ServeTURN serves a connection that speaks TURN, its TLS agreed upon already; it does not wait for its end.
func (f *Focus) ServeTURN(conn net.Conn) { f.turn.Take(conn) }

// SpeaksTURN says whether a connection that begins so is for ServeTURN; HTTP never does.
func SpeaksTURN(first []byte) bool { return turn.IsSTUN(first) }

// iceServers are the STUN and TURN servers that a participant is told: ours and those of the configuration. There is
// always one, since some clients ask a public one when they are told of none (LiveKit's for Android and iOS). Its relays are
// counted as its user's, however often that joins; in a focus alone as its identity's.
func (f *Focus) iceServers(p *Participant) []*signal.ICEServer {
	who := f.pseudonym(cmp.Or(string(p.user), p.identity))
	var servers []*signal.ICEServer
	if port := f.turn.UDP(); port != 0 {
		servers = append(servers, &signal.ICEServer{Urls: f.stunURLs("stun", port, "")})
	}
	if urls := f.turnURLs(); len(urls) > 0 {
		username, password := turn.Credential(f.turnSecret(), turn.ToFoci, who, time.Now())
		servers = append(servers, &signal.ICEServer{Urls: urls, Username: username, Credential: password})
	}
	for _, s := range f.config.ICEServers {
		server := &signal.ICEServer{Urls: s.URLs, Username: s.Username, Credential: s.Credential}
		if s.Secret != "" {
			server.Username = strconv.FormatInt(time.Now().Add(turn.Life).Unix(), 10) + ":" + who
			server.Credential = turn.Password([]byte(s.Secret), server.Username)
		}
		servers = append(servers, server)
	}
	if len(servers) == 0 { // the media port answers no such question, but it is ours
		for _, at := range f.engine.UDP() {
			servers = append(servers, &signal.ICEServer{Urls: f.stunURLs("stun", int(at.Port()), "")})
			break
		}
	}
	return servers
}

// relays says whether clients are told of a TURN server, ours or another.
func (f *Focus) relays() bool {
	return len(f.turnURLs()) > 0 || slices.ContainsFunc(f.config.ICEServers, func(s ICEServer) bool {
		return slices.ContainsFunc(s.URLs, func(url string) bool { return strings.HasPrefix(strings.ToLower(url), "turn") })
	})
}

// turnURLs are the ways to our TURN server; none where it does not relay.
func (f *Focus) turnURLs() (urls []string) {
	if !f.turn.Relays() {
		return nil
	}
	if port := f.turn.UDP(); port != 0 {
		urls = append(urls, f.stunURLs("turn", port, "udp")...)
	}
	if port := f.turn.TCP(); port != 0 {
		urls = append(urls, f.stunURLs("turn", port, "tcp")...)
	}
	if port := f.config.TURN.TLSPort; port != 0 {
		host := f.config.TURN.Host
		if host == "" {
			host = f.urlHost()
		}
		urls = append(urls, "turns:"+net.JoinHostPort(host, strconv.Itoa(port))+"?transport=tcp")
	}
	return urls
}

// stunURLs names our server, by the name of the configuration or by its addresses.
func (f *Focus) stunURLs(scheme string, port int, transport string) (urls []string) {
	if transport != "" {
		transport = "?transport=" + transport
	}
	for _, host := range f.hosts() {
		urls = append(urls, scheme+":"+net.JoinHostPort(host, strconv.Itoa(port))+transport)
	}
	return urls
}

// hosts are the names or addresses of our STUN and TURN server: at most one of each family.
func (f *Focus) hosts() []string {
	if f.config.TURN.Host != "" {
		return []string{f.config.TURN.Host}
	}
	list := f.config.PublicIPs
	if len(list) == 0 {
		list = f.config.Listen
	}
	four, six := "", ""
	for _, s := range list {
		if ip := net.ParseIP(s); ip == nil || ip.IsUnspecified() {
			continue
		} else if ip.To4() != nil && four == "" {
			four = s
		} else if ip.To4() == nil && six == "" {
			six = s
		}
	}
	var hosts []string
	for _, host := range []string{four, six} {
		if host != "" {
			hosts = append(hosts, host)
		}
	}
	if len(hosts) == 0 {
		hosts = append(hosts, f.urlHost())
	}
	return hosts
}

// urlHost is where clients reach the focus's signalling; or else the first address of this host that takes media.
func (f *Focus) urlHost() string {
	if u, err := url.Parse(cmp.Or(f.config.URL, f.config.Told)); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	for _, at := range f.engine.UDP() {
		return at.Addr().Unmap().String()
	}
	return "localhost"
}

// answerTURN gives credentials to the client API, for calls between two devices.
func (f *Focus) answerTURN() error {
	stop, err := bus.Answer(f.ctx, f.house.bus, bus.TURNDo, func(_ context.Context, _ string, q bus.TURNQuestion) (bus.TURNAnswer, error) {
		urls := f.turnURLs()
		if len(urls) == 0 {
			return bus.TURNAnswer{}, nil
		}
		username, password := turn.Credential(f.turnSecret(), turn.ToPublic, f.pseudonym(string(q.User)), time.Now())
		return bus.TURNAnswer{URIs: urls, Username: username, Password: password, Seconds: int(turn.Life.Seconds())}, nil
	})
	if err != nil {
		return fmt.Errorf("answer for TURN: %w", err)
	}
	context.AfterFunc(f.ctx, stop)
	return nil
}

// pseudonym stands for a user where others may read along.
func (f *Focus) pseudonym(user string) string {
	mac := hmac.New(sha256.New, f.turnSecret())
	mac.Write([]byte(strings.ToLower(user)))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:12])
}
