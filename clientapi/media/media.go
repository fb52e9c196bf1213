// Package media is the content repository: upload, download, thumbnails, URL previews, and the sweeping of what is old.
//
// Files are streamed to and from disk (storage/blobs), never whole in memory; rows in storage
// say what they are. Remote files are fetched by federation on request. Truths to keep:
//
//   - what a browser might run is never served inline: a short list of harmless types is, all else is an attachment in a sandbox;
//   - pictures are decoded only after their headers were read and found bounded, by few workers at once that share a bounded
//     memory, and a decoder's panic is a 400;
//   - identifiers come from the path and are checked for form; file names on disk are hashes;
//   - pages to preview are strangers' bytes from strangers' addresses: fetched through rest's outbound client alone, bounded in
//     bytes, time and redirects;
//   - a row goes before its blob: what a crash leaves is a blob too many, which the sweep finds.
package media

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
	"chancery/storage"
	"chancery/storage/blobs"
	"chancery/storage/bus"
)

// Config of the content repository.
type Config struct {
	// ServerName is the own server's name. cmd fills it in.
	ServerName string `yaml:"-"`
	// MaxUpload is the largest file in bytes that users upload; those of other servers are bounded by federation.max_media.
	// Default 100 MiB.
	MaxUpload int64 `yaml:"max_upload"`
	// Quota is how many bytes a user may have uploaded in all. Default 0: as many as the disk holds.
	Quota int64 `yaml:"quota"`
	// QuotaInfo is the address of a page that tells users about the quota. Default none.
	QuotaInfo string `yaml:"quota_info"`
	// MinFree is how many bytes of the disk stay free: uploads that would take them are refused, so that messages go on.
	// Default 256 MiB.
	MinFree int64 `yaml:"min_free"`
	// MaxPixels bounds the pictures of which thumbnails are made. Default 32 million.
	MaxPixels int `yaml:"max_pixels"`
	// Unauthenticated serves the old download paths, which ask for no token, as well. Default false; turned on
	// where old clients or bridges cannot do otherwise. Files that came while it was off stay behind a token.
	Unauthenticated bool `yaml:"unauthenticated"`
	// Reservations is how many files a user may reserve and not yet have uploaded. Default 20.
	Reservations int `yaml:"reservations"`
	// RemoteRetention is how long copies of other servers' files stay after they were last asked for. They are fetched again
	// when they are wanted again. Default 0: for ever.
	RemoteRetention time.Duration `yaml:"remote_retention"`
	// LocalRetention is how long this server's own files stay after they were last asked for. Those are then lost; avatars,
	// protected and quarantined files stay. Default 0: for ever.
	LocalRetention time.Duration `yaml:"local_retention"`
	// Previews are pictures and words of the pages to which messages link.
	Previews PreviewsConfig `yaml:"previews"`
}

// DefaultConfig has the defaults named above.
func DefaultConfig() Config {
	return Config{
		MaxUpload: 100 << 20, MinFree: 256 << 20, MaxPixels: 32_000_000, Reservations: 20,
		Previews: PreviewsConfig{MaxPicture: 10 << 20, Timeout: 15 * time.Second, Languages: "en"},
	}
}

// Handlers are the endpoints of the content repository.
type Handlers struct {
	cfg      Config
	store    *storage.Store
	blobs    *blobs.Store
	bus      *bus.Bus
	outbound *http.Client
	now      func() time.Time

	workers chan struct{}       // as many pictures at once as it holds
	memory  *semaphore.Weighted // that they share
	making  singleflight.Group  // thumbnails under way
	looking singleflight.Group  // previews under way
	fetches chan struct{}       // as many pages at once as it holds

	mu       sync.Mutex
	accessed map[storage.MXC]int64 // since it was last written down
}

// New makes the handlers, complete. All that previews fetch goes through outbound.
func New(cfg Config, store *storage.Store, files *blobs.Store, b *bus.Bus, outbound *http.Client) *Handlers {
	return &Handlers{
		cfg: cfg, store: store, blobs: files, bus: b, outbound: outbound, now: time.Now,
		workers: make(chan struct{}, max(1, runtime.NumCPU()/2)), memory: semaphore.NewWeighted(pictureMemory),
		fetches: make(chan struct{}, maxFetches), accessed: map[storage.MXC]int64{},
	}
}

// Run answers the other components, and sweeps, until ctx ends.
func (h *Handlers) Run(ctx context.Context) error {
	stop, err := bus.Answer(ctx, h.bus, bus.MediaDo, h.answer)
	if err != nil {
		return err
	}
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.writeAccesses(ctx) })
	group.Go(func() error { return h.store.Leases.Hold(ctx, "media", h.sweep) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

var (
	uploadedBytes = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_media_uploaded_bytes_total", Help: "Bytes of files that users have uploaded.",
	})
	thumbnailSeconds = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "chancery_media_thumbnail_seconds", Help: "Time to make a thumbnail, without waiting.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
	}, []string{"format"})
	previewed = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_media_previews_total", Help: "Pages fetched for previews, by result.",
	}, []string{"result"})
)

var (
	errCannotOverwrite = mautrix.RespError{ErrCode: "M_CANNOT_OVERWRITE_MEDIA", StatusCode: http.StatusConflict}
	errNotYetUploaded  = mautrix.RespError{ErrCode: "M_NOT_YET_UPLOADED", StatusCode: http.StatusGatewayTimeout}
	errMissing         = mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}
	errFull            = mautrix.RespError{ErrCode: "M_LIMIT_EXCEEDED", StatusCode: http.StatusInsufficientStorage}
	mediaID            = regexp.MustCompile(`^[A-Za-z0-9_=-]{1,255}$`)
)

// Limits handles GET /_matrix/client/v1/media/config.
// Spec: client-server-api/#get_matrixclientv1mediaconfig
func (h *Handlers) Limits(*rest.Request) (any, error) {
	return map[string]int64{"m.upload.size": h.cfg.MaxUpload}, nil
}

func (h *Handlers) uri(mediaID string) string { return "mxc://" + h.cfg.ServerName + "/" + mediaID }
