package turn

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	allocations = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_turn_allocations", Help: "Allocations of the TURN server.",
	})
	relayed = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_turn_relayed_bytes_total", Help: "Bytes relayed, from clients (out) and to them (in).",
	}, []string{"direction"})
	refused = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_turn_refused_total", Help: "What the TURN server did not do, by reason.",
	}, []string{"reason"})
)

// As in calls: what has not happened yet counts nothing, and is there.
func init() {
	for _, direction := range []string{"in", "out"} {
		relayed.WithLabelValues(direction)
	}
	for _, reason := range []string{"connections", "credential", "flood", "nonsense", "peer", "quota", "rate"} {
		refused.WithLabelValues(reason)
	}
}
