package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"maunium.net/go/mautrix"

	"chancery/federation/remote"
	"chancery/roomserver/view"
	"chancery/storage/bus"
)

// listPublicRooms handles GET /_matrix/federation/v1/publicRooms.
// Spec: server-server-api/#get_matrixfederationv1publicrooms
func (f *Federation) listPublicRooms(r *request) (any, error) {
	return f.directory(r.Context(), view.DirectoryQuery{Limit: r.limit("limit", 100, 100), Since: r.query.Get("since")})
}

// searchPublicRooms handles POST /_matrix/federation/v1/publicRooms.
// Spec: server-server-api/#post_matrixfederationv1publicrooms
func (f *Federation) searchPublicRooms(r *request) (any, error) {
	var q view.DirectoryQuery
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if q.Limit <= 0 || q.Limit > 100 {
		q.Limit = 100
	}
	return f.directory(r.Context(), q)
}

func (f *Federation) directory(ctx context.Context, q view.DirectoryQuery) (any, error) {
	page, err := f.view.Directory(ctx, q)
	if errors.Is(err, view.ErrDirectoryToken) {
		return nil, mautrix.MInvalidParam.WithMessage("This is no token of this server's directory")
	}
	return page, err
}

// askPublicRooms asks another server's directory.
func (f *Federation) askPublicRooms(ctx context.Context, q *bus.PublicRooms) (json.RawMessage, error) {
	body := q.Query
	if len(body) == 0 || string(body) == "null" {
		body = json.RawMessage(`{}`)
	}
	return f.ask(ctx, remote.Request{
		Server: q.Server, Method: http.MethodPost, Path: []string{"v1", "publicRooms"}, Body: body, Limit: bus.MaxQuestion,
	})
}
