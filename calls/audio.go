package calls

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pion/webrtc/v4"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// audioForm is how Opus is to travel on one media section.
type audioForm struct {
	ours   bool // we send on it; otherwise the client does, or nobody
	red    bool // with copies of earlier packets (RFC 2198)
	dtx    bool // nothing is sent while nobody speaks
	stereo bool
}

// form is how a published sound shall come. What is encrypted is never taken apart, and so comes without copies.
func (t *publication) form() audioForm {
	return audioForm{
		red:    redAllowed(t.info),
		dtx:    !t.info.DisableDtx && !slices.Contains(t.info.AudioFeatures, signal.AudioTrackFeature_TF_NO_DTX),
		stereo: isStereo(t.info),
	}
}

// redAllowed says whether a sound may come with copies. Which of them somebody takes its publisher is not told
// (subscribed_audio_codec_update): livekit-client has no ear for it, and a subscriber without RED gets the same sound.
// (livekit-client 2.23.0)
func redAllowed(t *signal.Track) bool { return t.Encryption == signal.Encryption_NONE && !t.DisableRed }

func isStereo(t *signal.Track) bool {
	return t.Stereo || slices.Contains(t.AudioFeatures, signal.AudioTrackFeature_TF_STEREO)
}

// audioForms says for each section of a connection how Opus is to travel there.
func (p *Participant) audioForms(t *transport) map[string]audioForm {
	forms := map[string]audioForm{}
	if t == p.pub {
		for _, track := range p.published {
			if e := track.encodings[0]; e.mid != "" && track.info.Type == signal.TrackType_AUDIO {
				forms[e.mid] = track.form()
			}
		}
	}
	for _, tr := range t.pc.GetTransceivers() {
		if s := p.sentBy(tr.Sender()); s != nil && !s.up.Video() {
			forms[tr.Mid()] = audioForm{ours: true, red: s.red, stereo: s.stereo}
		}
	}
	return forms
}

// takeForms notes where the client takes RED of us, from its newest description.
func (p *Participant) takeForms(t *transport, theirs sections) {
	for _, tr := range t.pc.GetTransceivers() {
		if s := p.sentBy(tr.Sender()); s != nil && s.red {
			s.down.TakeRED(theirs[tr.Mid()].red)
		}
	}
}

// sentBy is the subscription that a sender carries, or nil.
func (p *Participant) sentBy(sender *webrtc.RTPSender) *subscription {
	if sender == nil {
		return nil
	}
	for _, s := range p.subs {
		if s.sender == sender {
			return s
		}
	}
	return nil
}

const lineEnd = "\r\n"

// withAudioForms writes into a description of ours how Opus is to travel on each of its sections. Pion agrees upon codecs
// once for a whole connection, and repeats what the other side said of their parameters; so this is said here.
func withAudioForms(description string, forms map[string]audioForm) string {
	var out strings.Builder
	out.Grow(len(description) + 512)
	var section []string
	flush := func() {
		for _, line := range formed(section, forms) {
			out.WriteString(line)
			out.WriteString(lineEnd)
		}
		section = section[:0]
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(description, lineEnd), lineEnd) {
		if strings.HasPrefix(line, "m=") {
			flush()
		}
		section = append(section, line)
	}
	flush()
	return out.String()
}

// formed writes one section.
func formed(section []string, forms map[string]audioForm) []string {
	if len(section) == 0 || !strings.HasPrefix(section[0], "m=audio ") {
		return section
	}
	var n audioNames
	for _, line := range section {
		n.read(line)
	}
	if n.opus == "" {
		return section
	}
	f := forms[n.mid]
	lines := n.opusLines(section, f)
	switch {
	case n.red == "" && f.red && f.ours && n.offer:
		lines = addRED(lines, n.opus)
	case n.red != "" && !f.red:
		lines[0] = withoutFormat(lines[0], n.red)
	case n.red != "" && !f.ours: // the client sends the first that is named
		lines[0] = firstFormat(lines[0], n.red)
	}
	return lines
}

// audioNames are what a section calls things.
type audioNames struct {
	mid        string
	opus, red  string // payload types
	parameters string // of Opus, as they were said
	offer      bool   // an offer leaves it open who begins DTLS
}

func (n *audioNames) read(line string) {
	key, value, _ := strings.Cut(line, ":")
	switch key {
	case "a=mid":
		n.mid = value
	case "a=setup":
		n.offer = value == "actpass"
	case "a=rtpmap":
		if payload, codec, ok := strings.Cut(value, " "); ok && hasFoldedPrefix(codec, "opus/") {
			n.opus = payload
		} else if ok && hasFoldedPrefix(codec, "red/") {
			n.red = payload
		}
	case "a=fmtp": // comes after its rtpmap
		if payload, parameters, ok := strings.Cut(value, " "); ok && payload == n.opus {
			n.parameters = parameters
		}
	}
}

func hasFoldedPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// opusLines are a section's lines with Opus's parameters as they shall be, and without RED where it shall not be.
//
// Lost packets of Opus are asked for again, by both sides. livekit-client does not offer it with one connection, but Chromium
// does so when the answer has it: five percent of loss are not heard then. (livekit-client 2.23.0, Chromium 156)
func (n *audioNames) opusLines(section []string, f audioForm) []string {
	nack := "a=rtcp-fb:" + n.opus + " nack"
	lines := make([]string, 0, len(section)+4)
	for _, line := range section {
		key, rest, _ := strings.Cut(line, ":")
		payload, _, _ := strings.Cut(rest, " ")
		about := key == "a=rtpmap" || key == "a=fmtp" || key == "a=rtcp-fb"
		switch {
		case about && !f.red && n.red != "" && payload == n.red, line == nack, key == "a=fmtp" && payload == n.opus:
			continue
		}
		lines = append(lines, line)
		if key != "a=rtpmap" || payload != n.opus {
			continue
		}
		lines = append(lines, nack, "a=fmtp:"+n.opus+" "+f.parameters(n.parameters))
	}
	return lines
}

// parameters are Opus's, of what was said and what shall be (RFC 7587, section 6.1): usedtx and stereo are what a receiver
// would like, sprop-stereo what a sender will do.
func (f audioForm) parameters(said string) string {
	var kept []string
	for part := range strings.SplitSeq(said, ";") {
		name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
		if name != "" && !slices.Contains([]string{"usedtx", "stereo", "sprop-stereo"}, strings.ToLower(name)) {
			kept = append(kept, strings.TrimSpace(part))
		}
	}
	if len(kept) == 0 {
		kept = []string{"minptime=10", "useinbandfec=1"}
	}
	switch {
	case f.ours && f.stereo:
		kept = append(kept, "sprop-stereo=1")
	case f.stereo:
		kept = append(kept, "stereo=1")
	}
	if f.dtx && !f.ours {
		kept = append(kept, "usedtx=1")
	}
	return strings.Join(kept, ";")
}

// addRED offers RED in a section that has none, behind Opus.
func addRED(section []string, opus string) []string {
	red := fmt.Sprint(sfu.REDPayload)
	section[0] += " " + red
	return append(section, "a=rtpmap:"+red+" red/48000/2", "a=fmtp:"+red+" "+opus+"/"+opus)
}

// formatsBegin is where the payload types begin among the words of an m= line.
const formatsBegin = 3

func withoutFormat(line, payload string) string {
	words := strings.Fields(line)
	kept := slices.DeleteFunc(slices.Clone(words[min(formatsBegin, len(words)):]), func(w string) bool { return w == payload })
	return strings.Join(append(words[:min(formatsBegin, len(words))], kept...), " ")
}

func firstFormat(line, payload string) string {
	words := strings.Fields(withoutFormat(line, payload))
	return strings.Join(slices.Insert(words, min(formatsBegin, len(words)), payload), " ")
}
