package sfu

import (
	"sync/atomic"
	"time"
)

// UpNumbers is how an up track is doing, for whoever operates the focus. Counters only rise, and those of a layer begin anew with another
// stream in its place.
type UpNumbers struct {
	Video  bool
	Codec  string // MIME type, empty before the first packet
	Layers [MaxLayers]LayerNumbers
}

// LayerNumbers is one layer of an up track; the zero value if it never came.
type LayerNumbers struct {
	SSRC    uint32
	Packets uint64
	Bytes   uint64 // of payload
	Lost    uint64 // never came, also not after repair
	Nacks   uint64 // NACK pairs sent to the publisher
	KeyAsks uint64 // key frames asked of the publisher
	Keys    uint64 // key frames that came
	Jitter  time.Duration
	Bitrate int  // bits of payload in the last full second
	Alive   bool // it sends, or everything is silent
	Size    Size // of its picture, the largest one of a scalable stream; zero if unknown
}

// DownNumbers is how a down track is doing.
type DownNumbers struct {
	Layer     int // that is being forwarded, -1: none
	Target    int // that it should be
	Packets   uint64
	Bytes     uint64 // of payload
	Repaired  uint64 // packets sent again
	Nacks     uint64 // NACK pairs from the subscriber
	KeyAsks   uint64 // key frames that the subscriber asked for
	Loss      int    // percent between the last two reports
	Jitter    time.Duration
	RoundTrip time.Duration // 0 if not known yet
}

type layerCounts struct {
	packets, bytes, nacks, keyAsks, keys atomic.Uint64
	first                                atomic.Int64 // first number, 0 before
	jitter                               atomic.Int64 // nanoseconds
	second                               atomic.Int64 // bits in the last full second
}

type downCounts struct {
	packets, bytes, repaired, nacks, keyAsks atomic.Uint64
	loss                                     atomic.Uint32
	jitter                                   atomic.Int64 // nanoseconds
	rtt                                      atomic.Int64 // microseconds, from receiver reports
}

// count is called by the layer's goroutine for each new packet.
func (l *Layer) count(p *Packet, now time.Time) {
	c := &l.counts
	if c.packets.Add(1) == 1 {
		c.first.Store(p.Seq)
	}
	c.bytes.Add(uint64(len(p.Payload)))
	if p.Meta.Key {
		c.keys.Add(1)
	}
	transit := ticks(now, l.clock) - int64(p.Meta.Timestamp)
	if l.transit != 0 {
		d := int64(int32(transit - l.transit))
		l.jitter += (float64(max(d, -d)) - l.jitter) / 16
		c.jitter.Store(int64(l.jitter / float64(l.clock) * 1e9))
	}
	l.transit = transit
}

// Numbers tells how the track is doing. It may be called from anywhere.
func (u *UpTrack) Numbers() UpNumbers {
	n := UpNumbers{Video: u.video}
	if c := u.codec.Load(); c != nil {
		n.Codec = c.MimeType
	}
	sizes := u.pictures()
	for i := range u.layers {
		l := u.layers[i].Load()
		if l == nil {
			continue
		}
		n.Layers[i] = l.numbers()
		n.Layers[i].Size = sizes[i]
		if l.scalable != nil {
			for spatial, alive := range l.scalable.aliveLayers() {
				if alive && sizes[spatial].Height > 0 {
					n.Layers[i].Size = sizes[spatial]
				}
			}
		}
	}
	return n
}

func (l *Layer) numbers() LayerNumbers {
	c := &l.counts
	n := LayerNumbers{
		SSRC: l.ssrc, Packets: c.packets.Load(), Bytes: c.bytes.Load(), Nacks: c.nacks.Load(), KeyAsks: c.keyAsks.Load(),
		Keys: c.keys.Load(), Jitter: time.Duration(c.jitter.Load()), Alive: l.alive.Load(),
	}
	if n.Packets > 0 {
		n.Lost = uint64(max(0, l.newest.Load()-c.first.Load()+1-int64(n.Packets)))
	}
	if millis(time.Now())-l.lastPacket.Load() < 2000 {
		n.Bitrate = int(c.second.Load())
	}
	return n
}

// Numbers tells how the track is doing. It may be called from anywhere.
func (d *DownTrack) Numbers() DownNumbers {
	c := &d.counts
	return DownNumbers{
		Layer: int(d.current.Load()), Target: int(d.target.Load()),
		Packets: c.packets.Load(), Bytes: c.bytes.Load(), Repaired: c.repaired.Load(), Nacks: c.nacks.Load(), KeyAsks: c.keyAsks.Load(),
		Loss: d.Loss(), Jitter: time.Duration(c.jitter.Load()), RoundTrip: d.RoundTrip(),
	}
}
