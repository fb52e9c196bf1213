package signal

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"
)

func wrapJoin(t testing.TB, body []byte, compression WrappedJoin_Compression) url.Values {
	t.Helper()
	if compression == WrappedJoin_GZIP {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		body = b.Bytes()
	}
	raw, err := proto.Marshal(&WrappedJoin{Compression: compression, JoinRequest: body})
	if err != nil {
		t.Fatal(err)
	}
	return url.Values{"join_request": {base64.URLEncoding.EncodeToString(raw)}}
}

func TestParseJoin(t *testing.T) {
	join := &Join{ClientInfo: &ClientInfo{Version: "2.23.0", Protocol: 16}, Reconnect: true, ParticipantSid: "PA_x"}
	body, err := proto.Marshal(join)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name  string
		query url.Values
		ok    bool
	}{
		{"plain", wrapJoin(t, body, WrappedJoin_NONE), true},
		{"gzip", wrapJoin(t, body, WrappedJoin_GZIP), true},
		{"unpadded", url.Values{"join_request": {strings.TrimRight(wrapJoin(t, body, WrappedJoin_NONE).Get("join_request"), "=")}}, true},
		{"unknown compression", wrapJoin(t, body, 7), false},
		{"not base64", url.Values{"join_request": {"***"}}, false},
		{"not gzip", wrapJoin(t, nil, WrappedJoin_NONE), true},
		{"bomb", wrapJoin(t, make([]byte, maxJoin+1), WrappedJoin_GZIP), false},
		{"garbage", url.Values{"join_request": {"_____w"}}, false},
	}
	for _, c := range cases {
		got, err := ParseJoin(c.query)
		if (err == nil) != c.ok {
			t.Errorf("%s: got error %v, want ok %v", c.name, err, c.ok)
		}
		if err != nil && !errors.Is(err, ErrBadJoin) {
			t.Errorf("%s: got %v, want ErrBadJoin", c.name, err)
		}
		if c.name == "gzip" && !proto.Equal(got, join) {
			t.Errorf("%s: got %v, want %v", c.name, got, join)
		}
	}
}

func TestParseLegacyJoin(t *testing.T) {
	q, err := url.ParseQuery("auto_subscribe=0&protocol=17&adaptive_stream=1&reconnect=1&sid=PA_a&version=2.0&subscriber_allow_pause=0")
	if err != nil {
		t.Fatal(err)
	}
	got := ParseLegacyJoin(q)
	if got.ConnectionSettings.AutoSubscribe || !got.ConnectionSettings.AdaptiveStream || !got.Reconnect ||
		got.ParticipantSid != "PA_a" || got.ClientInfo.Protocol != 17 || got.ConnectionSettings.GetSubscriberAllowPause() {
		t.Errorf("got %v", got)
	}
	for encoded, want := range map[string]map[string]string{
		"eyJhIjoiMSIsImIiOiLDpCJ9": {"a": "1", "b": "ä"}, "eyJhIjoiMSJ9": {"a": "1"}, "": nil, "eyJhIjoxfQ": nil, "W10": nil, "%": nil,
	} {
		if got := ParseLegacyJoin(url.Values{"attributes": {encoded}}).ParticipantAttributes; !maps.Equal(got, want) {
			t.Errorf("attributes %q: got %v, want %v", encoded, got, want)
		}
	}
	if !ParseLegacyJoin(url.Values{}).ConnectionSettings.AutoSubscribe {
		t.Error("auto_subscribe absent: got false, want true")
	}
	for name, want := range map[string]uint32{"js": 1, "reactnative": 7, "swift": 2, "ios": 2, "esp32": 14, "tea": 0, "": 0} {
		if got := ParseLegacyJoin(url.Values{"sdk": {name}}).ClientInfo.Sdk; got != want {
			t.Errorf("sdk=%s: got %d, want %d", name, got, want)
		}
	}
}

// pair gives both ends of a signalling socket.
func pair(t *testing.T, limits Limits) (*Conn, *websocket.Conn) {
	t.Helper()
	conns := make(chan *Conn, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, limits)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		conns <- c
	}))
	t.Cleanup(srv.Close)
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	c := <-conns
	t.Cleanup(c.Close)
	return c, ws
}

func TestConnCarriesMessages(t *testing.T) {
	c, ws := pair(t, Limits{})
	req, err := proto.Marshal(&Request{Message: &Request_Ping{Ping: 42}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.WriteMessage(websocket.BinaryMessage, req); err != nil {
		t.Fatal(err)
	}
	got, err := c.Read()
	if err != nil || got.GetPing() != 42 {
		t.Fatalf("read: got %v, %v, want ping 42", got, err)
	}
	for i := range int64(3) {
		c.Send(&Response{Message: &Response_Pong{Pong: i}})
	}
	c.Close() // what was queued still goes out
	for i := range int64(3) {
		_, frame, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		var res Response
		if err := proto.Unmarshal(frame, &res); err != nil || res.GetPong() != i {
			t.Errorf("message %d: got %v, %v", i, &res, err)
		}
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("end: got %v, want normal closure", err)
	}
}

func TestConnKnowsItsRoundTrip(t *testing.T) {
	c, ws := pair(t, Limits{PingEvery: 5 * time.Millisecond})
	if got := c.RoundTrip(); got != 0 {
		t.Errorf("before any ping: got %v, want 0", got)
	}
	go func() { // answers pings
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				return
			}
		}
	}()
	go func() { _, _ = c.Read() }() // takes the answers, until the socket closes
	for end := time.Now().Add(10 * time.Second); c.RoundTrip() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no ping was answered")
		}
	}
	if got := c.RoundTrip(); got <= 0 || got > 10*time.Second {
		t.Errorf("got %v", got)
	}
}

func TestConnRefusesGiantFrames(t *testing.T) {
	c, ws := pair(t, Limits{FrameBytes: 1024})
	if err := ws.WriteMessage(websocket.BinaryMessage, make([]byte, 2048)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(); !errors.Is(err, websocket.ErrReadLimit) {
		t.Errorf("got %v, want the read limit", err)
	}
}

func TestConnClosesSlowClient(t *testing.T) {
	for _, limits := range []Limits{{Queue: 4}, {QueueBytes: 1 << 20}} {
		limits.WriteWait = 200 * time.Millisecond
		c, _ := pair(t, limits)
		big := &Response{Message: &Response_RefreshToken{RefreshToken: strings.Repeat("x", 256<<10)}}
		began := time.Now()
		for c.Send(big) {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("%+v: a client that does not read was never given up", limits)
			}
		}
		select {
		case <-c.done:
		case <-time.After(5 * time.Second):
			t.Errorf("%+v: socket not closed", limits)
		}
	}
}

// A thousand small messages at once are no sign of a slow client, and one message may be greater than all that may wait.
func TestConnTakesABurst(t *testing.T) {
	c, ws := pair(t, Limits{QueueBytes: 64 << 10})
	if !c.Send(&Response{Message: &Response_RefreshToken{RefreshToken: strings.Repeat("x", 256<<10)}}) {
		t.Fatal("got a great message refused")
	}
	if _, frame, err := ws.ReadMessage(); err != nil || len(frame) < 256<<10 {
		t.Fatalf("got %d bytes, %v, want the great message", len(frame), err)
	}
	const many = 1000
	for i := range int64(many) {
		if !c.Send(&Response{Message: &Response_Pong{Pong: i + 1}}) {
			t.Fatalf("got message %d refused", i)
		}
	}
	for i := range int64(many) {
		_, frame, err := ws.ReadMessage()
		var res Response
		if err == nil {
			err = proto.Unmarshal(frame, &res)
		}
		if err != nil || res.GetPong() != i+1 {
			t.Fatalf("got %v, %v, want pong %d", &res, err, i+1)
		}
	}
}

func FuzzParseJoin(f *testing.F) {
	body, err := proto.Marshal(&Join{ClientInfo: &ClientInfo{Version: "2.23.0"}, PublisherOffer: &SessionDescription{Type: "offer", Id: 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrapJoin(f, body, WrappedJoin_NONE).Get("join_request"))
	f.Add(wrapJoin(f, body, WrappedJoin_GZIP).Get("join_request"))
	f.Fuzz(func(t *testing.T, s string) {
		if join, err := ParseJoin(url.Values{"join_request": {s}}); err == nil && join == nil {
			t.Error("neither join nor error")
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	for _, r := range []*Request{
		{Message: &Request_Ping{Ping: 1}},
		{Message: &Request_Offer{Offer: &SessionDescription{Type: "offer", Sdp: "v=0", Id: 3}}},
		{Message: &Request_AddTrack{AddTrack: &AddTrack{Cid: "c", Layers: []*VideoLayer{{Width: 1}}}}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := ParseRequest(b); err == nil && req == nil {
			t.Error("neither request nor error")
		}
	})
}

func TestDataPacketKeepsWhatItDoesNotKnow(t *testing.T) {
	unknown := []byte{0x92, 0x01, 0x03, 0x22, 0x01, 'x'} // field 18, an encrypted packet
	known, err := proto.Marshal(&DataPacket{Sequence: 7, DestinationIdentities: []string{"bob"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParseData(append(known, unknown...))
	if err != nil || p.Sequence != 7 {
		t.Fatalf("got %v, %v", p, err)
	}
	p.ParticipantSid = "PA_x"
	out, err := EncodeData(p)
	if err != nil || !bytes.Contains(out, unknown) {
		t.Errorf("got %x, %v, want it to hold %x", out, err, unknown)
	}
}

// TestCloseIsSoonOver: to a client that reads slowly a closed socket goes on writing for the time of one write, and not for each message's.
func TestCloseIsSoonOver(t *testing.T) {
	const messages, each = 64, 1 << 20
	c, ws := pair(t, Limits{WriteWait: 300 * time.Millisecond, QueueBytes: 2 * messages * each})
	frame := make([]byte, each)
	for range messages {
		if !c.SendFrame(frame) {
			t.Fatal("the queue takes less than the test needs")
		}
	}
	c.Close()
	_ = ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	for got := 0; ; got++ {
		if _, _, err := ws.ReadMessage(); err != nil {
			if got == messages {
				t.Errorf("got all %d messages, want some cut off", got)
			}
			return
		}
		time.Sleep(20 * time.Millisecond) // the slowness that is tried, not a wait for something
	}
}

// TestDataPacketsHaveTheirShape: a client cannot say who speaks, nor hide from us what another client would read.
func TestDataPacketsHaveTheirShape(t *testing.T) {
	user := func(fields ...byte) []byte { return append([]byte{0x12, byte(len(fields))}, fields...) }
	for _, c := range []struct {
		name string
		raw  []byte
		ok   bool
	}{
		{"nothing", nil, true},
		{"a stream's end", []byte{0x7a, 0x02, 0x0a, 0x00}, true},
		{"a user's packet with a topic and times", user(0x12, 0x01, 'x', 0x22, 0x01, 't', 0x48, 0x05, 0x50, 0x06), true},
		{"what nobody knows yet", []byte{0x98, 0x01, 0x05}, true}, // field 19, a number
		{"speakers", []byte{0x1a, 0x02, 0x0a, 0x00}, false},
		{"no speakers", []byte{0x1a, 0x00}, false},
		{"speakers behind a user's packet", append(user(0x12, 0x01, 'x'), 0x1a, 0x00), false},
		{"speakers as a number", []byte{0x18, 0x02, 0x0a, 0x00}, false},
		{"a sender as eight bytes", []byte{0x21, 0x07, 'v', 'i', 'c', 't', 'i', 'm', '!'}, false},
		{"a kind as bytes", []byte{0x0a, 0x02, 0x1a, 0x00}, false},
		{"a stream's end as four bytes", []byte{0x7d, 0x00, 0x1a, 0x00, 0x00}, false},
		{"a stream's end as a group", []byte{0x7b, 0x7c}, false},
		{"a user's sender as a number", user(0x28, 0x00), false},
		{"a user's time as bytes", user(0x4a, 0x02, 0x2a, 0x00), false},
		{"a stream's end with an attribute", []byte{0x7a, 0x06, 0x1a, 0x04, 0x0a, 0x00, 0x12, 0x00}, true},
		{"a measurement", []byte{0x42, 0x09, 0x22, 0x07, 0x22, 0x05, 0x1d, 0x00, 0x00, 0x00, 0x00}, true},
		{"a stream's end that is longer than it says", []byte{0x7a, 0x02, 0x0a, 0x04}, false},
		{"a stream's end with its name as a number", []byte{0x7a, 0x02, 0x08, 0x04}, false},
		{"an attribute with a third part", []byte{0x7a, 0x04, 0x1a, 0x02, 0x18, 0x00}, false},
		{"a number that reads as another", []byte{0x7a, 0x06, 0x8a, 0x80, 0x80, 0x80, 0x10, 0x00}, false}, // 2^29+1
		{"a group of what nobody knows yet", []byte{0x9b, 0x01, 0x9c, 0x01}, false},
		{"cut off", []byte{0x12, 0x05, 0x12}, false},
	} {
		if _, err := ParseData(c.raw); (err == nil) != c.ok {
			t.Errorf("%s: got error %v, want taken: %v", c.name, err, c.ok)
		}
	}
}

func FuzzParseData(f *testing.F) {
	b, err := proto.Marshal(&DataPacket{User: &UserPacket{Payload: []byte("x"), DestinationSids: []string{"PA_a"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b, 0x1a, 0x02, 0x0a, 0x00))
	f.Add(append(b, 0x21, 0x07, 'v', 'i', 'c', 't', 'i', 'm', '!'))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseData(b)
		if err != nil {
			return
		}
		out, err := EncodeData(p)
		if err != nil {
			t.Errorf("cannot be sent on: %v", err)
		}
		if _, err := ParseData(out); err != nil {
			t.Errorf("sent on as %x: %v", out, err)
		}
	})
}
