package calls

import "chancery/calls/signal"

// allowance is whom a participant lets have its tracks. It is never changed: others read it too.
type allowance struct {
	all         bool
	sids, names map[string]*allowedTracks // by sid and by identity of the subscriber
	size        int                       // bytes, as it came
}

// allowedTracks are those that one subscriber may have.
type allowedTracks struct {
	all    bool
	tracks map[string]bool
}

// everybody may have everything, unless the client says otherwise.
var everybody = &allowance{all: true}

// nobody may have anything.
var nobody = &allowance{}

// newAllowance reads what a client says. The one who says it does the work, once, and not all who ask. Of one that says too much nobody may have
// anything: it meant to keep its tracks from somebody.
func newAllowance(m *signal.SubscriptionPermission) *allowance {
	said := len(m.GetTrackPermissions())
	for _, perm := range m.GetTrackPermissions() {
		said += len(perm.GetTrackSids())
	}
	if said > maxWishes {
		return nobody
	}
	a := &allowance{all: m.GetAllParticipants(), sids: map[string]*allowedTracks{}, names: map[string]*allowedTracks{}, size: signal.Size(m)}
	for _, perm := range m.GetTrackPermissions() {
		allow(a.sids, perm.GetParticipantSid(), perm)
		allow(a.names, perm.GetParticipantIdentity(), perm)
	}
	return a
}

func allow(in map[string]*allowedTracks, whom string, perm *signal.TrackPermission) {
	if whom == "" {
		return
	}
	one := in[whom]
	if one == nil {
		one = &allowedTracks{tracks: map[string]bool{}}
		in[whom] = one
	}
	one.all = one.all || perm.GetAllTracks()
	for _, track := range perm.GetTrackSids() {
		one.tracks[track] = true
	}
}

func (a *allowedTracks) has(track string) bool { return a != nil && (a.all || a.tracks[track]) }

// permitted says whether the publisher lets p have the track.
func (p *Participant) permitted(from *peer, track string) bool {
	a := from.allow
	return a.all || a.sids[p.sid].has(track) || a.names[p.identity].has(track)
}

// onSubscriptionPermission takes whom the client lets have its tracks.
func (p *Participant) onSubscriptionPermission(m *signal.SubscriptionPermission) {
	if p.allow.all && m.GetAllParticipants() {
		return // each client says so as it comes
	}
	if p.allow = newAllowance(m); p.allow == nobody {
		p.log.Info().Msg("Permission with too many names: nobody is permitted")
	}
	p.tellAll()
}

// tellPermissions says which of a publisher's tracks have become allowed or forbidden, and which have come forbidden: a client takes a
// track for allowed until it hears otherwise. What it may not have from the start it is told once it stands: see tellForbidden.
func (p *Participant) tellPermissions(before, now *peer) {
	for track := range now.ups {
		was := true
		if before != nil && before.ups[track] != nil {
			was = p.permitted(before, track)
		} else if p.info.State != signal.Participant_ACTIVE {
			continue
		}
		if is := p.permitted(now, track); was != is {
			p.tellPermission(now.info.Sid, track, is)
		}
	}
}

// tellForbidden says which tracks the client may not have.
func (p *Participant) tellForbidden() {
	for _, from := range p.peers {
		for track := range from.ups {
			if !p.permitted(from, track) {
				p.tellPermission(from.info.Sid, track, false)
			}
		}
	}
}

func (p *Participant) tellPermission(publisher, track string, is bool) {
	p.send(&signal.Response{Message: &signal.Response_SubscriptionPermissionUpdate{SubscriptionPermissionUpdate: &signal.SubscriptionPermissionUpdate{
		ParticipantSid: publisher, TrackSid: track, Allowed: is,
	}}})
}
