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
	"strconv"
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
	// bodyTime is how long a request's body may take to come.
	bodyTime = 30 * time.Second
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
func (s *tokenService) endpoint(handle func(r *http.Request, body []byte) (any, error)) http.Handler {
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
		var reply any
		body, err := readBody(w, r, maxTokenRequest)
		if err == nil {
			reply, err = handle(r, body)
		}
		if err != nil {
			no := s.respError(r.Context(), err)
			tokensGiven.WithLabelValues("refused").Inc()
			if ms, ok := no.ExtraData["retry_after_ms"].(int64); ok {
				w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
			}
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

var (
	errTooLarge = mautrix.MTooLarge.WithMessage("The request is too large")
	errNotWhole = mautrix.MNotJSON.WithMessage("The request did not arrive whole")
)

// readBody gives a request's whole body. Where it does not come in time, the connection ends after the answer.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	wire := http.NewResponseController(w)
	_ = wire.SetReadDeadline(time.Now().Add(bodyTime)) // where there is no connection (a test's recorder) there is no deadline
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge // the deadline stays: net/http waits for some of the rest
	case err != nil:
		return nil, errNotWhole
	}
	_ = wire.SetReadDeadline(time.Time{})
	return body, nil
}

// decode takes a body apart; unknown fields are passed over.
func decode(body []byte, into any) error {
	if json.Unmarshal(body, into) != nil {
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

// legacyRequest is the body of /sfu/get.
type legacyRequest struct {
	Room     id.RoomID   `json:"room"`
	OpenID   openID      `json:"openid_token"`
	DeviceID id.DeviceID `json:"device_id"`
	delay
}

func (req *legacyRequest) check() error {
	if err := require([2]string{"room", string(req.Room)}, [2]string{"device_id", string(req.DeviceID)},
		[2]string{"openid_token.access_token", req.OpenID.AccessToken}, [2]string{"openid_token.matrix_server_name", req.OpenID.ServerName}); err != nil {
		return err
	}
	return req.whole()
}

// sfuGet handles POST /sfu/get.
// Spec: MSC4195
func (s *tokenService) sfuGet(r *http.Request, body []byte) (any, error) {
	var req legacyRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	user, by, err := s.user(r, req.OpenID)
	if err != nil {
		return nil, err
	}
	b := bearer{user: user, device: req.DeviceID, by: by, room: req.Room, slot: roomSlot, identity: legacyIdentity(user, req.DeviceID), legacy: true}
	return s.answer(r, b, req.delay)
}

// memberRequest is the body of the newer routes.
type memberRequest struct {
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

func (req *memberRequest) check() error {
	if err := require([2]string{"room_id", string(req.Room)}, [2]string{"slot_id", req.Slot},
		[2]string{"member.id", req.Member.ID}, [2]string{"member.claimed_user_id", string(req.Member.User)},
		[2]string{"member.claimed_device_id", string(req.Member.Device)},
		[2]string{"openid_token.access_token", req.OpenID.AccessToken}, [2]string{"openid_token.matrix_server_name", req.OpenID.ServerName}); err != nil {
		return err
	}
	if req.Slot != roomSlot {
		return errNoSlot
	}
	return req.whole()
}

// member takes the body of a newer route apart, and says for whom it is.
func (s *tokenService) member(r *http.Request, body []byte) (*memberRequest, bearer, error) {
	var req memberRequest
	if err := decode(body, &req); err != nil {
		return nil, bearer{}, err
	}
	if err := req.check(); err != nil {
		return nil, bearer{}, err
	}
	user, by, err := s.user(r, req.OpenID)
	if err != nil {
		return nil, bearer{}, err
	}
	if user != req.Member.User {
		return nil, bearer{}, errUnauthorized.WithMessage("The OpenID token is another user's")
	}
	return &req, bearer{user: user, device: req.Member.Device, by: by, room: req.Room, slot: req.Slot,
		identity: memberIdentity(user, req.Member.Device, req.Member.ID)}, nil
}

// getToken handles POST /get_token.
// Spec: MSC4195
func (s *tokenService) getToken(r *http.Request, body []byte) (any, error) {
	req, b, err := s.member(r, body)
	if err != nil {
		return nil, err
	}
	return s.answer(r, b, req.delay)
}

// delegate handles POST /delegate_delayed_leave. Clients that hear anything but 404 to a request without a body let their
// leave wait for an hour, in the belief that we look after it (Element Call 0.26.1).
// Spec: MSC4195
func (s *tokenService) delegate(r *http.Request, body []byte) (any, error) {
	req, b, err := s.member(r, body)
	if err != nil {
		return nil, err
	}
	if req.delay.ID == "" {
		return nil, mautrix.MBadJSON.WithMessage("The request body is missing `delay_id`")
	}
	if _, err := s.admit(r.Context(), b.claims()); err != nil {
		return nil, err
	}
	if err := s.hand(r.Context(), b, req.delay, false); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

// maxDelay bounds the delay of an event that is looked after, in ms: a day.
const maxDelay = 24 * 60 * 60 * 1000

// whole says that a delayed leave is handed over as a whole, or not at all.
func (d *delay) whole() error {
	if (d.ID == "") != (d.Timeout == 0) {
		return mautrix.MBadJSON.WithMessage("`delay_id` and `delay_timeout` belong together")
	}
	if d.Timeout < 0 || d.Timeout > maxDelay || len(d.ID) > maxNameLength {
		return mautrix.MBadJSON.WithMessage("`delay_id` or `delay_timeout` is out of bounds")
	}
	return nil
}

var (
	errNoClientAPI = mautrix.MBadJSON.WithMessage("Unable to resolve client-server API")
	errNoDelay     = mautrix.MInvalidParam.WithMessage("There is no such delayed event of yours in this room")
)

// hand takes over the delayed leave of a participant. Where it is to be sent is never the caller's choice.
func (s *tokenService) hand(ctx context.Context, b bearer, d delay, strict bool) error {
	row := &storage.CallLeave{
		Call: roomName(b.room, b.slot), Identity: b.identity, RoomID: b.room, UserID: b.user, DeviceID: b.device, DelayID: d.ID, Timeout: d.Timeout,
	}
	if err := s.house.mayHandOver(ctx, row, strict); err != nil {
		return err
	}
	return s.focus.leaves.hand(ctx, row)
}

// user says whose OpenID token this is, and for a user of ours of which device. Many people may share one address: a good token is not refused for what others have shown from
// there. Only other servers are not asked in vain without end, nor without end at once.
func (s *tokenService) user(r *http.Request, token openID) (id.UserID, id.DeviceID, error) {
	address, other := s.clientAddress(r), token.ServerName != s.house.name
	ctx, cancel := context.WithTimeout(r.Context(), openIDPatience)
	defer cancel()
	if other {
		if err := s.limits.mayAskOther(address, token.ServerName); err != nil {
			return "", "", err
		}
		done, err := s.limits.askOther(address, token.ServerName)
		if err != nil {
			return "", "", err
		}
		defer settled(ctx, done)
	}
	user, device, err := s.house.openIDUser(ctx, token)
	if err != nil {
		return "", "", err
	}
	_, server, err := user.Parse()
	if err != nil || server != token.ServerName || len(user) > maxNameLength {
		if err := s.limits.failed(address, token.ServerName, other); err != nil {
			return "", "", err
		}
		return "", "", errUnauthorized.WithMessage("The OpenID token could not be verified")
	}
	return user, device, s.limits.mayAsk(user)
}

// settled calls done when a question that was asked with ctx is no longer under way. A client that hangs up does not end it: the
// federation goes on asking for as long as ctx had.
func settled(ctx context.Context, done func()) {
	if until, ok := ctx.Deadline(); ok && ctx.Err() != nil {
		time.AfterFunc(time.Until(until), done)
		return
	}
	done()
}

// bearer is for whom a token is.
type bearer struct {
	user     id.UserID
	device   id.DeviceID // as the client says
	by       id.DeviceID // of ours, that asked; empty: not known, or vouched for
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

// claims are what a token for b says.
func (b bearer) claims() *Claims {
	yes := true
	by := b.by
	if by == b.device {
		by = ""
	}
	return &Claims{
		RegisteredClaims: jwt.RegisteredClaims{Subject: b.identity},
		Video:            Grant{Room: roomName(b.room, b.slot), RoomJoin: true, CanSubscribe: &yes, CanUpdateOwnMetadata: &yes},
		Matrix:           &Matrix{User: b.user, Device: b.device, By: by, Room: b.room, Legacy: b.legacy, Watch: b.watch},
	}
}

// admit asks whether the bearer may be in the room now.
func (s *tokenService) admit(ctx context.Context, c *Claims) (v ruling, err error) {
	m := c.Matrix
	if m.Known, err = s.house.hasDevice(ctx, m.User, m.Device); err != nil {
		return v, err
	}
	if !m.Known {
		if m.Others, err = s.house.hasDevices(ctx, m.User); err != nil {
			return v, err
		}
	}
	if v, err = s.house.admit(ctx, c); errors.Is(err, ErrNotAdmitted) {
		return v, errNoMember
	}
	return v, err
}

// give makes the token, if the bearer may be in the room now.
func (s *tokenService) give(ctx context.Context, b bearer) (string, error) {
	claims := b.claims()
	v, err := s.admit(ctx, claims)
	if err != nil {
		return "", err
	}
	if v.locked && !v.moderate {
		if inside, err := s.house.inside(ctx, b.room, b.user); err != nil || !inside {
			return "", cmp.Or(err, error(errShut))
		}
	}
	publish := v.publish && !b.watch
	claims.Video.CanPublish = &publish
	if v.begins && s.house.restricts() {
		if err := s.house.store.CallOrders.Begin(ctx, claims.Video.Room, s.focus.tokens.now().Add(startedFor).UnixMilli()); err != nil {
			return "", err
		}
	}
	token, err := s.focus.tokens.sign(*claims, tokenLife)
	if err != nil {
		return "", err
	}
	tokensGiven.WithLabelValues("given").Inc()
	return token, nil
}

// answer is what clients of the service are told; a delayed leave that comes with the request is taken over.
func (s *tokenService) answer(r *http.Request, b bearer, d delay) (any, error) {
	token, err := s.give(r.Context(), b)
	if err != nil {
		return nil, err
	}
	if d.ID != "" {
		if err := s.hand(r.Context(), b, d, false); err != nil {
			return nil, err
		}
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
	if base == "" && r == nil {
		base = "https://" + s.house.name + s.focus.config.Path
	}
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

// clientAddress is where a request comes from, as the client API sees it too: what the proxy says, if there is one, or the connection's
// other end.
func (s *tokenService) clientAddress(r *http.Request) string {
	if all := r.Header.Values("X-Forwarded-For"); s.focus.config.TrustForwardedFor && len(all) > 0 {
		hops := strings.Split(all[len(all)-1], ",")
		if ip := net.ParseIP(strings.TrimSpace(hops[len(hops)-1])); ip != nil {
			return ip.String()
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// openIDUser asks the token's server whose it is. For our own that is a row, and tells the device too; empty means nobody's.
func (h *house) openIDUser(ctx context.Context, token openID) (id.UserID, id.DeviceID, error) {
	if token.ServerName == h.name {
		return h.store.Tokens.PassUser(ctx, storage.OpenIDPass, token.AccessToken)
	}
	reply, err := bus.Ask[bus.FederationQuestion, bus.FederationAnswer](ctx, h.bus, bus.FederationDo,
		bus.FederationQuestion{UserInfo: &bus.UserInfo{Server: token.ServerName, Token: token.AccessToken}})
	if err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("OpenID token not verified")
		return "", "", nil // a server that says no, or nothing, has not vouched
	}
	var info struct {
		Sub id.UserID `json:"sub"`
	}
	if json.Unmarshal(reply.Body, &info) != nil {
		return "", "", nil
	}
	return info.Sub, "", nil
}
