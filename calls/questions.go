package calls

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"maunium.net/go/mautrix"

	"chancery/storage"
	"chancery/storage/bus"
)

// answer answers calls.do: what the client and the federation API want of the focus.
func (f *Focus) answer(ctx context.Context, _ string, q bus.CallsQuestion) (answer bus.CallsAnswer, err error) {
	switch {
	case q.Token != nil:
		answer, err = f.service.answerToken(ctx, q.Token)
	case q.Delegate != nil:
		err = f.service.answerDelegate(ctx, q.Delegate)
	case q.Order != nil:
		err = f.order(ctx, q.Order)
	default:
		err = bus.Refuse(http.StatusNotFound, "M_UNRECOGNIZED", "The call focus does not know this question")
	}
	var no mautrix.RespError
	if errors.As(err, &no) {
		refusal := bus.Refuse(cmp.Or(no.StatusCode, http.StatusBadRequest), no.ErrCode, no.Err)
		refusal.Extra = no.ExtraData
		err = refusal
	}
	return answer, err
}

// answerToken gives a token to somebody for whom our client API, or another server, vouches.
func (s *tokenService) answerToken(ctx context.Context, q *bus.CallToken) (bus.CallsAnswer, error) {
	b, err := s.vouched(&q.CallMember)
	if err != nil {
		return bus.CallsAnswer{}, err
	}
	b.watch = q.Guest
	token, err := s.give(ctx, b)
	return bus.CallsAnswer{URL: s.socketURL(nil), JWT: token}, err
}

// answerDelegate takes a delayed leave over for somebody for whom our client API vouches.
func (s *tokenService) answerDelegate(ctx context.Context, q *bus.CallDelegate) error {
	b, err := s.vouched(&q.CallMember)
	if err != nil {
		return err
	}
	if _, err := s.admit(ctx, b.claims()); err != nil {
		return err
	}
	return s.hand(ctx, b, delay{ID: q.DelayID}, true)
}

// vouched is the bearer that a component of ours names.
func (s *tokenService) vouched(m *bus.CallMember) (bearer, error) {
	if !s.isOurs(m.URL) {
		return bearer{}, mautrix.MInvalidParam.WithMessage("This is none of this server's foci")
	}
	if m.Slot != roomSlot {
		return bearer{}, errNoSlot
	}
	if err := s.limits.mayAsk(m.UserID); err != nil {
		return bearer{}, err
	}
	b := bearer{user: m.UserID, device: m.DeviceID, room: m.RoomID, slot: m.Slot, identity: hashOf(string(m.UserID), m.MemberID)}
	if m.Claimed != "" { // the older form of the name
		b.identity = memberIdentity(m.UserID, m.Claimed, m.MemberID)
	}
	return b, nil
}

// isOurs says whether a client means this server's focus: by its socket's address, or by its service's.
func (s *tokenService) isOurs(url string) bool {
	if url == "" {
		return true
	}
	plain := func(u string) string {
		if rest, ok := strings.CutPrefix(u, "http"); ok {
			u = "ws" + rest
		}
		return strings.TrimRight(u, "/")
	}
	return plain(url) == plain(s.socketURL(nil))
}

// order writes what an administrator orders, and has those here obey at once; other processes notice the row.
func (f *Focus) order(ctx context.Context, q *bus.CallOrder) error {
	if err := f.house.store.CallOrders.Put(ctx, &storage.CallOrder{RoomID: q.RoomID, Orders: q.Orders, By: q.By}); err != nil {
		return err
	}
	return f.rejudge(ctx, q.RoomID)
}
