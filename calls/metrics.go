package calls

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
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
	recordsLost = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_calls_records_lost_total", Help: "Call records that could not be written.",
	})
	relayedSockets = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_calls_relayed", Help: "Requests and sockets that are relayed to other focus processes.",
	})
	fociLive = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_calls_foci", Help: "Focus processes of this server that this one knows to live, itself among them; 0 where there can be no other.",
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
