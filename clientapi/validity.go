package clientapi

import (
	"chancery/clientapi/account"
	"chancery/clientapi/rest"
)

// validityRoutes are the routes by which accounts are renewed. Where accounts do not expire there are none.
func (s *Server) validityRoutes() []rest.Route {
	a := s.account
	if !s.cfg.Account.Validity.On() {
		return nil
	}
	var routes []rest.Route
	for _, path := range []string{account.SendRenewalPath, account.OldSendRenewalPath} {
		routes = append(routes, rest.Route{Method: "POST", Path: path, Handler: a.SendRenewal, Auth: rest.User, Expired: true, Limit: rest.LimitGeneral})
	}
	for _, path := range []string{account.RenewPath, account.OldRenewPath} {
		routes = append(routes, rest.Route{Method: "GET", Path: path, Handler: a.Renew, Auth: a.RenewalAuth(), Expired: true, Limit: rest.LimitGeneral})
	}
	for _, path := range []string{account.SetValidityPath, account.OldSetValidityPath} {
		routes = append(routes, rest.Route{Method: "POST", Path: path, Handler: a.SetValidity, Auth: rest.Admin, Limit: rest.LimitGeneral})
	}
	return routes
}
