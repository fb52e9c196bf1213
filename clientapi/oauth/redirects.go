package oauth

import (
	"net/url"
	"slices"
	"strings"
)

const (
	webClient    = "web"
	nativeClient = "native"
)

const maxURL = 2048

// clientURI reads the address that is the base of all others of a client.
// Spec: client-server-api/#client-metadata
func (h *Handlers) clientURI(text string) (*url.URL, error) {
	u, err := h.webURL(text)
	if err != nil {
		return nil, fail(invalidMetadata, "client_uri has to be an https address without user and password")
	}
	return u, nil
}

// webURL reads the https address of a page.
func (h *Handlers) webURL(text string) (*url.URL, error) {
	u, err := parseURL(text)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && !(h.cfg.InsecureClients && u.Scheme == "http") || u.Hostname() == "" || u.User != nil {
		return nil, fail(invalidMetadata, "This is not an https address")
	}
	return u, nil
}

func parseURL(text string) (*url.URL, error) {
	if text == "" || len(text) > maxURL || !storable(text) || strings.ContainsAny(text, " \t\r\n\\\"<>^`{|}") {
		return nil, fail(invalidMetadata, "This is not an address")
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fail(invalidMetadata, "This is not an address")
	}
	return u, nil
}

// commonBase says whether the address is on the client's host, or beneath it.
func commonBase(base, u *url.URL) bool {
	host, of := strings.ToLower(u.Hostname()), strings.ToLower(base.Hostname())
	return host == of || strings.HasSuffix(host, "."+of)
}

// mayRedirect says whether a client of this kind may register the address to come back to.
// Spec: client-server-api/#redirect-uri-validation
func (h *Handlers) mayRedirect(base *url.URL, kind, text string) bool {
	u, err := parseURL(text)
	if err != nil || u.Fragment != "" || strings.Contains(text, "#") || u.Scheme == "" {
		return false
	}
	if web, err := h.webURL(text); err == nil && commonBase(base, web) {
		return true
	}
	if kind != nativeClient {
		return false
	}
	return loopback(u) && u.Port() == "" || privateScheme(base, text, u)
}

// loopback says whether the address is the browser's own machine.
func loopback(u *url.URL) bool {
	return u.Scheme == "http" && u.User == nil && !strings.HasSuffix(u.Host, ":") && slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, u.Hostname())
}

// privateScheme says whether the scheme is one of the client's own: its host's name, the other way round. There must be no authority.
func privateScheme(base *url.URL, text string, u *url.URL) bool {
	labels := strings.Split(strings.ToLower(base.Hostname()), ".")
	if len(labels) < 2 {
		return false
	}
	slices.Reverse(labels)
	own, scheme := strings.Join(labels, "."), strings.ToLower(u.Scheme)
	if scheme != own && !strings.HasPrefix(scheme, own+".") {
		return false
	}
	return u.Host == "" && !strings.HasPrefix(text[len(u.Scheme)+1:], "//")
}

// comesBackTo says whether a client that registered one address may ask to be sent to the other: the same, but for the port of the
// browser's own machine, which is chosen anew each time.
func comesBackTo(registered, asked string) bool {
	if registered == asked {
		return true
	}
	to, err := parseURL(asked)
	if err != nil || !loopback(to) || to.Port() == "" || strings.Contains(asked, "#") {
		return false
	}
	from, err := parseURL(registered)
	if err != nil || !loopback(from) || from.Port() != "" {
		return false
	}
	without := *to
	without.Host = from.Host
	return to.Hostname() == from.Hostname() && without.String() == from.String()
}

// formTarget is what a page's policy has to allow, so that the answer to its form may lead there.
func formTarget(redirect string) string {
	u, err := parseURL(redirect)
	if err != nil {
		return ""
	}
	if u.Host != "" {
		return u.Scheme + "://" + u.Host
	}
	return u.Scheme + ":"
}

// withAnswer is the redirect URI with what the client is to be told, in its query or its fragment.
// Spec: client-server-api/#authorisation-code-flow
func withAnswer(redirect, mode string, values url.Values) string {
	sign := "?"
	switch {
	case mode == "fragment":
		sign = "#"
	case strings.Contains(redirect, "?"):
		sign = "&"
	}
	return redirect + sign + values.Encode()
}
