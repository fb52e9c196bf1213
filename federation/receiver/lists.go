package receiver

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/singleflight"
	"maunium.net/go/mautrix/id"

	"chancery/federation/remote"
	"chancery/roomserver/pdu"
	"chancery/storage"
)

// lists fetches the device lists of other servers' users whose copies are stale, a few at a time. A copy is never older than what a
// client here was given: an update that says what the copy says is no news to anybody.
type lists struct {
	r      *Receiver
	jobs   chan id.UserID
	flight singleflight.Group

	mu        sync.Mutex
	questions map[id.UserID]*question
}

// question is what is being asked about a user at this moment.
type question struct {
	open   int // how many ask
	doubts int // how many updates came meanwhile: an answer from before is outdated
}

const (
	listFetchers = 8
	listRetry    = 5 * time.Minute
	maxDevices   = 1000
)

func newLists(r *Receiver) *lists {
	return &lists{r: r, jobs: make(chan id.UserID, 10_000), questions: map[id.UserID]*question{}}
}

// begin says that a user's server is being asked, and gives the doubts so far; end has to follow.
func (l *lists) begin(user id.UserID) (doubts int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.questions[user]
	if q == nil {
		q = &question{}
		l.questions[user] = q
	}
	q.open++
	return q.doubts
}

func (l *lists) end(user id.UserID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.questions[user]; q.open > 1 {
		q.open--
	} else {
		delete(l.questions, user)
	}
}

// doubt says that the user's list has changed: what is being asked may be answered as it was before.
func (l *lists) doubt(user id.UserID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.questions[user]; q != nil {
		q.doubts++
	}
}

// doubted says whether updates came since begin.
func (l *lists) doubted(user id.UserID, since int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.questions[user]
	return q == nil || q.doubts != since
}

// want asks for a user's list to be fetched. It does not block: what finds no place is found by the next look at the table.
func (l *lists) want(user id.UserID) {
	select {
	case l.jobs <- user:
	default:
	}
}

// run fetches lists until ctx ends, and looks for stale ones that were left over.
func (l *lists) run(ctx context.Context) error {
	var wait sync.WaitGroup
	for range listFetchers {
		wait.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case user := <-l.jobs:
					if err := l.fetch(ctx, user); err != nil && ctx.Err() == nil {
						zerolog.Ctx(ctx).Debug().Err(err).Stringer("user_id", user).Msg("Device list not fetched")
					}
				}
			}
		})
	}
	wait.Go(func() {
		if err := l.arrivals(ctx); err != nil {
			zerolog.Ctx(ctx).Error().Err(err).Msg("Arrivals are not followed: device lists may be outdated")
		}
	})
	tick := time.NewTicker(listRetry)
	defer tick.Stop()
	for ctx.Err() == nil {
		stale, err := l.r.store.DeviceLists.Stale(ctx, cap(l.jobs)/2)
		if err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Cannot look for stale device lists")
		}
		for _, list := range stale {
			l.want(list.UserID)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	wait.Wait()
	return nil
}

// deviceList is a server's answer about one of its users.
type deviceList struct {
	UserID      id.UserID       `json:"user_id"`
	StreamID    int64           `json:"stream_id"`
	Devices     []listedDevice  `json:"devices"`
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
}

type listedDevice struct {
	DeviceID id.DeviceID     `json:"device_id"`
	Name     string          `json:"device_display_name"`
	Keys     json.RawMessage `json:"keys"`
}

// fetch asks the user's server for the list and keeps a copy.
// Spec: server-server-api/#get_matrixfederationv1userdevicesuserid
func (l *lists) fetch(ctx context.Context, user id.UserID) error {
	_, err, _ := l.flight.Do(string(user), func() (any, error) {
		known, err := l.r.store.DeviceLists.Remote(ctx, user)
		if err != nil || known == nil || !known.Stale {
			return nil, err
		}
		since := l.begin(user)
		defer l.end(user)
		var list deviceList
		err = l.r.client.Ask(ctx, remote.Request{
			Server: user.Homeserver(), Method: http.MethodGet, Path: []string{"v1", "user", "devices", string(user)},
		}, &list)
		if err != nil {
			return nil, err
		}
		return nil, l.keep(ctx, user, &list, since)
	})
	return err
}

// keep writes the copy over the old one. If updates came since the server was asked, the copy is not believed and the list is fetched
// again. Whoever shares a room with the user was told when the old copy became stale; if it was not, they are told of what is new.
func (l *lists) keep(ctx context.Context, user id.UserID, list *deviceList, since int) error {
	store, again := l.r.store, false
	err := store.Do(ctx, func(ctx context.Context) error {
		known, err := store.DeviceLists.Remote(ctx, user)
		if err != nil || known == nil {
			return err // the user has left all our rooms meanwhile
		}
		news := false
		if !known.Stale {
			if news, err = l.differs(ctx, user, list); err != nil || !news {
				return err
			}
		}
		if err := l.write(ctx, user, list); err != nil {
			return err
		}
		if news {
			if err := store.DeviceLists.Change(ctx, user, ""); err != nil {
				return err
			}
		}
		again = l.doubted(user, since)
		return store.DeviceLists.PutRemote(ctx, storage.RemoteDeviceList{UserID: user, StreamID: max(list.StreamID, known.StreamID, 0), Stale: again})
	})
	if err == nil && again {
		l.want(user)
	}
	return err
}

// write replaces the rows of the copy, inside Do. What has not the form of a key is left out.
func (l *lists) write(ctx context.Context, user id.UserID, list *deviceList) error {
	keys := l.r.store.Keys
	if err := keys.DropUser(ctx, user); err != nil {
		return err
	}
	for i, d := range list.Devices {
		if i >= maxDevices || !d.valid(user) {
			continue
		}
		if err := keys.PutDevice(ctx, storage.DeviceKeys{UserID: user, DeviceID: d.DeviceID, JSON: d.Keys, DisplayName: d.Name}); err != nil {
			return err
		}
	}
	for usage, raw := range map[string]json.RawMessage{"master": list.Master, "self_signing": list.SelfSigning} {
		public := ""
		gjson.GetBytes(raw, "keys").ForEach(func(_, v gjson.Result) bool { public = v.Str; return false })
		if public == "" || id.UserID(gjson.GetBytes(raw, "user_id").Str) != user {
			continue
		}
		if err := keys.PutCrossSigning(ctx, storage.CrossSigningKey{UserID: user, Usage: usage, Key: public, JSON: raw}); err != nil {
			return err
		}
	}
	return nil
}

func (d *listedDevice) valid(user id.UserID) bool {
	return d.DeviceID != "" && len(d.DeviceID) <= pdu.MaxIDLength && len(d.Name) <= 1024 &&
		id.UserID(gjson.GetBytes(d.Keys, "user_id").Str) == user && id.DeviceID(gjson.GetBytes(d.Keys, "device_id").Str) == d.DeviceID
}

// differs says whether the list says something else than the copy.
func (l *lists) differs(ctx context.Context, user id.UserID, list *deviceList) (bool, error) {
	copied, err := l.r.store.Keys.Published(ctx, user, "")
	if err != nil {
		return false, err
	}
	if !sameKey(copied.Master, list.Master) || !sameKey(copied.SelfSigning, list.SelfSigning) {
		return true, nil
	}
	has := make(map[id.DeviceID]*storage.DeviceKeys, len(copied.Devices))
	for _, d := range copied.Devices {
		has[d.DeviceID] = d
	}
	for i := range list.Devices {
		d := &list.Devices[i]
		if i >= maxDevices || !d.valid(user) {
			continue
		}
		old := has[d.DeviceID]
		if old == nil || old.DisplayName != d.Name || !sameJSON(old.JSON, d.Keys) {
			return true, nil
		}
		delete(has, d.DeviceID)
	}
	return len(has) > 0, nil
}

// sameKey compares keys of which either may be missing.
func sameKey(a, b json.RawMessage) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return sameJSON(a, b)
}
