package calls

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// A description may be so long and have so many sections, and more with each track of others that the client was to get at once: with one
// connection it offers a section for each of them, and a browser says some four and a half kilobytes about one for pictures. And more with
// each track of its own that has ended, whose section stays for good: livekit-client takes a new one for each. (2.23.0)
const (
	maxSDP        = 256 << 10
	maxSections   = 200
	sdpForEach    = 8 << 10
	frameForEach  = 12 << 10 // of signalling: a client that resumes says its newest offer and the answer
	earlySDP      = 1 << 20  // of all descriptions before a transport stands; Pion keeps each until then, as what takes seven times as much
	earlyForEach  = 64 << 10
	earlyBeside   = 4 << 10 // that each counts beside its own
	mostEnded     = 300     // tracks of a client's own that give it reason for more
	mostSent      = 800     // tracks that a client gets at once; more wait until a section is free
	keptForSounds = 8       // one of so many sections is not for pictures
	maxCandidates = 100     // of one client between two descriptions
	maxCandidate  = 2048
)

var (
	errSDPBound  = errors.New("calls: session description out of bounds")
	errSDPHidden = errors.New("calls: session description hides lines within lines")
)

// section is one media section of a client's description.
type section struct {
	mid   string
	place int // among the sections
	kind  webrtc.RTPCodecType
	sends bool
	takes bool
	cid   string   // the track's own name, from a=msid
	rids  []string // smallest first, as the client orders them
	red   uint8    // payload type of RED, 0: none
}

// sections are the media sections of the newest offer, by mid.
type sections map[string]section

// withoutCandidates takes the client's candidates out of its description: see onTrickle. What hides them is for parseSections to refuse.
func withoutCandidates(description string) (string, error) {
	var kept strings.Builder
	kept.Grow(len(description))
	dropped := 0
	for line := range strings.Lines(description) {
		if strings.HasPrefix(line, "a=candidate:") {
			dropped++
			continue
		}
		if !strings.HasPrefix(line, "a=end-of-candidates") && !strings.HasPrefix(line, "a=remote-candidates:") {
			kept.WriteString(line)
		}
	}
	if dropped > maxCandidates*2 { // a description repeats them in each section that has a transport
		return "", fmt.Errorf("%w: %d candidates", errSDPBound, dropped)
	}
	return kept.String(), nil
}

// readDescription takes an offer or answer of the client for a transport apart.
func (p *Participant) readDescription(said string, t *transport) (kept string, all sections, err error) {
	p.widen()
	reason := p.offers.sent + p.offers.ended
	if len(said) > maxSDP+reason*sdpForEach {
		return "", nil, fmt.Errorf("%w: %d bytes", errSDPBound, len(said))
	}
	if !t.stood {
		if t.early += len(said) + earlyBeside; t.early > earlySDP+p.offers.sent*earlyForEach {
			return "", nil, fmt.Errorf("%w: %d bytes before the transport stands", errSDPBound, t.early)
		}
	}
	if kept, err = withoutCandidates(said); err != nil {
		return "", nil, err
	}
	all, err = parseSections(kept, reason)
	return kept, all, err
}

// widen lets the client say as much as its subscriptions, and its own tracks that have ended, give it reason for.
func (p *Participant) widen() {
	p.offers.sent = max(p.offers.sent, min(len(p.subs), p.room.focus.mostSent))
	p.conn.Take(signal.FrameBytes + (p.offers.sent+p.offers.ended)*frameForEach)
}

// ends notes that so many sections of the client's own have had their track.
func (o *offers) ends(sections int) { o.ended = min(o.ended+sections, mostEnded) }

// parseSections reads what negotiation needs of an offer or an answer without candidates, of a client that has reason for so many sections more.
func parseSections(offer string, reason int) (sections, error) {
	var desc sdp.SessionDescription
	if err := desc.UnmarshalString(offer); err != nil {
		return nil, fmt.Errorf("calls: parse description: %w", err)
	}
	if len(desc.MediaDescriptions) > maxSections+reason {
		return nil, fmt.Errorf("%w: %d sections", errSDPBound, len(desc.MediaDescriptions))
	}
	if hides(offer, &desc) {
		return nil, errSDPHidden
	}
	all := sections{}
	for i, m := range desc.MediaDescriptions {
		s := section{place: i, kind: webrtc.NewRTPCodecType(m.MediaName.Media)}
		if s.kind == webrtc.RTPCodecTypeUnknown {
			continue
		}
		s.sends, s.takes = true, true
		for _, a := range m.Attributes {
			s.attribute(a)
		}
		if s.mid != "" {
			all[s.mid] = s
		}
	}
	return all, nil
}

// hides says whether a description that was parsed has a candidate in it, or sections and attributes that are no lines of their own. The parser
// ends a line at a lone carriage return too, and some of them where it has read enough: it finds there what whoever reads line by line, to
// bound a description or to leave something out, has not seen.
func hides(description string, parsed *sdp.SessionDescription) bool {
	media, attributes := 0, 0
	for line := range strings.Lines(description) {
		switch {
		case strings.HasPrefix(line, "m="):
			media++
		case strings.HasPrefix(line, "a="):
			attributes++
		}
	}
	for _, m := range parsed.MediaDescriptions {
		media--
		attributes -= len(m.Attributes)
		if slices.ContainsFunc(m.Attributes, sdp.Attribute.IsICECandidate) {
			return true
		}
	}
	return media != 0 || attributes != len(parsed.Attributes) || slices.ContainsFunc(parsed.Attributes, sdp.Attribute.IsICECandidate)
}

// attribute takes a line. What it keeps is a copy: publications keep it for long, and the whole description with it.
func (s *section) attribute(a sdp.Attribute) {
	switch a.Key {
	case sdp.AttrKeyMID:
		s.mid = strings.Clone(a.Value)
	case sdp.AttrKeyMsid:
		if _, track, ok := strings.Cut(a.Value, " "); ok {
			s.cid = strings.Clone(track)
		}
	case sdp.AttrKeySendOnly:
		s.takes = false
	case sdp.AttrKeyRecvOnly:
		s.sends = false
	case sdp.AttrKeyInactive:
		s.sends, s.takes = false, false
	case "rtpmap":
		if payload, codec, ok := strings.Cut(a.Value, " "); ok && hasFoldedPrefix(codec, "red/48000/2") {
			if n, err := strconv.ParseUint(payload, 10, 7); err == nil {
				s.red = uint8(n)
			}
		}
	case "rid":
		if rid, way, ok := strings.Cut(a.Value, " "); ok && strings.HasPrefix(way, "send") {
			s.rids = append(s.rids, strings.Clone(rid))
		}
	}
}

// rid is the place of a layer in its section.
func (s sections) rid(mid, rid string) int { return max(0, slices.Index(s[mid].rids, rid)) }

// sends says whether section mid still carries the track cid.
func (s sections) sends(mid, cid string) bool {
	m, ok := s[mid]
	return ok && m.sends && (m.cid == cid || m.cid == "" || m.cid == "-")
}
