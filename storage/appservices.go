package storage

import (
	"context"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/id"
)

// AppService is how far an application service has been sent what happens.
type AppService struct {
	ServiceID string
	// Position up to which everything is in the transactions made so far.
	Position Position
	// Number of the last transaction made.
	Number int64
	// Body of that transaction, until the service has taken it; then none.
	Body []byte
}

// AppServices are the cursors of application services, and the rooms they list for their networks.
type AppServices struct{ s *Store }

const (
	appServiceByID = "SELECT service_id, position, number, body FROM app_services WHERE service_id = $1"
	appServicePut  = `INSERT INTO app_services (service_id, position, number, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (service_id) DO UPDATE SET position = excluded.position, number = excluded.number, body = excluded.body`

	networkRoomPut    = "INSERT INTO network_rooms (service_id, network_id, room_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
	networkRoomDelete = "DELETE FROM network_rooms WHERE service_id = $1 AND network_id = $2 AND room_id = $3"
	networkRoomList   = "SELECT room_id FROM network_rooms WHERE service_id = $1 AND network_id = $2 ORDER BY room_id LIMIT $3"
)

// ByID is the service's cursor, or nil if it was never sent anything.
func (t *AppServices) ByID(ctx context.Context, service string) (*AppService, error) {
	return one(ctx, t.s, func(row dbutil.Scannable) (*AppService, error) {
		a := &AppService{}
		err := row.Scan(&a.ServiceID, &a.Position, &a.Number, &a.Body)
		return a, err
	}, appServiceByID, service)
}

// Put writes the cursor, inside Do.
func (t *AppServices) Put(ctx context.Context, a AppService) error {
	_, err := t.s.exec(ctx, appServicePut, a.ServiceID, a.Position, a.Number, a.Body)
	return err
}

// List puts a room into the directory of a service's network, or takes it out.
func (t *AppServices) List(ctx context.Context, service, network string, room id.RoomID, listed bool) error {
	q := networkRoomDelete
	if listed {
		q = networkRoomPut
	}
	return t.s.Do(ctx, func(ctx context.Context) error {
		_, err := t.s.exec(ctx, q, service, network, room)
		return err
	})
}

// Listed gives the rooms of a network's directory, at most limit.
func (t *AppServices) Listed(ctx context.Context, service, network string, limit int) ([]id.RoomID, error) {
	return all(ctx, t.s, column[id.RoomID], networkRoomList, service, network, limit)
}
