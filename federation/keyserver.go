package federation

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/singleflight"
	"maunium.net/go/mautrix"

	"chancery/storage"
)

// Bounds of what we do as a notary.
const (
	maxNotaryServers = 50
	maxNotaryKeys    = 64
	// notaryAtOnce is how many servers are asked at the same time, for all who ask us.
	notaryAtOnce = 16
	// notaryPause is how long a server is not asked again that did not answer, or has just answered.
	notaryPause = 5 * time.Minute
	// notaryLongest is the longest lifetime that is believed.
	notaryLongest = 7 * 24 * time.Hour
	notaryMemory  = 10_000
)

// ownKeys handles GET /_matrix/key/v2/server.
// Spec: server-server-api/#get_matrixkeyv2server
func (f *Federation) ownKeys(*request) (any, error) {
	raw, err := f.remote.Keys().Publish(time.Now())
	return json.RawMessage(raw), err
}

// wantedKey is one key that somebody asks us about as a notary.
type wantedKey struct {
	// id is empty where any will do.
	id string
	// until is when it must still be good, in ms since 1970.
	until int64
}

// notaryQuery handles GET /_matrix/key/v2/query/{serverName}.
// Spec: server-server-api/#get_matrixkeyv2queryservername
func (f *Federation) notaryQuery(r *request) (any, error) {
	want := wantedKey{id: r.PathValue("keyId"), until: time.Now().UnixMilli()}
	if given := r.query.Get("minimum_valid_until_ts"); given != "" {
		until, err := strconv.ParseInt(given, 10, 64)
		if err != nil {
			return nil, mautrix.MInvalidParam.WithMessage("minimum_valid_until_ts is no number")
		}
		want.until = until
	}
	return f.notaryAnswer(r.Context(), map[string][]wantedKey{r.PathValue("serverName"): {want}})
}

// notaryQueries handles POST /_matrix/key/v2/query.
// Spec: server-server-api/#post_matrixkeyv2query
func (f *Federation) notaryQueries(r *request) (any, error) {
	var q struct {
		ServerKeys map[string]map[string]struct {
			Until int64 `json:"minimum_valid_until_ts"`
		} `json:"server_keys"`
	}
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if len(q.ServerKeys) > maxNotaryServers {
		return nil, mautrix.MInvalidParam.WithMessage("At most %d servers at once", maxNotaryServers)
	}
	now := time.Now().UnixMilli()
	asked := make(map[string][]wantedKey, len(q.ServerKeys))
	for server, keys := range q.ServerKeys {
		if len(keys) > maxNotaryKeys {
			return nil, mautrix.MInvalidParam.WithMessage("At most %d keys of a server at once", maxNotaryKeys)
		}
		for keyID, key := range keys {
			if key.Until == 0 {
				key.Until = now
			}
			asked[server] = append(asked[server], wantedKey{keyID, key.Until})
		}
		if len(keys) == 0 {
			asked[server] = []wantedKey{{until: now}}
		}
	}
	return f.notaryAnswer(r.Context(), asked)
}

// notaryAnswer gathers the servers' own answers and signs each. A server that cannot be asked, and of which nothing is known,
// is left out.
func (f *Federation) notaryAnswer(ctx context.Context, asked map[string][]wantedKey) (any, error) {
	answer := struct {
		ServerKeys []json.RawMessage `json:"server_keys"`
	}{ServerKeys: []json.RawMessage{}}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for server, wanted := range asked {
		wait.Go(func() {
			for _, raw := range f.keysOf(ctx, server, wanted) {
				signed, err := f.remote.Keys().Sign(raw)
				if err != nil {
					zerolog.Ctx(ctx).Warn().Err(err).Str("server", server).Msg("Keys not signed as a notary")
					continue
				}
				mu.Lock()
				answer.ServerKeys = append(answer.ServerKeys, signed)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return answer, nil
}

// keysOf gives a server's own answers that hold the wanted keys, each once: those that we have, as long as they are good enough,
// else what the server says now. If it says nothing, what it said last: its own signature tells until when that is valid.
// Spec: server-server-api/#publishing-keys
func (f *Federation) keysOf(ctx context.Context, server string, wanted []wantedKey) []json.RawMessage {
	if server == f.name {
		raw, err := f.remote.Keys().Publish(time.Now())
		if err != nil {
			return nil
		}
		return []json.RawMessage{raw}
	}
	known, err := f.store.ServerKeys.Answers(ctx, server)
	if err == nil && !goodEnough(known, wanted, time.Now()) {
		if err = f.notary.ask(ctx, f, server); err == nil {
			known, err = f.store.ServerKeys.Answers(ctx, server)
		}
	}
	if err != nil && !errors.Is(err, errAskedLately) {
		zerolog.Ctx(ctx).Debug().Err(err).Str("server", server).Msg("No news of the keys of a server, as a notary")
	}
	var answers []json.RawMessage
	for _, want := range wanted {
		if k := holding(known, want.id); k != nil && !slices.ContainsFunc(answers, func(a json.RawMessage) bool { return string(a) == string(k.JSON) }) {
			answers = append(answers, k.JSON)
		}
	}
	if len(answers) == 0 && len(known) > 0 {
		answers = append(answers, known[0].JSON)
	}
	return answers
}

// holding gives the latest answer that holds the key, nil if there is none.
func holding(known []storage.KeyAnswer, keyID string) *storage.KeyAnswer {
	for i := range known {
		if keyID == "" || known[i].KeyID == keyID {
			return &known[i]
		}
	}
	return nil
}

// goodEnough says whether the answers that we have need not be asked for again. One is kept for half of its lifetime.
func goodEnough(known []storage.KeyAnswer, wanted []wantedKey, now time.Time) bool {
	for _, want := range wanted {
		k := holding(known, want.id)
		if k == nil {
			return false
		}
		until := min(gjson.GetBytes(k.JSON, "valid_until_ts").Int(), k.Fetched+notaryLongest.Milliseconds())
		if until < want.until || now.UnixMilli() > k.Fetched+(until-k.Fetched)/2 {
			return false
		}
	}
	return true
}

// notary asks servers for their keys, on behalf of others: each once at a time, not too often, not too many at once.
type notary struct {
	flight singleflight.Group
	slots  chan struct{}

	mu   sync.Mutex
	last map[string]time.Time
}

var errAskedLately = errors.New("asked just now")

func newNotary() *notary {
	return &notary{slots: make(chan struct{}, notaryAtOnce), last: make(map[string]time.Time)}
}

func (n *notary) ask(ctx context.Context, f *Federation, server string) error {
	answer := n.flight.DoChan(server, func() (any, error) {
		if !n.due(server) {
			return nil, errAskedLately
		}
		ctx := context.WithoutCancel(ctx)
		n.slots <- struct{}{}
		defer func() { <-n.slots }()
		now := time.Now()
		raw, keyIDs, err := f.remote.ServerKeys(ctx, server, now)
		if err != nil {
			return nil, err
		}
		return nil, f.store.ServerKeys.PutAnswer(ctx, server, keyIDs, raw, now.UnixMilli())
	})
	select {
	case res := <-answer:
		return res.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// due says whether a server may be asked, and notes that it is.
func (n *notary) due(server string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.last[server]) < notaryPause {
		return false
	}
	if len(n.last) >= notaryMemory {
		clear(n.last) // rare, and costs only a few questions asked too early
	}
	n.last[server] = time.Now()
	return true
}
