package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestBodiesThatDoNotCome: a request is answered though its body never comes, whatever its handler makes of it, and its connection ends; who sends
// a whole body, or one that takes its time and is read, loses nothing by the bound.
func TestBodiesThatDoNotCome(t *testing.T) {
	const patience, long = 200 * time.Millisecond, 500 * time.Millisecond
	mux := http.NewServeMux()
	mux.HandleFunc("/refused", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnauthorized) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, r *http.Request) { // a long poll
		select {
		case <-r.Context().Done():
			http.Error(w, "gone", http.StatusGone)
		case <-time.After(long):
			fmt.Fprint(w, strings.Repeat("news ", 2000))
		}
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d bytes, %v", len(body), err)
	})
	server := httptest.NewServer(bounded(mux, patience))
	t.Cleanup(server.Close)
	for _, c := range []struct {
		name, method, path string
		length             int
		pieces             []string // a pause between two is longer than the bound
		status             int
		says               string
		lives              bool // the connection takes another request
	}{
		{"a GET without its body", "GET", "/refused", 5, []string{"{"}, 408, "did not come", false},
		{"one for much", "GET", "/long", 5, []string{"{"}, 408, "did not come", false},
		{"a GET with too large a body", "GET", "/refused", maxUnread + 1, []string{strings.Repeat("x", maxUnread+1)}, 408, "too large", false},
		{"a GET with a body", "GET", "/long", 5, []string{"hello"}, 200, "news", true},
		{"a GET with none", "GET", "/long", 0, nil, 200, "news", true},
		{"a POST that is refused, without its body", "POST", "/refused", 5, []string{"{"}, 401, "no", false},
		{"a POST that is refused, with its body", "POST", "/refused", 5, []string{"hello"}, 401, "no", true},
		{"a POST that takes its time", "POST", "/upload", 10, []string{"hello", "there"}, 200, "10 bytes, <nil>", true},
		{"a POST of which the answer does", "POST", "/long", 5, []string{"hello"}, 200, "news", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", c.method, c.path, c.length)
			for i, piece := range c.pieces {
				if i > 0 {
					<-time.After(long)
				}
				fmt.Fprint(conn, piece)
			}
			from := bufio.NewReader(conn)
			resp, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status || !strings.Contains(string(body), c.says) {
				t.Errorf("got %d %.40q, %v, want %d %q", resp.StatusCode, body, err, c.status, c.says)
			}
			<-time.After(long)
			fmt.Fprint(conn, "GET /refused HTTP/1.1\r\nHost: x\r\n\r\n")
			again, err := http.ReadResponse(from, nil)
			if lives := err == nil && again.StatusCode == 401; lives != c.lives {
				t.Errorf("the connection lives: %v (%v), want %v", lives, err, c.lives)
			}
		})
	}
}
