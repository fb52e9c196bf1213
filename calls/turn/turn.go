// Package turn is the STUN and TURN server inside the call focus: for clients whose network lets neither the focus's UDP
// nor its TCP port through, and for calls between two devices without a focus.
//
// It owns its ports, the allocations and what they may cost. Pion speaks the protocol. What holds here:
//   - nothing is relayed but what a credential of ours permits: a participant's reaches the foci's media ports, whatever
//     their address, and nothing else; an account's reaches public addresses, never this host's other ports;
//   - a credential opens allocations for an hour; those that it opened go on for a day at the longest, also where the host's
//     clock is set meanwhile;
//   - before a client has proven who it is, it costs a bounded number of packets, bytes and seconds;
//   - allocations, whom they reach and their bandwidth are bounded, for each and in sum: what is too much is dropped. A user
//     has a share of the bandwidth, not more for many allocations; whoever has no permission spends none of it;
//   - nothing but UDP is relayed.
package turn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
	"golang.org/x/time/rate"
)

// Settings says where the server listens, and what it may cost.
type Settings struct {
	Listen []net.IP // this host's addresses, to listen on and to relay from; at least one
	Told   []net.IP // what clients are told in their place; none: these themselves
	UDP    int      // port for clients over UDP; 0 takes a free one, less than 0 means none
	TCP    int      // port for clients over TCP, as UDP
	// Secret is what credentials are made with; all processes of one server have the same. Empty: STUN alone is served.
	Secret []byte
	// Foci gives the media addresses of all foci of this server, as they are now.
	Foci func() *Foci
	// Public says whether an address is one of the open Internet's.
	Public func(netip.Addr) bool
	// Host gives all of this host's addresses, those too that nothing of ours listens on; default net.InterfaceAddrs.
	Host func() ([]net.Addr, error)
	// MinPort and MaxPort bound the ports that are relayed from; both 0: whatever the host gives.
	MinPort, MaxPort int

	Allocations int // at most so many at once; default 4096
	PerUser     int // of one user, on several devices and in several calls; default 64
	Rate        int // bytes in a second, of one allocation in one direction; default 2.5 million
	// TotalRate is of all together in both; default 125 million. One user has an eighth of it, but never less than one
	// allocation may have in both directions.
	TotalRate int
	// Early is how long a connection may take to its allocation; default 15 s.
	Early time.Duration
	// Now is what this host's clock shows, by which credentials are given; default time.Now.
	Now func() time.Time
}

func (s Settings) withDefaults() Settings {
	for _, d := range []struct {
		value *int
		is    int
	}{{&s.Allocations, 4096}, {&s.PerUser, 64}, {&s.Rate, 2_500_000}, {&s.TotalRate, 125_000_000}} {
		if *d.value <= 0 {
			*d.value = d.is
		}
	}
	if s.Early <= 0 {
		s.Early = 15 * time.Second
	}
	if s.Foci == nil {
		none := NewFoci(nil)
		s.Foci = func() *Foci { return none }
	}
	if s.Host == nil {
		s.Host = net.InterfaceAddrs
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Public == nil {
		s.Public = func(netip.Addr) bool { return false }
	}
	return s
}

// Realm is what the server calls itself to its clients.
const Realm = "chancery"

const (
	maxFrame     = 1500 // the largest STUN message or channel data that is read
	kernelBuffer = 1 << 20
)

// Server is a running STUN and TURN server.
type Server struct {
	settings Settings
	pion     *turn.Server
	udp, tcp int // the ports in use; 0: none
	inlet    *inlet
	closers  []io.Closer
	live     sync.WaitGroup
	now      func() time.Time
	began    time.Time // by the settings' clock
	total    *rate.Limiter
	unproven sources             // of what anybody could have sent
	signed   sources             // of what says who it is from, without an allocation
	own      map[netip.Addr]bool // where we listen and relay from, real and told
	host     atomic.Pointer[host]

	mu       sync.Mutex
	users    map[string]*user    // with an allocation, or a while ago
	relays   map[*relay]struct{} // all of them
	told, at map[netip.AddrPort]*relay
	sessions map[string]*session // of the clients with an allocation, by address
}

// New opens the ports and serves.
func New(settings Settings) (*Server, error) {
	settings = settings.withDefaults()
	s := &Server{settings: settings, now: time.Now, began: settings.Now(), own: map[netip.Addr]bool{},
		users: map[string]*user{}, relays: map[*relay]struct{}{}, told: map[netip.AddrPort]*relay{}, at: map[netip.AddrPort]*relay{}, sessions: map[string]*session{}}
	s.total = rate.NewLimiter(rate.Limit(s.settings.TotalRate), s.settings.TotalRate)
	for _, ip := range append(append([]net.IP{}, settings.Listen...), settings.Told...) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			s.own[a.Unmap()] = true
		}
	}
	if len(settings.Listen) == 0 {
		return nil, errors.New("turn: no address to listen on")
	}
	if err := s.lookAround(); err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) open() (err error) {
	config := turn.ServerConfig{
		Realm: Realm, InboundMTU: maxFrame + 1,
		LoggerFactory: &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled},
		QuotaHandler:  s.quota,
		EventHandler: turn.EventHandler{
			OnAllocationCreated: s.begun, OnAllocationDeleted: s.ended,
			OnPermissionCreated: s.permitted, OnPermissionDeleted: s.unpermitted, OnChannelCreated: s.bound, OnChannelDeleted: s.unbound,
		},
	}
	if len(s.settings.Secret) > 0 {
		config.AuthHandler = s.authenticate
	}
	if s.settings.UDP >= 0 {
		port := s.settings.UDP
		for _, ip := range s.settings.Listen {
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: port})
			if err != nil {
				return fmt.Errorf("TURN: listen on UDP port %d: %w", port, err)
			}
			s.closers = append(s.closers, conn)
			_ = conn.SetReadBuffer(kernelBuffer) // a smaller buffer serves fewer
			_ = conn.SetWriteBuffer(kernelBuffer)
			s.udp = conn.LocalAddr().(*net.UDPAddr).Port
			port = s.udp // the same on every address
			config.PacketConnConfigs = append(config.PacketConnConfigs, turn.PacketConnConfig{
				PacketConn: &gate{UDPConn: conn, server: s}, RelayAddressGenerator: generator{s}, PermissionHandler: s.permits,
			})
		}
	}
	s.inlet = newInlet(s)
	config.ListenerConfigs = []turn.ListenerConfig{{Listener: s.inlet, RelayAddressGenerator: generator{s}, PermissionHandler: s.permits}}
	if s.pion, err = turn.NewServer(config); err != nil {
		return fmt.Errorf("TURN: %w", err)
	}
	if s.settings.TCP < 0 {
		return nil
	}
	port := s.settings.TCP
	for _, ip := range s.settings.Listen {
		listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: port})
		if err != nil {
			return fmt.Errorf("TURN: listen on TCP port %d: %w", port, err)
		}
		s.closers = append(s.closers, listener)
		s.tcp = listener.Addr().(*net.TCPAddr).Port
		port = s.tcp
		s.live.Go(func() { s.accept(listener) })
	}
	return nil
}

// accept takes connections until the listener is closed.
func (s *Server) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, or the like
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.Take(conn)
	}
}

// UDP and TCP are the ports in use; 0 where there is none.
func (s *Server) UDP() int { return s.udp }
func (s *Server) TCP() int { return s.tcp }

// Relays says whether the server gives out allocations, and does not only answer STUN.
func (s *Server) Relays() bool { return len(s.settings.Secret) > 0 }

// Close ends all allocations and frees the ports.
func (s *Server) Close() error {
	var errs []error
	if s.pion != nil {
		errs = append(errs, s.pion.Close())
	}
	for _, c := range s.closers {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if s.inlet != nil {
		s.inlet.closeAll()
	}
	s.live.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.relays { // what Pion has not closed yet
		_ = r.UDPConn.Close()
	}
	return errors.Join(errs...)
}
