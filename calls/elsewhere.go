package calls

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"chancery/storage"
	"chancery/storage/bus"
)

// relayedTo names the focus process that a request is relayed to. It opens nothing: it only keeps requests from going round,
// and finds out addresses that lead to another process than they should.
const relayedTo = "Chancery-Focus"

func relayTransport() *http.Transport {
	return &http.Transport{
		Proxy: nil, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext,
		ResponseHeaderTimeout: homePatience + 5*time.Second, MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second,
	}
}

// elsewhere relays a request about a call to its home, and says whether it has answered it; the call is here if not. The
// media do not come this way.
func (f *Focus) elsewhere(w http.ResponseWriter, r *http.Request, call string, begin bool) (answered bool) {
	h := f.homes
	if h == nil {
		return false
	}
	to := r.Header.Get(relayedTo)
	if to != "" && to != h.name() { // it was started anew, or its address leads here: who asked looks again
		misdirect(w, h.name())
		return true
	}
	for end := time.Now().Add(homePatience); time.Now().Before(end); { // homes die
		home, err := h.locate(r.Context(), call, begin, to != "")
		switch {
		case home == nil && err == nil:
			return false
		case errors.Is(err, errNoRoom):
			return false // and there is none here: the caller says so in its own way
		case err == nil && to != "" || errors.Is(err, errMoved): // while the request was under way
			misdirect(w, h.name())
			return true
		case err != nil:
			zerolog.Ctx(r.Context()).Warn().Err(err).Msg("No home found for a call")
			refuse(w, &refusal{http.StatusServiceUnavailable, "try again"})
			return true
		}
		err = h.relay(w, r, home)
		if err == nil {
			return true
		}
		if !h.unreached(r.Context(), home, err) {
			refuse(w, &refusal{http.StatusBadGateway, "try again"})
			return true
		}
	}
	zerolog.Ctx(r.Context()).Warn().Msg("The home of a call is not where it says: is calls.relay_address right there?")
	refuse(w, &refusal{http.StatusServiceUnavailable, "try again"})
	return true
}

// misdirect answers what was relayed to this process and is not for it. It says who answers, for the process that relayed.
func misdirect(w http.ResponseWriter, process string) {
	w.Header().Set(relayedTo, process)
	refuse(w, &refusal{http.StatusMisdirectedRequest, "another focus was meant"})
}

// relay hands a request over, and a socket with all that is said on it, until one end closes or the home is buried. After an
// error nothing has been answered.
func (h *homes) relay(w http.ResponseWriter, r *http.Request, home *storage.FocusProcess) (failed error) {
	target, err := url.Parse(home.Address)
	if err != nil || target.Host == "" {
		return errNoHome
	}
	ctx, done := h.attached(r.Context(), home.Process)
	defer done()
	relayedSockets.Inc()
	defer relayedSockets.Dec()
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
			p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			p.SetXForwarded()
			p.Out.Header.Set(relayedTo, home.Process)
		},
		Transport: h.roads,
		ModifyResponse: func(answer *http.Response) error {
			if answer.StatusCode != http.StatusMisdirectedRequest {
				return nil
			}
			if answer.Header.Get(relayedTo) != home.Process {
				return errReplaced
			}
			return errMoved
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
	return failed
}

// attached gives a context that ends when the process is buried.
func (h *homes) attached(ctx context.Context, process string) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.neighbour(process)
	n.sockets[&cancel] = struct{}{}
	return ctx, func() {
		cancel()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(n.sockets, &cancel)
	}
}

// unreached notes that a home's door did not open, or opens to another, and says whether looking again is of use.
func (h *homes) unreached(ctx context.Context, home *storage.FocusProcess, err error) bool {
	if errors.Is(err, errMoved) || errors.Is(err, errReplaced) {
		if errors.Is(err, errReplaced) {
			h.refuses(home.Process)
		}
		zerolog.Ctx(ctx).Debug().Err(err).Str("focus", home.Process).Msg("Looking again for the home of a call")
		select {
		case <-ctx.Done():
			return false
		case <-time.After(homePause):
			return true
		}
	}
	var dial *net.OpError
	if !errors.As(err, &dial) || dial.Op != "dial" {
		return false
	}
	zerolog.Ctx(ctx).Info().Err(err).Str("focus", home.Process).Msg("The focus of a call does not open its door")
	if errors.Is(err, syscall.ECONNREFUSED) {
		h.refuses(home.Process)
	}
	return true
}

// refuses notes that a process does not answer where it should; it counts until it beats again.
func (h *homes) refuses(process string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.neighbour(process).refused = true
}

// askHome puts a question about a call to its home; one that is here is answered in place. Without a home it is errNoRoom.
func (f *Focus) askHome(ctx context.Context, call string, q bus.FocusRequest) (bus.FocusAnswer, error) {
	if f.homes == nil {
		return f.perform(q)
	}
	home, err := f.homes.locate(ctx, call, false, false)
	if err != nil || home == nil {
		if err == nil || errors.Is(err, errNoRoom) {
			return f.perform(q) // which knows what to say of a call that is not there
		}
		return bus.FocusAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, homePatience)
	defer cancel()
	return bus.Ask[bus.FocusQuestion, bus.FocusAnswer](ctx, f.homes.bus, bus.FocusDo(home.Process), bus.FocusQuestion{Do: &q})
}

// beginAtHome is askHome for a call that may begin with the question.
func (f *Focus) beginAtHome(ctx context.Context, call string, q bus.FocusRequest) (bus.FocusAnswer, error) {
	if f.homes != nil && call != "" {
		home, err := f.homes.locate(ctx, call, true, false)
		if err != nil {
			return bus.FocusAnswer{}, err
		}
		if home != nil {
			return bus.Ask[bus.FocusQuestion, bus.FocusAnswer](ctx, f.homes.bus, bus.FocusDo(home.Process), bus.FocusQuestion{Do: &q})
		}
	}
	return f.perform(q)
}

// askFoci puts a question to all focus processes, this one first. Those that do not answer soon are left out.
func (f *Focus) askFoci(ctx context.Context, q bus.FocusRequest) (answers []bus.FocusAnswer, err error) {
	own, err := f.perform(q)
	if err != nil || f.homes == nil {
		return []bus.FocusAnswer{own}, err
	}
	answers = append(answers, own)
	ctx, cancel := context.WithTimeout(ctx, 2*takePatience)
	defer cancel()
	others, err := f.homes.others(ctx)
	if err != nil {
		return nil, err
	}
	for _, process := range others {
		answer, err := bus.Ask[bus.FocusQuestion, bus.FocusAnswer](ctx, f.homes.bus, bus.FocusDo(process), bus.FocusQuestion{Do: &q})
		if err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Str("focus", process).Msg("Focus did not answer")
			continue
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// others are the other processes that live, or are not known to be dead.
func (h *homes) others(ctx context.Context) (names []string, err error) {
	all, err := h.rows.All(ctx)
	if err != nil {
		return nil, err
	}
	own := h.name()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range all {
		if trusted, _ := h.standing(p, time.Now()); p.Process != own && trusted {
			names = append(names, p.Process)
		}
	}
	return names, nil
}
