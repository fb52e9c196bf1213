package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix"

	"chancery/federation/remote"
)

// maxNotaryServers bounds one question to us as a notary.
const maxNotaryServers = 50

// ownKeys handles GET /_matrix/key/v2/server.
// Spec: server-server-api/#get_matrixkeyv2server
func (f *Federation) ownKeys(*request) (any, error) {
	raw, err := f.remote.Keys().Publish(time.Now())
	return json.RawMessage(raw), err
}

// notaryQuery handles GET /_matrix/key/v2/query/{serverName}.
// Spec: server-server-api/#get_matrixkeyv2queryservername
func (f *Federation) notaryQuery(r *request) (any, error) {
	return f.notaryAnswer(r.Context(), []string{r.PathValue("serverName")})
}

// notaryQueries handles POST /_matrix/key/v2/query.
// Spec: server-server-api/#post_matrixkeyv2query
func (f *Federation) notaryQueries(r *request) (any, error) {
	var q struct {
		ServerKeys map[string]json.RawMessage `json:"server_keys"`
	}
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if len(q.ServerKeys) > maxNotaryServers {
		return nil, mautrix.MInvalidParam.WithMessage("At most %d servers at once", maxNotaryServers)
	}
	var servers []string
	for name := range q.ServerKeys {
		servers = append(servers, name)
	}
	return f.notaryAnswer(r.Context(), servers)
}

// notaryAnswer gathers the servers' own answers and signs each. A server that cannot be asked, and of which nothing is known,
// is left out.
func (f *Federation) notaryAnswer(ctx context.Context, servers []string) (any, error) {
	answer := struct {
		ServerKeys []json.RawMessage `json:"server_keys"`
	}{ServerKeys: []json.RawMessage{}}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, server := range servers {
		wait.Go(func() {
			raw, err := f.keysOf(ctx, server)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answer.ServerKeys = append(answer.ServerKeys, raw)
		})
	}
	wait.Wait()
	return answer, nil
}

// keysOf gives a server's own answer, checked, with our signature added.
func (f *Federation) keysOf(ctx context.Context, server string) (json.RawMessage, error) {
	now := time.Now()
	if server == f.name {
		return f.remote.Keys().Publish(now)
	}
	if known, ok := f.notary.get(server, now); ok {
		return known, nil
	}
	var raw json.RawMessage
	err := f.remote.Ask(ctx, remote.Request{
		Server: server, Method: http.MethodGet, Path: []string{"v2", "server"}, Key: true, Unsigned: true, Limit: 256 << 10, Timeout: 10 * time.Second,
	}, &raw)
	if err == nil {
		_, err = remote.CheckServerKeys(server, raw, now)
	}
	if err != nil {
		if old, ok := f.notary.get(server, time.Time{}); ok {
			return old, nil // its own signature still says until when it is valid
		}
		return nil, err
	}
	signed, err := f.remote.Keys().Sign(raw)
	if err != nil {
		return nil, err
	}
	f.notary.put(server, signed, now)
	return signed, nil
}

// notarised remembers what we have signed for others, for an hour, and longer for servers that are away.
type notarised struct {
	mu    sync.Mutex
	known map[string]notarisedKeys
}

type notarisedKeys struct {
	raw json.RawMessage
	at  time.Time
}

const (
	notaryMemory  = 2000
	notaryRefresh = time.Hour
)

// get gives an answer that is fresh at that time; any that is there for the zero time.
func (n *notarised) get(server string, now time.Time) (json.RawMessage, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k, ok := n.known[server]
	if !ok || now.Sub(k.at) > notaryRefresh {
		return nil, false
	}
	var fields struct {
		ValidUntil spec.Timestamp `json:"valid_until_ts"`
	}
	if json.Unmarshal(k.raw, &fields) != nil || !now.IsZero() && fields.ValidUntil < spec.AsTimestamp(now) {
		return nil, false
	}
	return k.raw, true
}

func (n *notarised) put(server string, raw json.RawMessage, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= notaryMemory {
		clear(n.known)
	}
	n.known[server] = notarisedKeys{raw, now}
}
