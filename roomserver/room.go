package roomserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/roomserver/state"
	"chancery/storage"
	"chancery/storage/bus"
)

// maxAhead bounds the events that the loop builds ahead of the commit.
const maxAhead = 64

// ref names an event in the current state.
type ref struct {
	number int64
	id     id.EventID
}

// held is an event in the room's memory.
type held struct {
	ev  gomatrixserverlib.PDU
	row *storage.Event
}

// room is one live room. All but inbox and committed belong to its goroutine.
type room struct {
	s         *Server
	id        id.RoomID
	inbox     chan *question
	committed chan commit

	// What follows is memory: dropped by forget, made by wake.

	awake bool
	// exists: we have its state. joined members of ours may be none.
	exists bool
	// closing: the room is being removed, and takes nothing any more.
	closing bool
	version id.RoomVersion
	// head is the room's row as it will stand after all that was handed over.
	head storage.Room
	// current is the state at head.State.
	current map[pdu.Key]ref
	// members is how each user stands to the room by the current state.
	members map[id.UserID]event.Membership
	// joined counts the joined members of each server.
	joined   map[string]int
	resolver *state.Resolver
	// edges are the parents that we do not hold.
	edges map[id.EventID][]storage.Edge
	// judged remembers outliers that passed the rules.
	judged map[id.EventID]bool
	// onTrial are soft-failed sticky events, and until when they are sticky.
	onTrial map[id.EventID]int64
	// waiting are redactions that came before their target, which is the key.
	waiting map[id.EventID][]id.EventID
	events  *memory

	line *storage.Line
	// ahead is how many events are handed over and not yet committed.
	ahead int
	sent  sent
	again again

	turn *turn
	// out is how many turns are with the committer.
	out int
}

// commit tells the loop what became of a turn.
type commit struct {
	turn *turn
	err  error
}

func (s *Server) newRoom(roomID id.RoomID) *room {
	return &room{s: s, id: roomID, inbox: make(chan *question, s.cfg.Inbox), committed: make(chan commit, 4*maxAhead)}
}

// live runs the room until it has been idle, or ctx ends and all is committed.
func (r *room) live(ctx context.Context) {
	log := zerolog.Ctx(ctx).With().Stringer("room_id", r.id).Logger()
	ctx = log.WithContext(ctx)
	patience := r.s.cfg.IdleAfter
	idle := time.NewTimer(patience)
	defer idle.Stop()
	stopping := ctx.Done()
	for {
		if len(r.again.questions) > 0 && r.out == 0 {
			r.askAgain(context.WithoutCancel(ctx))
			continue
		}
		// A room with much in flight takes no more until commits return.
		inbox := r.inbox
		if r.ahead >= maxAhead {
			inbox = nil
		}
		select {
		case q := <-inbox:
			// The work goes on though ctx may end: who was told "accepted" must find it so.
			r.work(context.WithoutCancel(ctx), q)
			idle.Reset(patience)
		case c := <-r.committed:
			r.settleOne(c)
		case <-idle.C:
			if r.out == 0 && len(r.again.questions) == 0 && r.s.retire(r) {
				return
			}
			idle.Reset(patience)
		case <-stopping:
			stopping, patience = nil, time.Millisecond
			idle.Reset(patience)
		}
	}
}

// work takes the question and what waits behind it into one turn, and hands it over.
func (r *room) work(ctx context.Context, q *question) {
	r.turn = &turn{}
	for {
		r.answer(ctx, q)
		if len(r.turn.rows.Events) >= maxAhead {
			break
		}
		select {
		case q = <-r.inbox:
			continue
		default:
		}
		break
	}
	r.handOver()
}

// answer works one question. Its reply waits in the turn for the commit, unless nothing was written.
func (r *room) answer(ctx context.Context, q *question) {
	defer func() {
		if p := recover(); p != nil {
			zerolog.Ctx(ctx).Error().Interface("panic", p).Stack().Msg("Room panicked; it reads itself anew")
			err := errors.New("internal fault in the room")
			r.spoil(err)
			q.Respond(bus.RoomAnswer{}, err)
		}
	}()
	if err := r.wake(ctx); err != nil {
		zerolog.Ctx(ctx).Error().Err(err).Msg("Cannot read the room")
		q.Respond(bus.RoomAnswer{}, fmt.Errorf("read room: %w", err))
		return
	}
	outcomes, err := r.do(ctx, q.Body)
	if err != nil {
		if refusal := (*bus.Refusal)(nil); !errors.As(err, &refusal) {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Question failed; the room reads itself anew")
			r.spoil(err)
		}
		q.Respond(bus.RoomAnswer{}, err)
		return
	}
	if err := r.reconsider(ctx); err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Soft-failed sticky events are not judged again")
	}
	r.turn.replies = append(r.turn.replies, reply{q, outcomes})
}

func (r *room) do(ctx context.Context, q bus.RoomQuestion) ([]bus.Outcome, error) {
	single := func(o bus.Outcome, err error) ([]bus.Outcome, error) { return []bus.Outcome{o}, err }
	switch {
	case q.Purge != nil:
		return single(r.purge(ctx, *q.Purge))
	case r.closing:
		return nil, errClosing
	case q.Propose != nil:
		return single(r.propose(ctx, *q.Propose))
	case q.Draft != nil:
		return single(r.draft(ctx, *q.Draft))
	case q.Receive != nil:
		return r.receive(ctx, *q.Receive)
	case q.Adopt != nil:
		return single(r.adopt(ctx, *q.Adopt))
	case q.Alias != nil:
		return nil, r.changeAlias(ctx, *q.Alias)
	case q.Publish != nil:
		return nil, r.publish(ctx, *q.Publish)
	case q.Forget != nil:
		return nil, r.forgetUser(ctx, *q.Forget)
	}
	return nil, errors.New("empty question")
}

// wake reads the room into memory, if it is not there.
func (r *room) wake(ctx context.Context) error {
	if r.awake {
		return nil
	}
	for r.out > 0 { // what else was in flight is refused with it
		r.settleOne(<-r.committed)
	}
	r.line, r.sent, r.events = &storage.Line{}, sent{}, newMemory()
	r.current, r.members, r.joined = map[pdu.Key]ref{}, map[id.UserID]event.Membership{}, map[string]int{}
	r.waiting, r.onTrial = map[id.EventID][]id.EventID{}, map[id.EventID]int64{}
	r.edges, r.judged = map[id.EventID][]storage.Edge{}, map[id.EventID]bool{}
	var err error
	if r.closing, err = r.s.store.Rooms.Closing(ctx, r.id); err != nil {
		return err
	}
	stored, err := r.s.store.Rooms.ByID(ctx, r.id)
	if err != nil {
		return err
	}
	if r.exists = stored != nil && !r.closing; !r.exists {
		r.head = storage.Room{ID: r.id}
		r.awake = true
		return nil
	}
	r.head, r.version = *stored, stored.Version
	r.resolver = state.NewResolver(r.version, source{r})
	if err := r.readState(ctx); err != nil {
		return err
	}
	if err := r.readSent(ctx); err != nil {
		return err
	}
	if err := r.findOnTrial(ctx); err != nil {
		return err
	}
	if err := r.rebase(ctx); err != nil {
		return err
	}
	r.awake = true
	return nil
}

// spare is how many entries the head's chain may hold beyond twice the live keys.
const spare = 1000

// rebase writes the current state as a new base, if its chain has grown much longer than what it says. The
// turn takes the new chain into use; nothing is news.
func (r *room) rebase(ctx context.Context) error {
	if r.head.State.Sequence <= int64(2*len(r.current)+spare) || r.turn == nil {
		return nil
	}
	whole := make(map[pdu.Key]int64, len(r.current))
	for key, at := range r.current {
		whole[key] = at.number
	}
	chain, err := r.s.store.State.WriteUnattached(ctx, r.id, whole)
	if err != nil {
		return fmt.Errorf("write new base: %w", err)
	}
	r.head.State = storage.Snapshot{Chain: chain, Sequence: int64(len(whole))}
	r.turn.rows.Attach = append(r.turn.rows.Attach, chain)
	return nil
}

func (r *room) readState(ctx context.Context) error {
	refs, err := r.s.store.State.Refs(ctx, r.head.State)
	if err != nil {
		return err
	}
	r.current = make(map[pdu.Key]ref, len(refs))
	for key, e := range refs {
		r.current[key] = ref{e.Number, e.ID}
	}
	edges, err := r.s.store.Rooms.Edges(ctx, r.id, 10_000)
	if err != nil {
		return err
	}
	for _, e := range edges {
		r.edges[e.Missing] = append(r.edges[e.Missing], e)
	}
	members, err := r.s.store.Memberships.ByRoom(ctx, r.id)
	if err != nil {
		return err
	}
	r.members, r.joined = make(map[id.UserID]event.Membership, len(members)), map[string]int{}
	for _, m := range members {
		r.members[m.UserID] = m.Membership
		if m.Membership == event.MembershipJoin {
			r.joined[m.UserID.Homeserver()]++
		}
	}
	return nil
}

// spoil throws away the turn under construction, in which somebody may have stopped half-way, and the memory that
// was built with it. A refusal leaves nothing half done and needs none of this.
func (r *room) spoil(err error) {
	r.turn.reply(err)
	r.turn = &turn{}
	r.forget()
}

// forget drops the room's memory. Nothing may be in flight when it is read anew: wake sees to that.
func (r *room) forget() { r.awake = false }

// settleOne takes note of a commit.
func (r *room) settleOne(c commit) {
	r.ahead -= len(c.turn.rows.Events)
	r.out--
	if errors.Is(c.err, storage.ErrRepeated) {
		for _, reply := range c.turn.replies {
			r.again.questions = append(r.again.questions, reply.to)
		}
	}
	if c.err != nil {
		r.awake = false // wake reads it anew, on a new line
		return
	}
	for _, e := range c.turn.rows.Events {
		r.events.landed(e.ID)
	}
	for _, e := range c.turn.rows.Risen {
		r.events.landed(e.ID)
	}
}

// settle waits until all that was handed over is on disk (or refused): then storage tells the whole truth.
// The turn under construction is handed over too. It reports whether the room's memory still holds.
func (r *room) settle() bool {
	r.handOver()
	for r.out > 0 {
		r.settleOne(<-r.committed)
	}
	return r.awake
}

// quiet settles, and reads the room anew if what was in flight came to nothing.
func (r *room) quiet(ctx context.Context) error {
	r.settle()
	return r.wake(ctx)
}

// written settles, and reports whether this turn's own rows are on disk.
func (r *room) written() error {
	if !r.settle() {
		return errors.New("not written")
	}
	return nil
}

// memory holds the events that the room met lately, and always those in flight. Of messages, which only their successors ask for, it
// holds few; of state events, by which others are authorised, many.
type memory struct {
	flight           map[id.EventID]*held
	states, messages generations
}

// generations are two halves, the older of which is dropped when the newer is full.
type generations struct{ new, old map[id.EventID]*held }

const (
	memorySize   = 1024 // state events in a half
	messagesSize = 128
)

func newMemory() *memory { return &memory{flight: map[id.EventID]*held{}} }

func (m *memory) get(event id.EventID) *held {
	if h := m.flight[event]; h != nil {
		return h
	}
	for _, g := range []*generations{&m.states, &m.messages} {
		if h := g.new[event]; h != nil {
			return h
		}
		if h := g.old[event]; h != nil {
			m.keep(event, h)
			return h
		}
	}
	return nil
}

func (m *memory) keep(event id.EventID, h *held) {
	if h.row.StateKey != nil {
		m.states.keep(event, h, memorySize)
	} else {
		m.messages.keep(event, h, messagesSize)
	}
}

func (g *generations) keep(event id.EventID, h *held, size int) {
	if g.new == nil || len(g.new) >= size {
		g.new, g.old = map[id.EventID]*held{}, g.new
	}
	g.new[event] = h
}

func (m *memory) fly(h *held) { m.flight[h.row.ID] = h }

func (m *memory) landed(event id.EventID) {
	if h := m.flight[event]; h != nil {
		delete(m.flight, event)
		m.keep(event, h)
	}
}

// get gives events of the room by ID, from memory or storage; absent ones are left out.
func (r *room) get(ctx context.Context, ids []id.EventID) (map[id.EventID]*held, error) {
	found := make(map[id.EventID]*held, len(ids))
	var wanted []id.EventID
	for _, event := range ids {
		if h := r.events.get(event); h != nil {
			found[event] = h
		} else {
			wanted = append(wanted, event)
		}
	}
	if len(wanted) == 0 {
		return found, nil
	}
	rows, err := r.s.store.Events.ByIDs(ctx, wanted)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if row.RoomID != r.id {
			continue
		}
		h, err := r.hold(row)
		if err != nil {
			return nil, err
		}
		found[row.ID] = h
	}
	return found, nil
}

// hold parses a stored event and keeps it in memory.
func (r *room) hold(row *storage.Event) (*held, error) {
	ev, err := pdu.Trusted(r.version, row.ID, row.JSON)
	if err != nil {
		return nil, fmt.Errorf("stored event %s: %w", row.ID, err)
	}
	h := &held{ev, row}
	r.events.keep(row.ID, h)
	return h, nil
}

// now is the current state as the authorisation rules read it.
type now struct {
	ctx context.Context
	r   *room
	err error
}

// Event gives the event under the key in the current state.
func (n *now) Event(key pdu.Key) gomatrixserverlib.PDU {
	at, ok := n.r.current[key]
	if !ok {
		return nil
	}
	found, err := n.r.get(n.ctx, []id.EventID{at.id})
	if err != nil || found[at.id] == nil {
		n.err = errors.Join(err, fmt.Errorf("state event %s is missing", at.id))
		return nil
	}
	return found[at.id].ev
}

// servers lists the servers with joined members, sorted.
func (r *room) servers() []string { return slices.Sorted(maps.Keys(r.joined)) }
