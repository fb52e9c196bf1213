package calls

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// way is how packets fare in one direction of a relay. The zero value lets everything through.
type way struct {
	Loss  float64 `json:"loss"`  // share of packets that vanish, 0 to 1
	Kbps  int     `json:"kbps"`  // what the narrow place carries; 0: anything
	Queue int     `json:"queue"` // milliseconds of packets that wait before it; 0: 300
	Delay int     `json:"delay"` // milliseconds on the way
	Swing int     `json:"swing"` // milliseconds that come on top, up to so many
}

const standardQueue = 300 * time.Millisecond

// relay is one client's way to the focus: a UDP port in front of the focus's, and a TCP port in front of its signalling.
// Both can be made worse while they are used.
type relay struct {
	t        testing.TB
	up, down atomic.Pointer[way]
	front    *net.UDPConn
	focus    netip.AddrPort // where media go
	door     net.Listener
	target   string // where signalling goes

	mu    sync.Mutex
	media map[netip.AddrPort]*lane // by the client's address
	conns map[net.Conn]bool
	shut  bool // new signalling connections are closed at once
}

// lane is one of the client's sockets as the focus sees it.
type lane struct {
	back     *net.UDPConn
	up, down *narrow
}

// newRelay stands between one client and a focus whose media and signalling have these addresses.
func newRelay(t testing.TB, media, signalling string) *relay {
	t.Helper()
	focus, err := netip.ParseAddrPort(media)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, focus: focus, target: signalling, media: map[netip.AddrPort]*lane{}, conns: map[net.Conn]bool{}}
	r.up.Store(&way{})
	r.down.Store(&way{})
	if r.front, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	if r.door, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go r.readFront()
	go r.acceptDoor()
	t.Cleanup(r.close)
	return r
}

func (r *relay) port() int { return r.front.LocalAddr().(*net.UDPAddr).Port }

func (r *relay) close() {
	r.front.Close()
	r.door.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.media {
		l.end()
	}
	for c := range r.conns {
		c.Close()
	}
	r.media, r.conns = nil, nil
}

func (l *lane) end() {
	l.back.Close()
	close(l.up.queue)
	close(l.down.queue)
}

// readFront takes the client's packets, on a lane for each of its sockets.
func (r *relay) readFront() {
	buf := make([]byte, 2048)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		if l := r.lane(from); l != nil {
			l.up.pass(buf[:n])
		}
		r.mu.Unlock()
	}
}

// lane gives the lane of a client's socket; r.mu is held.
func (r *relay) lane(client netip.AddrPort) *lane {
	if r.media == nil {
		return nil
	}
	if l := r.media[client]; l != nil {
		return l
	}
	back, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(r.focus))
	if err != nil {
		r.t.Errorf("relay: %v", err)
		return nil
	}
	l := &lane{back: back}
	l.up = newNarrow(&r.up, uint64(len(r.media)), func(b []byte) { _, _ = back.Write(b) })
	l.down = newNarrow(&r.down, uint64(len(r.media)), func(b []byte) { _, _ = r.front.WriteToUDPAddrPort(b, client) })
	r.media[client] = l
	go r.readBack(l)
	return l
}

func (r *relay) readBack(l *lane) {
	buf := make([]byte, 2048)
	for {
		n, err := l.back.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // nobody listens there at the moment
			continue
		}
		r.mu.Lock()
		if r.media != nil {
			l.down.pass(buf[:n])
		}
		r.mu.Unlock()
	}
}

// narrow is one direction of a lane: a link with a queue in front of it.
type narrow struct {
	way   *atomic.Pointer[way]
	dice  *rand.Rand
	free  time.Time // when the link has carried what waits
	queue chan waiting
}

type waiting struct {
	packet []byte
	due    time.Time
}

func newNarrow(way *atomic.Pointer[way], seed uint64, write func([]byte)) *narrow {
	n := &narrow{way: way, dice: rand.New(rand.NewPCG(7, seed)), queue: make(chan waiting, 4096)}
	go func() {
		for w := range n.queue {
			time.Sleep(time.Until(w.due))
			write(w.packet)
		}
	}()
	return n
}

// pass lets a packet through, later, or not at all.
func (n *narrow) pass(packet []byte) {
	w := n.way.Load()
	if w.Loss > 0 && n.dice.Float64() < w.Loss {
		return
	}
	now := time.Now()
	if w.Kbps > 0 {
		queue := time.Duration(w.Queue) * time.Millisecond
		if queue == 0 {
			queue = standardQueue
		}
		if n.free.Before(now) {
			n.free = now
		}
		if n.free.Sub(now) > queue {
			return
		}
		n.free = n.free.Add(time.Duration(len(packet)+28) * 8 * time.Millisecond / time.Duration(w.Kbps))
		now = n.free
	}
	due := now.Add(time.Duration(w.Delay) * time.Millisecond)
	if w.Swing > 0 {
		due = due.Add(time.Duration(n.dice.Int64N(int64(w.Swing) * int64(time.Millisecond))))
	}
	select {
	case n.queue <- waiting{append([]byte(nil), packet...), due}:
	default: // a queue that long is a loss
	}
}

// acceptDoor carries signalling.
func (r *relay) acceptDoor() {
	for {
		client, err := r.door.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		shut := r.shut
		r.mu.Unlock()
		focus, err := net.Dial("tcp", r.target)
		if shut || err != nil {
			client.Close()
			if err == nil {
				focus.Close()
			}
			continue
		}
		r.mu.Lock()
		if r.conns != nil {
			r.conns[client], r.conns[focus] = true, true
		}
		r.mu.Unlock()
		go r.pump(client, focus)
		go r.pump(focus, client)
	}
}

func (r *relay) pump(to, from net.Conn) {
	_, _ = io.Copy(to, from) // either end may close
	to.Close()
	from.Close()
	r.mu.Lock()
	delete(r.conns, from)
	r.mu.Unlock()
}

// cut closes the signalling connections that are open. shut keeps new ones out too.
func (r *relay) cut(shut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = shut
	for c := range r.conns {
		c.Close()
	}
}

// serve handles the control of the relay: what is named in the body changes.
func (r *relay) serve(w http.ResponseWriter, req *http.Request) {
	var change struct {
		Up   *way  `json:"up"`
		Down *way  `json:"down"`
		Cut  bool  `json:"cut"`
		Shut *bool `json:"shut"`
	}
	if err := json.NewDecoder(req.Body).Decode(&change); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if change.Up != nil {
		r.up.Store(change.Up)
	}
	if change.Down != nil {
		r.down.Store(change.Down)
	}
	if change.Shut != nil {
		r.mu.Lock()
		r.shut = *change.Shut
		r.mu.Unlock()
	}
	if change.Cut {
		r.mu.Lock()
		shut := r.shut
		r.mu.Unlock()
		r.cut(shut)
	}
}

func TestRelay(t *testing.T) {
	echo, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	for _, c := range []struct {
		name        string
		up, down    way
		least, most int // of 200 packets of 1000 bytes, sent within a second
	}{
		{"clear", way{}, way{}, 200, 200},
		{"five percent each way", way{Loss: 0.05}, way{Loss: 0.05}, 165, 195},
		{"closed", way{}, way{Loss: 1}, 0, 0},
		{"narrow", way{}, way{Kbps: 250}, 20, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRelay(t, echo.LocalAddr().String(), "127.0.0.1:1")
			r.up.Store(&c.up)
			r.down.Store(&c.down)
			client, err := net.Dial("udp4", "127.0.0.1:"+strconv.Itoa(r.port()))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			go func() {
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for range 200 {
					<-tick.C
					_, _ = client.Write(make([]byte, 1000))
				}
			}()
			got := 0
			buf := make([]byte, 2048)
			deadline, _ := ctx.Deadline()
			_ = client.SetReadDeadline(deadline)
			for got < 200 {
				if _, err := client.Read(buf); err != nil {
					break
				}
				got++
			}
			if got < c.least || got > c.most {
				t.Errorf("got %d of 200 packets back, want %d to %d", got, c.least, c.most)
			}
		})
	}
}
