package appservice

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
)

const (
	// protocolAge is how long the description of a network is believed.
	protocolAge = 10 * time.Minute
	// lookupTime is how long services may take over a look-up.
	lookupTime = 10 * time.Second
)

// thirdParties remembers what services say of their networks.
type thirdParties struct {
	mu    sync.Mutex
	known map[string]knownProtocol
}

type knownProtocol struct {
	said  protocol // nil: no service describes it
	until time.Time
}

// protocol is the description of a network; only its instances are looked into.
type protocol map[string]json.RawMessage

// speaking lists the services that bridge to a network; to any, if it has no name.
func (s *Services) speaking(network string) []*service {
	var list []*service
	for _, app := range s.list {
		if app.address() != "" && (slices.Contains(app.Protocols, network) || network == "" && len(app.Protocols) > 0) {
			list = append(list, app)
		}
	}
	return list
}

// protocolOf asks the services that bridge to the network what it is like; their instances are taken together.
func (s *Services) protocolOf(ctx context.Context, network string) protocol {
	speaking := s.speaking(network)
	if network == "" || len(speaking) == 0 {
		return nil
	}
	now := s.now()
	s.thirds.mu.Lock()
	known, ok := s.thirds.known[network]
	s.thirds.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.said
	}
	var said protocol
	instances := []json.RawMessage{}
	for _, app := range speaking {
		var one protocol
		var more []json.RawMessage
		if !app.lookUp(ctx, "/_matrix/app/v1/thirdparty/protocol/"+url.PathEscape(network), nil, &one) || one == nil {
			continue
		}
		if said == nil {
			said = one
		}
		if json.Unmarshal(one["instances"], &more) == nil {
			instances = append(instances, more...)
		}
	}
	if said != nil {
		said["instances"] = object(instances)
	}
	s.thirds.mu.Lock()
	defer s.thirds.mu.Unlock()
	if s.thirds.known == nil {
		s.thirds.known = map[string]knownProtocol{}
	}
	s.thirds.known[network] = knownProtocol{said, now.Add(protocolAge)}
	return said
}

// lookUp asks the service, and says whether it answered what can be read.
func (a *service) lookUp(ctx context.Context, path string, query url.Values, into any) bool {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	code, answer, err := a.request(ctx, http.MethodGet, path, query, nil)
	if err == nil && code == http.StatusOK {
		err = rest.Decode(answer, into)
	}
	if err != nil || code != http.StatusOK {
		zerolog.Ctx(ctx).Info().Err(err).Int("code", code).Str("service", a.ID()).Msg("Application service did not answer a look-up")
		return false
	}
	return true
}

// Protocols handles GET /_matrix/client/v3/thirdparty/protocols.
// Spec: client-server-api/#get_matrixclientv3thirdpartyprotocols
func (s *Services) Protocols(r *rest.Request) (any, error) {
	all := map[string]protocol{}
	for _, app := range s.list {
		for _, network := range app.Protocols {
			if _, ok := all[network]; ok {
				continue
			}
			if said := s.protocolOf(r.Context(), network); said != nil {
				all[network] = said
			}
		}
	}
	return all, nil
}

// Protocol handles GET /_matrix/client/v3/thirdparty/protocol/{protocol}.
// Spec: client-server-api/#get_matrixclientv3thirdpartyprotocolprotocol
func (s *Services) Protocol(r *rest.Request) (any, error) {
	said := s.protocolOf(r.Context(), r.Path("protocol"))
	if said == nil {
		return nil, mautrix.MNotFound.WithMessage("No bridge to this network is known here")
	}
	return said, nil
}

// Locations handles GET /_matrix/client/v3/thirdparty/location and .../location/{protocol}.
// Spec: client-server-api/#get_matrixclientv3thirdpartylocationprotocol
func (s *Services) Locations(r *rest.Request) (any, error) { return s.gather(r, "location", "alias") }

// Users handles GET /_matrix/client/v3/thirdparty/user and .../user/{protocol}.
// Spec: client-server-api/#get_matrixclientv3thirdpartyuserprotocol
func (s *Services) Users(r *rest.Request) (any, error) { return s.gather(r, "user", "userid") }

// gather hands a look-up on to the services it concerns, and puts their answers together. Without a network, the search
// is for one of our names (alias, userid).
func (s *Services) gather(r *rest.Request, kind, name string) (any, error) {
	network := r.Path("protocol")
	path, query := "/_matrix/app/v1/thirdparty/"+kind, r.HTTP.URL.Query()
	query.Del("access_token")
	if network == "" {
		if query.Get(name) == "" {
			return nil, mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest, Err: name + " is missing"}
		}
	} else {
		path += "/" + url.PathEscape(network)
		if len(s.speaking(network)) == 0 {
			return nil, mautrix.MNotFound.WithMessage("No bridge to this network is known here")
		}
	}
	found := []json.RawMessage{}
	for _, app := range s.speaking(network) {
		var part []json.RawMessage
		if app.lookUp(r.Context(), path, query, &part) {
			found = append(found, part...)
		}
	}
	return found, nil
}
