package calls

import (
	"context"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"chancery/calls/sfu"
	"chancery/calls/signal"
	"chancery/roomserver/policy"
	"chancery/storage/bus"
)

// measureEvery is how many ticks of a participant lie between two looks at how its line is.
const measureEvery = 2

// measure takes stock of p: what it sends, what it gets, and how well. It runs in p's goroutine; whoever shows it reads
// what was last measured, and asks nobody.
func (p *Participant) measure() {
	m := &bus.LiveParticipant{
		SID: p.sid, Identity: p.identity, UserID: p.user, DeviceID: p.device, Joined: p.info.JoinedAtMs, Rule: p.ruled(),
		Publishes: p.info.Permission.GetCanPublish(), Connected: p.info.State == signal.Participant_ACTIVE,
		Subscribed: len(p.subs), Tracks: []bus.LiveTrack{},
	}
	for _, t := range p.published {
		track := t.measured()
		m.Up += track.Bitrate
		m.Tracks = append(m.Tracks, track)
	}
	slices.SortFunc(m.Tracks, func(a, b bus.LiveTrack) int { return strings.Compare(a.Kind+a.SID, b.Kind+b.SID) })
	var got totals
	for _, s := range p.subs {
		n := s.down.Numbers()
		m.Loss = max(m.Loss, n.Loss)
		m.Jitter = max(m.Jitter, millis(n.Jitter))
		m.RoundTrip = max(m.RoundTrip, millis(n.RoundTrip))
		got.add(&n)
	}
	if len(p.budgets) > 0 {
		m.Dropped = p.budgets[0].Refused()
	}
	now := time.Now()
	m.KeyAsks, m.Repaired = got.keyAsks, got.repaired
	m.Down = p.got.rate(&got, now)
	p.observe(m, &got)
	p.got, p.got.at = got, now
	p.measured.Store(m)
}

// totals are the counters of all that one subscriber gets.
type totals struct {
	at                                       time.Time
	packets, bytes, repaired, nacks, keyAsks uint64
}

func (t *totals) add(n *sfu.DownNumbers) {
	t.packets += n.Packets
	t.bytes += n.Bytes
	t.repaired += n.Repaired
	t.nacks += n.Nacks
	t.keyAsks += n.KeyAsks
}

// rate is the bits a second between the older totals and these. Subscriptions that ended meanwhile may hide some.
func (t *totals) rate(now *totals, at time.Time) int {
	if t.at.IsZero() || now.bytes < t.bytes {
		return 0
	}
	return int(float64(now.bytes-t.bytes) * 8 / max(at.Sub(t.at).Seconds(), 0.1))
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// measured is how the publication is doing.
func (t *publication) measured() bus.LiveTrack {
	track := bus.LiveTrack{
		SID: t.info.Sid, Kind: kindOf(t.info), Codec: t.info.MimeType, Muted: t.info.Muted, Encrypted: t.info.Encryption != signal.Encryption_NONE,
		Silenced: t.silenced(),
	}
	for _, e := range t.encodings {
		if e.up != nil {
			e.measured(&track)
		}
	}
	if len(track.Layers) == 1 && track.Layers[0].Height == 0 { // announced without layers
		track.Layers[0].Width, track.Layers[0].Height = t.info.Width, t.info.Height
	}
	return track
}

// measured adds how the encoding is doing.
func (e *encoding) measured(track *bus.LiveTrack) {
	numbers := e.up.Numbers()
	for _, l := range numbers.Layers {
		if l.SSRC == 0 {
			continue
		}
		track.Bitrate += l.Bitrate
		track.Lost += l.Lost
		track.KeyAsks += l.KeyAsks
		track.Jitter = millis(l.Jitter)
		if numbers.Video {
			track.Layers = append(track.Layers, bus.LiveLayer{
				Bitrate: l.Bitrate, Alive: l.Alive && l.Bitrate > 0, Width: l.Size.Width, Height: l.Size.Height,
			})
		}
	}
}

// class names a call by how many are in it.
func class(participants int) string {
	switch {
	case participants <= 2:
		return "pair"
	case participants <= 8:
		return "small"
	case participants <= 30:
		return "large"
	}
	return "crowd"
}

// observe counts what was measured.
func (p *Participant) observe(m *bus.LiveParticipant, got *totals) {
	kind := class(len(*p.room.everyone.Load()))
	if m.Subscribed > 0 && m.Connected {
		qualityLoss.WithLabelValues(kind).Observe(float64(m.Loss))
		qualityJitter.WithLabelValues(kind).Observe(m.Jitter / 1000)
		if m.RoundTrip > 0 {
			qualityRoundTrip.WithLabelValues(kind).Observe(m.RoundTrip / 1000)
		}
	}
	add := func(what string, before, after uint64) {
		if after > before {
			qualityEvents.WithLabelValues(kind, what).Add(float64(after - before))
		}
	}
	add("packets_down", p.got.packets, got.packets)
	add("bytes_down", p.got.bytes, got.bytes)
	add("repaired", p.got.repaired, got.repaired)
	add("nacks", p.got.nacks, got.nacks)
	add("key_frame_requests", p.got.keyAsks, got.keyAsks)
	for _, t := range m.Tracks {
		name := "audio"
		if len(t.Layers) > 0 {
			name = "video"
		}
		if t.Bitrate > 0 {
			qualityBitrate.WithLabelValues(kind, name).Observe(float64(t.Bitrate))
		}
		for _, l := range t.Layers {
			if l.Alive {
				qualityLayers.WithLabelValues(kind).Observe(float64(l.Height))
			}
		}
	}
}

// What one answer lists at most: of all participants together, and of calls.
const (
	mostListed = 600
	mostCalls  = 2000
)

// list describes the live calls of a Matrix room, or all. Each is there with its sums; where there is no room for all participants, the greatest
// calls lose some of theirs.
func (f *Focus) list(room id.RoomID, mostPeople, mostCalls int) bus.FociAnswer {
	answer := bus.FociAnswer{Focus: f.name(), Calls: []bus.LiveCall{}}
	for _, r := range f.liveRooms() {
		if call := r.live(); room == "" || call.RoomID == room {
			call.Focus = answer.Focus
			answer.Calls = append(answer.Calls, call)
		}
	}
	slices.SortFunc(answer.Calls, func(a, b bus.LiveCall) int { return a.Count - b.Count })
	if beyond := len(answer.Calls) - mostCalls; beyond > 0 {
		answer.Calls, answer.More = answer.Calls[beyond:], true
	}
	for n := range answer.Calls {
		call := &answer.Calls[n]
		if len(call.Participants) > mostPeople {
			call.Participants, answer.More = call.Participants[:mostPeople], true
		}
		mostPeople -= len(call.Participants)
	}
	slices.SortFunc(answer.Calls, func(a, b bus.LiveCall) int { return strings.Compare(a.SID, b.SID) })
	return answer
}

// live describes the call as it was last measured.
func (r *Room) live() bus.LiveCall {
	everyone := *r.everyone.Load()
	call := bus.LiveCall{
		SID: r.sid, Name: r.name, Since: r.created.UnixMilli(), Class: class(len(everyone)), Count: len(everyone), Dropped: r.budget.Refused(),
		Participants: []bus.LiveParticipant{},
	}
	for _, p := range everyone {
		if call.RoomID == "" {
			call.RoomID = p.matrixRoom
		}
		if m := p.measured.Load(); m != nil {
			call.Up, call.Down, call.Loss = call.Up+m.Up, call.Down+m.Down, max(call.Loss, m.Loss)
			call.Participants = append(call.Participants, *m)
		}
	}
	slices.SortFunc(call.Participants, func(a, b bus.LiveParticipant) int { return int(a.Joined - b.Joined) })
	return call
}

// name is this process among the server's foci.
func (f *Focus) name() string {
	switch {
	case f.homes != nil:
		return f.homes.name()
	case f.records != nil:
		return f.records.own
	}
	return "alone"
}

// answerAll answers calls.all, as every focus does.
func (f *Focus) answerAll(ctx context.Context, q bus.FociQuestion) bus.FociAnswer {
	switch {
	case q.List != nil:
		return f.list(q.List.RoomID, mostListed, mostCalls)
	case q.Command != nil:
		answer := bus.FociAnswer{Focus: f.name()}
		if command, ok := policy.ParseCallCommand(q.Command.Command); ok {
			answer.Done = f.command(ctx, q.Command.RoomID, command)
		}
		return answer
	}
	return bus.FociAnswer{Focus: f.name()}
}

// Calls gives the live calls of this process, as they were last measured; more: not all of them, or not all who are in them.
func (f *Focus) Calls() (live []bus.LiveCall, more bool) {
	answer := f.list("", mostListed, mostCalls)
	return answer.Calls, answer.More
}
