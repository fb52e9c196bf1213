package calls

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"chancery/storage/bus"
)

var (
	roomsLive = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_calls_rooms", Help: "Calls that are open.",
	})
	participantsLive = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_calls_participants", Help: "Participants in calls.",
	})
	joins = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_calls_joins_total", Help: "Joins and resumes, by how they ended.",
	}, []string{"kind", "outcome"})
	departures = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_calls_departures_total", Help: "Participants that left, by reason.",
	}, []string{"reason"})
	faults = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_calls_faults_total", Help: "Sessions and calls that ended because of a fault of ours; the log has the details.",
	})
	delegated = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_calls_leaves_total", Help: "What was done with the delayed leaves of those in calls, and how it ended.",
	}, []string{"action", "outcome"})
	closed = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_calls_closed_total", Help: "Memberships in calls that crashed clients left, by how they were closed.",
	}, []string{"way"})
	qualityLoss = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "chancery_calls_loss_percent", Help: "What participants lose of what they get, the worst track of each, by class of call (pair, small, large, crowd).",
		Buckets: []float64{0, 1, 2, 5, 10, 20, 50},
	}, []string{"class"})
	qualityJitter = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "chancery_calls_jitter_seconds", Help: "Jitter of what participants get, the worst track of each.",
		Buckets: []float64{.001, .003, .01, .02, .03, .05, .1, .3},
	}, []string{"class"})
	qualityRoundTrip = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "chancery_calls_round_trip_seconds", Help: "Round trips between focus and participants.",
		Buckets: []float64{.001, .003, .01, .03, .06, .1, .2, .4, 1},
	}, []string{"class"})
	qualityBitrate = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "chancery_calls_track_bitrate", Help: "Bits a second of published tracks, by kind.",
		Buckets: []float64{10e3, 30e3, 64e3, 128e3, 300e3, 700e3, 1.5e6, 3e6, 6e6},
	}, []string{"class", "kind"})
	qualityLayers = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "chancery_calls_layer_height", Help: "Heights of the pictures that are being published, one for each layer that sends.",
		Buckets: []float64{180, 270, 360, 540, 720, 1080, 2160},
	}, []string{"class"})
	qualityEvents = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_calls_media_total", Help: "Packets and bytes sent to participants, packets sent again, NACKs and key frame requests of theirs.",
	}, []string{"class", "what"})
	hooksTold = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_calls_webhooks_total", Help: "Webhooks of calls, by how they ended.",
	}, []string{"outcome"})
	recordsLost = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_calls_records_lost_total", Help: "Sessions in calls that are not recorded, or not to their end, because the database took nothing.",
	})
	relayedSockets = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_calls_relayed", Help: "Requests and sockets that are relayed to other focus processes.",
	})
	fociLive = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_calls_foci", Help: "Focus processes of this server that this one knows to live, itself among them; 0 where there can be no other.",
	})
	drainedNow = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_calls_draining", Help: "1 while this focus process takes no new calls, because it is drained.",
	})
	burials = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_calls_foci_lost_total", Help: "Other focus processes that this one found dead.",
	})
	rebirths = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_calls_focus_lost_total", Help: "How often the others took this focus process for dead.",
	})
	tokensGiven = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_calls_tokens_total", Help: "Answers of the token service.",
	}, []string{"outcome"})
)

// Whoever watches for the first failure has to see that there was none before.
func init() {
	for _, outcome := range []string{"ok", "refused", "failed"} {
		joins.WithLabelValues("join", outcome)
	}
	for _, outcome := range []string{"given", "refused"} {
		tokensGiven.WithLabelValues(outcome)
	}
	for _, outcome := range []string{"ok", "failed", "given_up"} {
		for _, action := range []bus.DelayedAction{bus.DelayedRestart, bus.DelayedSend} {
			delegated.WithLabelValues(string(action), outcome)
		}
	}
	for _, outcome := range []string{"ok", "failed", "lost"} {
		hooksTold.WithLabelValues(outcome)
	}
}
