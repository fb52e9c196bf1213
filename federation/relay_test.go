package federation_test

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// weather is how bad a link is.
type weather struct {
	// delay is what each byte takes, one way.
	delay time.Duration
	// stall is how likely a piece of data is held up, as by a lost packet, for 200 to 800 ms; reset how likely its connection breaks.
	stall, reset float64
}

// relay is a link to an address, with weather, that can be cut.
type relay struct {
	listener net.Listener
	to       string
	weather  weather
	isCut    atomic.Bool

	mu     sync.Mutex
	rand   *rand.Rand
	conns  map[net.Conn]bool
	healed chan struct{} // closed while the link is whole
	stop   chan struct{}
}

func newRelay(t *testing.T, to string, w weather, seed uint64) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{
		listener: l, to: to, weather: w, rand: rand.New(rand.NewPCG(seed, 1)), conns: make(map[net.Conn]bool),
		healed: make(chan struct{}), stop: make(chan struct{}),
	}
	close(r.healed)
	go r.serve()
	t.Cleanup(r.close)
	return r
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) close() {
	close(r.stop)
	r.listener.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}

// cut stops everything on the link; nothing is refused, it just does not arrive.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isCut.Store(true)
	r.healed = make(chan struct{})
}

// heal ends the cut. Half of the connections of before survive it.
func (r *relay) heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isCut.Store(false)
	for c := range r.conns {
		if r.rand.IntN(2) == 0 {
			c.Close()
		}
	}
	close(r.healed)
}

func (r *relay) serve() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		go r.join(in)
	}
}

func (r *relay) join(in net.Conn) {
	defer in.Close()
	if !r.whole() {
		return
	}
	out, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer out.Close()
	r.mu.Lock()
	r.conns[in] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, in)
	}()
	var wait sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		wait.Go(func() { r.carry(way[0], way[1]); in.Close(); out.Close() })
	}
	wait.Wait()
}

// whole waits until the link is whole; false at the end.
func (r *relay) whole() bool {
	for {
		r.mu.Lock()
		healed := r.healed
		r.mu.Unlock()
		select {
		case <-healed:
			if !r.isCut.Load() {
				return true
			}
		case <-r.stop:
			return false
		}
	}
}

// piece is data on its way.
type piece struct {
	data []byte
	due  time.Time
}

// carry takes data one way, in order, each piece when its time has come.
func (r *relay) carry(from, to net.Conn) {
	way := make(chan piece, 1000)
	go func() {
		defer close(way)
		for {
			buffer := make([]byte, 16<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				delay, broken := r.luck()
				if broken {
					if tcp, ok := to.(*net.TCPConn); ok {
						_ = tcp.SetLinger(0)
					}
					return
				}
				select {
				case way <- piece{buffer[:n], time.Now().Add(delay)}:
				case <-r.stop:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		timer := time.NewTimer(time.Until(p.due))
		select {
		case <-timer.C:
		case <-r.stop:
			timer.Stop()
			return
		}
		if !r.whole() {
			return
		}
		if _, err := to.Write(p.data); err != nil {
			_, _ = io.Copy(io.Discard, from) // until the other side notices
			return
		}
	}
}

// luck says how long a piece of data takes, and whether the connection breaks over it.
func (r *relay) luck() (delay time.Duration, broken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delay = r.weather.delay
	if r.rand.Float64() < r.weather.stall {
		delay += 200*time.Millisecond + time.Duration(r.rand.Int64N(int64(600*time.Millisecond)))
	}
	return delay, r.rand.Float64() < r.weather.reset
}
