package media

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"chancery/storage"
)

const (
	// accessSteps is how exactly it is remembered when a file was last asked for.
	accessSteps = time.Hour
	// sweepPause lies between two rounds of the sweep; blobGrace is how long a blob may wait for its owner's row.
	sweepPause = 20 * time.Second
	blobGrace  = time.Minute
	// retentionPause lies between two rounds that look for old files, strayPause between two looks at the whole folder.
	retentionPause = 10 * time.Minute
	strayPause     = 24 * time.Hour
	// previewPictures is how long the pictures of previews stay after they were last asked for.
	previewPictures = 7 * 24 * time.Hour
	sweepSlice      = 200
	maxAccessed     = 10_000
)

// noteAccess remembers that a file was asked for.
func (h *Handlers) noteAccess(f *storage.File) {
	now := h.now().UnixMilli()
	if now-f.Accessed < accessSteps.Milliseconds() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.accessed) < maxAccessed {
		h.accessed[storage.MXC{Server: f.Server, MediaID: f.MediaID}] = now
	}
}

// writeAccesses writes down, in slices, what noteAccess has gathered.
func (h *Handlers) writeAccesses(ctx context.Context) error {
	tick := time.NewTicker(sweepPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			h.flushAccesses(context.WithoutCancel(ctx))
			return ctx.Err()
		}
		h.flushAccesses(ctx)
	}
}

func (h *Handlers) flushAccesses(ctx context.Context) {
	h.mu.Lock()
	waiting := h.accessed
	h.accessed = map[storage.MXC]int64{}
	h.mu.Unlock()
	slice := map[storage.MXC]int64{}
	write := func() {
		if err := h.store.Media.Touch(ctx, slice); err != nil {
			zerolog.Ctx(ctx).Debug().Err(err).Msg("Media not marked as asked for")
		}
		clear(slice)
	}
	for f, at := range waiting {
		if slice[f] = at; len(slice) >= sweepSlice {
			write()
		}
	}
	write()
}

// sweep removes what is old and what belongs to nobody, a slice at a time, until ctx ends.
func (h *Handlers) sweep(ctx context.Context) error {
	var retained, strayed time.Time
	for {
		now := h.now()
		h.logged(ctx, "Unused blobs not swept", h.sweepBlobs(ctx, blobGrace))
		if now.Sub(retained) >= retentionPause {
			h.logged(ctx, "Old media not removed", h.retain(ctx))
			retained = now
		}
		if strayed.IsZero() {
			strayed = now // a process that has just started has other things to do
		} else if now.Sub(strayed) >= strayPause {
			h.logged(ctx, "Media folder not looked through", h.findStrays(ctx))
			strayed = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(sweepPause):
		}
	}
}

func (h *Handlers) logged(ctx context.Context, text string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		zerolog.Ctx(ctx).Warn().Err(err).Msg(text)
	}
}

// retain removes what is older than the operator wants to keep.
func (h *Handlers) retain(ctx context.Context) error {
	var errs []error
	before := func(age time.Duration) int64 { return h.now().Add(-age).UnixMilli() }
	remove := func(old storage.OldMedia) {
		gone, err := h.store.Media.DeleteOld(ctx, old)
		if len(gone) > 0 {
			zerolog.Ctx(ctx).Info().Int("files", len(gone)).Bool("remote", old.Remote).Msg("Old media removed")
		}
		errs = append(errs, err)
	}
	if h.cfg.RemoteRetention > 0 {
		remove(storage.OldMedia{Own: h.cfg.ServerName, Remote: true, Before: before(h.cfg.RemoteRetention), LargerThan: -1})
	}
	if h.cfg.LocalRetention > 0 {
		avatars, err := h.store.Media.Avatars(ctx)
		if err != nil {
			return err
		}
		remove(storage.OldMedia{Own: h.cfg.ServerName, Before: before(h.cfg.LocalRetention), LargerThan: -1, Guarded: true, Keep: avatars})
	}
	remove(storage.OldMedia{Own: h.cfg.ServerName, Before: before(previewPictures), LargerThan: -1, Guarded: true, Pictures: true})
	for ctx.Err() == nil {
		n, err := h.store.Media.DeleteReservations(ctx, h.now().Add(-reservation).UnixMilli())
		m, err2 := h.store.Previews.Expire(ctx, h.now().UnixMilli(), sweepSlice)
		errs = append(errs, err, err2)
		if n == 0 && m == 0 {
			break
		}
	}
	return errors.Join(errs...)
}

// sweepBlobs takes blobs off the disk whose last row is gone.
func (h *Handlers) sweepBlobs(ctx context.Context, grace time.Duration) error {
	after := ""
	for {
		hashes, err := h.store.Media.Discarded(ctx, after, sweepSlice)
		if err != nil || len(hashes) == 0 {
			return err
		}
		after = hashes[len(hashes)-1]
		used, err := h.store.Media.Used(ctx, hashes)
		if err != nil {
			return err
		}
		var done []string
		for _, hash := range hashes {
			gone := used[hash]
			if !gone {
				if gone, err = h.blobs.Sweep(hash, grace); err != nil {
					return err
				}
			}
			if gone {
				done = append(done, hash)
			}
		}
		if err := h.store.Media.Swept(ctx, done); err != nil {
			return err
		}
	}
}

// findStrays looks through the folder for blobs of which no row ever came to be: a crash lay between the two.
func (h *Handlers) findStrays(ctx context.Context) error {
	return h.blobs.Each(func(hashes []string) error {
		for len(hashes) > 0 {
			n := min(len(hashes), sweepSlice)
			used, err := h.store.Media.Used(ctx, hashes[:n])
			if err != nil {
				return err
			}
			var stray []string
			for _, hash := range hashes[:n] {
				if !used[hash] {
					stray = append(stray, hash)
				}
			}
			if err := h.store.Media.Discard(ctx, stray...); err != nil {
				return err
			}
			hashes = hashes[n:]
		}
		return ctx.Err()
	})
}
