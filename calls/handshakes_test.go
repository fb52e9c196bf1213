package calls

import (
	"encoding/binary"
	"net"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// TestAFloodBeforeTheHandshake: who has passed the checks of connectivity, and says without end what begins a handshake and never ends one, costs
// no goroutines and little memory, is answered little, and the others' call goes on.
func TestAFloodBeforeTheHandshake(t *testing.T) {
	hello, filler := firstHello(t), make([]byte, 1200)
	for _, c := range []struct {
		name     string
		answered bool
		packet   func(n int) []byte
	}{
		{"one hello", true, func(n int) []byte { return record(22, 0, n, message(len(hello), 0, hello)) }},
		{"other messages, one after the other", false, func(n int) []byte { return record(22, 0, n, message(len(filler), n, filler)) }},
		{"pieces of hellos", false, func(n int) []byte { return record(22, 0, n, message(1<<20, n, filler)) }},
		{"what is not yet to be read", false, func(n int) []byte { return record(23, 1, n, filler) }},
		{"what cannot be read", false, func(int) []byte { return append([]byte{22}, filler...) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, base := newTestFocus(t, func(c *Config) { c.Grace = time.Minute })
			join(t, base, "room", "ann").publish("ann")
			eve := passesChecks(t, base, mediaAddress(t, f), "eve")
			said := 0
			says := func(packets, each int) {
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for range packets / each {
					<-tick.C
					for range each {
						if _, err := eve.Write(c.packet(said)); err != nil {
							t.Error(err)
							return
						}
						said++
					}
				}
			}
			flooded := make(chan struct{})
			go func() { defer close(flooded); says(3000, 3) }()
			join(t, base, "room", "bob").hears("ann")
			<-flooded
			before, goroutines := heap(), runtime.NumGoroutine()
			says(20_000, 20)
			if after := heap(); after > before+8<<20 {
				t.Errorf("the heap has grown by %d MB, want less than 8", (after-before)>>20)
			}
			if got := runtime.NumGoroutine(); got > goroutines+20 {
				t.Errorf("got %d goroutines, %d before", got, goroutines)
			}
			join(t, base, "room", "cat").hears("ann") // after all of it
			if theRoom(t, f).find("eve") == nil {
				t.Error("eve has left, and floods nobody")
			}
			answers := 0
			for buf := make([]byte, 2048); ; answers++ {
				if err := eve.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				if _, err := eve.Read(buf); err != nil {
					break
				}
			}
			if answers > 50 || (answers > 0) != c.answered {
				t.Errorf("got %d answers to %d packets, want few, and any: %v", answers, said, c.answered)
			}
		})
	}
}

// heap is how much of it is in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// passesChecks joins with a client that passes the checks of connectivity at the focus's address for media, and has yet to shake hands.
func passesChecks(t *testing.T, base, media, identity string) *ice.Conn {
	t.Helper()
	ws := dialSocket(t, base, "/rtc", url.Values{"access_token": {testToken(t, "room", identity)}, "protocol": {"16"}, "auto_subscribe": {"0"}})
	var offer *signal.SessionDescription
	for offer == nil {
		res, err := readResponse(ws)
		if err != nil {
			t.Fatal(err)
		}
		offer = res.GetOffer()
	}
	pc, err := webrtc.NewPeerConnection(webrtc.Configuration{}) // says the answer, and does nothing else
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer.Sdp}); err != nil {
		t.Fatal(err)
	}
	answer, err := pc.CreateAnswer(nil)
	if err != nil {
		t.Fatal(err)
	}
	attribute := func(sdp, name string) string {
		_, after, _ := strings.Cut(sdp, "a="+name+":")
		value, _, _ := strings.Cut(after, "\r\n")
		return value
	}
	agent, err := ice.NewAgentWithOptions(ice.WithLocalCredentials(attribute(answer.SDP, "ice-ufrag"), attribute(answer.SDP, "ice-pwd")),
		ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4}), ice.WithIncludeLoopback())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close() })
	host, port, err := net.SplitHostPort(media)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	candidate, err := ice.NewCandidateHost(&ice.CandidateHostConfig{Network: "udp", Address: host, Port: number, Component: 1})
	if err == nil {
		err = agent.OnCandidate(func(ice.Candidate) {})
	}
	if err == nil {
		err = agent.GatherCandidates()
	}
	if err == nil {
		err = agent.AddRemoteCandidate(candidate)
	}
	if err != nil {
		t.Fatal(err)
	}
	said, err := signal.Encode(&signal.Request{Message: &signal.Request_Answer{Answer: &signal.SessionDescription{Type: "answer", Sdp: answer.SDP, Id: offer.Id}}})
	if err == nil {
		err = ws.WriteMessage(websocket.BinaryMessage, said)
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, err := agent.Accept(t.Context(), attribute(offer.Sdp, "ice-ufrag"), attribute(offer.Sdp, "ice-pwd"))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// firstHello is what a DTLS client says first, without the headers.
func firstHello(t *testing.T) []byte {
	t.Helper()
	near, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	client, err := dtls.ClientWithOptions(far, near.LocalAddr(), dtls.WithInsecureSkipVerify(true), dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM))
	if err != nil {
		t.Fatal(err)
	}
	go client.HandshakeContext(t.Context()) // nobody answers it
	buf := make([]byte, 2048)
	if err := near.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, _, err := near.ReadFrom(buf)
	if err != nil || n < 25 {
		t.Fatalf("got %d bytes, %v, want a hello", n, err)
	}
	return buf[25:n]
}

// record is a DTLS record.
func record(kind byte, epoch uint16, number int, body []byte) []byte {
	b := []byte{kind, 254, 253}
	b = binary.BigEndian.AppendUint64(b, uint64(epoch)<<48|uint64(number))
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// message is the beginning of a client's hello that is so long.
func message(length, number int, piece []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1<<24|uint32(length))
	b = binary.BigEndian.AppendUint16(b, uint16(number))
	b = append(b, 0, 0, 0, 0, byte(len(piece)>>8), byte(len(piece)))
	return append(b, piece...)
}
