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

// lists fetches the device lists of other servers' users whose copies are stale, a few at a time.
type lists struct {
	r      *Receiver
	jobs   chan id.UserID
	flight singleflight.Group
}

const (
	listFetchers = 8
	listRetry    = 5 * time.Minute
	maxDevices   = 1000
)

func newLists(r *Receiver) *lists { return &lists{r: r, jobs: make(chan id.UserID, 10_000)} }

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
	UserID   id.UserID `json:"user_id"`
	StreamID int64     `json:"stream_id"`
	Devices  []struct {
		DeviceID id.DeviceID     `json:"device_id"`
		Name     string          `json:"device_display_name"`
		Keys     json.RawMessage `json:"keys"`
	} `json:"devices"`
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
}

// fetch asks the user's server for the list and keeps a copy.
// Spec: server-server-api/#get_matrixfederationv1userdevicesuserid
func (l *lists) fetch(ctx context.Context, user id.UserID) error {
	_, err, _ := l.flight.Do(string(user), func() (any, error) {
		known, err := l.r.store.DeviceLists.Remote(ctx, user)
		if err != nil || known == nil || !known.Stale {
			return nil, err
		}
		var list deviceList
		err = l.r.client.Ask(ctx, remote.Request{
			Server: user.Homeserver(), Method: http.MethodGet, Path: []string{"v1", "user", "devices", string(user)},
		}, &list)
		if err != nil {
			return nil, err
		}
		return nil, l.r.keep(ctx, user, &list)
	})
	return err
}

// keep writes the copy over the old one, and tells those who share a room with the user.
func (r *Receiver) keep(ctx context.Context, user id.UserID, list *deviceList) error {
	return r.store.Do(ctx, func(ctx context.Context) error {
		if err := r.store.Keys.DropUser(ctx, user); err != nil {
			return err
		}
		for i, d := range list.Devices {
			if i >= maxDevices || d.DeviceID == "" || len(d.DeviceID) > pdu.MaxIDLength || len(d.Name) > 1024 ||
				id.UserID(gjson.GetBytes(d.Keys, "user_id").Str) != user || id.DeviceID(gjson.GetBytes(d.Keys, "device_id").Str) != d.DeviceID {
				continue
			}
			if err := r.store.Keys.PutDevice(ctx, storage.DeviceKeys{UserID: user, DeviceID: d.DeviceID, JSON: d.Keys, DisplayName: d.Name}); err != nil {
				return err
			}
		}
		for usage, raw := range map[string]json.RawMessage{"master": list.Master, "self_signing": list.SelfSigning} {
			public := ""
			gjson.GetBytes(raw, "keys").ForEach(func(_, v gjson.Result) bool { public = v.Str; return false })
			if public == "" || id.UserID(gjson.GetBytes(raw, "user_id").Str) != user {
				continue
			}
			if err := r.store.Keys.PutCrossSigning(ctx, storage.CrossSigningKey{UserID: user, Usage: usage, Key: public, JSON: raw}); err != nil {
				return err
			}
		}
		return r.store.DeviceLists.PutRemote(ctx, storage.RemoteDeviceList{UserID: user, StreamID: list.StreamID})
	})
}
