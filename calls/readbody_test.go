package calls

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/storage/bus"
)

// hasty is a connection on which every deadline comes soon.
type hasty struct {
	http.ResponseWriter
	soon  *atomic.Int64
	asked *atomic.Int64 // for how long from now; 0: for none
}

func (h hasty) SetReadDeadline(at time.Time) error {
	if at.IsZero() {
		h.asked.Store(0)
	} else {
		h.asked.Store(int64(time.Until(at)))
		at = time.Now().Add(time.Duration(h.soon.Load()))
	}
	return http.NewResponseController(h.ResponseWriter).SetReadDeadline(at)
}

// TestBodiesHaveTheirTime: who sends half a body gets an answer, and does not keep the connection.
func TestBodiesHaveTheirTime(t *testing.T) {
	messages, store := openStore(t, bus.Config{})
	config := testConfig()
	config.Standalone, config.Path = false, "/calls"
	f, err := New(t.Context(), config, "interior.test", store, messages)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.shut() })
	var soon, asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.Handler().ServeHTTP(hasty{w, &soon, &asked}, r) }))
	t.Cleanup(srv.Close)
	const (
		half   = "Content-Length: 100\r\n\r\n{"
		whole  = "Content-Length: 2\r\n\r\n{}"
		broken = "Transfer-Encoding: chunked\r\n\r\nno length\r\n"
		twirp  = "/twirp/livekit.RoomService/ListRooms"
	)
	large := "Content-Length: 310000\r\n\r\n" + strings.Repeat("x", 300_000)
	for _, c := range []struct {
		name, path, body string
		status           int
		says             string
		stays            bool
	}{
		{"half a request", "/sfu/get", half, 400, "M_NOT_JSON", false},
		{"half a request, new form", "/get_token", half, 400, "M_NOT_JSON", false},
		{"half a delegation", "/delegate_delayed_leave", half, 400, "M_NOT_JSON", false},
		{"half a command", twirp, half, 400, "did not arrive whole", false},
		{"a broken request", "/sfu/get", broken, 400, "M_NOT_JSON", false},
		{"a broken command", twirp, broken, 400, "did not arrive whole", false},
		{"half a large request", "/sfu/get", large, 413, "M_TOO_LARGE", false},
		{"half a large command", twirp, large, 400, "could not be decoded", false},
		{"a whole request", "/sfu/get", whole, 400, "M_BAD_JSON", true},
		{"a whole command, without a token", twirp, whole, 401, "invalid token", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			soon.Store(int64(500 * time.Millisecond))
			if c.body == half {
				soon.Store(int64(20 * time.Millisecond))
			}
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			go func() { _, _ = io.WriteString(conn, "POST /calls"+c.path+" HTTP/1.1\r\nHost: x\r\n"+c.body) }() // as far as it is read
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			said, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status || !strings.Contains(string(said), c.says) {
				t.Errorf("got %d %s, %v, want %d %s", resp.StatusCode, said, err, c.status, c.says)
			}
			if resp.Close == c.stays {
				t.Errorf("the connection is to end: %v, want %v", resp.Close, !c.stays)
			}
			if left := time.Duration(asked.Load()); (left == 0) != c.stays || left > time.Minute {
				t.Errorf("the body may take %v more", left)
			}
			if c.stays {
				return
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection goes on: %v", err)
			}
		})
	}
}
