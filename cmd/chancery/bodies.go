package main

import (
	"errors"
	"io"
	"net/http"
	"time"
)

const (
	// unreadPatience is how long a body may take to come that no handler reads.
	unreadPatience = 10 * time.Second
	maxUnread      = 64 << 10
)

// bounded keeps bodies that no handler reads from holding their connections: net/http waits for the end of each before it answers, for ever.
// Handlers that read one bound its time themselves. A body of GET, HEAD or OPTIONS, which means nothing (RFC 9110, section 9.3.1), is read here;
// what another handler has left when it returns has to come within patience.
func bounded(next http.Handler, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		wire := http.NewResponseController(w)
		soon := func() { _ = wire.SetReadDeadline(time.Now().Add(patience)) } // a connection that can have none is none of net/http's
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
			soon()
			if _, err := io.CopyN(io.Discard, r.Body, maxUnread); !errors.Is(err, io.EOF) {
				w.Header().Set("Connection", "close")
				http.Error(w, "the request's body is too large, or did not come", http.StatusRequestTimeout)
				return
			}
			_ = wire.SetReadDeadline(time.Time{})
		default:
			defer soon()
		}
		next.ServeHTTP(w, r)
	})
}
