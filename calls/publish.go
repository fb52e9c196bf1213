package calls

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// publication is one track that the participant publishes, or has announced.
type publication struct {
	info      *signal.Track
	cid       string      // the client's own name
	encodings []*encoding // the first is the one that the track was announced with; see encodings.go
	live      bool        // media have come: the others know of it
	at        time.Time   // when it was announced

	forced bool // the room keeps it muted
	hushed bool // it was muted once, until the client unmutes it
}

// What a track may be called, and told to all.
const (
	maxTrackNames    = 4 << 10
	maxTrackFeatures = 32
	maxTrackCodecs   = 4
)

// namesOf is how long all is that the request calls things.
func namesOf(req *signal.AddTrack) int {
	sum := len(req.Cid) + len(req.Name) + len(req.Stream) + len(req.Sid)
	for _, c := range req.SimulcastCodecs {
		sum += len(c.Cid) + len(c.Codec)
	}
	return sum
}

// refuseTrack says why an announced track is not taken. What the client said comes back in its bounds only.
func (p *Participant) refuseTrack(req *signal.AddTrack, reason signal.RequestResponse_Reason, why string) {
	echo := &signal.AddTrack{Type: req.Type, Source: req.Source}
	if namesOf(req) <= maxTrackNames {
		echo.Cid, echo.Sid = req.Cid, req.Sid
	}
	p.send(&signal.Response{Message: &signal.Response_RequestResponse{RequestResponse: &signal.RequestResponse{
		Reason: reason, Message: why, Request: &signal.RequestResponse_AddTrack{AddTrack: echo},
	}}})
}

var ridOrder = map[string]int{"": 0, "q": 0, "h": 1, "f": 2}

// onAddTrack announces a track: it gets its sid at once, and its media with a later offer.
func (p *Participant) onAddTrack(req *signal.AddTrack) {
	switch {
	case !p.maySend(req.Source):
		p.refuseTrack(req, signal.RequestResponse_NOT_ALLOWED, "publishing is not allowed")
		return
	case namesOf(req) > maxTrackNames, len(req.AudioFeatures) > maxTrackFeatures, len(req.PacketTrailerFeatures) > maxTrackFeatures,
		len(req.SimulcastCodecs) > maxTrackCodecs:
		p.refuseTrack(req, signal.RequestResponse_LIMIT_EXCEEDED, "the track says too much of itself")
		return
	case req.Sid != "":
		p.onAddEncoding(req)
		return
	}
	switch t, _ := p.byCID(req.Cid); {
	case t != nil && t.encodings[0].mid == "": // announced again, as after a resume
		p.sendPublished(t)
		return
	case t != nil: // it is about to go, or so the client thinks
		p.again(req)
		return
	case len(p.published) >= p.room.focus.config.MaxTracks:
		p.refuseTrack(req, signal.RequestResponse_LIMIT_EXCEEDED, "there are too many tracks")
		return
	}
	info := &signal.Track{
		Sid: newID(trackPrefix(req)), Type: req.Type, Name: req.Name, Muted: req.Muted,
		Width: req.Width, Height: req.Height, DisableDtx: req.DisableDtx, Source: req.Source,
		Stereo: req.Stereo, DisableRed: req.DisableRed, Encryption: req.Encryption, Stream: cmp.Or(req.Stream, streamOf(req.Source)),
		AudioFeatures: req.AudioFeatures, BackupCodecPolicy: req.BackupCodecPolicy, PacketTrailerFeatures: req.PacketTrailerFeatures,
		Layers: cloneLayers(req.Layers),
	}
	info.Version = &signal.TrackVersion{UnixMicro: p.info.JoinedAtMs * 1000}
	t := &publication{info: info, cid: req.Cid, at: time.Now()}
	t.announce(req)
	p.published[info.Sid] = t
	if !p.waits(t) {
		p.sendPublished(t)
	}
	p.force(t)
	p.takePremature()
}

// streamOf is the stream of a track whose client names none: a picture and its sound have one in common. (LiveKit 1.13.5: StreamFromTrackSource)
func streamOf(source signal.TrackSource) string {
	switch source {
	case signal.TrackSource_CAMERA, signal.TrackSource_MICROPHONE:
		return "camera"
	case signal.TrackSource_SCREEN_SHARE, signal.TrackSource_SCREEN_SHARE_AUDIO:
		return "screen"
	}
	return "unknown"
}

// repeated is a track that was announced once more while it was still sent.
type repeated struct {
	req *signal.AddTrack
	at  time.Time
}

// again lets a track wait that has the name of one that is sent still. A client that stops a track and publishes it anew says so before it
// offers that the first one has ended.
func (p *Participant) again(req *signal.AddTrack) {
	p.repeats = slices.DeleteFunc(p.repeats, func(r repeated) bool { return r.req.Cid == req.Cid })
	if len(p.repeats) >= p.room.focus.config.MaxTracks {
		p.refuseTrack(req, signal.RequestResponse_LIMIT_EXCEEDED, "there are too many tracks")
		return
	}
	p.repeats = append(p.repeats, repeated{req, time.Now()})
}

// announceAgain takes what has waited for tracks that have gone.
func (p *Participant) announceAgain() {
	waiting := p.repeats
	p.repeats = nil
	for _, r := range waiting {
		if t, _ := p.byCID(r.req.Cid); t != nil {
			p.repeats = append(p.repeats, r)
		} else {
			p.onAddTrack(r.req)
		}
	}
}

func (p *Participant) sendPublished(t *publication) {
	p.send(&signal.Response{Message: &signal.Response_TrackPublished{TrackPublished: &signal.TrackPublished{
		Cid: t.cid, Track: signal.Clone(t.info),
	}}})
}

func cloneLayers(layers []*signal.VideoLayer) []*signal.VideoLayer {
	out := make([]*signal.VideoLayer, 0, min(len(layers), sfu.MaxLayers))
	for _, l := range layers[:min(len(layers), sfu.MaxLayers)] {
		out = append(out, signal.Clone(l))
	}
	return out
}

// trackPrefix tells kinds of tracks apart for human eyes; clients need only the TR.
func trackPrefix(req *signal.AddTrack) string {
	switch {
	case req.Source == signal.TrackSource_CAMERA:
		return "TR_VC"
	case req.Source == signal.TrackSource_SCREEN_SHARE:
		return "TR_VS"
	case req.Source == signal.TrackSource_MICROPHONE:
		return "TR_AM"
	case req.Type == signal.TrackType_VIDEO:
		return "TR_V"
	}
	return "TR_A"
}

// mimeType turns "vp8" into "video/VP8".
func mimeType(kind signal.TrackType, codec string) string {
	if codec == "" || strings.Contains(codec, "/") {
		return codec
	}
	for _, mime := range sfu.MimeTypes() {
		if strings.EqualFold(mime[strings.Index(mime, "/")+1:], codec) {
			return mime
		}
	}
	if kind == signal.TrackType_VIDEO {
		return "video/" + codec
	}
	return "audio/" + codec
}

// onMedia takes a stream that has begun to flow: an encoding of a track, or one layer of it.
func (p *Participant) onMedia(remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver, mid string) {
	t, e := p.byCID(remote.ID())
	if t == nil {
		t, e = p.onSection(mid)
	}
	if t == nil {
		p.notePremature(premature{remote, receiver, mid})
		return
	}
	if (t.info.Type == signal.TrackType_VIDEO) != (remote.Kind() == webrtc.RTPCodecTypeVideo) {
		p.log.Debug().Str("mid", mid).Msg("Media without a track")
		return
	}
	if e.mid != "" && e.mid != mid {
		p.log.Debug().Str("mid", mid).Str("track", t.info.Sid).Msg("Media of a track that has another section")
		return
	}
	index, known := ridOrder[remote.RID()]
	if !known {
		index = p.sections.rid(mid, remote.RID())
	}
	if index >= sfu.MaxLayers {
		p.log.Debug().Str("mid", mid).Str("track", t.info.Sid).Msg("Media of a layer too many")
		return
	}
	if e.up == nil {
		e.up = p.pub.pc.NewUpTrack(remote.Kind() == webrtc.RTPCodecTypeVideo, e.sizes())
		e.up.Charge(p.budgets...)
		if redAllowed(t.info) {
			e.up.Unfold()
		}
		t.quiet()
	}
	e.up.AddLayer(index, remote, receiver)
	t.noteLayer(e, index, remote)
	if e.live {
		return
	}
	e.live = true
	e.placed(mid, "")
	e.codec.MimeType = remote.Codec().MimeType
	if e == t.encodings[0] {
		t.info.Mid, t.info.MimeType, t.info.Simulcast = mid, e.codec.MimeType, remote.RID() != ""
	}
	if !t.live {
		t.live = true
		p.publishes(t)
		p.hook("track_published", t)
	}
	p.changed()
}

// byCID finds the encoding that the client calls so, and its track.
func (p *Participant) byCID(cid string) (*publication, *encoding) {
	if cid == "" {
		return nil, nil
	}
	for _, t := range p.published {
		for _, e := range t.encodings {
			if e.cid == cid {
				return t, e
			}
		}
		if t.cid == cid {
			return t, t.encodings[0]
		}
	}
	return nil, nil
}

// onSection finds the encoding that was placed on a section, and its track.
func (p *Participant) onSection(mid string) (*publication, *encoding) {
	for _, t := range p.published {
		for _, e := range t.encodings {
			if e.mid == mid {
				return t, e
			}
		}
	}
	return nil, nil
}

// unsentFor is how long an announced track may take to get a media section; clients give up after ten seconds.
const unsentFor = 30 * time.Second

// dropUnsent forgets what was announced and never offered.
func (p *Participant) dropUnsent(now time.Time) {
	for sid, t := range p.published {
		if t.encodings[0].mid == "" && now.Sub(t.at) > unsentFor {
			t.end()
			delete(p.published, sid)
		}
	}
	p.repeats = slices.DeleteFunc(p.repeats, func(r repeated) bool { return now.Sub(r.at) > unsentFor })
}

// place notes on which section each announced encoding is to come, before its media do. Some browsers give a track another name in the offer
// than the client has announced: what has begun since the offer before, under a name that nobody knows, is the oldest announced track of its kind.
func (p *Participant) place(before sections) {
	var strange []section
	for mid, s := range p.sections {
		if !s.sends {
			continue
		}
		switch t, e := p.byCID(s.cid); {
		case t != nil && e.mid == "":
			t.placed(e, s)
		case t == nil && (!before[mid].sends || before[mid].cid != s.cid):
			strange = append(strange, s)
		}
	}
	slices.SortFunc(strange, func(a, b section) int { return a.place - b.place })
	for _, s := range strange {
		if t := p.oldestUnsent(s.kind == webrtc.RTPCodecTypeVideo); t != nil {
			t.placed(t.encodings[0], s)
		}
	}
}

// placed notes the section of one of the publication's encodings.
func (t *publication) placed(e *encoding, s section) {
	e.placed(s.mid, s.cid)
	if e == t.encodings[0] {
		t.info.Mid = s.mid
	}
}

// oldestUnsent is the track of a kind that was announced first of those without a section, or nil.
func (p *Participant) oldestUnsent(video bool) (oldest *publication) {
	for _, t := range p.published {
		if t.encodings[0].mid == "" && (t.info.Type == signal.TrackType_VIDEO) == video && (oldest == nil || t.at.Before(oldest.at)) {
			oldest = t
		}
	}
	return oldest
}

// preferCodecs answers with the codec first that was announced for a section: clients offer all they have in one order,
// and send the first of the answer.
func (p *Participant) preferCodecs() {
	for _, t := range p.published {
		for _, e := range t.encodings {
			if e.mid != "" && !e.live && t.info.Type == signal.TrackType_VIDEO && e.codec.MimeType != "" {
				p.preferCodec(e.mid, e.codec.MimeType)
			}
		}
	}
}

func (p *Participant) preferCodec(mid, mime string) {
	for _, tr := range p.pub.pc.GetTransceivers() {
		if tr.Mid() != mid || tr.Receiver() == nil {
			continue
		}
		codecs := slices.Clone(tr.Receiver().GetParameters().Codecs)
		slices.SortStableFunc(codecs, func(a, b webrtc.RTPCodecParameters) int {
			return foldRank(b.MimeType, mime) - foldRank(a.MimeType, mime)
		})
		if err := tr.SetCodecPreferences(codecs); err != nil {
			p.log.Debug().Err(err).Str("codec", mime).Msg("Codec not preferred")
		}
	}
}

func foldRank(mime, wanted string) int {
	if strings.EqualFold(mime, wanted) {
		return 1
	}
	return 0
}

// unpublish takes away the live tracks that the newest offer does not send any more.
func (p *Participant) unpublish() {
	changed := false
	for sid, t := range p.published {
		for _, e := range t.encodings[1:] {
			if e.mid != "" && !p.sections.sends(e.mid, e.cid) {
				e.withdrawn()
				p.offers.ends(1)
				changed = true
			}
		}
		first := t.encodings[0]
		if first.mid == "" || p.sections.sends(first.mid, first.cid) {
			continue
		}
		p.offers.ends(t.end())
		p.hook("track_unpublished", t)
		delete(p.published, sid)
		delete(p.wanted, sid)
		changed = true
	}
	if changed {
		p.changed()
		p.announceAgain()
	}
}

// onMute notes what the client has muted. A muted track stays subscribed; what the room keeps muted stays so.
func (p *Participant) onMute(m *signal.Mute) {
	t := p.published[m.Sid]
	if t == nil || t.info.Muted == m.Muted {
		return
	}
	if t.forced && !m.Muted {
		p.sendMute(t)
		return
	}
	t.info.Muted, t.hushed = m.Muted, false
	t.quiet()
	if !m.Muted && t.info.Type == signal.TrackType_VIDEO {
		for up := range t.ups() {
			up.RequestKeyFrame()
		}
	}
	p.changed()
}
