package calls

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/calls/signal"
)

// What a server's own tools may change of a call: the rest of the room service, which roomservice.go begins.

// createRoom makes a call, or finds it, and takes its bounds. What is not named stays as it is.
func (f *Focus) createRoom(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.CreateRoomRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	if !c.Video.RoomCreate {
		return nil, errTwirpDenied
	}
	switch {
	case req.Name == "" || len(req.Name) > maxNameLength:
		return nil, twirpArgument(fmt.Sprintf("a room's name has 1 to %d bytes", maxNameLength))
	case len(req.Metadata) > maxMetadata:
		return nil, errMetadata
	}
	room, err := f.room(req.Name, true)
	if err != nil {
		return nil, err
	}
	described, ok := room.keep(func(k *roomKeeps) {
		if req.MaxParticipants > 0 {
			k.most = int(req.MaxParticipants)
		}
		if req.Metadata != "" {
			k.metadata = req.Metadata
		}
		if req.EmptyTimeout > 0 {
			k.empty = time.Duration(req.EmptyTimeout) * time.Second
			room.emptyAt = time.Now().Add(min(k.empty, longestEmpty))
		}
		if req.DepartureTimeout > 0 {
			k.departure = time.Duration(req.DepartureTimeout) * time.Second
		}
	})
	if !ok {
		return nil, errTwirpRoom
	}
	return described, nil
}

var errMetadata = twirpArgument(fmt.Sprintf("metadata have %d bytes at most", maxMetadata))

// roomKeeps is what was asked for one call. It is never changed once stored.
type roomKeeps struct {
	most             int
	metadata         string
	empty, departure time.Duration
}

// longestEmpty bounds how long a call may wait for somebody.
const longestEmpty = time.Hour

func (f *Focus) updateRoomMetadata(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.UpdateRoomMetadataRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	room, err := f.administered(c, req.Room)
	if err != nil {
		return nil, err
	}
	if len(req.Metadata) > maxMetadata {
		return nil, errMetadata
	}
	described, ok := room.keep(func(k *roomKeeps) { k.metadata = req.Metadata })
	if !ok {
		return nil, errTwirpRoom
	}
	return described, nil
}

// keep changes what is asked for the call, in the room's goroutine, and describes it; who is in it hears of what is new.
func (r *Room) keep(change func(*roomKeeps)) (described *signal.Room, ok bool) {
	ok = r.ask(func() {
		before := *r.kept()
		now := before
		change(&now)
		r.keeps.Store(&now)
		described = r.describe(countPeers(maps.Values(r.members)))
		if now != before {
			r.say(&signal.Response{Message: &signal.Response_RoomUpdate{RoomUpdate: &signal.RoomUpdate{Room: described}}})
		}
	})
	return described, ok
}

// kept is what was asked for this call; never nil.
func (r *Room) kept() *roomKeeps {
	if k := r.keeps.Load(); k != nil {
		return k
	}
	return &roomKeeps{}
}

// held finds a participant of an administered call, and has fn done in its goroutine.
func (f *Focus) held(c *Claims, room, identity string, fn func(p *Participant)) (*Participant, error) {
	r, err := f.administered(c, room)
	if err != nil {
		return nil, err
	}
	p := r.find(identity)
	if p == nil {
		return nil, errTwirpParticipant
	}
	done := make(chan struct{})
	if !p.do(func() { defer close(done); fn(p) }) {
		return nil, errTwirpParticipant
	}
	select {
	case <-done:
		return p, nil
	case <-p.done:
		return nil, errTwirpParticipant
	}
}

// updateParticipant changes what a participant is called, and what it may do. What its Matrix room forbids stays forbidden.
func (f *Focus) updateParticipant(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.UpdateParticipantRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	if !withinBounds(req.Name, req.Metadata, req.Attributes) {
		return nil, twirpArgument(fmt.Sprintf("name, metadata and attributes have %d bytes at most, and there are %d attributes", maxMetadata, maxAttributes))
	}
	var info *signal.Participant
	_, err := f.held(c, req.Room, req.Identity, func(p *Participant) {
		p.change(&req)
		info = p.snapshot().info
	})
	return info, err
}

// change does what updateParticipant is asked for.
func (p *Participant) change(req *signal.UpdateParticipantRequest) {
	if req.Name != "" {
		p.info.Name = req.Name
	}
	if req.Metadata != "" {
		p.info.Metadata = req.Metadata
	}
	next := maps.Clone(p.info.Attributes) // what was handed to others is not changed
	if next == nil {
		next = map[string]string{}
	}
	maps.Copy(next, req.Attributes)
	maps.DeleteFunc(next, func(_, v string) bool { return v == "" })
	if withinBounds(p.info.Name, p.info.Metadata, next) {
		p.info.Attributes = next
	}
	if q := req.Permission; q != nil {
		p.granted, p.sending = &q.CanPublish, &q.CanPublishData
		permission := signal.Clone(p.info.Permission)
		permission.CanSubscribe, permission.CanUpdateMetadata = q.CanSubscribe, q.CanUpdateMetadata
		permission.CanPublishSources, permission.Hidden = q.CanPublishSources, q.Hidden
		p.info.Permission = permission
		p.data.hidden.Store(q.Hidden)
		p.permit()
		p.withdraw(func(t *publication) bool { return !p.maySend(t.info.Source) })
		p.resubscribe()
	}
	p.untold = true
	p.changed()
}

// updateSubscriptions subscribes a participant to tracks, or the reverse.
func (f *Focus) updateSubscriptions(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.UpdateSubscriptionsRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	_, err := f.held(c, req.Room, req.Identity, func(p *Participant) {
		p.onSubscription(&signal.UpdateSubscription{TrackSids: req.TrackSids, Subscribe: req.Subscribe, ParticipantTracks: req.ParticipantTracks})
	})
	if err != nil {
		return nil, err
	}
	return &signal.Empty{}, nil
}

// sendData hands a data packet of the server's own to those it names, or to all.
func (f *Focus) sendData(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.SendDataRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	room, err := f.administered(c, req.Room)
	if err != nil {
		return nil, err
	}
	if n := len(req.Nonce); n != 0 && n != nonceLength {
		return nil, twirpArgument(fmt.Sprintf("a nonce has %d bytes, or is not there", nonceLength))
	}
	packet, err := signal.Encode(&signal.SentData{Kind: req.Kind, DestinationIdentities: req.DestinationIdentities, User: &signal.SentUserData{
		Payload: req.Data, Topic: req.Topic, DestinationSids: req.DestinationSids, DestinationIdentities: req.DestinationIdentities, Nonce: req.Nonce,
	}})
	if err != nil || len(packet) > maxData {
		return nil, twirpArgument(fmt.Sprintf("a data packet has %d bytes at most", maxData))
	}
	all := len(req.DestinationIdentities) == 0 && len(req.DestinationSids) == 0
	for _, p := range *room.everyone.Load() {
		if all || slices.Contains(req.DestinationIdentities, p.identity) || slices.Contains(req.DestinationSids, p.sid) {
			p.data.send(req.Kind, &word{raw: packet})
		}
	}
	return &signal.Empty{}, nil
}

// nonceLength is how long a packet's nonce is, by which clients know it again.
const nonceLength = 16

// relocate would take a participant to another call, or have it in both. That is not for a tool to say: who may be in a call says its room.
func (f *Focus) relocate(c *Claims, decode decoder) (signal.Message, error) {
	var req signal.ParticipantRequest
	if err := decode(&req); err != nil {
		return nil, err
	}
	if _, err := f.held(c, req.Room, req.Identity, func(*Participant) {}); err != nil {
		return nil, err
	}
	return nil, errTwirpUnable
}
