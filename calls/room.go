package calls

import (
	"iter"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"chancery/calls/sfu"
	"chancery/calls/signal"
)

// Room is one call. Its goroutine owns who is in it; what the participants know of one another passes through it, so
// that everybody hears everything in the same order.
type Room struct {
	focus   *Focus
	name    string
	sid     string
	created time.Time
	budget  *sfu.Budget // of what all publish together
	keeps   atomic.Pointer[roomKeeps]

	inbox   chan func()
	done    chan struct{}
	once    sync.Once
	because ending // written before done is closed

	everyone atomic.Pointer[[]*Participant] // who is in it, for whoever does not ask the goroutine: data packets, orders, counts
	words    words                          // reliable data, which does not pass through it either
	left     leavers

	// owned by run
	members  map[string]*peer      // by identity
	replaced map[*Participant]bool // no members any more, who have not come to say that they leave
	emptyAt  time.Time
	speakers map[string]*speaker // by participant sid
	counted  headcount           // as last told
	ticks    int
}

// peer is what the others know of a participant at one moment. It is never changed once it has been handed over.
type peer struct {
	from  *Participant
	info  *signal.Participant
	ups   map[string][]source // what can be subscribed to, by track sid
	allow *allowance

	once    sync.Once
	encoded []byte
}

// frame is the message that tells of the peer, the same for all.
func (o *peer) frame() []byte {
	o.once.Do(func() {
		res := &signal.Response{Message: &signal.Response_Update{Update: &signal.ParticipantUpdate{Participants: []*signal.Participant{o.info}}}}
		o.encoded, _ = signal.Encode(res) // of strings that came in as UTF-8
	})
	return o.encoded
}

const (
	roomInbox = 512
	roomTick  = 400 * time.Millisecond
	// quietTicks between two updates of counts and link quality: five seconds.
	quietTicks = 12
	// firstJoin is how long a room waits for its first participant.
	firstJoin = 30 * time.Second
)

func newRoom(f *Focus, name string) *Room {
	r := &Room{
		focus: f, name: name, sid: newID("RM_"), created: time.Now(), budget: sfu.NewBudget(f.config.MaxCallBitrate),
		inbox: make(chan func(), roomInbox), done: make(chan struct{}),
		members: map[string]*peer{}, replaced: map[*Participant]bool{}, speakers: map[string]*speaker{},
		emptyAt: time.Now().Add(firstJoin),
	}
	r.everyone.Store(&[]*Participant{})
	return r
}

// run is the room's goroutine. It returns when the room is over and all its participants have ended.
func (r *Room) run() {
	tick := time.NewTicker(roomTick)
	defer tick.Stop()
	for {
		select {
		case fn := <-r.inbox:
			r.guarded(fn)
		case now := <-tick.C:
			r.guarded(func() { r.tick(now) })
		case <-r.done:
			r.drain()
			return
		}
	}
}

// guarded runs fn; a fault in it ends this call and no other.
func (r *Room) guarded(fn func()) {
	defer func() {
		if fault := recover(); fault != nil {
			faults.Inc()
			zerolog.Ctx(r.focus.ctx).Error().Interface("panic", fault).Bytes("stack", debug.Stack()).Str("call", r.sid).Msg("Call failed")
			r.end(signal.DisconnectReason_ROOM_CLOSED, signal.Leave_RECONNECT)
		}
	}()
	fn()
}

// drain lets the last participants leave. Who came in while the end looked at those who are there is ended here; who is still
// waiting to come in hears that the room is over. Each leaves when webhooks have been told, so that they are told of the call's end last.
func (r *Room) drain() {
	for _, m := range r.members {
		m.from.stop(r.because)
	}
	for len(r.members) > 0 || len(r.replaced) > 0 || len(r.inbox) > 0 {
		r.guarded(<-r.inbox)
	}
}

func (r *Room) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// do hands fn to the room's goroutine. It is false if the room is over and has nobody left.
func (r *Room) do(fn func()) bool {
	select {
	case r.inbox <- fn:
		return true
	case <-r.done:
	}
	// An ending room still hears its last participants.
	select {
	case r.inbox <- fn:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// ask is do, and waits until it is done.
func (r *Room) ask(fn func()) bool {
	ran := make(chan struct{})
	if r.over() || !r.do(func() { defer close(ran); fn() }) {
		return false
	}
	select {
	case <-ran:
		return true
	case <-r.done:
		select {
		case <-ran:
			return true
		case <-time.After(time.Second):
			return false
		}
	}
}

// end closes the room and sends everybody away.
func (r *Room) end(reason signal.DisconnectReason, action signal.Leave_Action) {
	r.once.Do(func() {
		r.because = ending{reason: reason, action: action}
		for _, p := range *r.everyone.Load() {
			p.stop(r.because)
		}
		close(r.done)
	})
}

// join lets p in, in place of whoever has the same identity, and gives the others as they are now. A room that is over lets
// nobody in: errNoRoom.
func (r *Room) join(p *Participant, self *peer) ([]*peer, error) {
	var others []*peer
	var err error
	ok := r.ask(func() {
		if r.over() {
			err = errNoRoom
			return
		}
		old := r.members[p.identity]
		if old != nil && old.from.ended() { // it has not come to say so itself
			r.replace(old.from, old.from.because.reason)
			old = nil
		}
		if old != nil {
			if old.from.user != p.user { // two users and devices may spell one identity
				err = errTaken
				return
			}
			old.from.end(signal.DisconnectReason_DUPLICATE_IDENTITY, signal.Leave_DISCONNECT)
			r.replace(old.from, signal.DisconnectReason_DUPLICATE_IDENTITY) // and p has its place
		} else if err = r.seat(p.claims, &p.ruling); err != nil {
			return
		}
		for _, m := range r.members {
			others = append(others, m)
			m.from.learn(self)
		}
		r.members[p.identity] = self
		r.setEveryone()
	})
	if !ok {
		return nil, errNoRoom
	}
	return others, err
}

// update takes what has changed about a participant and tells the others.
func (r *Room) update(now *peer) {
	r.do(func() {
		p := now.from
		if m := r.members[p.identity]; m == nil || m.from != p {
			return
		}
		r.members[p.identity] = now
		r.tell(p, now)
	})
}

// leave takes p out. It is called by p's own goroutine at its end.
func (r *Room) leave(p *Participant, reason signal.DisconnectReason) {
	r.do(func() {
		delete(r.replaced, p)
		r.remove(p, reason)
	})
}

// replace takes p out before it has come to say that it leaves.
func (r *Room) replace(p *Participant, reason signal.DisconnectReason) {
	r.replaced[p] = true
	r.remove(p, reason)
}

func (r *Room) remove(p *Participant, reason signal.DisconnectReason) {
	m := r.members[p.identity]
	if m == nil || m.from != p {
		return
	}
	delete(r.members, p.identity)
	r.left.note(p.identity, reason.String(), time.Now())
	r.setEveryone()
	gone := signal.Clone(m.info)
	gone.State = signal.Participant_DISCONNECTED
	gone.DisconnectReason = reason
	gone.Version++
	gone.Tracks = nil
	r.tell(p, &peer{from: p, info: gone})
	delete(r.speakers, p.sid)
	if len(r.members) == 0 {
		wait := r.focus.config.EmptyTimeout
		if kept := r.kept().departure; kept > 0 {
			wait = min(kept, longestEmpty)
		}
		r.emptyAt = time.Now().Add(wait)
	}
}

// tell hands a peer to everybody else.
func (r *Room) tell(p *Participant, now *peer) {
	for _, m := range r.members {
		if to := m.from; to != p {
			to.learn(now)
		}
	}
}

func (r *Room) setEveryone() {
	all := make([]*Participant, 0, len(r.members))
	for _, m := range r.members {
		all = append(all, m.from)
	}
	r.everyone.Store(&all)
}

// peers gives everybody as they are now.
func (r *Room) peers() (all []*peer) {
	r.ask(func() {
		for _, m := range r.members {
			all = append(all, m)
		}
	})
	slices.SortFunc(all, func(a, b *peer) int { return int(a.info.JoinedAtMs - b.info.JoinedAtMs) })
	return all
}

// find gives the participant with this identity, or nil.
func (r *Room) find(identity string) *Participant {
	for _, p := range *r.everyone.Load() {
		if p.identity == identity {
			return p
		}
	}
	return nil
}

// describe is the room as clients see it.
func (r *Room) describe(n headcount) *signal.Room {
	room := &signal.Room{
		Sid: r.sid, Name: r.name,
		EmptyTimeout:     uint32(r.focus.config.EmptyTimeout.Seconds()),
		DepartureTimeout: uint32(r.focus.config.EmptyTimeout.Seconds()),
		MaxParticipants:  uint32(r.focus.config.MaxParticipants),
		CreationTime:     r.created.Unix(), CreationTimeMs: r.created.UnixMilli(),
		NumParticipants: uint32(n.members), NumPublishers: uint32(n.publishers),
	}
	kept := r.kept()
	if room.Metadata = kept.metadata; kept.most > 0 {
		room.MaxParticipants = uint32(kept.most)
	}
	if kept.empty > 0 {
		room.EmptyTimeout = uint32(kept.empty.Seconds())
	}
	if kept.departure > 0 {
		room.DepartureTimeout = uint32(kept.departure.Seconds())
	}
	for _, mime := range sfu.MimeTypes() {
		room.EnabledCodecs = append(room.EnabledCodecs, &signal.Codec{Mime: mime})
	}
	return room
}

func (r *Room) tick(now time.Time) {
	if len(r.members) == 0 {
		if now.After(r.emptyAt) {
			r.end(signal.DisconnectReason_ROOM_CLOSED, signal.Leave_DISCONNECT)
		}
		return
	}
	r.tellSpeakers()
	if r.ticks++; r.ticks%quietTicks != 0 {
		return
	}
	r.tellQuality()
	if counted := countPeers(maps.Values(r.members)); counted != r.counted {
		r.counted = counted
		r.say(&signal.Response{Message: &signal.Response_RoomUpdate{RoomUpdate: &signal.RoomUpdate{Room: r.describe(counted)}}})
	}
}

// headcount is how many are in a call, as clients are told: hidden ones are not counted.
type headcount struct{ members, publishers int }

func countPeers(all iter.Seq[*peer]) (n headcount) {
	for o := range all {
		n.add(o.info)
	}
	return n
}

func (n *headcount) add(info *signal.Participant) {
	if info.Permission.GetHidden() {
		return
	}
	n.members++
	if info.IsPublisher {
		n.publishers++
	}
}

// say sends a message to everybody.
func (r *Room) say(res *signal.Response) {
	frame, err := signal.Encode(res)
	if err != nil {
		return // nobody could read it
	}
	for _, m := range r.members {
		to := m.from
		to.post(func() { to.sendFrame(frame) })
	}
}
