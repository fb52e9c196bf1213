package view

import (
	"context"

	"maunium.net/go/mautrix/id"

	"chancery/roomserver/pdu"
	"chancery/storage"
)

// forgotten says whose words are pruned for those who were not there when they were spoken: users of ours who have closed
// their account and wished to be erased. Who was there keeps what they have read.
// Spec: client-server-api/#post_matrixclientv3accountdeactivate
type forgotten map[id.UserID]bool

func (r *Reader) forgotten(ctx context.Context) (forgotten, error) {
	return r.store.Accounts.Erased(ctx)
}

// touches says whether the event is one of theirs that has a content to prune. State is what the room stands on.
func (f forgotten) touches(e *storage.Event) bool { return e.StateKey == nil && f[e.Sender] }

// byNobody stands in place of the redaction, which there is none of: so nobody searches in it, counts it, or bundles with it.
const byNobody id.EventID = "$erased"

// pruned is a copy of the event as if it had been redacted.
func (r *Reader) pruned(ctx context.Context, e *storage.Event) (*storage.Event, error) {
	version, err := r.Version(ctx, e.RoomID)
	if err != nil {
		return nil, err
	}
	raw, err := pdu.Redact(version, e.JSON)
	if err != nil {
		return nil, err
	}
	bare := *e
	bare.JSON, bare.RedactedBy = raw, byNobody
	return &bare, nil
}
