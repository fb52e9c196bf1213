package roomserver

import (
	"context"

	"maunium.net/go/mautrix/id"
)

// transaction makes a proposal idempotent.
type transaction struct {
	sender    id.UserID
	device    id.DeviceID
	path, txn string
}

// sent remembers the newest transactions of a room, always those in flight, so that a message costs no look-up. Who repeats an older
// one is found out by the database.
type sent struct{ new, old map[transaction]id.EventID }

const (
	// sentSize is how many transactions are remembered at least.
	sentSize = 1024
	// sentRead is among how many of the newest events they are looked for when a room wakes.
	sentRead = 500
)

func (s *sent) get(txn transaction) id.EventID {
	if event := s.new[txn]; event != "" {
		return event
	}
	return s.old[txn]
}

func (s *sent) put(txn transaction, event id.EventID) {
	if s.new == nil || len(s.new) >= sentSize {
		s.new, s.old = map[transaction]id.EventID{}, s.new
	}
	s.new[txn] = event
}

// readSent remembers the transactions of the room's newest events.
func (r *room) readSent(ctx context.Context) error {
	r.sent = sent{}
	events, err := r.s.store.Events.Transactions(ctx, r.id, sentRead)
	for _, e := range events {
		r.sent.put(transaction{e.Sender, e.DeviceID, e.Path, e.TransactionID}, e.ID)
	}
	return err
}

// again are questions whose turn could not be written, since somebody's transaction among them is an old one.
type again struct {
	questions []*question
	// now: they are being answered, and every transaction is looked up.
	now bool
}

// askAgain answers the questions of turns that came to nothing, in their order.
func (r *room) askAgain(ctx context.Context) {
	questions := r.again.questions
	r.again = again{now: true}
	r.turn = &turn{}
	for _, q := range questions {
		r.answer(ctx, q)
	}
	r.handOver()
	r.again.now = false
}
