package rest

// StageSSO is confirming by signing in anew with an identity provider, on a page.
const StageSSO = "m.login.sso"

// ConfirmationAge is how long a session of user-interactive authentication may be open.
const ConfirmationAge = confirmationAge

// Ways are the flows in which the asking user can confirm: by the password, where the account has one, and by signing in
// anew with an identity provider, where it is known to one. Somebody who has neither is asked for the password that nobody has.
func (u *UIA) Ways(r *Request) ([][]string, error) {
	var ways [][]string
	account, err := u.store.Accounts.ByID(r.Context(), r.By.User)
	if err != nil {
		return nil, err
	}
	if account != nil && account.Password != "" {
		ways = append(ways, []string{StagePassword})
	}
	if u.stages[StageSSO] != nil {
		elsewhere, err := u.store.ExternalIDs.Of(r.Context(), r.By.User)
		if err != nil {
			return nil, err
		}
		if len(elsewhere) > 0 {
			ways = append(ways, []string{StageSSO})
		}
	}
	if len(ways) == 0 {
		ways = append(ways, []string{StagePassword})
	}
	return ways, nil
}
