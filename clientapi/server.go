// Package clientapi is the door for clients: the one table of routes, and the few answers that belong to no chapter
// (versions, capabilities, .well-known, the list of call transports).
//
// Each chapter of the client API is a sub-package that exports its handlers; a line of the table here gives each its
// method, path, door and limit. Authentication, JSON, CORS and errors are the business of clientapi/rest. The
// sub-packages never import one another: what two of them need lies in rest or in storage.
package clientapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/account"
	"chancery/clientapi/admin"
	"chancery/clientapi/appservice"
	"chancery/clientapi/keys"
	"chancery/clientapi/mail"
	"chancery/clientapi/media"
	"chancery/clientapi/oauth"
	"chancery/clientapi/push"
	"chancery/clientapi/rest"
	"chancery/clientapi/rooms"
	"chancery/clientapi/syncing"
	"chancery/clientapi/upstream"
	"chancery/roomserver/pdu"
	"chancery/roomserver/view"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// Config is what an operator may say about the client API.
type Config struct {
	// ServerName is the name in user IDs. cmd fills it in.
	ServerName string `yaml:"-"`
	// PublicURL is the address under which clients reach this server, as .well-known tells them. Default
	// "https://<server name>".
	PublicURL string `yaml:"public_url"`
	// FederationAddress is the "host:port" that .well-known tells other servers. Default none: they find the server by
	// its name, on port 8448.
	FederationAddress string `yaml:"federation_address"`
	// DefaultRoomVersion is the version of rooms whose creator names none. Default "11"; "12" where all the servers that
	// you speak with know it.
	DefaultRoomVersion id.RoomVersion `yaml:"default_room_version"`
	// Foci are the LiveKit service URLs of this server's call focus. cmd fills them in.
	Foci []string `yaml:"-"`
	// Support is what .well-known/matrix/support says. Default nothing: the document is then not served.
	Support SupportConfig `yaml:"support"`
	// PolicyServerKey is the public key (ed25519, unpadded base64) of this domain's policy server, as
	// .well-known/matrix/policy_server tells it to those who set up rooms. Default none: the document is then not served.
	PolicyServerKey string `yaml:"policy_server_key"`
	// HTTP is the plumbing: tokens, addresses, rate limits.
	HTTP rest.Config `yaml:"http"`
	// Account is who may register, and how passwords and tokens are kept.
	Account account.Config `yaml:"account"`
	// Upstream is sign-in with identity providers: ProConnect, Keycloak, Entra and their like.
	Upstream upstream.Config `yaml:"upstream"`
	// OAuth is the OAuth 2.0 API: clients that sign people in on this server's own pages.
	OAuth oauth.Config `yaml:"oauth"`
	// Mail is the way to users' e-mail addresses: to confirm them, to reset passwords, to tell of missed messages.
	Mail mail.Config `yaml:"mail"`
	// Push is when missed messages are told by e-mail.
	Push push.Config `yaml:"push"`
	// Rooms bounds what users may ask of rooms.
	Rooms rooms.Config `yaml:"rooms"`
	// Media is the content repository.
	Media media.Config `yaml:"media"`
	// Sync is how long syncs wait, and how much memory they may use.
	Sync syncing.Config `yaml:"sync"`
	// AppService is the application services: bridges and bots that act for many users.
	AppService appservice.Config `yaml:"appservice"`
	// Outbound is what requests to the outside may reach: push gateways, pages to preview, identity providers.
	Outbound rest.OutboundConfig `yaml:"outbound"`
}

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{
		DefaultRoomVersion: id.RoomV11, HTTP: rest.DefaultConfig(), Account: account.DefaultConfig(), OAuth: oauth.DefaultConfig(), Mail: mail.DefaultConfig(), Push: push.DefaultConfig(),
		Rooms: rooms.DefaultConfig(), Media: media.DefaultConfig(), Sync: syncing.DefaultConfig(),
		AppService: appservice.DefaultConfig(),
	}
}

// Server is the client API.
type Server struct {
	cfg      Config
	account  *account.Handlers
	oauth    *oauth.Handlers
	mailer   *mail.Mailer
	upstream *upstream.Providers
	keys     *keys.Handlers
	rooms    *rooms.Handlers
	media    *media.Handlers
	sync     *syncing.Syncing
	push     *push.Handlers
	services *appservice.Services
	admin    *admin.Handlers
	store    *storage.Store
	bus      *bus.Bus
	handler  http.Handler
}

// New makes the client API, complete.
func New(cfg Config, store *storage.Store, files *blobs.Store, messages *bus.Bus, log zerolog.Logger) (*Server, error) {
	if err := cfg.HTTP.Limits.Validate(); err != nil {
		return nil, err
	}
	if !pdu.Known(cfg.DefaultRoomVersion) {
		return nil, fmt.Errorf("client.default_room_version: there is no room version %q", cfg.DefaultRoomVersion)
	}
	if err := cfg.Account.Validate(); err != nil {
		return nil, err
	}
	if cfg.PublicURL == "" {
		cfg.PublicURL = "https://" + cfg.ServerName
	}
	cfg.Account.ServerName, cfg.Account.PublicURL = cfg.ServerName, strings.TrimRight(cfg.PublicURL, "/")
	cfg.Rooms.ServerName, cfg.Rooms.DefaultVersion = cfg.ServerName, cfg.DefaultRoomVersion
	reader := view.New(store)
	cfg.Media.ServerName = cfg.ServerName
	if cfg.Mail.AppName == "" {
		cfg.Mail.AppName = cfg.ServerName
	}
	mailer, err := mail.New(cfg.Mail)
	if err != nil {
		return nil, err
	}
	if err := cfg.Push.Validate(); err != nil {
		return nil, err
	}
	cfg.Push.PublicURL = strings.TrimRight(cfg.PublicURL, "/")
	passwords := account.NewPasswords(cfg.Account, store)
	stages := map[string]rest.Stage{
		rest.StagePassword:          passwords.Stage,
		rest.StageRegistrationToken: account.TokenStage(store),
		rest.StageEmail:             account.EmailStage(store),
	}
	if len(cfg.Upstream.Providers) > 0 {
		stages[rest.StageSSO] = account.SSOStage
	}
	uia := rest.NewUIA(store, stages, cfg.Account.PublicURL+oauth.AccountPath)
	outbound, err := rest.NewOutbound(cfg.Outbound)
	if err != nil {
		return nil, err
	}
	// What the operator has registered may live where strangers' addresses may not.
	toServices := cfg.Outbound
	toServices.AllowedNetworks = slices.Concat(toServices.AllowedNetworks, cfg.AppService.AllowedNetworks)
	bridging, err := rest.NewOutbound(toServices)
	if err != nil {
		return nil, err
	}
	cfg.AppService.ServerName = cfg.ServerName
	services, err := appservice.New(cfg.AppService, store, messages, reader, bridging)
	if err != nil {
		return nil, err
	}
	exclusive := func(user id.UserID) bool {
		return services.ExclusiveUser(user) || user == rest.ServerUser(cfg.ServerName)
	}
	providers, err := newUpstream(cfg, store, exclusive)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, store: store, bus: messages, mailer: mailer, upstream: providers,
		account: account.New(cfg.Account, account.Deps{
			Store: store, Bus: messages, Passwords: passwords, UIA: uia, Mailer: mailer, Files: files, Wake: services.QueryUser,
			Exclusive: exclusive, Upstream: providers,
		}),
		keys:  keys.New(cfg.ServerName, store, messages, uia),
		rooms: rooms.New(cfg.Rooms, store, messages, reader, services),
		media: media.New(cfg.Media, store, files, messages, outbound),
		sync:  syncing.New(cfg.Sync, store, messages, reader),
		push:  push.New(cfg.Push, store, reader, outbound, mailer),
	}
	if s.oauth, err = newOAuth(cfg, store, s.account, providers); err != nil {
		return nil, err
	}
	s.services = services
	s.admin = admin.New(cfg.ServerName, store, messages, reader, s.account)
	s.handler = rest.NewMux(s.routes(), rest.Options{
		Config: cfg.HTTP, Log: log, Tokens: account.NewSessions(store), Services: services,
	})
	return s, nil
}

// newUpstream makes what speaks with identity providers. The operator has named them: they may stand where strangers'
// addresses may not.
func newUpstream(cfg Config, store *storage.Store, exclusive func(id.UserID) bool) (*upstream.Providers, error) {
	toProviders := cfg.Outbound
	toProviders.AllowedNetworks = slices.Concat(toProviders.AllowedNetworks, cfg.Upstream.AllowedNetworks)
	client, err := rest.NewOutbound(toProviders)
	if err != nil {
		return nil, err
	}
	cfg.Upstream.ServerName, cfg.Upstream.PublicURL = cfg.ServerName, cfg.Account.PublicURL
	cfg.Upstream.EmailDomains, cfg.Upstream.TermsWanted = cfg.Account.EmailDomains, len(cfg.Account.Terms) > 0
	cfg.Upstream.NameSuffixes = cfg.Account.NameSuffixes
	return upstream.New(cfg.Upstream, upstream.Deps{Store: store, Client: client, Refuses: func(user id.UserID) bool {
		return exclusive(user) || cfg.Account.Reserved(user.Localpart())
	}, Date: func(ctx context.Context, user id.UserID) error {
		return cfg.Account.Date(ctx, store, user)
	}, ComeBack: func(ctx context.Context, address string, whose id.UserID) (id.UserID, error) {
		return cfg.Account.ComeBack(ctx, store, address, whose)
	}})
}

// Run does what goes on beside requests, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.account.Run(ctx) })
	group.Go(func() error { return s.oauth.Run(ctx) })
	group.Go(func() error { return s.mailer.Run(ctx) })
	group.Go(func() error { return s.rooms.Run(ctx) })
	group.Go(func() error { return s.media.Run(ctx) })
	group.Go(func() error { return s.sync.Run(ctx) })
	group.Go(func() error { return s.push.Run(ctx) })
	group.Go(func() error { return s.services.Run(ctx) })
	group.Go(func() error { return s.admin.Run(ctx) })
	return group.Wait()
}

// CallWish is what is wished for a room's calls at the machine itself.
type CallWish = admin.CallWish

// NewAccount is an account that an administrator makes.
type NewAccount = account.NewAccount

// Imported is an account that moves here from another server.
type Imported = account.Imported

// IsTaken says whether an account could not be made since the name is somebody's.
func IsTaken(err error) bool { return account.IsTaken(err) }

// Accounts makes accounts for administrators.
func (s *Server) Accounts() *account.Handlers { return s.account }

// Admin does for who sits at the machine what administrators do over HTTP.
func (s *Server) Admin() *admin.Handlers { return s.admin }

// ServeHTTP serves the client API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// dehydrated is where the device of a user is kept that nobody holds.
const dehydrated = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"

func (s *Server) routes() []rest.Route {
	a, k, r, m, y, p, as, ad := s.account, s.keys, s.rooms, s.media, s.sync, s.push, s.services, s.admin
	acts := r.Acts()
	event, silent, room := acts.Event, acts.Silent, acts.Room
	return slices.Concat(s.oauthRoutes(), s.callRoutes(), s.validityRoutes(), []rest.Route{
		// Discovery.
		{Method: "GET", Path: "/.well-known/matrix/client", Handler: s.wellKnownClient},
		{Method: "GET", Path: "/.well-known/matrix/server", Handler: s.wellKnownServer},
		{Method: "GET", Path: "/.well-known/matrix/policy_server", Handler: s.wellKnownPolicyServer},
		{Method: "GET", Path: "/.well-known/matrix/support", Handler: s.wellKnownSupport},
		{Method: "GET", Path: "/_matrix/client/versions", Handler: s.versions, Auth: rest.Optional, Expired: true},
		{Method: "GET", Path: "/_matrix/client/v3/capabilities", Handler: s.capabilities, Auth: rest.User},

		// Logging in.
		{Method: "GET", Path: "/_matrix/client/v3/login", Handler: a.Flows},
		{Method: "GET", Path: "/_matrix/client/v3/login/sso/redirect", Handler: a.SSORedirect, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/login/sso/redirect/{idpId}", Handler: a.SSORedirect, Limit: rest.LimitGeneral},
		{Method: "GET", Path: account.SSOContinuePath, Handler: a.SSOContinuePage, Limit: rest.LimitGeneral},
		{Method: "POST", Path: account.SSOContinuePath, Handler: a.SSOContinue, Limit: rest.LimitGeneral},
		{Method: "GET", Path: account.SSOConfirmedPath, Handler: a.SSOConfirmed, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/auth/{authType}/fallback/web", Handler: a.ConfirmPage, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/auth/{authType}/fallback/web", Handler: a.Confirm, Limit: rest.LimitGeneral},
		{Method: "GET", Path: upstream.CallbackPath("{provider}"), Handler: a.Callback, Limit: rest.LimitGeneral},
		{Method: "POST", Path: account.AcceptPath, Handler: a.AcceptTerms, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_chancery/upstream/{provider}/backchannel", Handler: a.Backchannel, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_chancery/upstream/{provider}/frontchannel", Handler: a.Frontchannel, Limit: rest.LimitGeneral},
		{Method: "GET", Path: account.LeavePath, Handler: a.LeavePage, Limit: rest.LimitGeneral},
		{Method: "POST", Path: account.LeavePath, Handler: a.Leave, Limit: rest.LimitGeneral},
		{Method: "GET", Path: upstream.LeftPath, Handler: a.LeftPage, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/login", Handler: a.Login, Auth: rest.Optional, Limit: rest.LimitLogin},
		{Method: "POST", Path: "/_matrix/client/v1/login/get_token", Handler: a.LoginToken, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/refresh", Handler: a.Refresh, Limit: rest.LimitLogin},
		{Method: "POST", Path: "/_matrix/client/v3/logout", Handler: a.Logout, Auth: rest.User, Locked: true},
		{Method: "POST", Path: "/_matrix/client/v3/logout/all", Handler: a.LogoutAll, Auth: rest.User, Locked: true},

		// Registering.
		{Method: "POST", Path: "/_matrix/client/v3/register", Handler: a.Register, Auth: rest.Optional, Limit: rest.LimitRegister},
		{Method: "GET", Path: "/_matrix/client/v3/register/available", Handler: a.Available, Limit: rest.LimitRegister},
		{Method: "GET", Path: "/_matrix/client/v1/register/m.login.registration_token/validity", Handler: a.TokenValidity},
		{Method: "POST", Path: "/_matrix/client/v3/register/email/requestToken", Handler: a.RegisterEmailToken, Limit: rest.LimitRegister},
		{Method: "POST", Path: "/_matrix/client/v3/register/msisdn/requestToken", Handler: a.NoPhone, Limit: rest.LimitRegister},
		{Method: "GET", Path: account.SubmitPath, Handler: a.SubmitPage, Limit: rest.LimitRegister},
		{Method: "POST", Path: account.SubmitPath, Handler: a.Submit, Limit: rest.LimitRegister},
		{Method: "GET", Path: "/_matrix/client/v3/password_policy", Handler: a.PasswordPolicy},
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc2000/password_policy", Handler: a.PasswordPolicy},
		{Method: "GET", Path: "/_synapse/admin/v1/register", Handler: a.Nonce, Limit: rest.LimitRegister},
		{Method: "POST", Path: "/_synapse/admin/v1/register", Handler: a.RegisterBySecret, Limit: rest.LimitRegister},

		// The account.
		{Method: "GET", Path: "/_matrix/client/v3/account/whoami", Handler: a.WhoAmI, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/account/password", Handler: a.SetPassword, Auth: rest.Optional, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/account/password/email/requestToken", Handler: a.PasswordEmailToken, Limit: rest.LimitRegister},
		{Method: "POST", Path: "/_matrix/client/v3/account/password/msisdn/requestToken", Handler: a.NoPhone, Limit: rest.LimitRegister},
		{Method: "POST", Path: "/_matrix/client/v3/account/deactivate", Handler: a.Deactivate, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/account/3pid", Handler: a.ThreePIDs, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/account/3pid", Handler: a.AddThreePIDs, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/account/3pid/add", Handler: a.AddThreePID, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/account/3pid/bind", Handler: a.BindThreePID, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/account/3pid/unbind", Handler: a.UnbindThreePID, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/account/3pid/delete", Handler: a.DeleteThreePID, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/account/3pid/email/requestToken", Handler: a.AddEmailToken, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/account/3pid/msisdn/requestToken", Handler: a.NoPhone, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/unstable/users/info", Handler: a.UsersInfo, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/user/{userId}/info", Handler: a.UserInfo, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/unstable/user/{userId}/info", Handler: a.UserInfo, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/user/{userId}/openid/request_token", Handler: a.OpenIDToken, Auth: rest.User, Limit: rest.LimitGeneral},

		// Devices.
		{Method: "GET", Path: "/_matrix/client/v3/devices", Handler: a.Devices, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/devices/{deviceId}", Handler: a.Device, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/devices/{deviceId}", Handler: a.PutDevice, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "DELETE", Path: "/_matrix/client/v3/devices/{deviceId}", Handler: a.DeleteDevice, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/delete_devices", Handler: a.DeleteDevices, Auth: rest.User},

		// Profiles.
		{Method: "GET", Path: "/_matrix/client/v3/profile/{userId}", Handler: a.Profile, Auth: rest.Glimpsed},
		{Method: "GET", Path: "/_matrix/client/v3/profile/{userId}/{keyName}", Handler: a.ProfileField, Auth: rest.Glimpsed},
		{Method: "PUT", Path: "/_matrix/client/v3/profile/{userId}/{keyName}", Handler: a.PutProfileField, Auth: rest.User, Limit: rest.LimitGeneral, Act: room},
		{Method: "DELETE", Path: "/_matrix/client/v3/profile/{userId}/{keyName}", Handler: a.DeleteProfileField, Auth: rest.User, Limit: rest.LimitGeneral, Act: room},
		{Method: "GET", Path: "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}/{keyName}", Handler: a.ProfileField, Auth: rest.Glimpsed},
		{Method: "PUT", Path: "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}/{keyName}", Handler: a.PutProfileField, Auth: rest.User, Limit: rest.LimitGeneral, Act: room},
		{Method: "DELETE", Path: "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}/{keyName}", Handler: a.DeleteProfileField, Auth: rest.User, Limit: rest.LimitGeneral, Act: room},

		// Media.
		{Method: "GET", Path: "/_matrix/client/v1/media/config", Handler: m.Limits, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/media/v3/config", Handler: m.Limits, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/media/v3/upload", Handler: m.Upload, Auth: rest.User, Limit: rest.LimitMedia, MaxBody: -1, Timeout: time.Hour},
		{Method: "POST", Path: "/_matrix/media/v1/create", Handler: m.Create, Auth: rest.User, Limit: rest.LimitMedia},
		{Method: "PUT", Path: "/_matrix/media/v3/upload/{serverName}/{mediaId}", Handler: m.Fill, Auth: rest.User, Limit: rest.LimitMedia, MaxBody: -1, Timeout: time.Hour},
		{Method: "GET", Path: "/_matrix/client/v1/media/download/{serverName}/{mediaId}", Handler: m.Download, Auth: rest.User, Timeout: 2 * time.Minute},
		{Method: "GET", Path: "/_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}", Handler: m.Download, Auth: rest.User, Timeout: 2 * time.Minute},
		{Method: "GET", Path: "/_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}", Handler: m.Thumbnail, Auth: rest.User, Timeout: 2 * time.Minute},
		{Method: "GET", Path: "/_matrix/client/v1/media/preview_url", Handler: m.Preview, Auth: rest.User, Limit: rest.LimitPreview},
		{Method: "GET", Path: "/_matrix/media/v3/download/{serverName}/{mediaId}", Handler: m.OldDownload, Timeout: 2 * time.Minute},
		{Method: "GET", Path: "/_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}", Handler: m.OldDownload, Timeout: 2 * time.Minute},
		{Method: "GET", Path: "/_matrix/media/v3/thumbnail/{serverName}/{mediaId}", Handler: m.OldThumbnail, Timeout: 2 * time.Minute},
		{Method: "GET", Path: "/_matrix/media/v3/preview_url", Handler: m.Preview, Auth: rest.User, Limit: rest.LimitPreview},

		// Account data and tags.
		{Method: "GET", Path: "/_matrix/client/v3/user/{userId}/account_data/{type}", Handler: a.AccountData, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/user/{userId}/account_data/{type}", Handler: a.PutAccountData, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "DELETE", Path: "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}", Handler: a.DeleteAccountData, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}", Handler: a.AccountData, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}", Handler: a.PutAccountData, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "DELETE", Path: "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}", Handler: a.DeleteAccountData, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags", Handler: a.Tags, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}", Handler: a.PutTag, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "DELETE", Path: "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}", Handler: a.DeleteTag, Auth: rest.User, Limit: rest.LimitGeneral},

		// Keys, and messages from device to device.
		{Method: "POST", Path: "/_matrix/client/v3/keys/upload", Handler: k.Upload, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/keys/query", Handler: k.Query, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/keys/claim", Handler: k.Claim, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/keys/changes", Handler: k.Changes, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/keys/device_signing/upload", Handler: k.UploadCrossSigning, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/keys/signatures/upload", Handler: k.UploadSignatures, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/sendToDevice/{eventType}/{txnId}", Handler: k.SendToDevice, Auth: rest.User, MaxBody: 8 << 20},

		// Backup of room keys.
		{Method: "PUT", Path: dehydrated, Handler: k.Dehydrate, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: dehydrated, Handler: k.DehydratedDevice, Auth: rest.User},
		{Method: "DELETE", Path: dehydrated, Handler: k.DeleteDehydrated, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: dehydrated + "/{deviceId}/events", Handler: k.DehydratedEvents, Auth: rest.User},
		{Method: "GET", Path: dehydrated + "/{deviceId}/events", Handler: k.DehydratedEvents, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/room_keys/version", Handler: k.CreateBackup, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/room_keys/version", Handler: k.NewestBackup, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/room_keys/version/{version}", Handler: k.Backup, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/room_keys/version/{version}", Handler: k.PutBackup, Auth: rest.User},
		{Method: "DELETE", Path: "/_matrix/client/v3/room_keys/version/{version}", Handler: k.DeleteBackup, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/room_keys/keys", Handler: k.PutBackupKeys, Auth: rest.User, MaxBody: 16 << 20},
		{Method: "GET", Path: "/_matrix/client/v3/room_keys/keys", Handler: k.BackupKeys, Auth: rest.User},
		{Method: "DELETE", Path: "/_matrix/client/v3/room_keys/keys", Handler: k.DeleteBackupKeys, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/room_keys/keys/{roomId}", Handler: k.PutBackupKeys, Auth: rest.User, MaxBody: 16 << 20},
		{Method: "GET", Path: "/_matrix/client/v3/room_keys/keys/{roomId}", Handler: k.BackupKeys, Auth: rest.User},
		{Method: "DELETE", Path: "/_matrix/client/v3/room_keys/keys/{roomId}", Handler: k.DeleteBackupKeys, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}", Handler: k.PutBackupKeys, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}", Handler: k.BackupKeys, Auth: rest.User},
		{Method: "DELETE", Path: "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}", Handler: k.DeleteBackupKeys, Auth: rest.User},

		// Rooms: making them, and who is in them.
		{Method: "POST", Path: "/_matrix/client/v3/createRoom", Handler: r.Create, Auth: rest.User, Limit: rest.LimitCreate, Act: room},
		{Method: "GET", Path: "/_matrix/client/v3/joined_rooms", Handler: r.Joined, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/join/{roomIdOrAlias}", Handler: r.JoinByAlias, Auth: rest.User, Limit: rest.LimitJoin, Act: room},
		{Method: "POST", Path: "/_matrix/client/v3/knock/{roomIdOrAlias}", Handler: r.Knock, Auth: rest.User, Limit: rest.LimitJoin, Act: room},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/join", Handler: r.Join, Auth: rest.User, Limit: rest.LimitJoin, Act: room},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/leave", Handler: r.Leave, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/invite", Handler: r.Invite, Auth: rest.User, Limit: rest.LimitInvite, Act: silent},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/kick", Handler: r.Kick, Auth: rest.User, Limit: rest.LimitGeneral, Act: silent},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/ban", Handler: r.Ban, Auth: rest.User, Limit: rest.LimitGeneral, Act: silent},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/unban", Handler: r.Unban, Auth: rest.User, Limit: rest.LimitGeneral, Act: silent},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/forget", Handler: r.Forget, Auth: rest.User, Limit: rest.LimitGeneral},

		// Rooms: sending.
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", Handler: r.Send, Auth: rest.User, Limit: rest.LimitMessage, Act: event},
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}", Handler: r.Redact, Auth: rest.User, Limit: rest.LimitMessage, Act: event},
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}", Handler: r.PutState, Auth: rest.User, Limit: rest.LimitMessage, Act: event},
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{$}", Handler: r.PutState, Auth: rest.User, Limit: rest.LimitMessage, Act: event},
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}", Handler: r.PutState, Auth: rest.User, Limit: rest.LimitMessage, Act: event},
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/typing/{userId}", Handler: r.Typing, Auth: rest.User, Limit: rest.LimitGeneral, Act: silent},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}", Handler: r.Receipt, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/read_markers", Handler: r.ReadMarkers, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "PUT", Path: "/_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}", Handler: r.Delay, Auth: rest.User, Limit: rest.LimitMessage, Act: acts.Later},
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc4140/delayed_events", Handler: r.DelayedEvents, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}", Handler: r.DelayedEvent, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}", Handler: r.UpdateDelayedByBody, Auth: rest.Optional},
		{Method: "POST", Path: "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}", Handler: r.UpdateDelayed, Auth: rest.Optional},

		// Rooms: reading.
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/state", Handler: r.State, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}", Handler: r.StateEvent, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{$}", Handler: r.StateEvent, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}", Handler: r.StateEvent, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/members", Handler: r.Members, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/joined_members", Handler: r.JoinedMembers, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/messages", Handler: r.Messages, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/event/{eventId}", Handler: r.Event, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/context/{eventId}", Handler: r.Context, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/rooms/{roomId}/aliases", Handler: r.Aliases, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}", Handler: r.Relations, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}", Handler: r.Relations, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}", Handler: r.Relations, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/threads", Handler: r.Threads, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription", Handler: r.ThreadSubscription, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription", Handler: r.SubscribeThread, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "DELETE", Path: "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription", Handler: r.UnsubscribeThread, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions", Handler: r.ThreadSubscriptions, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event", Handler: r.TimestampToEvent, Auth: rest.User, Limit: rest.LimitGeneral},

		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration", Handler: r.Retention, Auth: rest.User},

		// Rooms: finding them.
		{Method: "GET", Path: "/_matrix/client/v3/directory/room/{roomAlias}", Handler: r.Alias},
		{Method: "PUT", Path: "/_matrix/client/v3/directory/room/{roomAlias}", Handler: r.PutAlias, Auth: rest.User, Limit: rest.LimitGeneral, Act: room},
		{Method: "DELETE", Path: "/_matrix/client/v3/directory/room/{roomAlias}", Handler: r.DeleteAlias, Auth: rest.User, Limit: rest.LimitGeneral, Act: room},
		{Method: "GET", Path: "/_matrix/client/v3/directory/list/room/{roomId}", Handler: r.Visibility},
		{Method: "PUT", Path: "/_matrix/client/v3/directory/list/room/{roomId}", Handler: r.PutVisibility, Auth: rest.User, Limit: rest.LimitGeneral, Act: room},
		{Method: "GET", Path: "/_matrix/client/v3/publicRooms", Handler: r.PublicRooms, Auth: rest.Optional, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/publicRooms", Handler: r.SearchPublicRooms, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/hierarchy", Handler: r.Hierarchy, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc2946/rooms/{roomId}/hierarchy", Handler: r.Hierarchy, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v1/room_summary/{roomIdOrAlias}", Handler: r.RoomSummary, Auth: rest.Optional, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}", Handler: r.RoomSummary, Auth: rest.Optional, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary", Handler: r.RoomSummary, Auth: rest.Optional, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/search", Handler: r.Search, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/user_directory/search", Handler: r.SearchUsers, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v1/mutual_rooms", Handler: r.MutualRooms, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms", Handler: r.MutualRooms, Auth: rest.User, Limit: rest.LimitGeneral},

		// Rooms: upgrading and reporting them.
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/upgrade", Handler: r.Upgrade, Auth: rest.User, Limit: rest.LimitCreate, Act: room},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/report/{eventId}", Handler: r.ReportEvent, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/rooms/{roomId}/report", Handler: r.ReportRoom, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "POST", Path: "/_matrix/client/v3/users/{userId}/report", Handler: r.ReportUser, Auth: rest.User, Limit: rest.LimitGeneral},

		// Syncing.
		{Method: "GET", Path: "/_matrix/client/v3/sync", Handler: y.Sync, Auth: rest.User, Timeout: -1},
		{Method: "POST", Path: "/_matrix/client/v4/sync", Handler: y.SlideMerged, Auth: rest.User, Timeout: -1},
		{Method: "POST", Path: "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", Handler: y.Slide, Auth: rest.User, Timeout: -1},
		{Method: "POST", Path: "/_matrix/client/v3/user/{userId}/filter", Handler: y.PutFilter, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/user/{userId}/filter/{filterId}", Handler: y.Filter, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/presence/{userId}/status", Handler: y.Presence, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/presence/{userId}/status", Handler: y.PutPresence, Auth: rest.User, Limit: rest.LimitGeneral},

		// Push rules and pushers.
		{Method: "GET", Path: "/_matrix/client/v3/pushrules", Handler: p.Rules, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/pushrules/{$}", Handler: p.Rules, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/pushrules/global", Handler: p.Global, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/pushrules/global/{$}", Handler: p.Global, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}", Handler: p.Rule, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}", Handler: p.PutRule, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "DELETE", Path: "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}", Handler: p.DeleteRule, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled", Handler: p.RuleEnabled, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled", Handler: p.PutRuleEnabled, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions", Handler: p.RuleActions, Auth: rest.User},
		{Method: "PUT", Path: "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions", Handler: p.PutRuleActions, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/notifications", Handler: p.Notifications, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/pushers", Handler: p.Pushers, Auth: rest.User},
		{Method: "POST", Path: "/_matrix/client/v3/pushers/set", Handler: p.SetPusher, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: push.UnsubscribePath, Handler: p.UnsubscribePage, Limit: rest.LimitRegister},
		{Method: "POST", Path: push.UnsubscribePath, Handler: p.Unsubscribe, Limit: rest.LimitRegister},

		// Application services, and the networks they bridge to.
		{Method: "POST", Path: "/_matrix/client/v1/appservice/{appserviceId}/ping", Handler: as.Ping, Auth: rest.Service},
		{Method: "PUT", Path: "/_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}", Handler: as.ListRoom, Auth: rest.Service},
		{Method: "GET", Path: "/_matrix/client/v3/thirdparty/protocols", Handler: as.Protocols, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/thirdparty/protocol/{protocol}", Handler: as.Protocol, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/thirdparty/location", Handler: as.Locations, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/thirdparty/location/{protocol}", Handler: as.Locations, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/thirdparty/user", Handler: as.Users, Auth: rest.User, Limit: rest.LimitGeneral},
		{Method: "GET", Path: "/_matrix/client/v3/thirdparty/user/{protocol}", Handler: as.Users, Auth: rest.User, Limit: rest.LimitGeneral},

		// Administrators: what the specification gives them.
		{Method: "GET", Path: "/_chancery/admin/v1/users/{userId}/export", Handler: a.ExportUser, Auth: rest.Admin, Timeout: time.Hour},
		{Method: "GET", Path: "/_matrix/client/v1/admin/lock/{userId}", Handler: ad.Locked, Auth: rest.Admin},
		{Method: "PUT", Path: "/_matrix/client/v1/admin/lock/{userId}", Handler: ad.Lock, Auth: rest.Admin},
		{Method: "GET", Path: "/_matrix/client/unstable/uk.timedout.msc4323/admin/lock/{userId}", Handler: ad.Locked, Auth: rest.Admin},
		{Method: "PUT", Path: "/_matrix/client/unstable/uk.timedout.msc4323/admin/lock/{userId}", Handler: ad.Lock, Auth: rest.Admin},
		{Method: "GET", Path: "/_matrix/client/v1/admin/suspend/{userId}", Handler: ad.Suspended, Auth: rest.Admin},
		{Method: "PUT", Path: "/_matrix/client/v1/admin/suspend/{userId}", Handler: ad.Suspend, Auth: rest.Admin},
		{Method: "GET", Path: "/_matrix/client/unstable/uk.timedout.msc4323/admin/suspend/{userId}", Handler: ad.Suspended, Auth: rest.Admin},
		{Method: "PUT", Path: "/_matrix/client/unstable/uk.timedout.msc4323/admin/suspend/{userId}", Handler: ad.Suspend, Auth: rest.Admin},
		{Method: "GET", Path: "/_matrix/client/v3/admin/whois/{userId}", Handler: ad.WhoIs, Auth: rest.User},

		// Administrators: accounts, in the shape of Synapse's tools.
		{Method: "GET", Path: "/_synapse/admin/v1/server_version", Handler: ad.Version, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/username_available", Handler: ad.Available, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v2/users", Handler: ad.Users, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v3/users", Handler: ad.UsersV3, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v2/users/{userId}", Handler: ad.User, Auth: rest.Admin},
		{Method: "PUT", Path: "/_synapse/admin/v2/users/{userId}", Handler: ad.PutUser, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/users/{userId}/admin", Handler: ad.IsAdmin, Auth: rest.Admin},
		{Method: "PUT", Path: "/_synapse/admin/v1/users/{userId}/admin", Handler: ad.SetAdmin, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/whois/{userId}", Handler: ad.WhoIs, Auth: rest.User},
		{Method: "POST", Path: "/_synapse/admin/v1/reset_password/{userId}", Handler: ad.ResetPassword, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/deactivate/{userId}", Handler: ad.Deactivate, Auth: rest.Admin},
		{Method: "PUT", Path: "/_synapse/admin/v1/suspend/{userId}", Handler: ad.SuspendAsTools, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/users/{userId}/shadow_ban", Handler: ad.ShadowBan, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v1/users/{userId}/shadow_ban", Handler: ad.ShadowBan, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/users/{userId}/override_ratelimit", Handler: ad.Rate, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/users/{userId}/override_ratelimit", Handler: ad.SetRate, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v1/users/{userId}/override_ratelimit", Handler: ad.DeleteRate, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/users/{userId}/login", Handler: ad.LoginAs, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v2/users/{userId}/devices", Handler: ad.Devices, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v2/users/{userId}/devices", Handler: ad.MakeDevice, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v2/users/{userId}/devices/{deviceId}", Handler: ad.Device, Auth: rest.Admin},
		{Method: "PUT", Path: "/_synapse/admin/v2/users/{userId}/devices/{deviceId}", Handler: ad.PutDevice, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v2/users/{userId}/devices/{deviceId}", Handler: ad.DeleteDevice, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v2/users/{userId}/delete_devices", Handler: ad.DeleteDevices, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/users/{userId}/joined_rooms", Handler: ad.Joined, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/users/{userId}/memberships", Handler: ad.Memberships, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/users/{userId}/pushers", Handler: ad.Pushers, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/users/{userId}/accountdata", Handler: ad.AccountData, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/users/{userId}/media", Handler: ad.UserMedia, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v1/users/{userId}/media", Handler: ad.DeleteUserMedia, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/auth_providers/{provider}/users/{externalId}", Handler: ad.ByProvider, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/threepid/{medium}/users/{address}", Handler: ad.ByAddress, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/experimental_features/{userId}", Handler: ad.Features, Auth: rest.Admin},
		{Method: "PUT", Path: "/_synapse/admin/v1/experimental_features/{userId}", Handler: ad.SetFeatures, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/registration_tokens", Handler: ad.RegistrationTokens, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/registration_tokens/new", Handler: ad.NewRegistrationToken, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/registration_tokens/{token}", Handler: ad.RegistrationToken, Auth: rest.Admin},
		{Method: "PUT", Path: "/_synapse/admin/v1/registration_tokens/{token}", Handler: ad.PutRegistrationToken, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v1/registration_tokens/{token}", Handler: ad.DeleteRegistrationToken, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/send_server_notice", Handler: ad.SendNotice, Auth: rest.Admin},
		{Method: "PUT", Path: "/_synapse/admin/v1/send_server_notice/{txnId}", Handler: ad.SendNotice, Auth: rest.Admin},
		{Method: "GET", Path: "/_chancery/admin/v1/federation", Handler: ad.Peers, Auth: rest.Admin},
		{Method: "GET", Path: "/_chancery/admin/v1/federation/{serverName}", Handler: ad.Peer, Auth: rest.Admin},

		// Administrators: rooms, media, reports, other servers.
		{Method: "GET", Path: "/_synapse/admin/v1/rooms", Handler: ad.Rooms, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/rooms/{roomId}", Handler: ad.Room, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/rooms/{roomId}/members", Handler: ad.Members, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/rooms/{roomId}/state", Handler: ad.State, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/rooms/{roomId}/block", Handler: ad.Blocked, Auth: rest.Admin},
		{Method: "PUT", Path: "/_synapse/admin/v1/rooms/{roomId}/block", Handler: ad.Block, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v1/rooms/{roomId}", Handler: ad.DeleteRoomNow, Auth: rest.Admin, Timeout: -1},
		{Method: "DELETE", Path: "/_synapse/admin/v2/rooms/{roomId}", Handler: ad.DeleteRoom, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v2/rooms/{first}/{second}", Handler: ad.DeletionStatus, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/purge_history/{roomId}", Handler: ad.PurgeHistory, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/purge_history/{roomId}/{eventId}", Handler: ad.PurgeHistory, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/purge_history_status/{purgeId}", Handler: ad.PurgeStatus, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/rooms/{roomId}/messages", Handler: r.OverseenMessages, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/rooms/{roomId}/context/{eventId}", Handler: r.OverseenContext, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/rooms/{roomId}/timestamp_to_event", Handler: r.OverseenNearTime, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/rooms/{roomIdOrAlias}/make_room_admin", Handler: ad.MakeRoomAdmin, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/rooms/{roomIdOrAlias}/forward_extremities", Handler: ad.Extremities, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v1/rooms/{roomIdOrAlias}/forward_extremities", Handler: ad.DeleteExtremities, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/join/{roomIdOrAlias}", Handler: ad.Join, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/user/{userId}/redact", Handler: ad.RedactUser, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/user/redact_status/{redactId}", Handler: ad.RedactStatus, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/background_updates/status", Handler: ad.BackgroundUpdates, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/background_updates/enabled", Handler: ad.BackgroundUpdatesEnabled, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/background_updates/enabled", Handler: ad.BackgroundUpdatesEnabled, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/fetch_event/{eventId}", Handler: ad.Event, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/room/{roomId}/media", Handler: ad.RoomMedia, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/room/{roomId}/media/quarantine", Handler: ad.QuarantineRoom, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/quarantine_media/{roomId}", Handler: ad.QuarantineRoom, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/user/{userId}/media/quarantine", Handler: ad.QuarantineUser, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/media/{serverName}/{mediaId}", Handler: ad.File, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v1/media/{serverName}/{mediaId}", Handler: ad.DeleteFile, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/media/quarantine/{serverName}/{mediaId}", Handler: ad.Quarantine, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/media/unquarantine/{serverName}/{mediaId}", Handler: ad.Unquarantine, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/media/delete", Handler: ad.DeleteOldMedia, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/media/{first}/{second}", Handler: ad.MediaAction, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/purge_media_cache", Handler: ad.PurgeMediaCache, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/statistics/users/media", Handler: ad.MediaStatistics, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/event_reports", Handler: ad.EventReports, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/event_reports/{reportId}", Handler: ad.EventReport, Auth: rest.Admin},
		{Method: "DELETE", Path: "/_synapse/admin/v1/event_reports/{reportId}", Handler: ad.DeleteEventReport, Auth: rest.Admin},
		{Method: "GET", Path: "/_chancery/admin/v1/calls", Handler: ad.Calls, Auth: rest.Admin},
		{Method: "GET", Path: "/_chancery/admin/v1/calls/records", Handler: ad.CallRecords, Auth: rest.Admin},
		{Method: "GET", Path: "/_chancery/admin/v1/rooms/{roomId}/call", Handler: ad.Call, Auth: rest.Admin},
		{Method: "PUT", Path: "/_chancery/admin/v1/rooms/{roomId}/call", Handler: ad.OrderCall, Auth: rest.Admin},
		{Method: "POST", Path: "/_chancery/admin/v1/rooms/{roomId}/call/{command}", Handler: ad.CommandCall, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/federation/destinations", Handler: ad.Destinations, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/federation/destinations/{destination}", Handler: ad.Destination, Auth: rest.Admin},
		{Method: "GET", Path: "/_synapse/admin/v1/federation/destinations/{destination}/rooms", Handler: ad.DestinationRooms, Auth: rest.Admin},
		{Method: "POST", Path: "/_synapse/admin/v1/federation/destinations/{destination}/reset_connection", Handler: ad.ResetDestination, Auth: rest.Admin},

		// Calls.
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", Handler: s.transports, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v1/rtc/transports", Handler: s.transports, Auth: rest.User},
		{Method: "GET", Path: "/_matrix/client/v3/voip/turnServer", Handler: s.turnServer, Auth: rest.User},
	})
}
