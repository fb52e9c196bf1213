package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// AskAll puts a question to all who serve the subject, and gives the answers that came within the patience: for what each
// process knows of itself alone. Who says nothing is not missed. In one process there is one to answer, and no waiting.
// While NATS is away it is ErrAway: nobody is asked, neither then nor later.
func AskAll[Req, Reply any](ctx context.Context, b *Bus, subject string, req Req, patience time.Duration) ([]Reply, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode question %s: %w", subject, err)
	}
	if err := b.Away(); err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	inbox := b.conn.NewRespInbox()
	sub, err := b.conn.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := orAway(b.conn.PublishRequest(b.prefix+subject, inbox, body)); err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var answers []Reply
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) || len(answers) > 0 && ctx.Err() != nil {
			return answers, nil
		}
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", subject, err)
		}
		var answer Reply
		if len(m.Data) > 0 && json.Unmarshal(m.Data, &answer) == nil { // an empty one says that nobody serves it
			answers = append(answers, answer)
		}
		if b.Embedded() {
			return answers, nil
		}
	}
}

// AnswerAll answers what AskAll asks, each question in a goroutine of its own, beside all others who do. An answer that is
// larger than the bus carries is not given.
func AnswerAll[Req, Reply any](ctx context.Context, b *Bus, subject string, fn func(ctx context.Context, req Req) Reply) (stop func(), err error) {
	sub, err := b.conn.Subscribe(b.prefix+subject, func(m *nats.Msg) {
		var req Req
		if json.Unmarshal(m.Data, &req) != nil {
			return
		}
		go func() {
			asked, cancel := context.WithTimeout(ctx, defaultPatience)
			defer cancel()
			if body, err := json.Marshal(fn(asked, req)); err == nil && int64(len(body)) < b.conn.MaxPayload() {
				_ = m.Respond(body) // who asked may be gone
			}
		}()
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", subject, err)
	}
	if err := b.conn.Flush(); err != nil {
		return nil, fmt.Errorf("serve %s: %w", subject, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
