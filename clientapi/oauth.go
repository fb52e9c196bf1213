package clientapi

import (
	"time"

	"chancery/clientapi/account"
	"chancery/clientapi/oauth"
	"chancery/clientapi/rest"
	"chancery/clientapi/upstream"
	"chancery/storage"
)

// newOAuth makes the OAuth 2.0 API upon the accounts' chapter. Siblings do not know one another: here they meet.
func newOAuth(cfg Config, store *storage.Store, accounts *account.Handlers, providers *upstream.Providers) (*oauth.Handlers, error) {
	cfg.OAuth.ServerName, cfg.OAuth.PublicURL = cfg.ServerName, cfg.Account.PublicURL
	for _, t := range cfg.Account.Terms {
		d := oauth.Document{Titles: map[string]string{}, URLs: map[string]string{}}
		for lang, text := range t.Languages {
			d.Titles[lang], d.URLs[lang] = text.Title, text.URL
		}
		cfg.OAuth.Terms = append(cfg.OAuth.Terms, d)
	}
	return oauth.New(cfg.OAuth, oauth.Deps{Store: store, Accounts: accounts, Registration: accounts, Upstream: providers})
}

// oauthRoutes are the routes of the OAuth 2.0 API. Where it is off there are none but that which says so.
func (s *Server) oauthRoutes() []rest.Route {
	o := s.oauth
	const unstable = "/_matrix/client/unstable"
	routes := []rest.Route{
		{Method: "GET", Path: "/_matrix/client/v1/auth_metadata", Handler: o.Metadata},
		{Method: "GET", Path: unstable + "/org.matrix.msc2965/auth_metadata", Handler: o.Metadata},
	}
	if !s.cfg.OAuth.Enabled {
		return routes
	}
	const small = 64 << 10
	return append(routes, []rest.Route{
		{Method: "GET", Path: "/.well-known/oauth-authorization-server", Handler: o.Metadata},
		{Method: "GET", Path: "/.well-known/openid-configuration", Handler: o.Metadata},

		// What clients call.
		{Method: "POST", Path: oauth.RegisterPath, Handler: o.RegisterClient, Limit: rest.LimitGeneral, MaxBody: small},
		{Method: "POST", Path: oauth.TokenPath, Handler: o.Token, MaxBody: small},
		{Method: "POST", Path: oauth.RevokePath, Handler: o.Revoke, Limit: rest.LimitGeneral, MaxBody: small},
		{Method: "POST", Path: oauth.IntrospectPath, Handler: o.Introspect, MaxBody: small},
		{Method: "POST", Path: oauth.DevicePath, Handler: o.DeviceAuthorization, Limit: rest.LimitRegister, MaxBody: small},

		// What people see.
		{Method: "GET", Path: oauth.AuthorizePath, Handler: o.Authorize, Limit: rest.LimitGeneral},
		{Method: "POST", Path: oauth.AuthorizePath, Handler: o.Decide, Limit: rest.LimitGeneral, MaxBody: small},
		{Method: "GET", Path: oauth.StylePath, Handler: o.Style},
		{Method: "GET", Path: oauth.SignInPath, Handler: o.SignInPage, Limit: rest.LimitGeneral},
		{Method: "POST", Path: oauth.SignInPath, Handler: o.SignIn, MaxBody: small},
		{Method: "GET", Path: oauth.ProviderPath, Handler: o.Provider, Limit: rest.LimitGeneral},
		{Method: "GET", Path: oauth.SignUpPath, Handler: o.SignUpPage, Limit: rest.LimitGeneral},
		{Method: "POST", Path: oauth.SignUpPath, Handler: o.SignUp, MaxBody: small},
		{Method: "POST", Path: oauth.SignOutPath, Handler: o.SignOut, MaxBody: small},
		{Method: "GET", Path: oauth.LinkPath, Handler: o.LinkPage, Limit: rest.LimitGeneral},
		{Method: "POST", Path: oauth.LinkPath, Handler: o.Link, MaxBody: small},
		{Method: "GET", Path: oauth.AccountPath, Handler: o.Account, Limit: rest.LimitGeneral},
		{Method: "GET", Path: oauth.AccountPath + "/{$}", Handler: o.Account, Limit: rest.LimitGeneral},
		{Method: "POST", Path: oauth.AccountActionPath, Handler: o.ChangeAccount, MaxBody: small, Timeout: 2 * time.Minute},

		// Meeting places of two devices.
		{Method: "POST", Path: unstable + "/org.matrix.msc4108/rendezvous", Handler: o.OpenPlain, Limit: rest.LimitRegister, MaxBody: oauth.MaxRendezvous},
		{Method: "GET", Path: unstable + "/org.matrix.msc4108/rendezvous/{id}", Handler: o.ReadPlain, Limit: rest.LimitGeneral},
		{Method: "PUT", Path: unstable + "/org.matrix.msc4108/rendezvous/{id}", Handler: o.WritePlain, Limit: rest.LimitGeneral, MaxBody: oauth.MaxRendezvous},
		{Method: "DELETE", Path: unstable + "/org.matrix.msc4108/rendezvous/{id}", Handler: o.ClosePlain, Limit: rest.LimitGeneral},
		{Method: "GET", Path: unstable + "/io.element.msc4388/rendezvous", Handler: o.MayOpen, Auth: rest.Optional, Limit: rest.LimitGeneral},
		{Method: "POST", Path: unstable + "/io.element.msc4388/rendezvous", Handler: o.Open, Auth: rest.Optional, Limit: rest.LimitRegister, MaxBody: small},
		{Method: "GET", Path: unstable + "/io.element.msc4388/rendezvous/{id}", Handler: o.Read, Limit: rest.LimitGeneral},
		{Method: "PUT", Path: unstable + "/io.element.msc4388/rendezvous/{id}", Handler: o.Write, Limit: rest.LimitGeneral, MaxBody: small},
		{Method: "PUT", Path: unstable + "/io.element.msc4388/rendezvous/{id}/{txnId}", Handler: o.Write, Limit: rest.LimitGeneral, MaxBody: small},
		{Method: "DELETE", Path: unstable + "/io.element.msc4388/rendezvous/{id}", Handler: o.Close, Limit: rest.LimitGeneral},
	}...)
}
