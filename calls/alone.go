package calls

import "context"

// openHouse is the rule of a focus without a homeserver: the token is enough.
type openHouse struct{}

func (openHouse) admit(context.Context, *Claims) (ruling, error) { return unbound, nil }

// NewStandalone makes a focus without a homeserver's rules. Its Handler has no token service.
func NewStandalone(ctx context.Context, config Config) (*Focus, error) {
	if err := config.Check(); err != nil {
		return nil, err
	}
	f, err := newFocus(ctx, config, openHouse{})
	if err != nil {
		return nil, err
	}
	f.handler = f.routes()
	return f, nil
}
