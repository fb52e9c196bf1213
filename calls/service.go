package calls

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
	"chancery/storage/bus"
)

// tokenService trades OpenID tokens of Matrix users for tokens of the focus.
// Spec: MSC4195
type tokenService struct {
	focus  *Focus
	house  *house
	limits *tokenLimits
}

const (
	maxTokenRequest = 64 << 10
	maxNameLength   = 255
	openIDPatience  = 15 * time.Second
)

func (s *tokenService) routes(mux *http.ServeMux, base string) {
	mux.Handle(base+"/sfu/get", s.endpoint(s.sfuGet))
	mux.Handle(base+"/get_token", s.endpoint(s.getToken))
	mux.Handle(base+"/delegate_delayed_leave", s.endpoint(s.delegate))
	mux.HandleFunc("GET "+base+"/healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
}

var errUnauthorized = mautrix.RespError{ErrCode: "M_UNAUTHORIZED", StatusCode: http.StatusUnauthorized}

// openID is the token that a client got from its homeserver.
type openID struct {
	AccessToken string `json:"access_token"`
	ServerName  string `json:"matrix_server_name"`
}

// delay is the wish to have a delayed leave looked after.
type delay struct {
	ID      string `json:"delay_id"`
	Timeout int64  `json:"delay_timeout"`
}

// tokenAnswer is where the call is, and the token that opens it.
type tokenAnswer struct {
	URL string `json:"url"`
	JWT string `json:"jwt"`
}

// endpoint is the adapter of the service's routes: CORS, method, errors as JSON.
func (s *tokenService) endpoint(handle func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		openToAll(w)
		w.Header().Set("Access-Control-Allow-Methods", "POST")
		switch r.Method {
		case http.MethodOptions:
			w.WriteHeader(http.StatusOK)
			return
		case http.MethodPost:
		default:
			no := mautrix.MUnrecognized.WithMessage("Only POST is known here")
			answer(w, http.StatusMethodNotAllowed, &no)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxTokenRequest)
		reply, err := handle(r)
		if err != nil {
			no := s.respError(r.Context(), err)
			tokensGiven.WithLabelValues("refused").Inc()
			answer(w, no.StatusCode, &no) // by its pointer: only that has the wire form
			return
		}
		answer(w, http.StatusOK, reply)
	})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}

func (s *tokenService) respError(ctx context.Context, err error) mautrix.RespError {
	var no mautrix.RespError
	if !errors.As(err, &no) {
		zerolog.Ctx(ctx).Error().Err(err).Msg("Call token not given")
		no = mautrix.MUnknown.WithMessage("Internal error").WithStatus(http.StatusInternalServerError)
	}
	if no.StatusCode == 0 {
		no.StatusCode = http.StatusBadRequest
	}
	return no
}

// decode reads a body; unknown fields are passed over.
func decode(r *http.Request, into any) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return mautrix.MTooLarge.WithMessage("The request is too large")
	}
	if json.Unmarshal(raw, into) != nil {
		return mautrix.MNotJSON.WithMessage("The request is not the JSON that was expected")
	}
	return nil
}

// require names the first field that is empty or too long.
func require(fields ...[2]string) error {
	for _, f := range fields {
		if f[1] == "" || len(f[1]) > maxNameLength*4 {
			return mautrix.MBadJSON.WithMessage("The request body is missing `" + f[0] + "`")
		}
	}
	return nil
}

// sfuGet handles POST /sfu/get.
// Spec: MSC4195
func (s *tokenService) sfuGet(r *http.Request) (any, error) {
	var req struct {
		Room     id.RoomID   `json:"room"`
		OpenID   openID      `json:"openid_token"`
		DeviceID id.DeviceID `json:"device_id"`
		delay
	}
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if err := require([2]string{"room", string(req.Room)}, [2]string{"device_id", string(req.DeviceID)},
		[2]string{"openid_token.access_token", req.OpenID.AccessToken}, [2]string{"openid_token.matrix_server_name", req.OpenID.ServerName}); err != nil {
		return nil, err
	}
	if err := req.undelegated(); err != nil {
		return nil, err
	}
	user, err := s.user(r, req.OpenID)
	if err != nil {
		return nil, err
	}
	return s.answer(r, bearer{user: user, device: req.DeviceID, room: req.Room, slot: roomSlot, identity: legacyIdentity(user, req.DeviceID), legacy: true})
}

// getToken handles POST /get_token.
// Spec: MSC4195
func (s *tokenService) getToken(r *http.Request) (any, error) {
	var req struct {
		Room   id.RoomID `json:"room_id"`
		Slot   string    `json:"slot_id"`
		OpenID openID    `json:"openid_token"`
		Member struct {
			ID     string      `json:"id"`
			User   id.UserID   `json:"claimed_user_id"`
			Device id.DeviceID `json:"claimed_device_id"`
		} `json:"member"`
		delay
	}
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if err := require([2]string{"room_id", string(req.Room)}, [2]string{"slot_id", req.Slot},
		[2]string{"member.id", req.Member.ID}, [2]string{"member.claimed_user_id", string(req.Member.User)},
		[2]string{"member.claimed_device_id", string(req.Member.Device)},
		[2]string{"openid_token.access_token", req.OpenID.AccessToken}, [2]string{"openid_token.matrix_server_name", req.OpenID.ServerName}); err != nil {
		return nil, err
	}
	if err := req.undelegated(); err != nil {
		return nil, err
	}
	user, err := s.user(r, req.OpenID)
	if err != nil {
		return nil, err
	}
	if user != req.Member.User {
		return nil, errUnauthorized.WithMessage("The OpenID token is another user's")
	}
	return s.answer(r, bearer{user: user, device: req.Member.Device, room: req.Room, slot: req.Slot,
		identity: memberIdentity(user, req.Member.Device, req.Member.ID)})
}

// delegate handles POST /delegate_delayed_leave. Clients that hear anything but 404 let their leave wait for an hour in
// the belief that we send it (Element Call 0.26.1): until we do, we know no such path.
// Spec: MSC4195
func (s *tokenService) delegate(*http.Request) (any, error) {
	return nil, mautrix.MUnrecognized.WithMessage("Delayed leaves are not looked after here").WithStatus(http.StatusNotFound)
}

// undelegated refuses a token request that hands over a delayed leave: its client then asks again without.
func (d *delay) undelegated() error {
	if d.ID != "" || d.Timeout != 0 {
		return mautrix.MBadJSON.WithMessage("Delayed leaves are not looked after here")
	}
	return nil
}

// user says whose OpenID token this is.
func (s *tokenService) user(r *http.Request, token openID) (id.UserID, error) {
	address := clientAddress(r)
	if !s.limits.mayFail(address) {
		return "", mautrix.MLimitExceeded.WithMessage("Too many requests").WithStatus(http.StatusTooManyRequests)
	}
	ctx, cancel := context.WithTimeout(r.Context(), openIDPatience)
	defer cancel()
	user, err := s.house.openIDUser(ctx, token)
	if err != nil {
		return "", err
	}
	_, server, err := user.Parse()
	if err != nil || server != token.ServerName || len(user) > maxNameLength {
		s.limits.failed(address)
		return "", errUnauthorized.WithMessage("The OpenID token could not be verified")
	}
	if !s.limits.mayAsk(user) {
		return "", mautrix.MLimitExceeded.WithMessage("Too many requests").WithStatus(http.StatusTooManyRequests)
	}
	return user, nil
}

// bearer is for whom a token is.
type bearer struct {
	user     id.UserID
	device   id.DeviceID
	room     id.RoomID
	slot     string
	identity string
	legacy   bool // see Matrix
	watch    bool
}

var (
	errNoMember = mautrix.MForbidden.WithMessage("You are not a member of the room").WithStatus(http.StatusForbidden)
	errShut     = mautrix.MForbidden.WithMessage("The call is locked").WithStatus(http.StatusForbidden)
)

// startedFor is how long a call that somebody may begin waits for its first participant: so long may others join it.
const startedFor = 5 * time.Minute

// give makes the token, if the bearer may be in the room now.
func (s *tokenService) give(ctx context.Context, b bearer) (string, error) {
	yes := true
	claims := Claims{
		RegisteredClaims: jwt.RegisteredClaims{Subject: b.identity},
		Video:            Grant{Room: roomName(b.room, b.slot), RoomJoin: true, CanSubscribe: &yes, CanUpdateOwnMetadata: &yes},
		Matrix:           &Matrix{User: b.user, Device: b.device, Room: b.room, Legacy: b.legacy, Watch: b.watch},
	}
	var err error
	if claims.Matrix.Known, err = s.house.hasDevice(ctx, b.user, b.device); err != nil {
		return "", err
	}
	v, err := s.house.admit(ctx, &claims)
	switch {
	case errors.Is(err, ErrNotAdmitted):
		return "", errNoMember
	case err != nil:
		return "", err
	}
	if v.locked && !v.moderate {
		if inside, err := s.house.inside(ctx, b.room, b.user); err != nil || !inside {
			return "", cmp.Or(err, error(errShut))
		}
	}
	publish := v.publish && !b.watch
	claims.Video.CanPublish = &publish
	if v.start && s.house.restricts() {
		if err := s.house.store.CallOrders.Begin(ctx, claims.Video.Room, s.focus.tokens.now().Add(startedFor).UnixMilli()); err != nil {
			return "", err
		}
	}
	token, err := s.focus.tokens.sign(claims, tokenLife)
	if err != nil {
		return "", err
	}
	tokensGiven.WithLabelValues("given").Inc()
	return token, nil
}

// answer is what clients of the service are told.
func (s *tokenService) answer(r *http.Request, b bearer) (any, error) {
	token, err := s.give(r.Context(), b)
	if err != nil {
		return nil, err
	}
	return tokenAnswer{URL: s.socketURL(r), JWT: token}, nil
}

// restricts says whether there may be users who join calls and do not begin them.
func (h *house) restricts() bool { return !h.guestsStart || len(h.restricted) > 0 }

// inside says whether the user is in a call of the room now, at whichever focus.
func (h *house) inside(ctx context.Context, room id.RoomID, user id.UserID) (bool, error) {
	newest, err := h.store.CallRecords.Find(ctx, storage.CallSearch{RoomID: room, UserID: user, Limit: 20})
	if err != nil {
		return false, fmt.Errorf("read call records: %w", err)
	}
	return slices.ContainsFunc(newest, func(r *storage.CallRecord) bool { return r.Ended == 0 }), nil
}

// socketURL is the base of the signalling, as clients reach it.
func (s *tokenService) socketURL(r *http.Request) string {
	base := s.focus.config.URL
	if base == "" {
		scheme := "http"
		if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
			scheme = "https"
		}
		base = (&url.URL{Scheme: scheme, Host: r.Host, Path: s.focus.config.Path}).String()
	}
	if rest, ok := strings.CutPrefix(base, "http"); ok {
		base = "ws" + rest
	}
	return base
}

// clientAddress is where a request comes from: what a proxy on this host says, or the connection's other end.
func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return host
	}
	hops := strings.Split(r.Header.Get("X-Forwarded-For"), ",")
	if last := strings.TrimSpace(hops[len(hops)-1]); last != "" {
		return last
	}
	return host
}

// openIDUser asks the token's server whose it is. For our own that is a row; empty means nobody's.
func (h *house) openIDUser(ctx context.Context, token openID) (id.UserID, error) {
	if token.ServerName == h.name {
		return h.store.Tokens.PassUser(ctx, storage.OpenIDPass, token.AccessToken)
	}
	reply, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo,
		bus.FederationQuestion{UserInfo: &bus.UserInfo{Server: token.ServerName, Token: token.AccessToken}})
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("OpenID token not verified")
		return "", nil // a server that says no, or nothing, has not vouched
	}
	var info struct {
		Sub id.UserID `json:"sub"`
	}
	if json.Unmarshal(reply.Body, &info) != nil {
		return "", nil
	}
	return info.Sub, nil
}
