package sfu

import (
	"iter"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/pion/sdp/v3"

	"chancery/calls/packet"
)

// names are the header extensions by which a client says whose a stream is, in its first packets (RFC 8852). 0: it says nothing.
type names struct {
	mid, rid, repaired atomic.Uint32
	repairs            [2]atomic.Uint64 // which payload types are those of repairs, a bit for each
}

// streamName is what a client says of a stream: of which section it is, and which of its layers it is or repairs.
type streamName struct {
	mid, rid string
	repairs  bool
}

// expect takes what the peer says of itself before its media come.
func (n *names) expect(description string) {
	for uri, id := range extensions(description) {
		switch uri {
		case sdp.SDESMidURI:
			n.mid.Store(id)
		case sdp.SDESRTPStreamIDURI:
			n.rid.Store(id)
		case sdp.SDESRepairRTPStreamIDURI:
			n.repaired.Store(id)
		}
	}
	var repairs [2]uint64
	for line := range strings.Lines(description) {
		rest, ok := strings.CutPrefix(line, "a=rtpmap:")
		format, codec, _ := strings.Cut(rest, " ")
		name, _, _ := strings.Cut(strings.TrimSpace(codec), "/")
		if payload, err := strconv.ParseUint(format, 10, 7); ok && err == nil && strings.EqualFold(name, "rtx") {
			repairs[payload/64] |= 1 << (payload % 64)
		}
	}
	for i := range repairs {
		n.repairs[i].Store(repairs[i])
	}
}

// amend lets a packet of a repair stream say that it is one, before Pion reads it. There are clients, Pion's own among them, that copy a packet's
// extensions into its repair as they are: it then says that it is the layer, whose place it would take. It is false for one that cannot
// say it, and must not be read.
func (n *names) amend(b []byte) bool {
	h, ok := packet.ParseHeader(b)
	rid, repaired := uint8(n.rid.Load()), uint8(n.repaired.Load())
	if !ok || n.repairs[h.PayloadType/64].Load()>>(h.PayloadType%64)&1 == 0 ||
		h.Extension(b, rid) == nil || h.Extension(b, repaired) != nil {
		return true
	}
	return h.RenameExtension(b, rid, repaired)
}

// extensions are a description's header extensions; a bundle has one id of each for all its sections (RFC 9143, section 7.1.3).
func extensions(description string) iter.Seq2[string, uint32] {
	return func(yield func(string, uint32) bool) {
		for line := range strings.Lines(description) {
			rest, ok := strings.CutPrefix(strings.TrimSpace(line), "a=extmap:")
			number, uri, _ := strings.Cut(rest, " ")
			uri, _, _ = strings.Cut(uri, " ")
			number, _, _ = strings.Cut(number, "/")
			id, err := strconv.ParseUint(number, 10, 8)
			if ok && err == nil && !yield(uri, uint32(id)) {
				return
			}
		}
	}
}

// of reads whose stream a packet is of, nil: it does not say.
func (n *names) of(b []byte) *streamName {
	h, ok := packet.ParseHeader(b)
	if !ok {
		return nil
	}
	said := func(id *atomic.Uint32) string { return string(h.Extension(b, uint8(id.Load()))) }
	name := streamName{mid: said(&n.mid), rid: said(&n.rid)}
	if rid := said(&n.repaired); rid != "" {
		name.rid, name.repairs = rid, true
	}
	if name.mid == "" || name.rid == "" {
		return nil
	}
	return &name
}

// repairsOf is the newest stream that repairs a simulcast layer, by what the client says of both; 0: it says nothing, or there is none.
// Pion remembers only the first one of each layer.
func (in *incoming) repairsOf(ssrc uint32) uint32 {
	if in == nil {
		return 0
	}
	in.mu.RLock()
	defer in.mu.RUnlock()
	layer := in.rtp[ssrc]
	if layer == nil || layer.named.Load() == nil {
		return 0
	}
	want := *layer.named.Load()
	want.repairs = true
	var newest *rtpStream
	for _, s := range in.rtp {
		if name := s.named.Load(); name != nil && *name == want && (newest == nil || s.born > newest.born) {
			newest = s
		}
	}
	if newest == nil {
		return 0
	}
	return newest.ssrc
}
