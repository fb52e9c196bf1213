package calls

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
)

const (
	maxSDP        = 256 << 10
	maxSections   = 200
	maxCandidates = 100 // of one client between two offers
)

var errSDPBound = errors.New("calls: session description out of bounds")

// section is one media section of a client's offer.
type section struct {
	mid   string
	kind  webrtc.RTPCodecType
	sends bool
	takes bool
	cid   string   // the track's own name, from a=msid
	rids  []string // smallest first, as the client orders them
}

// sections are the media sections of the newest offer, by mid.
type sections map[string]section

// parseSections reads what negotiation needs of an offer.
func parseSections(offer string) (sections, error) {
	if len(offer) > maxSDP {
		return nil, fmt.Errorf("%w: %d bytes", errSDPBound, len(offer))
	}
	var desc sdp.SessionDescription
	if err := desc.UnmarshalString(offer); err != nil {
		return nil, fmt.Errorf("calls: parse offer: %w", err)
	}
	if len(desc.MediaDescriptions) > maxSections {
		return nil, fmt.Errorf("%w: %d sections", errSDPBound, len(desc.MediaDescriptions))
	}
	all := sections{}
	for _, m := range desc.MediaDescriptions {
		s := section{kind: webrtc.NewRTPCodecType(m.MediaName.Media)}
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

func (s *section) attribute(a sdp.Attribute) {
	switch a.Key {
	case sdp.AttrKeyMID:
		s.mid = a.Value
	case sdp.AttrKeyMsid:
		if _, track, ok := strings.Cut(a.Value, " "); ok {
			s.cid = track
		}
	case sdp.AttrKeySendOnly:
		s.takes = false
	case sdp.AttrKeyRecvOnly:
		s.sends = false
	case sdp.AttrKeyInactive:
		s.sends, s.takes = false, false
	case "rid":
		if rid, way, ok := strings.Cut(a.Value, " "); ok && strings.HasPrefix(way, "send") {
			s.rids = append(s.rids, rid)
		}
	}
}

func (s sections) cid(mid string) string { return s[mid].cid }

// rid is the place of a layer in its section.
func (s sections) rid(mid, rid string) int { return max(0, slices.Index(s[mid].rids, rid)) }

// sends says whether section mid still carries the track cid.
func (s sections) sends(mid, cid string) bool {
	m, ok := s[mid]
	return ok && m.sends && (m.cid == cid || m.cid == "" || m.cid == "-")
}
