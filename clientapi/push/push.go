// Package push is the chapter of notifications: the endpoints of push rules and pushers, and the follower that calls the
// gateways.
//
// A user's rules are one piece of account data, m.push_rules, in the form in which clients see them; changing one rule
// rewrites it, and so every device hears of it in its sync. Truths to keep:
//
//   - judging is clientapi/push/rules' alone, which sync uses too: what is counted and what is sent never differ;
//   - a gateway learns no more than the pusher asked for (event_id_only), and is reached through rest's outbound door alone;
//   - a mail says what is unread when it leaves, read from the stream: nothing is written down for each message, and nothing
//     of encrypted rooms but that there was something;
//   - a slow gateway delays its own notifications only; what is old by then is dropped.
package push

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix"

	"chancery/clientapi/mail"
	"chancery/roomserver/view"
	"chancery/storage"
)

// Config is what an operator may say about notifications.
type Config struct {
	// PublicURL is where clients reach this server: the links to unsubscribe lead there. clientapi fills it in.
	PublicURL string `yaml:"-"`
	// EmailDelay is how long a message stays unread before a mail tells of it, to those who asked for mails. Default 10m.
	EmailDelay time.Duration `yaml:"email_delay"`
	// EmailPause is the least time between two mails to one person. It doubles with each mail, up to a day, as long as the
	// person reads nothing. Default 20m.
	EmailPause time.Duration `yaml:"email_pause"`
}

// DefaultConfig is the configuration of a server whose operator said nothing.
func DefaultConfig() Config {
	return Config{EmailDelay: 10 * time.Minute, EmailPause: 20 * time.Minute}
}

// Validate refuses what cannot work.
func (c Config) Validate() error {
	if c.EmailDelay <= 0 || c.EmailPause <= 0 {
		return errors.New("push: email_delay and email_pause have to be more than nothing")
	}
	return nil
}

// Handlers are the endpoints of the chapter.
type Handlers struct {
	cfg    Config
	store  *storage.Store
	view   *view.Reader
	http   *http.Client
	mailer *mail.Mailer
	now    func() time.Time
	// changed: a pusher was set here, and the follower, if it is this process's, shall look at once.
	changed atomic.Bool
}

// New makes the chapter, complete. outbound is the door through which gateways are reached, mailer the one to e-mail
// addresses; nil: there is none.
func New(cfg Config, store *storage.Store, reader *view.Reader, outbound *http.Client, mailer *mail.Mailer) *Handlers {
	return &Handlers{cfg: cfg, store: store, view: reader, http: outbound, mailer: mailer, now: time.Now}
}

// missingParam is for requests that lack what they need; mautrix has no value for it.
var missingParam = mautrix.RespError{ErrCode: "M_MISSING_PARAM", StatusCode: http.StatusBadRequest}
