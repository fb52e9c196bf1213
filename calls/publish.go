package calls

import (
	"slices"
	"strings"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// publication is one track that the participant publishes, or has announced.
type publication struct {
	info *signal.Track
	cid  string // the client's own name, by which its media section is known
	mid  string // its media section, once there was an offer with it
	up   *sfu.UpTrack
	live bool      // media have come: the others know of it
	at   time.Time // when it was announced
	told int       // highest layer that the client was told to send, -1: none, see dynacast.go

	forced bool // the room keeps it muted
	hushed bool // it was muted once, until the client unmutes it

	lower dynacastPause
}

func (t *publication) end() {
	if t.up != nil {
		t.up.Close()
	}
}

// What a track may be called, and told to all.
const (
	maxTrackNames    = 4 << 10
	maxTrackFeatures = 32
)

var ridOrder = map[string]int{"": 0, "q": 0, "h": 1, "f": 2}

// onAddTrack announces a track: it gets its sid at once, and its media with a later offer.
func (p *Participant) onAddTrack(req *signal.AddTrack) {
	switch {
	case !p.info.Permission.CanPublish, len(p.published) >= p.room.focus.config.MaxTracks:
		return // the client gives up after its ten seconds
	case len(req.Cid)+len(req.Name)+len(req.Stream) > maxTrackNames, len(req.AudioFeatures) > maxTrackFeatures:
		return
	case req.Sid != "":
		return // a second codec of a track: never asked for, see subscribed_codecs
	}
	for _, t := range p.published {
		if t.cid == req.Cid && !t.live { // announced again, as after a resume
			p.sendPublished(t)
			return
		}
	}
	info := &signal.Track{
		Sid: newID(trackPrefix(req)), Type: req.Type, Name: req.Name, Muted: req.Muted,
		Width: req.Width, Height: req.Height, DisableDtx: req.DisableDtx, Source: req.Source,
		Stereo: req.Stereo, DisableRed: req.DisableRed, Encryption: req.Encryption, Stream: req.Stream,
		AudioFeatures: req.AudioFeatures, BackupCodecPolicy: req.BackupCodecPolicy,
		Layers: cloneLayers(req.Layers),
	}
	info.Version = &signal.TrackVersion{UnixMicro: p.info.JoinedAtMs * 1000}
	for _, c := range req.SimulcastCodecs[:min(len(req.SimulcastCodecs), 4)] {
		codec := &signal.TrackCodec{Cid: c.Cid, MimeType: mimeType(req.Type, c.Codec), Layers: cloneLayers(c.Layers), VideoLayerMode: c.VideoLayerMode}
		if len(codec.Layers) == 0 {
			codec.Layers = cloneLayers(req.Layers)
		}
		info.Codecs = append(info.Codecs, codec)
	}
	if len(info.Codecs) > 0 {
		info.MimeType = info.Codecs[0].MimeType
		if len(info.Layers) == 0 {
			info.Layers = cloneLayers(info.Codecs[0].Layers)
		}
	}
	t := &publication{info: info, cid: req.Cid, at: time.Now(), told: sfu.MaxLayers - 1}
	p.published[info.Sid] = t
	p.sendPublished(t)
	p.force(t)
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

// sizes are the announced pictures of a track, smallest first.
func (t *publication) sizes() (sizes [sfu.MaxLayers]sfu.Size) {
	for i, l := range t.info.Layers {
		if i < len(sizes) {
			sizes[i] = sfu.Size{Width: l.Width, Height: l.Height}
		}
	}
	return sizes
}

// onMedia takes a stream that has begun to flow: a track, or one layer of it.
func (p *Participant) onMedia(remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver, mid string) {
	t := p.byCID(remote.ID())
	if t == nil {
		t = p.byCID(p.sections.cid(mid))
	}
	if t == nil || (t.info.Type == signal.TrackType_VIDEO) != (remote.Kind() == webrtc.RTPCodecTypeVideo) {
		p.log.Debug().Str("mid", mid).Msg("Media without a track")
		return
	}
	if t.up == nil {
		t.up = p.pub.pc.NewUpTrack(remote.Kind() == webrtc.RTPCodecTypeVideo, t.sizes())
		t.up.Charge(p.budgets...)
		if redAllowed(t.info) {
			t.up.Unfold()
		}
		t.quiet()
	}
	index, known := ridOrder[remote.RID()]
	if !known {
		index = min(p.sections.rid(mid, remote.RID()), sfu.MaxLayers-1)
	}
	t.up.AddLayer(index, remote, receiver)
	if index < len(t.info.Layers) {
		t.info.Layers[index].Ssrc = uint32(remote.SSRC())
		t.info.Layers[index].Rid = remote.RID()
	}
	if t.live {
		return
	}
	t.live = true
	p.publishes(t)
	t.mid = mid
	t.info.Mid = mid
	t.info.MimeType = remote.Codec().MimeType
	p.hook("track_published", t)
	t.info.Simulcast = remote.RID() != ""
	if len(t.info.Codecs) == 0 {
		t.info.Codecs = []*signal.TrackCodec{{Cid: t.cid, Layers: cloneLayers(t.info.Layers)}}
	}
	t.info.Codecs[0].MimeType, t.info.Codecs[0].Mid = t.info.MimeType, mid
	p.changed()
}

func (p *Participant) byCID(cid string) *publication {
	if cid == "" {
		return nil
	}
	for _, t := range p.published {
		if t.cid == cid {
			return t
		}
		for _, c := range t.info.Codecs {
			if c.Cid == cid {
				return t
			}
		}
	}
	return nil
}

// unsentFor is how long an announced track may take to get a media section; clients give up after ten seconds.
const unsentFor = 30 * time.Second

// dropUnsent forgets what was announced and never offered.
func (p *Participant) dropUnsent(now time.Time) {
	for sid, t := range p.published {
		if t.mid == "" && now.Sub(t.at) > unsentFor {
			t.end()
			delete(p.published, sid)
		}
	}
}

// place notes on which section each announced track is to come, before its media do.
func (p *Participant) place() {
	for mid, s := range p.sections {
		if !s.sends {
			continue
		}
		if t := p.byCID(s.cid); t != nil && t.mid == "" {
			t.mid, t.info.Mid = mid, mid
		}
	}
}

// preferCodecs answers with the codec first that was announced for a section: clients offer all they have in one order,
// and send the first of the answer.
func (p *Participant) preferCodecs() {
	for _, t := range p.published {
		if t.mid == "" || t.live || t.info.Type != signal.TrackType_VIDEO || t.info.MimeType == "" {
			continue
		}
		for _, tr := range p.pub.pc.GetTransceivers() {
			if tr.Mid() != t.mid || tr.Receiver() == nil {
				continue
			}
			codecs := slices.Clone(tr.Receiver().GetParameters().Codecs)
			slices.SortStableFunc(codecs, func(a, b webrtc.RTPCodecParameters) int {
				return foldRank(b.MimeType, t.info.MimeType) - foldRank(a.MimeType, t.info.MimeType)
			})
			if err := tr.SetCodecPreferences(codecs); err != nil {
				p.log.Debug().Err(err).Str("codec", t.info.MimeType).Msg("Codec not preferred")
			}
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
		if t.mid == "" || p.sections.sends(t.mid, t.cid) {
			continue
		}
		t.end()
		p.hook("track_unpublished", t)
		delete(p.published, sid)
		delete(p.wanted, sid)
		changed = true
	}
	if changed {
		p.changed()
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
	if !m.Muted && t.up != nil && t.up.Video() {
		t.up.RequestKeyFrame()
	}
	p.changed()
}
