package storage

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	"go.mau.fi/util/dbutil"
)

var statementsTotal = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "chancery_sql_statements_total", Help: "SQL statements, by the readers' pool and by the committer; BEGIN and COMMIT left out.",
}, []string{"side"})

// counted counts the statements of one side of the store, and names them at trace level.
type counted struct {
	dbutil.DatabaseLogger
	side  string
	n     atomic.Int64
	total prometheus.Counter
}

// QueryTiming is told of each statement by dbutil, and of the ends of their rows, which are no statements.
func (c *counted) QueryTiming(ctx context.Context, method, query string, _ []any, _ int, took time.Duration, err error) {
	switch method {
	case "Exec", "Query", "QueryRow":
		c.n.Add(1)
		c.total.Inc()
	case "Begin", "Commit", "Rollback":
		query = method
	default:
		return
	}
	// Without the arguments: they are people's.
	zerolog.Ctx(ctx).Trace().Err(err).Str("side", c.side).Dur("took", took).Str("sql", query).Msg("Statement")
}

func count(db *dbutil.Database, side string) *counted {
	c := &counted{DatabaseLogger: dbutil.NoopLogger, side: side, total: statementsTotal.WithLabelValues(side)}
	db.Log = c
	return c
}

// Statements gives how many SQL statements were made since the store was opened, by the readers and by the committer.
// Tests hold it against what a thing may cost.
func (s *Store) Statements() (reads, writes int64) {
	return s.reads.n.Load(), s.writes.n.Load()
}
