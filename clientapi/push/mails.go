package push

import (
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/storage"
)

const (
	// mailsAtOnce is how many e-mail pushers are looked after before the next look at the clock.
	mailsAtOnce = 50
	// mailAgain is the pause after a mail that the mail server did not take.
	mailAgain = 5 * time.Minute
	// mailAfterRenewal is how often it is looked whether an expired account is renewed.
	mailAfterRenewal = time.Hour
	// mailMaxPause is what the pause between two mails grows to, while their reader reads nothing.
	mailMaxPause = 24 * time.Hour
)

// missed notes that the user was notified of something: where nothing is planned yet, a mail is, in a while. It costs one
// write for each mail, not for each message. What the mail will say is read from the stream when it is due: so nothing is
// lost by a restart, and what was read meanwhile is not in it.
func (h *Handlers) missed(ctx context.Context, pushers []*storage.Pusher) error {
	if h.mailer == nil {
		return nil
	}
	for _, p := range pushers {
		if p.Kind != kindEmail || !p.Enabled || !p.Mail.Due.IsZero() {
			continue
		}
		now := h.now()
		p.Mail.Due = now.Add(h.cfg.EmailDelay)
		if earliest := p.Mail.Sent.Add(p.Mail.Pause); !p.Mail.Sent.IsZero() && earliest.After(p.Mail.Due) {
			p.Mail.Due = earliest
		}
		if err := h.store.Do(ctx, func(ctx context.Context) error { return h.store.Pushers.PutMail(ctx, p) }); err != nil {
			return err
		}
	}
	return nil
}

// sendMails looks after the e-mail pushers that are due, until ctx ends.
func (h *Handlers) sendMails(ctx context.Context) {
	if h.mailer == nil {
		return
	}
	tick := time.NewTicker(max(min(h.cfg.EmailDelay/4, 10*time.Second), 10*time.Millisecond))
	defer tick.Stop()
	for {
		due, err := h.store.Pushers.Due(ctx, h.now(), mailsAtOnce)
		if err != nil && ctx.Err() == nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("E-mail pushers cannot be read")
		}
		for _, p := range due {
			if err := h.mailTo(ctx, p); err != nil && ctx.Err() == nil {
				zerolog.Ctx(ctx).Warn().Err(err).Stringer("user_id", p.UserID).Msg("Missed messages could not be mailed, will try again")
			}
		}
		if len(due) == mailsAtOnce && err == nil && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// mailTo sends one mail about all that is still unread, or none if nothing is.
func (h *Handlers) mailTo(ctx context.Context, p *storage.Pusher) error {
	head, now := h.store.Head(), h.now()
	validity, err := h.store.Validity.Of(ctx, p.UserID)
	if err != nil || validity.Expired(now) {
		return h.plan(ctx, p, now.Add(mailAfterRenewal), err) // what is missed meanwhile is told once the account is renewed
	}
	rooms, count, err := h.unreadFor(ctx, p)
	if err != nil {
		return h.plan(ctx, p, now.Add(mailAgain), err)
	}
	if count > 0 {
		msg, err := h.missedMail(ctx, p, rooms, count)
		if err != nil {
			return h.plan(ctx, p, now.Add(mailAgain), err)
		}
		err = h.mailer.Send(ctx, msg)
		if err != nil && !mail.Permanent(err) {
			return h.plan(ctx, p, now.Add(mailAgain), nil) // the mailer has counted it
		}
		if err := h.slower(ctx, p); err != nil {
			return h.plan(ctx, p, now.Add(mailAgain), err)
		}
		p.Mail.Sent = now
	}
	p.Mail.Cursor = head
	return h.plan(ctx, p, time.Time{}, nil)
}

// plan writes when the pusher is looked after next; none: when something is missed again. The error is passed on.
func (h *Handlers) plan(ctx context.Context, p *storage.Pusher, due time.Time, reason error) error {
	p.Mail.Due = due
	if err := h.store.Do(ctx, func(ctx context.Context) error { return h.store.Pushers.PutMail(ctx, p) }); err != nil {
		return err
	}
	return reason
}

// slower doubles the pause until the next mail, or begins anew where something was read since the last one.
func (h *Handlers) slower(ctx context.Context, p *storage.Pusher) error {
	newest, err := h.store.Receipts.Newest(ctx, p.UserID)
	if err != nil {
		return err
	}
	p.Mail.Pause = min(2*p.Mail.Pause, mailMaxPause)
	if newest > p.Mail.Cursor || p.Mail.Pause == 0 {
		p.Mail.Pause = h.cfg.EmailPause
	}
	return nil
}

// missedMail writes the mail.
func (h *Handlers) missedMail(ctx context.Context, p *storage.Pusher, rooms []mail.Room, count int) (mail.Message, error) {
	link, err := h.unsubscribeLink(ctx, p)
	if err != nil {
		return mail.Message{}, err
	}
	name, err := h.ownName(ctx, p.UserID)
	return mail.Message{
		To: p.PushKey, Lang: p.Lang, Template: "missed", Unsubscribe: link,
		Data: mail.Data{Name: name, User: string(p.UserID), Rooms: rooms, Count: count},
	}, err
}

// mailRooms gathers what is missed by room and thread, the room with the newest message first.
type mailRooms struct {
	list []*mailRoom
}

type mailRoom struct {
	id     id.RoomID
	thread id.EventID
	events []*storage.Event // the newest first
}

func (m *mailRooms) add(room id.RoomID, thread id.EventID, e *storage.Event) {
	at := slices.IndexFunc(m.list, func(r *mailRoom) bool { return r.id == room && r.thread == thread })
	if at < 0 {
		at = len(m.list)
		m.list = append(m.list, &mailRoom{id: room, thread: thread})
	}
	m.list[at].events = append(m.list[at].events, e)
}
