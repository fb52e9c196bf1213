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
type names struct{ mid, rid, repaired atomic.Uint32 }

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
