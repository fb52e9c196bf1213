package main

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"
	"sync/atomic"
)

// demoFiles are the page and, once `make page` has run, its bundle. The folder dist holds one committed file, so that a
// fresh clone builds without npm.
//
//go:embed demo/index.html demo/unbuilt.html all:demo/dist
var demoFiles embed.FS

// demoPage serves the demo's page before the client API of each ministry.
type demoPage struct {
	houses []*ministry
	room   atomic.Value // id.RoomID of the shared room, where the page begins; set when it is made
}

// before puts the page of one ministry in front of its client API, on the same address.
func (p *demoPage) before(house *ministry, api http.Handler) http.Handler {
	assets, err := fs.Sub(demoFiles, "demo/dist")
	if err != nil {
		panic(err) // the folder is part of the binary
	}
	mux := http.NewServeMux()
	mux.Handle("/", api)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		file := "demo/index.html"
		if _, err := fs.Stat(assets, "app.js"); err != nil {
			file = "demo/unbuilt.html"
		}
		w.Header().Set("Content-Security-Policy", "default-src 'self'; connect-src *; img-src 'self' data: blob:; "+
			"media-src 'self' blob: mediastream:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors 'none'")
		w.Header().Set("Referrer-Policy", "no-referrer")
		http.ServeFileFS(w, r, demoFiles, file)
	})
	mux.Handle("GET /demo/", http.StripPrefix("/demo/", noStore(http.FileServerFS(assets))))
	mux.HandleFunc("GET /demo/demo.json", func(w http.ResponseWriter, r *http.Request) {
		people := []resident{}
		for _, person := range house.accounts {
			if !person.bot {
				people = append(people, person)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		// A reader who has gone away is no fault of ours.
		_ = json.NewEncoder(w).Encode(map[string]any{
			"server": house.Server, "room": p.room.Load(), "houses": p.houses, "accounts": people,
		})
	})
	return mux
}

// noStore keeps browsers from showing the bundle of yesterday's build.
func noStore(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}
