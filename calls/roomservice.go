package calls

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"chancery/calls/signal"
	"chancery/storage/bus"
)

// The room service is LiveKit's Twirp interface, as far as moderation and monitoring use it. Its tokens are signed with
// the focus's secret and carry grants that we never give to clients.

// twirpError is an error in Twirp's own words.
type twirpError struct {
	status int
	Code   string `json:"code"`
	Msg    string `json:"msg"`
}

func (e *twirpError) Error() string { return e.Msg }

var (
	errTwirpRoom        = &twirpError{http.StatusNotFound, "not_found", errNoRoom.Error()}
	errTwirpParticipant = &twirpError{http.StatusNotFound, "not_found", "participant does not exist"}
	errTwirpTrack       = &twirpError{http.StatusNotFound, "not_found", "track is not found"}
	errTwirpDenied      = &twirpError{http.StatusUnauthorized, "unauthenticated", "permissions denied"} // as LiveKit 1.13.5 says it
	errTwirpToken       = &twirpError{http.StatusUnauthorized, "unauthenticated", "invalid token"}
	errTwirpUnmute      = &twirpError{http.StatusPreconditionFailed, "failed_precondition", "remote unmute is not enabled"}
	errTwirpMalformed   = &twirpError{http.StatusBadRequest, "malformed", "the request could not be decoded"}
	errTwirpNotWhole    = &twirpError{http.StatusBadRequest, "malformed", "the request did not arrive whole"}
	errTwirpMethod      = &twirpError{http.StatusNotFound, "bad_route", "no such method"}
	errTwirpUnable      = &twirpError{http.StatusInternalServerError, "unknown", "not implemented"} // as LiveKit 1.13.5 says it of Forward- and MoveParticipant
)

// twirpArgument refuses what a request that can be read asks for.
func twirpArgument(msg string) error {
	return &twirpError{http.StatusBadRequest, "invalid_argument", msg}
}

// maxTwirp bounds a request's body: what it may hold (maxData, maxMetadata) has room in it as JSON too, and it has room in a message of the bus.
const maxTwirp = 256 << 10

// serveRoomService handles POST /twirp/livekit.RoomService/{method}, in JSON or protobuf. The call's home answers it, or all
// foci together.
func (f *Focus) serveRoomService(w http.ResponseWriter, r *http.Request) {
	openToAll(w)
	q := bus.FocusRequest{
		Method: r.PathValue("method"), Token: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "),
		JSON: !strings.HasPrefix(r.Header.Get("Content-Type"), "application/protobuf"),
	}
	var err error
	switch q.Body, err = readBody(w, r, maxTwirp); {
	case errors.Is(err, errTooLarge):
		err = errTwirpMalformed
	case err != nil:
		err = errTwirpNotWhole
	}
	var out []byte
	if err == nil {
		out, err = f.roomService(r.Context(), q)
	}
	if err != nil {
		failed := asTwirp(err)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(failed.status)
		_ = json.NewEncoder(w).Encode(failed) // the caller is gone: nobody to tell
		return
	}
	w.Header().Set("Content-Type", map[bool]string{true: "application/json", false: "application/protobuf"}[q.JSON])
	_, _ = w.Write(out) // as above
}

// asTwirp is an error in Twirp's words, also one that came over the bus.
func asTwirp(err error) *twirpError {
	var failed *twirpError
	if errors.As(err, &failed) {
		return failed
	}
	var refused *bus.Refusal
	if errors.As(err, &refused) {
		return &twirpError{refused.Status, refused.Code, refused.Message}
	}
	return &twirpError{http.StatusServiceUnavailable, "unavailable", "try again"}
}

// serviceKeys are what tokens for the room service are signed with, and webhooks: its own where there are such.
func (f *Focus) serviceKeys() tokens {
	if f.config.ServiceSecret == "" {
		return f.tokens
	}
	return tokens{key: f.config.ServiceKey, secret: []byte(f.config.ServiceSecret), now: f.tokens.now}
}

// serviceClaims reads a token for the room service. One that lets a Matrix user into a call is none.
func (f *Focus) serviceClaims(token string) (*Claims, error) {
	keys := f.serviceKeys()
	claims, err := keys.verify(token)
	if err != nil || claims.Matrix != nil {
		return nil, errTwirpToken
	}
	return claims, nil
}

// ServiceHandler serves the room service alone, for a listener of its own.
func (f *Focus) ServiceHandler() http.Handler {
	mux := http.NewServeMux()
	f.routeRoomService(mux, "")
	return recovered(oneSlash("", mux))
}

// routeRoomService puts the room service behind a path.
func (f *Focus) routeRoomService(mux *http.ServeMux, base string) {
	const path = "/twirp/livekit.RoomService/{method}"
	mux.HandleFunc("POST "+base+path, f.serveRoomService)
	mux.HandleFunc("OPTIONS "+base+path, func(w http.ResponseWriter, _ *http.Request) { openToAll(w) })
}

// roomService answers a request for all the foci of this server.
func (f *Focus) roomService(ctx context.Context, q bus.FocusRequest) ([]byte, error) {
	if _, err := f.serviceClaims(q.Token); err != nil {
		return nil, err
	}
	switch q.Method {
	case "ListRooms":
		return f.listAllRooms(ctx, q)
	case "CreateRoom":
		var req signal.CreateRoomRequest
		if signal.DecodeBody(q.Body, q.JSON, &req) != nil {
			return nil, errTwirpMalformed
		}
		answer, err := f.beginAtHome(ctx, req.Name, q)
		return answer.Body, err
	}
	var req signal.RoomRequest // the room is the first field of every other request
	if signal.DecodeBody(q.Body, q.JSON, &req) != nil {
		return nil, errTwirpMalformed
	}
	answer, err := f.askHome(ctx, req.Room, q)
	return answer.Body, err
}

func (f *Focus) listAllRooms(ctx context.Context, q bus.FocusRequest) ([]byte, error) {
	answers, err := f.askFoci(ctx, q)
	if err != nil {
		return nil, err
	}
	all := &signal.ListRoomsResponse{}
	for _, a := range answers {
		var some signal.ListRoomsResponse
		if err := signal.DecodeBody(a.Body, q.JSON, &some); err != nil {
			return nil, err
		}
		all.Rooms = append(all.Rooms, some.Rooms...)
	}
	return signal.EncodeBody(all, q.JSON)
}

// perform answers a request for the calls of this process. Refusals are of the kind that goes over the bus.
func (f *Focus) perform(q bus.FocusRequest) (bus.FocusAnswer, error) {
	res, err := f.performed(q)
	var failed *twirpError
	if errors.As(err, &failed) {
		return bus.FocusAnswer{}, &bus.Refusal{Code: failed.Code, Message: failed.Msg, Status: failed.status}
	}
	if err != nil {
		return bus.FocusAnswer{}, err
	}
	body, err := signal.EncodeBody(res, q.JSON)
	return bus.FocusAnswer{Body: body}, err
}

func (f *Focus) performed(q bus.FocusRequest) (signal.Message, error) {
	claims, err := f.serviceClaims(q.Token)
	if err != nil {
		return nil, err
	}
	decode := func(into signal.Message) error {
		if signal.DecodeBody(q.Body, q.JSON, into) != nil {
			return errTwirpMalformed
		}
		return nil
	}
	switch q.Method {
	case "ListRooms":
		return f.listRooms(claims, decode)
	case "DeleteRoom":
		return f.deleteRoom(claims, decode)
	case "ListParticipants":
		return f.listParticipants(claims, decode)
	case "GetParticipant":
		return f.getParticipant(claims, decode)
	case "RemoveParticipant":
		return f.removeParticipant(claims, decode)
	case "MutePublishedTrack":
		return f.mutePublishedTrack(claims, decode)
	case "CreateRoom":
		return f.createRoom(claims, decode)
	case "UpdateRoomMetadata":
		return f.updateRoomMetadata(claims, decode)
	case "UpdateParticipant":
		return f.updateParticipant(claims, decode)
	case "UpdateSubscriptions":
		return f.updateSubscriptions(claims, decode)
	case "SendData":
		return f.sendData(claims, decode)
	case "ForwardParticipant", "MoveParticipant":
		return f.relocate(claims, decode)
	}
	return nil, errTwirpMethod
}

type decoder func(signal.Message) error

func (f *Focus) listRooms(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.ListRoomsRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	if !c.Video.RoomList {
		return nil, errTwirpDenied
	}
	res := &signal.ListRoomsResponse{}
	for _, room := range f.liveRooms(req.Names...) {
		res.Rooms = append(res.Rooms, room.describe(countPeers(slices.Values(room.peers()))))
	}
	return res, nil
}

func (f *Focus) deleteRoom(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.RoomRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	if !c.Video.RoomCreate {
		return nil, errTwirpDenied
	}
	room, err := f.room(req.Room, false)
	if err != nil {
		return nil, errTwirpRoom
	}
	room.end(signal.DisconnectReason_ROOM_DELETED, signal.Leave_DISCONNECT)
	return &signal.Empty{}, nil
}

// administered gives the room that the token may administer.
func (f *Focus) administered(c *Claims, name string) (*Room, error) {
	if !c.Video.RoomAdmin || c.Video.Room != name {
		return nil, errTwirpDenied
	}
	room, err := f.room(name, false)
	if err != nil {
		return nil, errTwirpRoom
	}
	return room, nil
}

func (f *Focus) listParticipants(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.RoomRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	res := &signal.ListParticipantsResponse{}
	room, err := f.administered(c, req.Room)
	switch {
	case errors.Is(err, errTwirpRoom):
		return res, nil // in a call that is not there is nobody: tools ask so whether somebody has come (LiveKit 1.13.5)
	case err != nil:
		return nil, err
	}
	for _, p := range room.peers() {
		res.Participants = append(res.Participants, p.info)
	}
	return res, nil
}

func (f *Focus) getParticipant(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.ParticipantRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	room, err := f.administered(c, req.Room)
	if err != nil {
		return nil, err
	}
	for _, p := range room.peers() {
		if p.info.Identity == req.Identity {
			return p.info, nil
		}
	}
	return nil, errTwirpParticipant
}

func (f *Focus) removeParticipant(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.ParticipantRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	room, err := f.administered(c, req.Room)
	if err != nil {
		return nil, err
	}
	p := room.find(req.Identity)
	if p == nil {
		return nil, errTwirpParticipant
	}
	p.end(signal.DisconnectReason_PARTICIPANT_REMOVED, signal.Leave_DISCONNECT)
	return &signal.Empty{}, nil
}

func (f *Focus) mutePublishedTrack(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.MuteTrackRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	room, err := f.administered(c, req.Room)
	if err != nil {
		return nil, err
	}
	p := room.find(req.Identity)
	if p == nil {
		return nil, errTwirpParticipant
	}
	if !req.Muted {
		return nil, errTwirpUnmute
	}
	if req.TrackSid == "" {
		return nil, errTwirpTrack
	}
	muted := make(chan []*signal.Track, 1)
	p.do(func() { muted <- p.muteByAdmin(req.TrackSid) })
	select {
	case tracks := <-muted:
		if len(tracks) == 0 {
			return nil, errTwirpTrack
		}
		return &signal.MuteTrackResponse{Track: tracks[0]}, nil
	case <-p.done:
		return nil, errTwirpParticipant
	}
}
