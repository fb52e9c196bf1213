package turn

import (
	"net"
	"testing"
	"time"

	"github.com/pion/turn/v5"
)

// budget is a server whose clock stands still until it is moved, and a focus that its relays reach.
type budget struct {
	t     *testing.T
	s     *Server
	focus *net.UDPConn
	at    time.Time
}

// newBudget lets all together have total bytes a second, and one allocation each.
func newBudget(t *testing.T, total, each int) *budget {
	b := &budget{t: t, focus: loopbackAt(t, 1), at: time.Now()}
	b.s = openServer(t, withFocus(b.focus.LocalAddr()), func(s *Settings) {
		s.TotalRate, s.Rate = total, each
		s.UDP, s.TCP = -1, -1 // no clients, who would look at the clock too
	})
	b.s.now = func() time.Time { return b.at }
	return b
}

// opens gives a user so many relays.
func (b *budget) opens(who string, n int) (relays []net.PacketConn) {
	b.t.Helper()
	for range n {
		conn, _, err := generator{b.s}.AllocatePacketConn(turn.AllocateListenerConfig{Network: "udp4", UserID: string(ToFoci) + ":" + who})
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { conn.Close() })
		relays = append(relays, conn)
	}
	return relays
}

func (b *budget) closes(relays []net.PacketConn) {
	b.t.Helper()
	for _, r := range relays {
		if err := r.Close(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// sends is how many bytes come to the focus where each relay sends so many packets of so many bytes.
func (b *budget) sends(relays []net.PacketConn, packets, size int) (got int) {
	b.t.Helper()
	for _, r := range relays {
		for range packets {
			if _, err := r.WriteTo(make([]byte, size), b.focus.LocalAddr()); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	last, err := net.DialUDP("udp4", nil, b.focus.LocalAddr().(*net.UDPAddr)) // loopback keeps the order
	if err != nil {
		b.t.Fatal(err)
	}
	defer last.Close()
	if _, err := last.Write([]byte{1}); err != nil {
		b.t.Fatal(err)
	}
	if err := b.focus.SetReadDeadline(time.Now().Add(patience)); err != nil {
		b.t.Fatal(err)
	}
	for p := make([]byte, 2000); ; {
		n, _, err := b.focus.ReadFromUDPAddrPort(p)
		if err != nil {
			b.t.Fatal(err)
		}
		if n == 1 {
			return got
		}
		got += n
	}
}

// TestOneUserLeavesTheOthersTheirs: with many allocations nobody has more than a user's share.
func TestOneUserLeavesTheOthersTheirs(t *testing.T) {
	for _, c := range []struct {
		name        string
		total, each int
		want        int // of one user's
	}{
		{"an eighth", 80_000, 4_000, 10_000},
		{"one allocation in both directions", 16_000, 4_000, 8_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBudget(t, c.total, c.each)
			if got := b.sends(b.opens("eve", 24), 5, 1000); got != c.want {
				t.Errorf("from one user's relays together %d bytes came, want %d", got, c.want)
			}
			if got := b.sends(b.opens("bob", 1), 5, 1000); got != c.each {
				t.Errorf("from another's %d bytes came, want %d", got, c.each)
			}
		})
	}
}

// TestComingAgainGivesNothing: who gives up all allocations and opens others has no more for that, and is forgotten when it makes
// no difference.
func TestComingAgainGivesNothing(t *testing.T) {
	b := newBudget(t, 80_000, 4_000)
	eve := b.opens("eve", 4)
	b.sends(eve, 5, 1000)
	b.closes(eve)
	eve = b.opens("eve", 4)
	if got := b.sends(eve, 5, 1000); got != 0 {
		t.Errorf("with other allocations %d bytes came, want none", got)
	}
	b.closes(eve)
	b.at = b.at.Add(time.Second)
	b.closes(b.opens("bob", 1))
	if n := len(b.s.users); n != 0 {
		t.Errorf("%d users are remembered, want none", n)
	}
	if got := b.sends(b.opens("eve", 4), 5, 1000); got != 10_000 {
		t.Errorf("a second later %d bytes came, want 10000", got)
	}
}
