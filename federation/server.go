package federation

import (
	"context"
	"net/http"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"chancery/federation/membership"
	"chancery/federation/receiver"
	"chancery/federation/remote"
	"chancery/federation/sender"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// Config is the federation's part of the configuration.
type Config struct {
	// Remote is how other servers are found and reached.
	Remote remote.Config `yaml:",inline"`
	// RequestsPerOrigin bounds what one other server may have under way at once; 0 is no bound. Default: 100.
	RequestsPerOrigin int `yaml:"requests_per_origin"`
	// Rate bounds what one other server may ask. Its transactions are worked one at a time in any case.
	Rate Rate `yaml:"rate"`
	// AllowedPaths are the paths that other servers may ask, with * for any run of characters
	// ("/_matrix/federation/v1/send/*"). Default: none listed, all may be asked.
	AllowedPaths []string `yaml:"allowed_paths"`
	// MaxMedia is the largest file, in bytes, that is fetched from another server. Default: 100 MiB.
	MaxMedia int64 `yaml:"max_media"`
	// Calls says that this server has a call focus. cmd fills it in.
	Calls bool `yaml:"-"`
	// Sender is what goes out, and how failing servers are tried again.
	Sender sender.Config `yaml:"sender"`
}

// Rate is a bucket of requests.
type Rate struct {
	// PerSecond is how many requests come into the bucket each second; 0 is no bound. Default: 1000.
	PerSecond float64 `yaml:"per_second"`
	// Burst is how many the bucket holds. Default: 3000.
	Burst float64 `yaml:"burst"`
}

// DefaultConfig is an open federation.
func DefaultConfig() Config {
	return Config{
		Remote: remote.DefaultConfig(), RequestsPerOrigin: 100, Rate: Rate{PerSecond: 1000, Burst: 3000},
		MaxMedia: 100 << 20, Sender: sender.DefaultConfig(),
	}
}

// Keys are the server's own signing keys.
type Keys = remote.Keys

// LoadKeys reads the server's key file, and makes one with a new key if there is none.
func LoadKeys(serverName, path string) (*Keys, error) { return remote.CreateKeys(serverName, path) }

// Federation is the component: the door for other servers, and the mouth to them.
type Federation struct {
	name   string
	remote *remote.Client
	ring   *remote.Ring
	store  *storage.Store
	view   *view.Reader
	bus    *bus.Bus
	blobs  *blobs.Store
	media  fetches
	notary *notary
	door   *door
	visits visits
	calls  bool // there is a call focus

	receiver   *receiver.Receiver
	membership *membership.Membership
	sender     *sender.Sender
}

// New makes the component. Nothing is answered or sent before Run.
func New(cfg Config, keys *Keys, store *storage.Store, files *blobs.Store, b *bus.Bus, log zerolog.Logger) (*Federation, error) {
	client, err := remote.New(cfg.Remote, keys)
	if err != nil {
		return nil, err
	}
	f := &Federation{
		name: keys.ServerName, remote: client, store: store, blobs: files, bus: b, view: view.New(store),
		ring:   remote.NewRing(client, store.ServerKeys, cfg.Remote.Notaries),
		media:  fetches{most: cfg.MaxMedia},
		notary: newNotary(), calls: cfg.Calls,
	}
	f.membership = membership.New(client, f.ring, store, b)
	f.receiver = receiver.New(client, f.ring, store, b, f.membership.Entered)
	f.sender = sender.New(cfg.Sender, client, store, b)
	f.door = newDoor(client, f.ring, cfg, log)
	f.door.heard = f.heard
	f.door.serve(f.routes())
	return f, nil
}

// Handler serves the federation API, under /_matrix/federation and /_matrix/key.
func (f *Federation) Handler() http.Handler { return f.door }

// Run answers the other components' questions and sends to other servers, until ctx ends.
func (f *Federation) Run(ctx context.Context) error {
	stop, err := bus.Answer(ctx, f.bus, bus.FederationDo, f.answer)
	if err != nil {
		return err
	}
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.receiver.Run(ctx) })
	group.Go(func() error { return f.sender.Run(ctx) })
	return group.Wait()
}

const (
	v1  = "/_matrix/federation/v1"
	v2  = "/_matrix/federation/v2"
	key = "/_matrix/key/v2"
)

// routes is the whole federation API, by the spec's chapters.
func (f *Federation) routes() []route {
	return []route{
		// Server implementation, keys
		{method: "GET", path: v1 + "/version", handle: f.version, open: true},
		{method: "GET", path: key + "/server", handle: f.ownKeys, open: true},
		{method: "GET", path: key + "/server/{keyId}", handle: f.ownKeys, open: true},
		{method: "GET", path: key + "/query/{serverName}", handle: f.notaryQuery, open: true},
		{method: "GET", path: key + "/query/{serverName}/{keyId}", handle: f.notaryQuery, open: true},
		{method: "POST", path: key + "/query", handle: f.notaryQueries, open: true},

		// Transactions
		{method: "PUT", path: v1 + "/send/{txnId}", handle: f.receive, limit: sendBody},

		// Events, history
		{method: "GET", path: v1 + "/event/{eventId}", handle: f.getEvent},
		{method: "GET", path: v1 + "/state/{roomId}", handle: f.getState},
		{method: "GET", path: v1 + "/state_ids/{roomId}", handle: f.getStateIDs},
		{method: "GET", path: v1 + "/event_auth/{roomId}/{eventId}", handle: f.getEventAuth},
		{method: "GET", path: v1 + "/backfill/{roomId}", handle: f.getBackfill},
		{method: "POST", path: v1 + "/get_missing_events/{roomId}", handle: f.getMissingEvents},

		// Joining, knocking, inviting, leaving
		{method: "GET", path: v1 + "/make_join/{roomId}/{userId}", handle: f.makeJoin},
		{method: "PUT", path: v1 + "/send_join/{roomId}/{eventId}", handle: f.sendJoinV1},
		{method: "PUT", path: v2 + "/send_join/{roomId}/{eventId}", handle: f.sendJoin},
		{method: "GET", path: v1 + "/make_knock/{roomId}/{userId}", handle: f.makeKnock},
		{method: "PUT", path: v1 + "/send_knock/{roomId}/{eventId}", handle: f.sendKnock},
		{method: "GET", path: v1 + "/make_leave/{roomId}/{userId}", handle: f.makeLeave},
		{method: "PUT", path: v1 + "/send_leave/{roomId}/{eventId}", handle: f.sendLeaveV1},
		{method: "PUT", path: v2 + "/send_leave/{roomId}/{eventId}", handle: f.sendLeave},
		{method: "PUT", path: v1 + "/invite/{roomId}/{eventId}", handle: f.inviteV1},
		{method: "PUT", path: v2 + "/invite/{roomId}/{eventId}", handle: f.invite},
		{method: "PUT", path: v1 + "/exchange_third_party_invite/{roomId}", handle: f.exchangeThirdPartyInvite},
		{method: "PUT", path: v1 + "/3pid/onbind", handle: f.bound, open: true},

		// Queries
		{method: "GET", path: v1 + "/query/profile", handle: f.answerProfile},
		{method: "GET", path: v1 + "/query/directory", handle: f.answerDirectory},
		{method: "GET", path: v1 + "/query/user_info", handle: f.answerUserInfoQuery},
		{method: "GET", path: v1 + "/query/{queryType}", handle: f.answerUnknownQuery},
		{method: "POST", path: "/_matrix/federation/unstable/users/info", handle: f.answerUserStatus},
		{method: "GET", path: v1 + "/publicRooms", handle: f.listPublicRooms},
		{method: "POST", path: v1 + "/publicRooms", handle: f.searchPublicRooms},
		{method: "GET", path: v1 + "/openid/userinfo", handle: f.answerUserInfo, open: true},

		// Calls
		{method: "POST", path: msc4195, handle: f.callToken},
		{method: "POST", path: v1 + "/rtc/livekit/get_token", handle: f.callToken},

		{method: "GET", path: v1 + "/timestamp_to_event/{roomId}", handle: f.timestampToEvent},
		{method: "GET", path: v1 + "/hierarchy/{roomId}", handle: f.hierarchy},

		// Media
		{method: "GET", path: v1 + "/media/download/{mediaId}", handle: f.download},
		{method: "GET", path: v1 + "/media/thumbnail/{mediaId}", handle: f.thumbnail},

		// Devices and their keys
		{method: "GET", path: v1 + "/user/devices/{userId}", handle: f.userDevices},
		{method: "POST", path: v1 + "/user/keys/query", handle: f.queryKeys},
		{method: "POST", path: v1 + "/user/keys/claim", handle: f.claimKeys},
	}
}

// receive handles PUT /_matrix/federation/v1/send/{txnId}.
// Spec: server-server-api/#put_matrixfederationv1sendtxnid
func (f *Federation) receive(r *request) (any, error) {
	return f.receiver.Transaction(r.Context(), r.origin, r.PathValue("txnId"), r.body)
}

// version handles GET /_matrix/federation/v1/version.
// Spec: server-server-api/#get_matrixfederationv1version
func (f *Federation) version(*request) (any, error) {
	type server struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	return map[string]server{"server": {"Chancery", Version}}, nil
}

// Version is what this server tells others of itself.
const Version = "0.1.0"
