package oauth

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"chancery/clientapi/rest"
)

// client is a program that registered itself, as it described itself. What is not understood is not kept.
// Spec: client-server-api/#client-metadata
type client struct {
	ID            string   `json:"client_id,omitempty"`
	Name          string   `json:"client_name,omitempty"`
	URI           string   `json:"client_uri"`
	Logo          string   `json:"logo_uri,omitempty"`
	TermsURI      string   `json:"tos_uri,omitempty"`
	PolicyURI     string   `json:"policy_uri,omitempty"`
	RedirectURIs  []string `json:"redirect_uris,omitempty"`
	ResponseTypes []string `json:"response_types,omitempty"`
	GrantTypes    []string `json:"grant_types,omitempty"`
	AuthMethod    string   `json:"token_endpoint_auth_method"`
	Application   string   `json:"application_type"`
}

// Bounds of what a client may say of itself.
const (
	maxName      = 200
	maxRedirects = 20
)

// RegisterClient handles POST /oauth2/register. The same description gets the same client ID, so that a million phones with one app are
// one client.
// Spec: client-server-api/#dynamic-client-registration-flow
func (h *Handlers) RegisterClient(r *rest.Request) (any, error) {
	return answer(h.registerClient(r))
}

func (h *Handlers) registerClient(r *rest.Request) (any, error) {
	raw, err := r.Object()
	if err != nil {
		return nil, err
	}
	var c client
	if json.Unmarshal(raw, &c) != nil {
		return nil, fail(invalidMetadata, "The metadata do not have the shape that they should have")
	}
	if err := h.checkClient(&c); err != nil {
		return nil, err
	}
	metadata, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(metadata)
	c.ID = base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20])
	if known, err := h.store.OAuth.Client(r.Context(), c.ID); err != nil || known == nil {
		// Only new descriptions are counted: a whole office may sign in with the same app.
		if err := errors.Join(err, r.Limits.Take(rest.LimitRegister, r.Address())); err != nil {
			return nil, err
		}
	}
	err = h.store.Do(r.Context(), func(ctx context.Context) error { return h.store.OAuth.PutClient(ctx, c.ID, metadata) })
	return rest.Status{Code: http.StatusCreated, Body: c}, err
}

// checkClient judges what a client says of itself, and completes it by what it did not say.
func (h *Handlers) checkClient(c *client) error {
	c.ID = ""
	if c.Application == "" {
		c.Application = webClient
	}
	if c.Application != webClient && c.Application != nativeClient {
		return fail(invalidMetadata, "application_type is web or native")
	}
	switch c.AuthMethod {
	case "":
		c.AuthMethod = "none"
	case "none":
	default:
		return fail(invalidMetadata, "token_endpoint_auth_method has to be none: clients keep no secret here")
	}
	if !storable(c.Name) || utf8.RuneCountInString(c.Name) > maxName {
		return fail(invalidMetadata, "client_name is too long")
	}
	base, err := h.clientURI(c.URI)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"logo_uri": c.Logo, "tos_uri": c.TermsURI, "policy_uri": c.PolicyURI} {
		if text == "" {
			continue
		}
		if u, err := h.webURL(text); err != nil || !commonBase(base, u) {
			return fail(invalidMetadata, name+" has to be an https address on the host of client_uri, or beneath it")
		}
	}
	if len(c.RedirectURIs) > maxRedirects {
		return fail(invalidRedirect, "There are too many redirect URIs")
	}
	for _, text := range c.RedirectURIs {
		if !h.mayRedirect(base, c.Application, text) {
			return fail(invalidRedirect, "A redirect URI is not one that such a client may have")
		}
	}
	return c.checkGrants()
}

// checkGrants leaves those kinds of grants and answers that are known here.
func (c *client) checkGrants() error {
	if len(c.GrantTypes) == 0 {
		c.GrantTypes = []string{grantCode, grantRefresh}
	}
	c.GrantTypes = known(c.GrantTypes, grantCode, grantRefresh, grantDevice)
	if len(c.GrantTypes) == 0 {
		return fail(invalidMetadata, "None of the grant_types is supported")
	}
	if !c.may(grantCode) {
		c.ResponseTypes = known(c.ResponseTypes, "code")
		return nil
	}
	if len(c.RedirectURIs) == 0 {
		return fail(invalidRedirect, "The authorization code grant needs a redirect URI")
	}
	if len(c.ResponseTypes) == 0 {
		c.ResponseTypes = []string{"code"}
	}
	if c.ResponseTypes = known(c.ResponseTypes, "code"); len(c.ResponseTypes) == 0 {
		return fail(invalidMetadata, "response_types has to hold code")
	}
	return nil
}

// known are those of what was asked for that there are, in our order, each once.
func known(asked []string, ours ...string) []string {
	return slices.DeleteFunc(ours, func(v string) bool { return !slices.Contains(asked, v) })
}

func (c *client) may(grant string) bool { return slices.Contains(c.GrantTypes, grant) }

// comesBackTo says whether this is an address that the client registered.
func (c *client) comesBackTo(redirect string) bool {
	return slices.ContainsFunc(c.RedirectURIs, func(registered string) bool { return comesBackTo(registered, redirect) })
}

// Title is how people know the client.
func (c *client) Title() string {
	if name := strings.TrimSpace(c.Name); name != "" {
		return name
	}
	return c.Host()
}

// Host is where the client comes from.
func (c *client) Host() string {
	u, err := parseURL(c.URI)
	if err != nil {
		return ""
	}
	return u.Host
}

// client finds the client of this ID, or nil.
func (h *Handlers) client(ctx context.Context, clientID string) (*client, error) {
	if clientID == "" || len(clientID) > 64 || !storable(clientID) {
		return nil, nil
	}
	raw, err := h.store.OAuth.Client(ctx, clientID)
	if err != nil || raw == nil {
		return nil, err
	}
	c := &client{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, err
	}
	c.ID = clientID
	return c, nil
}
