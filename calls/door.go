package calls

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"

	"chancery/calls/signal"
)

// singlePath is where clients come that want one peer connection.
const singlePath = "/rtc/v1"

// routes is the focus's whole HTTP interface.
func (f *Focus) routes() http.Handler {
	mux := http.NewServeMux()
	base := f.config.Path
	mux.HandleFunc("GET "+base+singlePath, f.serveSocket)
	mux.HandleFunc("GET "+base+"/rtc", f.serveSocket)
	for _, path := range []string{singlePath + "/validate", "/rtc/validate"} {
		mux.HandleFunc("GET "+base+path, f.serveValidate)
		mux.HandleFunc("OPTIONS "+base+path, func(w http.ResponseWriter, _ *http.Request) { openToAll(w) })
	}
	if f.config.ServiceListen == "" {
		f.routeRoomService(mux, base)
	}
	mux.HandleFunc("GET "+base+"/{$}", serveOK)
	if base != "" {
		mux.HandleFunc("GET "+base, serveOK)
	}
	if f.service != nil {
		f.service.routes(mux, base)
	}
	return recovered(oneSlash(base, recognized(mux)))
}

// serveOK handles GET /calls and /calls/. livekit-client asks at the address that it was given, with HEAD, whether its network is back, and follows no
// redirect that is not open to all. (livekit-client 2.23.0: RTCEngine.handleBrowserOnLine)
func serveOK(w http.ResponseWriter, _ *http.Request) {
	openToAll(w)
	_, _ = w.Write([]byte("OK")) // the client is gone: nobody to tell
}

// recognized answers what no route is for: browsers must be able to read that too, and clients tell by it what we do not offer.
func recognized(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		openToAll(w)
		if r.Method == http.MethodOptions {
			return // what comes after it is answered below
		}
		status, other := http.StatusNotFound, *r
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			other.Method = method
			if _, pattern := mux.Handler(&other); pattern != "" {
				status = http.StatusMethodNotAllowed
				w.Header().Add("Allow", method)
			}
		}
		no := mautrix.MUnrecognized.WithMessage("Unrecognized request")
		answer(w, status, &no)
	})
}

// oneSlash takes two slashes after the base for one: tools append their paths to an address that may end in one, and not
// all of them follow a redirect.
func oneSlash(base string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, base+"//"); ok {
			again, where := *r, *r.URL
			where.Path, where.RawPath = base+"/"+strings.TrimLeft(rest, "/"), ""
			again.URL = &where
			r = &again
		}
		next.ServeHTTP(w, r)
	})
}

// recovered keeps a fault in one request from ending the process.
func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			if fault == http.ErrAbortHandler {
				panic(fault)
			}
			zerolog.Ctx(r.Context()).Error().Interface("panic", fault).Str("path", r.URL.Path).Msg("Call request failed")
			w.WriteHeader(http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}

func openToAll(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Authorization, Accept, Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token")
}

// entry is a request to join that may be granted.
type entry struct {
	claims *Claims
	join   *signal.Join
	single bool // one peer connection for both directions
	ruling ruling
	hears  bool // see resumedBefore and triedBefore
}

// refusal is an answer to a request to join that is not granted.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// enter checks who asks to join. Everything that it returns as an error is a *refusal.
func (f *Focus) enter(r *http.Request) (*entry, error) {
	query := r.URL.Query()
	token := query.Get("access_token")
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		token = bearer
	}
	claims, err := f.tokens.verify(token)
	if err != nil {
		return nil, &refusal{http.StatusUnauthorized, "invalid token"}
	}
	if !claims.Video.RoomJoin || claims.Video.Room == "" || claims.Subject == "" {
		return nil, &refusal{http.StatusUnauthorized, "the token does not permit to join"}
	}
	join := signal.ParseLegacyJoin(query)
	single := strings.HasSuffix(r.URL.Path, singlePath)
	if query.Get("join_request") != "" {
		single = true // it is known by that too: LiveKit's SDK for Go comes to the older path
		if join, err = signal.ParseJoin(query); err != nil {
			return nil, &refusal{http.StatusBadRequest, "invalid join request"}
		}
	}
	ruling, err := f.admit.admit(r.Context(), claims)
	switch {
	case errors.Is(err, ErrNotAdmitted):
		return nil, &refusal{http.StatusUnauthorized, "not a member of the room"}
	case err != nil:
		return nil, undecided(r.Context(), err)
	}
	if ruling.locked && !ruling.moderate && claims.inside(time.Now()) {
		if err := f.house.recall(r.Context(), claims); err != nil {
			return nil, undecided(r.Context(), err)
		}
	}
	return &entry{claims: claims, join: join, single: single, ruling: ruling}, nil
}

// undecided is the refusal of who may come in or not: it could not be found out.
func undecided(ctx context.Context, err error) error {
	if ctx.Err() == nil { // otherwise whoever asked has gone
		zerolog.Ctx(ctx).Error().Err(err).Msg("Admission to a call not decided")
	}
	return &refusal{http.StatusServiceUnavailable, "try again"}
}

// place finds the room for an entry.
func (f *Focus) place(e *entry) (*Room, error) {
	room, err := f.room(e.claims.Video.Room, e.ruling.start)
	switch {
	case errors.Is(err, errNoRoom) && e.claims.inside(time.Now()):
		// The call was lost with its focus, and who may begin it is not back yet. Clients take 404 for the last word. (livekit-client 2.23.0)
		return nil, &refusal{http.StatusServiceUnavailable, "try again"}
	case errors.Is(err, errNoRoom):
		return nil, &refusal{http.StatusNotFound, errNoRoom.Error()}
	case err != nil:
		return nil, &refusal{http.StatusServiceUnavailable, err.Error()}
	}
	if old := room.find(e.claims.Subject); old != nil && old.user != e.claims.user() {
		return nil, &refusal{http.StatusUnauthorized, errTaken.Error()}
	}
	if err := room.takes(e.claims, &e.ruling); err != nil {
		return nil, err
	}
	return room, nil
}

// wouldPlace is what place says, and begins no call.
func (f *Focus) wouldPlace(e *entry) error {
	if _, err := f.room(e.claims.Video.Room, false); errors.Is(err, errNoRoom) && e.ruling.start {
		return newRoom(f, e.claims.Video.Room).takes(e.claims, &e.ruling)
	}
	_, err := f.place(e)
	return err
}

func refuse(w http.ResponseWriter, err error) {
	var no *refusal
	if !errors.As(err, &no) {
		no = &refusal{http.StatusInternalServerError, "internal error"}
	}
	openToAll(w)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if no.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1") // by then there is room for one: see joinEvery
	}
	w.WriteHeader(no.status)
	_, _ = w.Write([]byte(no.text)) // the client is gone: nobody to tell
}

// serveValidate handles GET /rtc/validate and /rtc/v1/validate: a browser cannot see why an upgrade failed, and asks here.
func (f *Focus) serveValidate(w http.ResponseWriter, r *http.Request) {
	if f.grants(w, r) {
		openToAll(w)
		_, _ = w.Write([]byte("success")) // as above
	}
}

// grants says whether a join would be granted, and begins no call. If it would not, or another focus knows, the request has been answered.
func (f *Focus) grants(w http.ResponseWriter, r *http.Request) bool {
	e, err := f.enter(r)
	if err == nil {
		if f.elsewhere(w, r, e.claims.Video.Room, false) {
			return false
		}
		err = f.wouldPlace(e)
	}
	if err != nil {
		refuse(w, err)
		return false
	}
	return true
}

// serveSocket handles GET /rtc and /rtc/v1: the signalling socket of a join or a resume. No call begins for a request that asks for no socket.
func (f *Focus) serveSocket(w http.ResponseWriter, r *http.Request) {
	if !signal.Asks(r) {
		if f.grants(w, r) {
			refuse(w, &refusal{http.StatusBadRequest, "no WebSocket: a proxy has to pass the headers Upgrade and Connection on"})
		}
		return
	}
	e, err := f.enter(r)
	kind := "join"
	if err == nil && e.join.Reconnect {
		kind = "resume"
	}
	if err == nil && !f.door.allow(e.claims.Video.Room, e.claims.Subject) {
		err = &refusal{http.StatusTooManyRequests, "too many joins"}
	}
	var room *Room
	if err == nil {
		e.hears = f.resumedBefore(r, e) || f.triedBefore(e.claims, time.Now())
		if f.elsewhere(w, r, e.claims.Video.Room, e.ruling.start && !e.join.Reconnect) {
			return
		}
		room, err = f.placeOrResume(e)
	}
	if err != nil {
		joins.WithLabelValues(kind, "refused").Inc()
		refuse(w, err)
		return
	}
	conn, err := signal.Accept(w, r, signal.Limits{})
	if err != nil {
		joins.WithLabelValues(kind, "refused").Inc()
		return // answered already
	}
	switch {
	case e.join.Reconnect:
		f.serveResume(conn, room, e)
		return
	case e.comesDeaf(time.Now()):
		joins.WithLabelValues(kind, "again").Inc()
		f.refused.note(e.claims)
		sendAway(conn, signal.DisconnectReason_STATE_MISMATCH, signal.Leave_RECONNECT)
		return
	}
	f.serveJoin(r.Context(), conn, room, e)
}

// placeOrResume is place; a resume may find no room, and is told so on the socket.
func (f *Focus) placeOrResume(e *entry) (*Room, error) {
	if !e.join.Reconnect {
		return f.place(e)
	}
	room, err := f.room(e.claims.Video.Room, false)
	if err != nil && !errors.Is(err, errNoRoom) {
		return nil, &refusal{http.StatusServiceUnavailable, err.Error()}
	}
	return room, nil
}

func (f *Focus) serveJoin(ctx context.Context, conn *signal.Conn, room *Room, e *entry) {
	for range 3 { // a room may close under our hands
		p := newParticipant(room, e)
		err := p.begin(conn)
		if err == nil {
			joins.WithLabelValues("join", "ok").Inc()
			return
		}
		if errors.Is(err, errFull) || errors.Is(err, errCrowded) || errors.Is(err, errLocked) || errors.Is(err, errSessions) {
			break // it was asked before: somebody else was quicker
		}
		if !errors.Is(err, errNoRoom) {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Join failed")
			break
		}
		if room, err = f.room(e.claims.Video.Room, e.ruling.start); err != nil {
			break
		}
	}
	joins.WithLabelValues("join", "failed").Inc()
	sendAway(conn, signal.DisconnectReason_JOIN_FAILURE, signal.Leave_DISCONNECT)
}

// serveResume gives the socket to the session that the client says it has; a session that is gone must be joined anew.
func (f *Focus) serveResume(conn *signal.Conn, room *Room, e *entry) {
	var p *Participant
	if room != nil {
		p = room.find(e.claims.Subject)
	}
	if p != nil && p.user == e.claims.user() && (p.sid == e.join.ParticipantSid || e.join.ParticipantSid == "") && p.resumes(conn, e) {
		joins.WithLabelValues("resume", "ok").Inc()
		return
	}
	joins.WithLabelValues("resume", "unknown").Inc()
	f.refused.note(e.claims)
	sendAway(conn, signal.DisconnectReason_STATE_MISMATCH, signal.Leave_RECONNECT)
}

func sendAway(conn *signal.Conn, reason signal.DisconnectReason, action signal.Leave_Action) {
	conn.Send(&signal.Response{Message: &signal.Response_Leave{Leave: &signal.Leave{
		Reason: reason, Action: action, CanReconnect: action != signal.Leave_DISCONNECT,
	}}})
	conn.Close()
}
