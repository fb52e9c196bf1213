package oauth

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"maunium.net/go/mautrix"
)

var (
	answers = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_oauth_answers_total", Help: "What the OAuth 2.0 API answered, by what was asked (token, signin, signup) and the error's code, or ok.",
	}, []string{"what", "code"})
	reused = promauto.NewCounter(prometheus.CounterOpts{
		Name: "chancery_oauth_reused_total", Help: "Codes and refresh tokens that came a second time, and ended a session.",
	})
)

// count counts an answer. The codes are those of the protocols: a short list.
func count(what string, err error) {
	code := "ok"
	var f *failure
	var refused mautrix.RespError
	switch {
	case err == nil:
	case errors.As(err, &f):
		code = f.Code
	case errors.As(err, &refused):
		code = refused.ErrCode
	default:
		code = "failed"
	}
	answers.WithLabelValues(what, code).Inc()
}
