package calls

import (
	"net"
	"runtime"
	"testing"
	"time"
)

// clientHello begins a DTLS handshake, or has the form of what does.
var clientHello = append([]byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 1, 0, 0, 88, 0, 0, 0, 0, 0, 0, 0, 88, 254, 253}, make([]byte, 86)...)

// TestStrangersCostNothing: DTLS and RTP of those who have passed no check of connectivity are not looked at, and not answered.
func TestStrangersCostNothing(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := join(t, base, "room", "ann"), join(t, base, "room", "bob")
	ann.publish("ann")
	bob.hears("ann")
	address := mediaAddress(t, f)
	alone := runtime.NumGoroutine()
	join(t, base, "room", "cat").hears("ann")
	before := runtime.NumGoroutine()
	one := max(before-alone, 0) // what a participant costs
	media := append([]byte{0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9}, make([]byte, 200)...)
	var strangers []net.Conn
	for range 50 {
		stranger, err := net.Dial("udp4", address)
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		strangers = append(strangers, stranger)
		for range 100 {
			for _, packet := range [][]byte{clientHello, media, {22}, []byte("nothing")} {
				_, _ = stranger.Write(packet)
			}
		}
	}
	join(t, base, "room", "dan").hears("ann") // by the same port, and after them
	got, most := runtime.NumGoroutine(), before+one+len(strangers)/2
	for end := time.Now().Add(patience); got > most && time.Now().Before(end); got = runtime.NumGoroutine() {
		runtime.Gosched() // what comes with a participant alone goes by itself
	}
	if got > most {
		t.Errorf("got %d goroutines after strangers' packets, %d before, and a participant costs %d", got, before, one)
	}
	buf := make([]byte, 2048)
	for _, stranger := range strangers {
		if err := stranger.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := stranger.Read(buf); err == nil {
			t.Errorf("a stranger was answered: %x", buf[:n])
		}
	}
}
