// Package clientapi is the door for clients: the one table of routes, and the few answers that belong to no chapter
// (versions, capabilities, .well-known, the list of call transports).
//
// Each chapter of the client API is a sub-package that exports its handlers; a line of the table here gives each its
// method, path, door and limit. Authentication, JSON, CORS and errors are the business of clientapi/rest. The
// sub-packages never import one another: what two of them need lies in rest or in storage.
package clientapi

import (
	"net/http"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
)

// Config is what an operator may say about the client API.
type Config struct {
	// ServerName is the name in user IDs. cmd fills it in.
	ServerName string `yaml:"-"`
	// PublicURL is the address under which clients reach this server, as .well-known tells them. Default
	// "https://<server name>".
	PublicURL string `yaml:"public_url"`
	// FederationAddress is the "host:port" that .well-known tells other servers. Default none: they find the server by
	// its name, on port 8448.
	FederationAddress string `yaml:"federation_address"`
	// DefaultRoomVersion is the version of rooms whose creator names none. cmd fills it in.
	DefaultRoomVersion id.RoomVersion `yaml:"-"`
	// Foci are the LiveKit service URLs of this server's call focus. cmd fills them in.
	Foci []string `yaml:"-"`
	// Support is what .well-known/matrix/support says. Default nothing: the document is then not served.
	Support SupportConfig `yaml:"support"`
	// HTTP is the plumbing: tokens, addresses, rate limits.
	HTTP rest.Config `yaml:"http"`
}

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{DefaultRoomVersion: id.RoomV11, HTTP: rest.DefaultConfig()}
}

// Server is the client API.
type Server struct {
	cfg     Config
	handler http.Handler
}

// New makes the client API, complete.
func New(cfg Config, log zerolog.Logger) (*Server, error) {
	if err := cfg.HTTP.Limits.Validate(); err != nil {
		return nil, err
	}
	if cfg.PublicURL == "" {
		cfg.PublicURL = "https://" + cfg.ServerName
	}
	s := &Server{cfg: cfg}
	s.handler = rest.NewMux(s.routes(), rest.Options{Config: cfg.HTTP, Log: log})
	return s, nil
}

// ServeHTTP serves the client API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

func (s *Server) routes() []rest.Route {
	return []rest.Route{
		// Discovery.
		{Method: "GET", Path: "/.well-known/matrix/client", Handler: s.wellKnownClient},
		{Method: "GET", Path: "/.well-known/matrix/server", Handler: s.wellKnownServer},
		{Method: "GET", Path: "/.well-known/matrix/support", Handler: s.wellKnownSupport},
		{Method: "GET", Path: "/_matrix/client/versions", Handler: s.versions, Auth: rest.Optional},
		{Method: "GET", Path: "/_matrix/client/v3/capabilities", Handler: s.capabilities, Auth: rest.User},

		// Calls.
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", Handler: s.transports, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v1/rtc/transports", Handler: s.transports, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/voip/turnServer", Handler: s.turnServer, Auth: rest.User},
	}
}
