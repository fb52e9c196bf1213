package calls

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// encoding is a publication in one codec. A client that publishes in a codec which not everybody has may announce a second
// one: it sends that as soon as it is told that somebody wants it (subscribed_codecs), on a section of its own, after a
// second AddTrack with the track's sid. (livekit-client 2.23.0, backupCodec)
type encoding struct {
	codec *signal.TrackCodec // one of the publication's info
	cid   string             // by which its media section is known; empty until the client sends it
	mid   string             // its media section, once there was an offer with it
	up    *sfu.UpTrack       // nil before its media
	live  bool               // media have come

	told  int       // highest layer that the client was told to send, -1: none, see dynacast.go
	lower time.Time // since when less is wished than the client was told; zero: it is not
}

// announce lays the encodings down that a client has spoken of.
func (t *publication) announce(req *signal.AddTrack) {
	for _, c := range req.SimulcastCodecs {
		codec := &signal.TrackCodec{Cid: c.Cid, MimeType: mimeType(req.Type, c.Codec), Layers: cloneLayers(c.Layers), VideoLayerMode: c.VideoLayerMode}
		if len(codec.Layers) == 0 {
			codec.Layers = cloneLayers(req.Layers)
		}
		if codec.VideoLayerMode == signal.VideoLayer_MODE_UNUSED {
			codec.VideoLayerMode = layerMode(req.Type, codec.MimeType)
		}
		t.info.Codecs = append(t.info.Codecs, codec)
	}
	if len(t.info.Codecs) == 0 {
		t.info.Codecs = []*signal.TrackCodec{{Cid: req.Cid, Layers: cloneLayers(req.Layers)}}
	}
	for i, codec := range t.info.Codecs {
		e := &encoding{codec: codec, cid: codec.Cid, told: -1}
		if i == 0 {
			e.told = sfu.MaxLayers - 1
			if e.cid == "" {
				e.cid = req.Cid
			}
		}
		t.encodings = append(t.encodings, e)
	}
	first := t.info.Codecs[0]
	t.info.MimeType = first.MimeType
	if len(t.info.Layers) == 0 {
		t.info.Layers = cloneLayers(first.Layers)
	}
}

// onAddEncoding takes the announcement that a track is now sent in its second codec too.
func (p *Participant) onAddEncoding(req *signal.AddTrack) {
	t := p.published[req.Sid]
	switch {
	case t == nil:
		p.refuseTrack(req, signal.RequestResponse_NOT_FOUND, "there is no such track of this participant")
		return
	case t.info.Type != req.Type:
		p.refuseTrack(req, signal.RequestResponse_UNSUPPORTED_TYPE, "the track is of another kind")
		return
	}
	cid, codec := req.Cid, ""
	var layers []*signal.VideoLayer
	for _, c := range req.SimulcastCodecs[:min(len(req.SimulcastCodecs), 1)] {
		codec, layers = mimeType(req.Type, c.Codec), c.Layers
		if c.Cid != "" {
			cid = c.Cid
		}
	}
	e := t.encoding(codec)
	other, known := p.byCID(cid)
	switch {
	case e == nil || e == t.encodings[0]:
		p.refuseTrack(req, signal.RequestResponse_UNSUPPORTED_TYPE, "the track was not announced with this codec")
		return
	case cid == "" || other != nil && known != e || e.mid != "" && e.cid != cid:
		p.refuseTrack(req, signal.RequestResponse_NOT_ALLOWED, "this codec is sent already, or under a name that another track has")
		return
	}
	e.cid, e.codec.Cid = cid, cid
	if len(layers) == 0 {
		layers = req.Layers
	}
	if len(layers) > 0 {
		e.codec.Layers = cloneLayers(layers)
	}
	p.send(&signal.Response{Message: &signal.Response_TrackPublished{TrackPublished: &signal.TrackPublished{
		Cid: req.Cid, Track: signal.Clone(t.info),
	}}})
	p.takePremature()
}

// encoding is the one of a codec, or nil.
func (t *publication) encoding(mime string) *encoding {
	for _, e := range t.encodings {
		if mime != "" && strings.EqualFold(e.codec.MimeType, mime) {
			return e
		}
	}
	return nil
}

// ups are what has come of the publication.
func (t *publication) ups() iter.Seq[*sfu.UpTrack] {
	return func(yield func(*sfu.UpTrack) bool) {
		for _, e := range t.encodings {
			if e.up != nil && !yield(e.up) {
				return
			}
		}
	}
}

// end ends all that has come of the publication, and says how many media sections of the client's it had.
func (t *publication) end() (sections int) {
	for _, e := range t.encodings {
		if e.up != nil {
			e.up.Close()
		}
		if e.mid != "" {
			sections++
		}
	}
	return sections
}

// sources are the encodings that the others can subscribe to, as they are announced.
func (t *publication) sources() (all []source) {
	for _, e := range t.encodings {
		if e.up != nil && e.live {
			all = append(all, source{mime: e.codec.MimeType, up: e.up})
		}
	}
	return all
}

// How the wire says that each layer of a picture comes in a stream of its own, or all in one.
const (
	layerPerStream  = signal.VideoLayer_ONE_SPATIAL_LAYER_PER_STREAM
	layersPerStream = signal.VideoLayer_MULTIPLE_SPATIAL_LAYERS_PER_STREAM
)

// layerMode is how the layers of a codec come, unless the client says or shows otherwise.
func layerMode(kind signal.TrackType, mime string) signal.VideoLayer_Mode {
	switch {
	case kind != signal.TrackType_VIDEO:
		return signal.VideoLayer_MODE_UNUSED
	case sfu.Scalable(mime):
		return layersPerStream
	}
	return layerPerStream
}

// noteLayer keeps what a layer's media show of it.
func (t *publication) noteLayer(e *encoding, index int, remote *webrtc.TrackRemote) {
	if e.codec.VideoLayerMode = layerMode(t.info.Type, remote.Codec().MimeType); remote.RID() != "" {
		e.codec.VideoLayerMode = layerPerStream
	}
	lists := [][]*signal.VideoLayer{e.codec.Layers}
	if e == t.encodings[0] {
		lists = append(lists, t.info.Layers)
	}
	for _, layers := range lists {
		for i, l := range layers {
			if e.codec.VideoLayerMode == layersPerStream {
				l.Ssrc, l.SpatialLayer = uint32(remote.SSRC()), int32(l.Quality)
			} else if i == index {
				l.Ssrc, l.Rid = uint32(remote.SSRC()), remote.RID()
			}
		}
	}
}

// sizes are the announced pictures, smallest first: of a stream with all layers in it livekit-client names the largest
// first. (livekit-client 2.23.0)
func (e *encoding) sizes() (sizes [sfu.MaxLayers]sfu.Size) {
	layers := slices.Clone(e.codec.Layers)
	slices.SortStableFunc(layers, func(a, b *signal.VideoLayer) int { return cmp.Compare(a.Height, b.Height) })
	for i, l := range layers {
		if i < len(sizes) {
			sizes[i] = sfu.Size{Width: l.Width, Height: l.Height}
		}
	}
	return sizes
}

// placed notes the media section; cid is what the client calls the encoding there, if it does.
func (e *encoding) placed(mid, cid string) {
	e.mid, e.codec.Mid = mid, mid
	if cid != "" {
		e.cid = cid
	}
}

// withdrawn forgets what a client does not send any more. It may send it again.
func (e *encoding) withdrawn() {
	if e.up != nil {
		e.up.Close()
	}
	e.codec.Mid, e.codec.Cid = "", ""
	*e = encoding{codec: e.codec, told: -1}
}

// source is one encoding of a track, for those who subscribe.
type source struct {
	mime string
	up   *sfu.UpTrack
}

// sourcesOf are the encodings of a publisher's track, the one to take first. Once the second one has come everybody takes it,
// so that a client encodes its picture once, unless the publisher wants to send both.
func (o *peer) sourcesOf(track string) []source {
	all := o.ups[track]
	if len(all) < 2 || o.track(track).GetBackupCodecPolicy() == signal.BackupCodecPolicy_SIMULCAST {
		return all
	}
	return append(append(make([]source, 0, len(all)), all[1:]...), all[0])
}

// track is what is told of a publisher's track, or nil.
func (o *peer) track(sid string) *signal.Track {
	for _, t := range o.info.Tracks {
		if t.Sid == sid {
			return t
		}
	}
	return nil
}
