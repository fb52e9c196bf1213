package account

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/storage"
)

// Bounds of what one round of the jobs does.
const (
	// datesAtOnce is how many accounts are written in one commit.
	datesAtOnce = 1000
	// mailsAtOnce is how many reminders are read at once.
	mailsAtOnce = 200
	// closedAtOnce is how many expired accounts are closed in one round, a round being half an hour: what goes wrong can be stopped.
	closedAtOnce = 500
)

// expiryEvery is how often it is looked whom to remind and whose account to close: by far oftener than the shortest span.
func (c ValidityConfig) expiryEvery() time.Duration {
	every := 2 * time.Hour
	for _, span := range append([]time.Duration{c.Period, c.CloseAfter}, c.Reminders...) {
		if span > 0 {
			every = min(every, span)
		}
	}
	return max(every/4, 20*time.Millisecond)
}

// expire gives accounts their dates, reminds people of them, and closes what nobody has renewed, until ctx ends. One process does.
func (h *Handlers) expire(ctx context.Context) error {
	return h.store.Leases.Hold(ctx, "validity", func(ctx context.Context) error {
		for err := h.enforce(ctx); err != nil && ctx.Err() == nil; err = h.enforce(ctx) {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("It could not be said whose accounts expire, will try again")
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
			}
		}
		if !h.cfg.Validity.On() {
			<-ctx.Done()
			return nil
		}
		tick := time.NewTicker(h.cfg.Validity.expiryEvery())
		defer tick.Stop()
		for {
			if err := errors.Join(h.dateAll(ctx), h.remindAll(ctx), h.closeExpired(ctx)); err != nil && ctx.Err() == nil {
				zerolog.Ctx(ctx).Warn().Err(err).Msg("Expiring accounts could not all be looked after, will try again")
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
}

// enforce has those dates count that the configuration wants to, and no others: it may have changed since the last start.
func (h *Handlers) enforce(ctx context.Context) error {
	for after := id.UserID(""); ; {
		dated, err := h.store.Validity.Dates(ctx, after, datesAtOnce)
		if err != nil || len(dated) == 0 {
			return err
		}
		var count, not []id.UserID
		for _, d := range dated {
			switch want := h.cfg.Validity.On() && h.cfg.expires(d.UserID); {
			case want && !d.Enforced:
				count = append(count, d.UserID)
			case !want && d.Enforced:
				not = append(not, d.UserID)
			}
		}
		if len(count)+len(not) > 0 {
			err = h.store.Do(ctx, func(ctx context.Context) error {
				return errors.Join(h.store.Validity.Enforce(ctx, count, true), h.store.Validity.Enforce(ctx, not, false))
			})
			if err != nil {
				return err
			}
		}
		after = dated[len(dated)-1].UserID
	}
}

// dateAll gives a date to accounts that have none: each a moment in the last tenth of the period, so that not all are renewed on one day.
func (h *Handlers) dateAll(ctx context.Context) error {
	for after := id.UserID(""); ; {
		users, err := h.store.Validity.Endless(ctx, after, datesAtOnce)
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1]
		users = slices.DeleteFunc(users, func(user id.UserID) bool { return !h.cfg.expires(user) })
		if len(users) == 0 {
			continue
		}
		dates, now, period := make(map[id.UserID]time.Time, len(users)), h.now(), h.cfg.Validity.Period
		for _, user := range users {
			dates[user] = now.Add(period - rand.N(period/10+1))
		}
		if err := h.store.Do(ctx, func(ctx context.Context) error { return h.store.Validity.Begin(ctx, dates) }); err != nil {
			return err
		}
	}
}

// remindAll mails those whose account ends soon. Of several reminders that are due the last is mailed.
func (h *Handlers) remindAll(ctx context.Context) error {
	if h.mailer == nil {
		return nil
	}
	for _, before := range slices.Sorted(slices.Values(h.cfg.Validity.Reminders)) {
		for {
			due, err := h.store.Validity.Due(ctx, h.now(), before, mailsAtOnce)
			if err != nil {
				return err
			}
			for _, v := range due {
				if err := h.remind(ctx, v, before); err != nil {
					return err
				}
			}
			if len(due) < mailsAtOnce {
				break
			}
		}
	}
	return nil
}

// remind mails one person, at all addresses, and notes it. A mail server that does not answer ends the round.
func (h *Handlers) remind(ctx context.Context, v *storage.Validity, before time.Duration) error {
	mails, err := h.renewalMails(ctx, v)
	if err != nil {
		return err
	}
	for _, msg := range mails {
		if err := h.mailer.Send(ctx, msg); err != nil && !mail.Permanent(err) {
			return err
		}
	}
	return h.store.Do(ctx, func(ctx context.Context) error { return h.store.Validity.Remind(ctx, v.UserID, before) })
}

// closeExpired closes accounts that nobody has renewed for long.
func (h *Handlers) closeExpired(ctx context.Context) error {
	if h.cfg.Validity.CloseAfter == 0 {
		return nil
	}
	users, err := h.store.Validity.Over(ctx, h.now().Add(-h.cfg.Validity.CloseAfter), closedAtOnce)
	if err != nil {
		return err
	}
	for _, user := range users {
		if err := h.Close(ctx, user, false); err != nil {
			return err
		}
		zerolog.Ctx(ctx).Info().Stringer("user_id", user).Msg("Account closed that nobody has renewed")
	}
	return nil
}
