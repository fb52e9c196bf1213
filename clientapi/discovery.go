package clientapi

import (
	"context"
	"maps"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage/bus"
)

// specVersions are the released versions whose clients find here what they look for. Clients test for membership, so
// each is listed, not only the newest.
var specVersions = []string{
	"r0.5.0", "r0.6.0", "r0.6.1",
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12",
	"v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
}

// unstableFeatures are what clients ask for by name, and find.
var unstableFeatures = map[string]bool{
	"fi.mau.msc2246.stable":                          true,
	"fi.mau.msc2659.stable":                          true,
	"org.matrix.e2e_cross_signing":                   true,
	"org.matrix.msc2946":                             true,
	"org.matrix.msc3391":                             true,
	"org.matrix.msc3440.stable":                      true,
	"org.matrix.msc3827.stable":                      true,
	"org.matrix.msc3881":                             true,
	"org.matrix.msc3912":                             true,
	"org.matrix.msc2285.stable":                      true,
	"org.matrix.msc3814":                             true,
	"org.matrix.msc3916.stable":                      true,
	"org.matrix.msc4140":                             true,
	"org.matrix.msc4143":                             true,
	"org.matrix.msc4155":                             true,
	"org.matrix.msc4222":                             true,
	"org.matrix.msc4306":                             true,
	"org.matrix.msc4354":                             true,
	"org.matrix.msc4380.stable":                      true,
	"org.matrix.simplified_msc3575":                  true,
	"uk.half-shot.msc2666.query_mutual_rooms":        true,
	"uk.half-shot.msc2666.query_mutual_rooms.stable": true,
	"uk.tcpip.msc4133":                               true,
	"uk.tcpip.msc4133.stable":                        true,
	"uk.timedout.msc4323":                            true,
	"uk.timedout.msc4323.stable":                     true,
}

// versions handles GET /_matrix/client/versions.
// Spec: client-server-api/#get_matrixclientversions
func (s *Server) versions(*rest.Request) (any, error) {
	return struct {
		Versions []string        `json:"versions"`
		Unstable map[string]bool `json:"unstable_features"`
	}{specVersions, s.features()}, nil
}

// features are the unstable features, those that depend on the configuration only where they are.
func (s *Server) features() map[string]bool {
	features := maps.Clone(unstableFeatures)
	features["org.matrix.msc4143"] = len(s.cfg.Foci) > 0
	if s.cfg.OAuth.Enabled {
		features["org.matrix.msc4108"], features["io.element.msc4388"] = true, true
	}
	features["io.element.msc4195"] = len(s.cfg.Foci) > 0
	return features
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

type roomVersions struct {
	Default   id.RoomVersion            `json:"default"`
	Available map[id.RoomVersion]string `json:"available"`
}

// capabilities handles GET /_matrix/client/v3/capabilities.
// Spec: client-server-api/#get_matrixclientv3capabilities
func (s *Server) capabilities(r *rest.Request) (any, error) {
	versions := roomVersions{Default: s.cfg.DefaultRoomVersion, Available: map[id.RoomVersion]string{}}
	for _, v := range pdu.Versions() {
		versions.Available[v] = "stable"
	}
	can := map[string]any{
		"m.room_versions": versions,
		// Users of OAuth 2.0 clients do it on their account page.
		"m.change_password": enabled{!r.By.OAuth},
		"m.set_displayname": enabled{true},
		"m.set_avatar_url":  enabled{true},
		"m.profile_fields":  enabled{true},
		"m.3pid_changes":    enabled{s.mailer != nil && s.cfg.Account.AddressChanges && !r.By.OAuth},
		"m.get_login_token": enabled{!r.By.OAuth},
		// Rooms are forgotten when their users ask for it.
		"m.forget_forced_upon_leave": enabled{false},
	}
	if r.By.Admin {
		moderation := map[string]bool{"suspend": true, "lock": true}
		can["m.account_moderation"], can["uk.timedout.msc4323"] = moderation, moderation
	}
	return map[string]any{"capabilities": can}, nil
}

// baseURL is an object that names an address.
type baseURL struct {
	BaseURL string `json:"base_url"`
}

// transport is one way to carry the media of a call.
// Spec: MSC4143
type transport struct {
	Type       string `json:"type"`
	ServiceURL string `json:"livekit_service_url"`
}

func (s *Server) foci() []transport {
	foci := []transport{}
	for _, url := range s.cfg.Foci {
		foci = append(foci, transport{Type: "livekit", ServiceURL: url})
	}
	return foci
}

// wellKnownClient handles GET /.well-known/matrix/client.
// Spec: client-server-api/#getwell-knownmatrixclient
func (s *Server) wellKnownClient(*rest.Request) (any, error) {
	return struct {
		Homeserver baseURL     `json:"m.homeserver"`
		Foci       []transport `json:"org.matrix.msc4143.rtc_foci,omitempty"`
	}{baseURL{s.cfg.PublicURL}, s.foci()}, nil
}

// wellKnownServer handles GET /.well-known/matrix/server.
// Spec: server-server-api/#getwell-knownmatrixserver
func (s *Server) wellKnownServer(*rest.Request) (any, error) {
	if s.cfg.FederationAddress == "" {
		return nil, mautrix.MNotFound.WithMessage("Other servers find this one by its name")
	}
	return map[string]string{"m.server": s.cfg.FederationAddress}, nil
}

// wellKnownPolicyServer handles GET /.well-known/matrix/policy_server.
// Spec: client-server-api/#getwell-knownmatrixpolicy_server
func (s *Server) wellKnownPolicyServer(*rest.Request) (any, error) {
	if s.cfg.PolicyServerKey == "" {
		return nil, mautrix.MNotFound.WithMessage("No policy server is configured")
	}
	return map[string]any{"public_keys": map[string]string{"ed25519": s.cfg.PolicyServerKey}}, nil
}

// Contact is somebody to turn to.
type Contact struct {
	MatrixID string `yaml:"matrix_id" json:"matrix_id,omitempty"`
	Email    string `yaml:"email" json:"email_address,omitempty"`
	Role     string `yaml:"role" json:"role"` // m.role.admin or m.role.security
}

// SupportConfig says whom users and other administrators turn to.
type SupportConfig struct {
	// Contacts are people to turn to, each with matrix_id, email and role (m.role.admin or m.role.security). Default none.
	Contacts []Contact `yaml:"contacts" json:"contacts,omitempty"`
	// Page is the address of a page with help. Default none.
	Page string `yaml:"page" json:"support_page,omitempty"`
}

// wellKnownSupport handles GET /.well-known/matrix/support.
// Spec: client-server-api/#getwell-knownmatrixsupport
func (s *Server) wellKnownSupport(*rest.Request) (any, error) {
	if len(s.cfg.Support.Contacts) == 0 && s.cfg.Support.Page == "" {
		return nil, mautrix.MNotFound.WithMessage("Nobody to turn to is configured")
	}
	return s.cfg.Support, nil
}

// transports handles GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports and its stable path.
// A server without a focus says that it does not know the path: an empty list is a dead end for clients that would
// otherwise read .well-known (Element X Android 26.09).
// Spec: MSC4143
func (s *Server) transports(*rest.Request) (any, error) {
	foci := s.foci()
	if len(foci) == 0 {
		return nil, mautrix.MUnrecognized.WithMessage("This server has no call focus")
	}
	return map[string]any{"rtc_transports": foci}, nil
}

// turnServer handles GET /_matrix/client/v3/voip/turnServer: a credential at the call focus's TURN server, for calls between
// two devices. An empty object says that there is none.
// Spec: client-server-api/#get_matrixclientv3voipturnserver
func (s *Server) turnServer(r *rest.Request) (any, error) {
	if len(s.cfg.Foci) == 0 {
		return rest.Empty, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), turnPatience)
	defer cancel()
	answer, err := bus.Ask[bus.TURNQuestion, bus.TURNAnswer](ctx, s.bus, bus.TURNDo, bus.TURNQuestion{User: r.By.User})
	if err != nil { // calls between two devices may well work without
		zerolog.Ctx(ctx).Warn().Err(err).Msg("The call focus gave no TURN credential")
		return rest.Empty, nil
	}
	if len(answer.URIs) == 0 {
		return rest.Empty, nil
	}
	return struct {
		Username string   `json:"username"`
		Password string   `json:"password"`
		URIs     []string `json:"uris"`
		TTL      int      `json:"ttl"`
	}{answer.Username, answer.Password, answer.URIs, answer.Seconds}, nil
}

// turnPatience bounds how long a client waits for a focus that is away.
const turnPatience = 2 * time.Second
