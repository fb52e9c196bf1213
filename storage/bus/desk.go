package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Between processes an answerer may die with a question in its hands, and NATS does not tell. So whoever needs longer than
// a moment says that the question lies on its desk, and under which subject; the asker waits there, hears at once when
// that subject has nobody behind it, and asks anew. In one process none of this is needed.
const (
	// deskAfter is when an answerer says that it needs longer, and how often it says so again.
	deskAfter = 500 * time.Millisecond
	// silence is how long an asker hears nothing at all before it asks anew, deskSilence how long at the desk.
	silence     = 4 * time.Second
	deskSilence = 2 * time.Second
	// keepAnswers is how long an answer lies on the desk for an asker who does not come back.
	keepAnswers = 30 * time.Second
)

// desk holds the questions that take longer than a moment.
type desk struct {
	subject string // its own, with a dot at the end

	mu    sync.Mutex
	lying map[string]*slip
}

// slip is one question that is being answered.
type slip struct {
	desk *desk // none where all are in one process
	name string

	mu       sync.Mutex
	msg      *nats.Msg // who waits for the answer now; nil once told to ask at the desk
	answer   []byte
	answered bool
	timer    *time.Timer
}

// openDesk makes the desk of a bus that reaches beyond this process.
func openDesk(conn *nats.Conn, prefix string) (*desk, error) {
	d := &desk{subject: prefix + "desk." + nats.NewInbox()[len(nats.InboxPrefix):] + ".", lying: make(map[string]*slip)}
	sub, err := conn.Subscribe(d.subject+"*", d.come)
	if err != nil {
		return nil, fmt.Errorf("open desk: %w", err)
	}
	return d, sub.SetPendingLimits(-1, -1)
}

// take begins to answer a question.
func (d *desk) take(msg *nats.Msg) *slip {
	s := &slip{desk: d, msg: msg}
	if d != nil {
		s.mu.Lock()
		s.timer = time.AfterFunc(deskAfter, s.later)
		s.mu.Unlock()
	}
	return s
}

// later tells the waiting asker to come to the desk.
func (s *slip) later() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered || s.msg == nil {
		return
	}
	if s.name == "" {
		s.name = nats.NewInbox()[len(nats.InboxPrefix):]
		s.desk.mu.Lock()
		s.desk.lying[s.name] = s
		s.desk.mu.Unlock()
	}
	body, err := json.Marshal(reply{Desk: s.desk.subject + s.name})
	if err == nil {
		// An asker that has gone away is no fault of the answerer; the same holds below.
		_ = s.msg.Respond(body)
	}
	s.msg = nil
}

// come handles an asker who was told to come.
func (d *desk) come(msg *nats.Msg) {
	name := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	d.mu.Lock()
	s := d.lying[name]
	d.mu.Unlock()
	if s == nil {
		_ = msg.Respond([]byte(`{"lost":true}`))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered {
		_ = msg.Respond(s.answer)
		return
	}
	s.msg = msg
	s.timer.Reset(deskAfter)
}

// done gives the answer to who waits, or lays it on the desk.
func (s *slip) done(answer []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered {
		return
	}
	s.answered, s.answer = true, answer
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.msg != nil {
		_ = s.msg.Respond(answer)
	}
	if s.name != "" {
		time.AfterFunc(keepAnswers, func() {
			s.desk.mu.Lock()
			defer s.desk.mu.Unlock()
			delete(s.desk.lying, s.name)
		})
	}
}

// errAskAnew says that a question got no answer, and that nobody works on it any more.
var errAskAnew = errors.New("bus: ask anew")

// ask puts one question, and follows it to the desk where it may lie.
func (b *Bus) ask(ctx context.Context, msg *nats.Msg) (reply, error) {
	patience := silence
	for {
		var r reply
		resp, err := b.request(ctx, msg, patience)
		if err != nil {
			return r, err
		}
		if err := json.Unmarshal(resp.Data, &r); err != nil {
			return r, fmt.Errorf("decode answer: %w", err)
		}
		if r.Lost {
			return r, errAskAnew
		}
		if r.Desk == "" {
			return r, nil
		}
		msg, patience = nats.NewMsg(r.Desk), deskSilence
	}
}

// request waits for one message; not for ever, if it may come from another process.
func (b *Bus) request(ctx context.Context, msg *nats.Msg, patience time.Duration) (*nats.Msg, error) {
	if b.desk == nil {
		resp, err := b.conn.RequestMsgWithContext(ctx, msg)
		if errors.Is(err, nats.ErrNoResponders) {
			err = errAskAnew
		}
		return resp, err
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := b.conn.RequestMsgWithContext(short, msg)
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(orAway(err), ErrAway) || err != nil && ctx.Err() == nil && errors.Is(short.Err(), context.DeadlineExceeded) {
		err = errAskAnew
	}
	return resp, err
}
