package sfu

import (
	"errors"
	"strings"

	"github.com/pion/webrtc/v4"
)

// maxLooks bounds how often Pion looks at a line of one description: twice what two hundred sections of a browser's need, a few tenths of a
// second.
const maxLooks = 500_000

var errLooks = errors.New("sfu: description has too many formats and lines")

// onlyOurs gives a peer's description without the formats that we do not forward. Browsers name some forty for each section, and
// Pion looks through all lines of a section once for each format in it: of an offer with eight sections that was nine tenths of the answer's time.
// A section without any format of ours stays as it is, for Pion to refuse. (RFC 8866, section 5.14; RFC 3264, section 6.1)
// REMB is left out where the peer knows transport-wide feedback: it would give both.
func onlyOurs(description string) (string, error) {
	var kept strings.Builder
	kept.Grow(len(description))
	for looks := 0; len(description) > 0; {
		end := len(description)
		if next := strings.Index(description, "\nm="); next >= 0 {
			end = next + 1
		}
		if looks += keepOurs(&kept, description[:end]); looks > maxLooks {
			return "", errLooks
		}
		description = description[end:]
	}
	return kept.String(), nil
}

// keepOurs writes one section, or what stands before the first, and gives how often a line of it will be looked at.
func keepOurs(to *strings.Builder, section string) (looks int) {
	media, rest, _ := strings.Cut(section, "\n")
	fields := strings.Fields(media)
	if len(fields) < 4 || fields[0] != "m=audio" && fields[0] != "m=video" {
		to.WriteString(section)
		return 0
	}
	ours, tells := formatsIn(rest), strings.Contains(rest, " transport-cc")
	list := fields[:3:3]
	for _, format := range fields[3:] {
		if ours[format] {
			list = append(list, format)
		}
	}
	if len(list) == 3 {
		to.WriteString(section)
		return strings.Count(section, "\n") * len(fields)
	}
	to.WriteString(strings.Join(list, " "))
	to.WriteString("\r\n")
	for line := range strings.Lines(rest) {
		if format := formatOf(line); (format == "" || format == "*" || ours[format]) && !(tells && isREMB(line)) {
			to.WriteString(line)
			looks += len(list) - 3
		}
	}
	return looks
}

// isREMB says whether a line agrees to REMB (draft-alvestrand-rmcat-remb-03, section 2.4).
func isREMB(line string) bool {
	return strings.HasPrefix(line, "a=rtcp-fb:") && strings.HasSuffix(strings.TrimRight(line, "\r\n"), " goog-remb")
}

// WithoutREMB gives an offer of ours as it is told: with transport-wide feedback, and without what is worse.
func WithoutREMB(offer string) string {
	var kept strings.Builder
	kept.Grow(len(offer))
	for line := range strings.Lines(offer) {
		if !isREMB(line) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// formatsIn names the payload types of a section that we forward, and those that repair them.
func formatsIn(section string) map[string]bool {
	codecs, parameters := map[string]string{}, map[string]string{}
	for line := range strings.Lines(section) {
		switch format, rest := formatOf(line), strings.TrimSpace(line[strings.IndexByte(line, ' ')+1:]); {
		case format == "":
		case strings.HasPrefix(line, "a=rtpmap:"):
			codecs[format] = rest
		case strings.HasPrefix(line, "a=fmtp:"):
			parameters[format] = rest
		}
	}
	ours := map[string]bool{}
	for format, codec := range codecs {
		ours[format] = isOurs(codec, parameters[format])
	}
	for format, codec := range codecs {
		if name, _, _ := strings.Cut(codec, "/"); strings.EqualFold(name, "rtx") {
			ours[format] = ours[parameter(parameters[format], "apt", "")]
		}
	}
	return ours
}

// formatOf is the payload type of which a line speaks, or empty.
func formatOf(line string) string {
	for _, kind := range []string{"a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"} {
		if rest, ok := strings.CutPrefix(line, kind); ok {
			format, _, _ := strings.Cut(rest, " ")
			return strings.TrimSpace(format)
		}
	}
	return ""
}

// isOurs says whether we forward a codec in this form.
func isOurs(codec, fmtp string) bool {
	name, _, _ := strings.Cut(codec, "/")
	for _, mime := range []string{webrtc.MimeTypeOpus, MimeTypeRED} {
		if strings.EqualFold("audio/"+name, mime) {
			return true
		}
	}
	for _, c := range videoCodecs {
		if strings.EqualFold("video/"+name, c.mime) && sameForm(webrtc.RTPCodecCapability{MimeType: c.mime, SDPFmtpLine: c.fmtp}, fmtp) {
			return true
		}
	}
	return false
}
