package rest

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	answered = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_client_requests_total",
		Help: "Answered requests of the client API.",
	}, []string{"endpoint", "method", "code"})
	duration = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "chancery_client_request_seconds",
		Help:    "Time from the first byte of a request's header to the last of its answer.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"endpoint", "method"})
	limited = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_client_limited_total",
		Help: "Requests refused by a rate limit.",
	}, []string{"kind"})
	panics = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_client_panics_total",
		Help: "Handlers that panicked, and were answered with a 500.",
	})
)

func count(endpoint, method string, code int, since time.Time) {
	answered.WithLabelValues(endpoint, method, strconv.Itoa(code)).Inc()
	duration.WithLabelValues(endpoint, method).Observe(time.Since(since).Seconds())
}
