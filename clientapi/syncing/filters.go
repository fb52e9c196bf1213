package syncing

import (
	"context"
	"encoding/json"
	"sync"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
)

// PutFilter handles POST /_matrix/client/v3/user/{userId}/filter.
// Spec: client-server-api/#post_matrixclientv3useruseridfilter
func (s *Syncing) PutFilter(r *rest.Request) (any, error) {
	user, err := r.Own()
	if err != nil {
		return nil, err
	}
	raw, err := r.Object()
	if err != nil {
		return nil, err
	}
	if _, err := ParseFilter(raw); err != nil {
		return nil, err
	}
	filterID, err := s.store.Filters.Put(r.Context(), user, raw)
	if err != nil {
		return nil, err
	}
	return struct {
		FilterID string `json:"filter_id"`
	}{filterID}, nil
}

// Filter handles GET /_matrix/client/v3/user/{userId}/filter/{filterId}.
// Spec: client-server-api/#get_matrixclientv3useruseridfilterfilterid
func (s *Syncing) Filter(r *rest.Request) (any, error) {
	user, err := r.Own()
	if err != nil {
		return nil, err
	}
	raw, err := s.store.Filters.ByID(r.Context(), user, r.Path("filterId"))
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, mautrix.MNotFound.WithMessage("There is no such filter")
	}
	return raw, nil
}

// filter reads the filter parameter: an ID, or JSON.
func (s *Syncing) filter(ctx context.Context, user id.UserID, text string) (*Filter, error) {
	var raw json.RawMessage
	switch {
	case text == "":
		return &Filter{}, nil
	case text[0] == '{':
		return s.parsed.filter(text)
	default:
		var err error
		if raw, err = s.store.Filters.ByID(ctx, user, text); err != nil {
			return nil, err
		}
		if raw == nil {
			return nil, mautrix.MInvalidParam.WithMessage("There is no such filter")
		}
	}
	return s.parsed.filter(string(raw))
}

// maxParsed is how many filters are kept at hand in each of two halves: clients send theirs with each sync.
const maxParsed = 500

// parsed keeps filters at hand that were read from their text. They are shared: read only.
type parsed struct {
	mu         sync.Mutex
	young, old map[string]*Filter
}

func (p *parsed) filter(text string) (*Filter, error) {
	p.mu.Lock()
	f := p.young[text]
	if f == nil {
		f = p.old[text]
	}
	p.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := ParseFilter([]byte(text))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.young == nil || len(p.young) >= maxParsed {
		p.young, p.old = map[string]*Filter{}, p.young
	}
	p.young[text] = f
	return f, nil
}
