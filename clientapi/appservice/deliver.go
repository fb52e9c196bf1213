package appservice

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

var transactions = promauto.NewCounterVec(prometheus.CounterOpts{
	Name: "chancery_appservice_transactions_total",
	Help: "Transactions sent to application services, by outcome.",
}, []string{"outcome"})

const (
	// transactionTime is how long a service may take over a transaction.
	transactionTime = time.Minute
	// maxAnswer bounds what is read of a service's answer.
	maxAnswer = 1 << 20
	// noteAfter is how long the deliverer waits for more before it writes down that the service has everything.
	noteAfter = time.Second
	// stumblePause is how long it waits when storage fails it.
	stumblePause = time.Second
)

// deliverer sends one service its transactions, one after another. One goroutine owns it.
type deliverer struct {
	*service
	row      storage.AppService
	parcels  <-chan *parcel
	progress *progress
	passing  *passing
	// told is what was last said of the keys that devices have left.
	told map[deviceName]string
	// taken: the service has taken the last transaction, and this is not written down yet.
	taken bool
}

// transaction is the body that services get.
// Spec: application-service-api/#put_matrixappv1transactionstxnid, MSC2409, MSC3202
type transaction struct {
	Events       []json.RawMessage                            `json:"events"`
	Ephemeral    []json.RawMessage                            `json:"ephemeral,omitempty"`
	OldEphemeral []json.RawMessage                            `json:"de.sorunome.msc2409.ephemeral,omitempty"`
	ToDevice     []json.RawMessage                            `json:"de.sorunome.msc2409.to_device,omitempty"`
	DeviceLists  *deviceLists                                 `json:"org.matrix.msc3202.device_lists,omitempty"`
	OneTimeKeys  map[id.UserID]map[id.DeviceID]map[string]int `json:"org.matrix.msc3202.device_one_time_keys_count,omitempty"`
	FallbackKeys map[id.UserID]map[id.DeviceID][]string       `json:"org.matrix.msc3202.device_unused_fallback_key_types,omitempty"`
}

type deviceLists struct {
	Changed []id.UserID `json:"changed,omitempty"`
	Left    []id.UserID `json:"left,omitempty"`
}

// run sends until ctx ends, first what was under way when a former life ended.
func (d *deliverer) run(ctx context.Context) error {
	if len(d.row.Body) > 0 {
		if !d.insist(ctx, d.name(), d.row.Body) {
			return nil
		}
		d.row.Body, d.taken = nil, true
	}
	defer func() {
		if err := d.note(context.WithoutCancel(ctx)); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("An application service will get its last transaction again")
		}
	}()
	expire := time.NewTicker(5 * time.Second)
	defer expire.Stop()
	for {
		var quiet <-chan time.Time
		if d.taken {
			quiet = time.After(noteAfter)
		}
		var err error
		select {
		case <-ctx.Done():
			return nil
		case p := <-d.parcels:
			for err = d.deliver(ctx, p); err != nil && ctx.Err() == nil; err = d.deliver(ctx, p) {
				d.stumble(ctx, err)
			}
		case <-d.passing.ring:
			err = d.mention(ctx)
		case now := <-expire.C:
			d.passing.expire(now)
		case <-quiet:
			err = d.note(ctx)
		}
		if err != nil && ctx.Err() == nil {
			d.stumble(ctx, err)
		}
	}
}

// stumble logs what failed here, not at the service, and waits a moment.
func (d *deliverer) stumble(ctx context.Context, err error) {
	zerolog.Ctx(ctx).Error().Err(err).Msg("Transaction for an application service not made, will try again")
	pause := time.NewTimer(stumblePause)
	defer pause.Stop()
	select {
	case <-ctx.Done():
	case <-pause.C:
	}
}

// name is the transaction's ID: of this database only, should another be restored in its place.
func (d *deliverer) name() string {
	return d.all.store.Incarnation() + strconv.FormatInt(d.row.Number, 10)
}

// deliver makes a transaction of a parcel, and of those that wait behind it; writes it down; and sends it.
func (d *deliverer) deliver(ctx context.Context, p *parcel) error {
	for more := true; more && !p.full(); {
		select {
		case next := <-d.parcels:
			p.join(next)
		default:
			more = false
		}
	}
	passed, err := d.passed(ctx)
	if err != nil {
		return err
	}
	t, err := d.compose(ctx, p, passed)
	if err != nil {
		return err
	}
	row := storage.AppService{ServiceID: d.ID(), Position: p.upTo, Number: d.row.Number + 1, Body: object(t)}
	err = d.all.store.Do(ctx, func(ctx context.Context) error {
		for name, position := range p.encrypted.fetched {
			if err := d.all.store.ToDevice.Delete(ctx, name.user, name.device, position); err != nil {
				return err
			}
		}
		return d.all.store.AppServices.Put(ctx, row)
	})
	if err != nil {
		return err
	}
	d.row, d.taken = row, false
	d.progress.settle(p.count, p.upTo)
	if !d.insist(ctx, d.name(), row.Body) {
		return nil
	}
	d.row.Body, d.taken = nil, true
	return nil
}

// compose writes the transaction's body.
func (d *deliverer) compose(ctx context.Context, p *parcel, passed []json.RawMessage) (*transaction, error) {
	t := &transaction{Events: p.events, ToDevice: p.encrypted.messages}
	if t.Events == nil {
		t.Events = []json.RawMessage{}
	}
	d.putEphemeral(t, slices.Concat(p.ephemeral, passed))
	if !d.Encryption {
		return t, nil
	}
	if len(p.encrypted.changed)+len(p.encrypted.left) > 0 {
		t.DeviceLists = &deviceLists{
			Changed: slices.Sorted(maps.Keys(p.encrypted.changed)), Left: slices.Sorted(maps.Keys(p.encrypted.left)),
		}
	}
	users := map[id.UserID]bool{d.bot: true}
	maps.Copy(users, p.encrypted.keys)
	var err error
	t.OneTimeKeys, t.FallbackKeys, err = d.keysLeft(ctx, users)
	return t, err
}

// putEphemeral writes ephemeral events under the name that the registration asks for.
func (d *deliverer) putEphemeral(t *transaction, list []json.RawMessage) {
	if d.Ephemeral {
		t.Ephemeral = list
	} else {
		t.OldEphemeral = list
	}
}

// mention sends typing and presence alone. What the service does not take is forgotten: it would be untrue by then.
func (d *deliverer) mention(ctx context.Context) error {
	passed, err := d.passed(ctx)
	if err != nil || len(passed) == 0 {
		return err
	}
	t := &transaction{Events: []json.RawMessage{}}
	d.putEphemeral(t, passed)
	// A name of its own kind: numbers are for what is written down.
	name := d.all.store.Incarnation() + "e" + strconv.FormatInt(d.all.now().UnixNano(), 36)
	if err := d.post(ctx, name, object(t)); err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("Application service did not take ephemeral events")
	}
	return nil
}

// note writes down that the service has taken the last transaction.
func (d *deliverer) note(ctx context.Context) error {
	if !d.taken {
		return nil
	}
	err := d.all.store.Do(ctx, func(ctx context.Context) error { return d.all.store.AppServices.Put(ctx, d.row) })
	d.taken = err != nil
	return err
}

// insist sends a transaction until the service takes it; false if ctx ended first.
func (d *deliverer) insist(ctx context.Context, name string, body []byte) bool {
	log := zerolog.Ctx(ctx)
	pause, failed := d.all.cfg.FirstRetry, 0
	for {
		err := d.post(ctx, name, body)
		if err == nil {
			if failed > 0 {
				log.Info().Int("attempts", failed+1).Msg("Application service takes its transactions again")
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if failed++; failed == 1 {
			log.Warn().Err(err).Str("transaction", name).Msg("Application service does not take its transaction, will try again")
		} else {
			log.Debug().Err(err).Str("transaction", name).Dur("pause", pause).Msg("Application service still does not answer")
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-wait.C:
		}
		wait.Stop()
		pause = min(2*pause, d.all.cfg.LastRetry)
	}
}

func (d *deliverer) post(ctx context.Context, name string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	code, answer, err := d.request(ctx, http.MethodPut, "/_matrix/app/v1/transactions/"+url.PathEscape(name), nil, body)
	if err == nil && (code < 200 || code > 299) {
		err = fmt.Errorf("status %d: %.200q", code, answer)
	}
	if err != nil {
		transactions.WithLabelValues("failed").Inc()
		return err
	}
	transactions.WithLabelValues("taken").Inc()
	return nil
}

// request puts one request to the service, and gives status and body of its answer. Its errors never show a token.
func (a *service) request(ctx context.Context, method, path string, query url.Values, body []byte) (code int, answer []byte, err error) {
	address := a.address() + path
	if a.all.cfg.QueryTokens {
		query = maps.Clone(query)
		if query == nil {
			query = url.Values{}
		}
		query.Set("access_token", a.HSTok)
	}
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, hide(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.HSTok)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.all.http.Do(req)
	if err != nil {
		return 0, nil, hide(err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, answer, err
}
