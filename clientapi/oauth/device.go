package oauth

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"chancery/clientapi/rest"
	"chancery/storage"
)

const (
	deviceCodeAge = 20 * time.Minute
	// pollEvery is how often a device may ask whether it is let in.
	pollEvery = 5 * time.Second
)

// Letters of the codes that people type: none that look alike, and no vowels, so that no words come of them.
const (
	userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userCodeLength  = 8
)

// newUserCode draws a code that people type.
// Spec: RFC 8628, section 6.1
func newUserCode() string {
	code := make([]byte, 0, userCodeLength)
	random := make([]byte, 64)
	for {
		_, _ = rand.Read(random) // never fails
		for _, b := range random {
			if int(b) < 256-256%len(userCodeLetters) { // each letter as likely as the others
				code = append(code, userCodeLetters[int(b)%len(userCodeLetters)])
			}
			if len(code) == userCodeLength {
				return string(code)
			}
		}
	}
}

// typedCode is the code that somebody typed, as we keep it: without blanks and dashes, in capitals; "" if it cannot be one.
func typedCode(text string) string {
	var code strings.Builder
	for _, c := range strings.ToUpper(text) {
		switch {
		case strings.ContainsRune(userCodeLetters, c):
			code.WriteRune(c)
		case strings.ContainsRune(" -–_.\t", c):
		default:
			return ""
		}
		if code.Len() > userCodeLength {
			return ""
		}
	}
	if code.Len() != userCodeLength {
		return ""
	}
	return code.String()
}

// shownCode is a code in two halves.
func shownCode(code string) string { return code[:userCodeLength/2] + "-" + code[userCodeLength/2:] }

// deviceAnswer is what a device without a browser gets.
// Spec: RFC 8628, section 3.2
type deviceAnswer struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	URI        string `json:"verification_uri"`
	Complete   string `json:"verification_uri_complete"`
	ExpiresIn  int64  `json:"expires_in"`
	Interval   int64  `json:"interval"`
}

// DeviceAuthorization handles POST /oauth2/device: a device without a browser asks to be let in.
// Spec: client-server-api/#device-authorisation-flow
func (h *Handlers) DeviceAuthorization(r *rest.Request) (any, error) {
	return answer(h.deviceAuthorization(r))
}

func (h *Handlers) deviceAuthorization(r *rest.Request) (any, error) {
	values, err := form(r)
	if err != nil {
		return nil, err
	}
	c, err := h.client(r.Context(), values.Get("client_id"))
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, unknownClient()
	}
	if !c.may(grantDevice) {
		return nil, fail(unauthorizedClient, "The client did not register for the device authorization grant")
	}
	wanted, err := parseScope(values.Get("scope"))
	if err != nil {
		return nil, err
	}
	grant := storage.DeviceGrant{
		ClientID: c.ID, Scope: wanted.text, DeviceID: wanted.device, Address: r.Address(), Agent: clip(r.HTTP.UserAgent()),
		Polled: h.now().Add(-pollEvery), Expires: h.now().Add(deviceCodeAge),
	}
	deviceCode, userCode := newSecret("chd_"), ""
	for made := false; !made; {
		userCode = newUserCode()
		err := h.store.Do(r.Context(), func(ctx context.Context) (err error) {
			made, err = h.store.OAuth.PutDeviceGrant(ctx, deviceCode, userCode, grant)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	shown := shownCode(userCode)
	return deviceAnswer{
		DeviceCode: deviceCode, UserCode: shown, URI: h.at(LinkPath), Complete: h.at(LinkPath) + "?" + url.Values{"user_code": {shown}}.Encode(),
		ExpiresIn: int64(deviceCodeAge / time.Second), Interval: int64(pollEvery / time.Second),
	}, nil
}

// poll is the device authorization grant: is the device let in yet?
// Spec: RFC 8628, section 3.5
func (h *Handlers) poll(r *rest.Request, c *client, values url.Values) (any, error) {
	code := values.Get("device_code")
	if code == "" {
		return nil, fail(invalidRequest, "device_code is missing")
	}
	var refused error
	var given *tokens
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		refused, given = nil, nil
		g, err := h.store.OAuth.DeviceGrant(ctx, code)
		if err != nil {
			return err
		}
		if refused = h.waits(g, c); refused != nil {
			var f *failure
			if g != nil && errors.As(refused, &f) && (f.Code == authorizationPending || f.Code == slowDown) {
				return h.store.OAuth.PolledDeviceGrant(ctx, code)
			}
			return nil
		}
		if err := h.store.OAuth.DeleteDeviceGrant(ctx, code); err != nil {
			return err
		}
		if h.accounts.MayEnter(ctx, g.UserID) != nil {
			refused = fail(accessDenied, "This account cannot be entered")
			return nil
		}
		var pair storage.Pair
		pair, given = h.pair(c, g.Scope)
		return h.open(ctx, r, c, storage.Browser{UserID: g.UserID, Upstream: g.Upstream}, g.DeviceID, pair)
	})
	if err := errors.Join(err, refused); err != nil {
		return nil, err
	}
	return given, nil
}

// waits says why the device is not let in (yet); nil if it is.
func (h *Handlers) waits(g *storage.DeviceGrant, c *client) error {
	switch {
	case g == nil || g.ClientID != c.ID:
		return fail(invalidGrant, "This device code is not known")
	case !h.now().Before(g.Expires):
		return fail(expiredToken, "This device code is too old")
	case g.State == storage.GrantDenied:
		return fail(accessDenied, "The user did not let the device in")
	case g.State == storage.GrantAllowed:
		return nil
	case h.now().Sub(g.Polled) < pollEvery-pollEvery/10: // a network may bring two questions closer to one another
		return fail(slowDown, "Ask less often")
	}
	return fail(authorizationPending, "The user has not decided yet")
}

// LinkPage handles GET /account/link: somebody types the code that a device shows, or comes with it.
// Spec: client-server-api/#device-authorisation-flow
func (h *Handlers) LinkPage(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	typed := r.Query("user_code")
	p := h.page(v, "link")
	if typed == "" {
		return p.answer(http.StatusOK), nil
	}
	if v.signed == nil {
		next := LinkPath + "?" + url.Values{"user_code": {clip(typed)}}.Encode()
		return seeOther(SignInPath + "?" + url.Values{"next": {next}}.Encode()), nil
	}
	g, err := h.typed(r, typed)
	if err != nil {
		return h.trouble(p, err)
	}
	if g == nil {
		p.Typed, p.Error = clip(typed), "link.unknown"
		return p.answer(http.StatusNotFound), nil
	}
	if p.Client, err = h.client(r.Context(), g.ClientID); err != nil || p.Client == nil {
		return nil, errors.Join(err, unknownClient())
	}
	p.name, p.Grant, p.Code, p.Device = "consent", g, shownCode(typedCode(typed)), string(g.DeviceID)
	if err := h.introduce(r, p); err != nil {
		return nil, err
	}
	return p.answer(http.StatusOK), nil
}

// typed finds the device whose code somebody typed, or nil. Guesses are counted.
func (h *Handlers) typed(r *rest.Request, text string) (*storage.DeviceGrant, error) {
	if err := r.Limits.Take(rest.LimitFailedAddress, r.Address()); err != nil {
		return nil, err
	}
	code := typedCode(text)
	if code == "" {
		return nil, nil
	}
	g, err := h.store.OAuth.DeviceGrantByUserCode(r.Context(), code)
	if err != nil || g == nil || g.State != storage.GrantPending {
		return nil, err
	}
	r.Limits.Return(rest.LimitFailedAddress, r.Address())
	return g, nil
}

// Link handles POST /account/link: the buttons of that page.
// Spec: client-server-api/#device-authorisation-flow
func (h *Handlers) Link(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	values, err := h.submitted(r, v)
	if err != nil {
		return h.refuse(v, err)
	}
	code := values.Get("user_code")
	if v.signed == nil || string(v.user()) != values.Get("user") {
		return seeOther(LinkPath + "?" + url.Values{"user_code": {code}}.Encode()), nil
	}
	p := h.page(v, "link")
	g, err := h.typed(r, code)
	if err != nil {
		return h.trouble(p, err)
	}
	state, text := storage.GrantDenied, "link.denied"
	if values.Get("decision") == "allow" {
		state, text = storage.GrantAllowed, "link.allowed"
	}
	decided := false
	if g != nil {
		err = h.store.Do(r.Context(), func(ctx context.Context) (err error) {
			decided, err = h.store.OAuth.DecideDeviceGrant(ctx, typedCode(code), state, v.user(), v.signed.Upstream)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if !decided {
		p.Typed, p.Error = clip(code), "link.unknown"
		return p.answer(http.StatusNotFound), nil
	}
	return h.note(v, text), nil
}
