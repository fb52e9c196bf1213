package sfu

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"chancery/calls/packet"
)

// MaxLayers is how many simulcast layers a track may have.
const MaxLayers = 3

// Sink takes what an UpTrack receives. Push is called for each packet by the goroutine of its layer and must not block.
type Sink interface {
	Push(p *Packet)
	// LayersChanged is told when a layer came or fell silent; never from the packet path.
	LayersChanged()
}

// Size is a layer's picture as the publisher announced it; zero if unknown.
type Size struct{ Width, Height uint32 }

// Uplink sends RTCP to one publisher.
type Uplink interface {
	WriteRTCP([]rtcp.Packet) error
}

// UpTrack is one published track.
type UpTrack struct {
	up       Uplink
	in       *incoming
	video    bool
	ctx      context.Context // of the track's life: feedback and layers end with it
	cancel   context.CancelFunc
	feedback chan rtcp.Packet
	layered  chan struct{} // there are layers to watch, a repair stream to find, or a layer that has woken
	running  sync.WaitGroup
	budgets  []*Budget    // that its packets are counted against; set before the first layer
	silent   atomic.Bool  // what comes is not handed on
	muted    atomic.Bool  // by the publisher
	lastAsk  atomic.Int64 // when a key frame of some layer was last asked for, milliseconds
	unfolds  bool         // RED may be taken apart; set before the first layer

	layers [MaxLayers]atomic.Pointer[Layer]
	sinks  atomic.Pointer[[]Sink]
	sizes  atomic.Pointer[[MaxLayers]Size]
	codec  atomic.Pointer[webrtc.RTPCodecParameters]

	mu sync.Mutex // guards changes of sinks and layers, not their reading
}

func newUpTrack(up Uplink, in *incoming, video bool, sizes [MaxLayers]Size) *UpTrack {
	u := &UpTrack{up: up, in: in, video: video, feedback: make(chan rtcp.Packet, 32), layered: make(chan struct{}, 1)}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	u.sinks.Store(&[]Sink{})
	u.sizes.Store(&sizes)
	u.running.Go(u.sendFeedback)
	return u
}

// Charge has the track's packets counted against these budgets. It is called before the first AddLayer.
func (u *UpTrack) Charge(budgets ...*Budget) { u.budgets = budgets }

// Unfold lets the track's RED be taken apart for those who cannot read it: nobody may look into what is encrypted. Without
// it a redundant packet is not forwarded. It is called before the first AddLayer.
func (u *UpTrack) Unfold() { u.unfolds = true }

// Silence drops what the publisher sends, whatever its client shows; subscribers get numbers without a gap.
func (u *UpTrack) Silence(on bool) { u.silent.Store(on) }

// Mute says that the publisher has muted the track, or no longer: while nothing comes of it, it takes no part of its subscribers' lines.
func (u *UpTrack) Mute(on bool) { u.muted.Store(on) }

// Muted says whether the publisher has muted the track.
func (u *UpTrack) Muted() bool { return u.muted.Load() }

// restsAfter is how long nothing comes of a voice that has ended: browsers that leave its pauses out send something each 400 ms.
const restsAfter = time.Second

// rests says whether nothing of the track goes out, and is not about to: a picture that stands still without being muted may move at any time.
func (u *UpTrack) rests(now time.Time) bool {
	quiet := millis(now)-u.newest() > restsAfter.Milliseconds()
	return u.silent.Load() || quiet && (u.muted.Load() || !u.video)
}

// newest is when the newest packet of all layers came, in milliseconds.
func (u *UpTrack) newest() (newest int64) {
	for i := range u.layers {
		if l := u.layers[i].Load(); l != nil {
			newest = max(newest, l.lastPacket.Load())
		}
	}
	return newest
}

// Video says whether it is video; otherwise it is audio.
func (u *UpTrack) Video() bool { return u.video }

// Codec is what the publisher sends, or nil before its first packet.
func (u *UpTrack) Codec() *webrtc.RTPCodecParameters { return u.codec.Load() }

// AddLayer starts to read a layer of the track from Pion. index is 0 for the smallest. What does not go with the layers that the
// track has is not read. A stream that comes in the place of another takes it over: of the other nothing is handed on any more.
func (u *UpTrack) AddLayer(index int, remote *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ctx.Err() != nil || index < 0 || index >= MaxLayers {
		return
	}
	agreed := receiver.GetParameters()
	codec, fold := withoutRED(remote.Codec(), agreed.Codecs)
	l := newLayer(u, index, uint32(remote.SSRC()), codec.RTPCodecCapability)
	l.fold.payloads = fold
	descriptor := uint8(0)
	for _, ext := range agreed.HeaderExtensions {
		switch ext.URI {
		case audioLevelURI:
			l.levelID = uint8(ext.ID)
		case packet.DependencyURI:
			descriptor = uint8(ext.ID)
		}
	}
	if remote.RID() == "" && Scalable(codec.MimeType) {
		l.scalable = newScalable(l.codec, descriptor)
	}
	if !u.fits(l) {
		return
	}
	u.codec.Store(&codec)
	u.layers[index].Store(l)
	if u.video && (remote.RID() != "" || !remote.HasRTX() || l.scalable != nil) {
		u.look()
	}
	u.in.addLayer(l)
	u.running.Go(func() {
		defer u.in.removeLayer(l)
		l.run(remote)
	})
	u.tellSinks()
}

// fits says whether a stream can be one of the track's: all have one codec, and one that has all layers in it is alone.
func (u *UpTrack) fits(l *Layer) bool {
	for i := range u.layers {
		if o := u.layers[i].Load(); o != nil && (o.codec != l.codec || (o.scalable != nil) != (l.scalable != nil)) {
			return false
		}
	}
	return true
}

// Layer is the layer with this index, or nil.
func (u *UpTrack) Layer(index int) *Layer {
	if index < 0 || index >= MaxLayers {
		return nil
	}
	return u.layers[index].Load()
}

// source is the stream that layer i comes in: its own, or the one that has all of them in it.
func (u *UpTrack) source(i int) *Layer {
	if l := u.layers[0].Load(); l != nil && l.scalable != nil && i >= 0 {
		return l
	}
	return u.Layer(i)
}

// pictures are the sizes of the layers: as the stream itself tells, or as they were announced.
func (u *UpTrack) pictures() [MaxLayers]Size {
	if l := u.layers[0].Load(); l != nil && l.scalable != nil {
		if sizes := l.scalable.pictures(); sizes != [MaxLayers]Size{} {
			return sizes
		}
	}
	return *u.sizes.Load()
}

// SetSizes replaces the announced sizes.
func (u *UpTrack) SetSizes(sizes [MaxLayers]Size) {
	u.sizes.Store(&sizes)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tellSinks()
}

// AddSink lets s have every packet from now on.
func (u *UpTrack) AddSink(s Sink) {
	u.mu.Lock()
	defer u.mu.Unlock()
	old := *u.sinks.Load()
	sinks := append(make([]Sink, 0, len(old)+1), old...)
	sinks = append(sinks, s)
	u.sinks.Store(&sinks)
}

// RemoveSink ends what AddSink began. A packet that is on its way may still come.
func (u *UpTrack) RemoveSink(s Sink) {
	u.mu.Lock()
	defer u.mu.Unlock()
	old := *u.sinks.Load()
	sinks := make([]Sink, 0, len(old))
	for _, o := range old {
		if o != s {
			sinks = append(sinks, o)
		}
	}
	u.sinks.Store(&sinks)
}

func (u *UpTrack) tellSinks() {
	for _, s := range *u.sinks.Load() {
		s.LayersChanged()
	}
}

// Close ends the track. Its layers' goroutines end when Pion's receiver is stopped; Wait waits for them.
func (u *UpTrack) Close() { u.cancel() }

// Wait returns when all of the track's goroutines have ended.
func (u *UpTrack) Wait() { u.running.Wait() }

// RequestKeyFrame asks the publisher for a key frame of each layer, as after an unmute.
func (u *UpTrack) RequestKeyFrame() {
	for i := range u.layers {
		if l := u.layers[i].Load(); l != nil {
			l.RequestKeyFrame()
		}
	}
}

// Alive tells for each layer whether it is there and sends.
func (u *UpTrack) Alive() (alive [MaxLayers]bool) {
	if l := u.layers[0].Load(); l != nil && l.scalable != nil {
		return l.scalable.aliveLayers()
	}
	for i := range u.layers {
		l := u.layers[i].Load()
		alive[i] = l != nil && l.alive.Load()
	}
	return alive
}

const (
	layerCheck  = 100 * time.Millisecond // how often silent layers are looked for
	layerSilent = 300 * time.Millisecond // and after which silence one is down, while others send
)

// sendFeedback writes RTCP on behalf of the packet path, and watches which layers send.
func (u *UpTrack) sendFeedback() {
	tick := time.NewTicker(layerCheck)
	tick.Stop() // nothing to compare yet
	defer tick.Stop()
	check := func() {
		if u.checkLayers(millis(time.Now())) {
			u.mu.Lock()
			u.tellSinks()
			u.mu.Unlock()
		}
	}
	for {
		select {
		case <-u.ctx.Done():
			return
		case p := <-u.feedback:
			_ = u.up.WriteRTCP([]rtcp.Packet{p}) // a closed connection ends the track by itself
		case <-u.layered:
			tick.Reset(layerCheck)
			check()
		case <-tick.C:
			check()
		}
	}
}

// look has the layers looked at now. It does not block.
func (u *UpTrack) look() {
	select {
	case u.layered <- struct{}{}:
	default:
	}
}

// checkLayers updates who is alive. Where everything is silent (muted, a still screen) nobody is down.
func (u *UpTrack) checkLayers(now int64) (changed bool) {
	newest := u.newest()
	for i := range u.layers {
		l := u.layers[i].Load()
		if l == nil {
			continue
		}
		l.lookForRepairs()
		last := l.lastPacket.Load()
		alive := last != 0 && (now-last < layerSilent.Milliseconds() || newest-last < layerSilent.Milliseconds())
		if l.alive.Swap(alive) != alive {
			changed = true
		}
		if l.scalable != nil && l.scalable.check(last) {
			changed = true
		}
	}
	return changed
}

// Level gives the loudest audio level since the last call (0 loudest, 127 silence) and the share of packets that were audible.
func (u *UpTrack) Level() (level uint8, active float64) {
	l := u.layers[0].Load()
	if l == nil {
		return 127, 0
	}
	total, loud := l.levels.Swap(0), l.loud.Swap(0)
	level = uint8(l.loudest.Swap(127))
	if total == 0 {
		return 127, 0
	}
	return level, float64(loud) / float64(total)
}
