package appservice

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
)

// pingTime is how long a service may take to answer a ping.
const pingTime = 20 * time.Second

// own is the service that asks, which has to be the one in the path.
func own(r *rest.Request, name string) (*service, error) {
	app, ok := r.By.Service.(*service)
	if !ok || app.ID() != name {
		return nil, mautrix.MForbidden.WithMessage("This is not your own application service")
	}
	return app, nil
}

// Ping handles POST /_matrix/client/v1/appservice/{appserviceId}/ping.
// Spec: client-server-api/#post_matrixclientv1appserviceappserviceidping
func (s *Services) Ping(r *rest.Request) (any, error) {
	app, err := own(r, r.Path("appserviceId"))
	if err != nil {
		return nil, err
	}
	var body struct {
		TransactionID string `json:"transaction_id,omitempty"`
	}
	if err := r.OptionalJSON(&body); err != nil {
		return nil, err
	}
	if app.address() == "" {
		return nil, mautrix.RespError{ErrCode: "M_URL_NOT_SET", StatusCode: http.StatusBadRequest, Err: "The application service has no URL"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), pingTime)
	defer cancel()
	begun := s.now()
	code, answer, err := app.request(ctx, http.MethodPost, "/_matrix/app/v1/ping", nil, object(body))
	var timeout net.Error
	switch {
	case err != nil && (errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()):
		return nil, mautrix.RespError{ErrCode: "M_CONNECTION_TIMEOUT", StatusCode: http.StatusGatewayTimeout, Err: "The application service did not answer in time"}
	case err != nil:
		return nil, mautrix.RespError{ErrCode: "M_CONNECTION_FAILED", StatusCode: http.StatusBadGateway, Err: "The application service could not be reached: " + err.Error()}
	case code < 200 || code > 299:
		const enough = 1024
		return nil, mautrix.RespError{ErrCode: "M_BAD_STATUS", StatusCode: http.StatusBadGateway, Err: "The application service did not take the ping"}.
			WithExtraField("status", code).WithExtraField("body", string(answer[:min(len(answer), enough)]))
	}
	app.alive()
	return map[string]int64{"duration_ms": s.now().Sub(begun).Milliseconds()}, nil
}

// ListRoom handles PUT /_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}.
// Spec: client-server-api/#put_matrixclientv3directorylistappservicenetworkidroomid
func (s *Services) ListRoom(r *rest.Request) (any, error) {
	app, ok := r.By.Service.(*service)
	if !ok {
		return nil, mautrix.MForbidden.WithMessage("This is for application services")
	}
	room := r.Path("roomId")
	if !pdu.ValidRoomID(room) {
		return nil, mautrix.MInvalidParam.WithMessage("%q is not a room ID", url.PathEscape(room))
	}
	roomID, err := r.RoomID()
	if err != nil {
		return nil, err
	}
	var body struct {
		Visibility string `json:"visibility"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Visibility != "public" && body.Visibility != "private" {
		return nil, mautrix.MInvalidParam.WithMessage("visibility is neither public nor private")
	}
	return rest.Empty, s.store.AppServices.List(r.Context(), app.ID(), r.Path("networkId"), roomID, body.Visibility == "public")
}
