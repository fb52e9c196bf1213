package oauth

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// The pages of the account, as clients name them in links.
// Spec: client-server-api/#account-management-url-actions
const (
	actionProfile    = "org.matrix.profile"
	actionDevices    = "org.matrix.devices_list"
	actionDevice     = "org.matrix.device_view"
	actionEndDevice  = "org.matrix.device_delete"
	actionDeactivate = "org.matrix.account_deactivate"
	actionReset      = "org.matrix.cross_signing_reset"
	actionPassword   = "password" // ours alone: not told to clients
)

// otherNames are what clients call the same: the short names of MSC4191, and those of before.
var otherNames = map[string]string{
	"profile": actionProfile, "devices_list": actionDevices, "device_view": actionDevice, "device_delete": actionEndDevice,
	"account_deactivate": actionDeactivate, "cross_signing_reset": actionReset,
	"org.matrix.sessions_list": actionDevices, "org.matrix.session_view": actionDevice, "org.matrix.session_end": actionEndDevice,
	"sessions_list": actionDevices, "session_view": actionDevice, "session_end": actionEndDevice,
}

// actionNames are those that clients may link to: the names of the specification, and those that clients from before look for.
func actionNames() []string {
	return []string{
		actionProfile, actionDevices, actionDevice, actionEndDevice, actionDeactivate, actionReset,
		"org.matrix.sessions_list", "org.matrix.session_view", "org.matrix.session_end",
	}
}

const (
	// proofAge is how long ago the user may have signed in who replaces keys.
	proofAge = 10 * time.Minute
	// approvalAge is how long the client then has.
	approvalAge = 10 * time.Minute
)

// deviceRow is a session as the page shows it.
type deviceRow struct {
	ID, Name, Seen, Created, Address, Agent string
}

func shown(d *storage.Device) deviceRow {
	row := deviceRow{ID: string(d.DeviceID), Name: d.DisplayName, Seen: when(d.Seen), Created: when(d.Created), Address: d.Address, Agent: d.Agent}
	if row.Name == "" {
		row.Name = row.ID
	}
	return row
}

// Account handles GET /account.
// Spec: client-server-api/#oauth-20-account-management
func (h *Handlers) Account(r *rest.Request) (any, error) {
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	action := r.Query("action")
	if name, ok := otherNames[action]; ok {
		action = name
	}
	if v.signed == nil {
		return seeOther(SignInPath + "?" + url.Values{"next": {languagePath(r)}}.Encode()), nil
	}
	if action == actionReset && h.now().Sub(v.signed.Proved) > proofAge {
		return seeOther(SignInPath + "?" + url.Values{"next": {languagePath(r)}, "again": {"1"}}.Encode()), nil
	}
	p, err := h.accountPage(r, v, action, r.Query("device_id"))
	if err != nil {
		return nil, err
	}
	code := http.StatusOK
	if p.Error == "device.unknown" {
		code = http.StatusNotFound
	}
	if known := []string{"saved", "password", "ended", "approved"}; slices.Contains(known, r.Query("done")) {
		p.Notice = "done." + r.Query("done")
	}
	return p.answer(code), nil
}

// accountPage gathers what a page of the account shows.
func (h *Handlers) accountPage(r *rest.Request, v *visitor, action, device string) (*page, error) {
	ctx, p := r.Context(), h.page(v, "account")
	if err := h.introduce(r, p); err != nil {
		return nil, err
	}
	p.Action = action
	var err error
	switch action {
	case actionDevices:
		err = h.listDevices(ctx, p)
	case actionDevice, actionEndDevice:
		var d *storage.Device
		if d, err = h.store.Devices.ByID(ctx, v.user(), id.DeviceID(device)); err == nil && d == nil {
			p.Action, p.Error = actionDevices, "device.unknown"
			err = h.listDevices(ctx, p)
		} else if err == nil {
			row := shown(d)
			p.One = &row
		}
	case actionDeactivate, actionPassword:
		p.HasPassword, err = h.accounts.HasPassword(ctx, v.user())
	case actionReset:
	default:
		p.Action = actionProfile
		if p.HasPassword, err = h.accounts.HasPassword(ctx, v.user()); err == nil {
			p.Addresses, err = h.accounts.Addresses(ctx, v.user())
		}
	}
	return p, err
}

func (h *Handlers) listDevices(ctx context.Context, p *page) error {
	devices, err := h.store.Devices.All(ctx, userOf(p))
	if err != nil {
		return err
	}
	asleep, err := h.store.Dehydrated.Of(ctx, userOf(p))
	slices.SortStableFunc(devices, func(a, b *storage.Device) int { return b.Seen.Compare(a.Seen) })
	for _, d := range devices {
		if asleep == nil || asleep.DeviceID != d.DeviceID { // nobody holds it
			p.Devices = append(p.Devices, shown(d))
		}
	}
	return err
}

func userOf(p *page) id.UserID { return id.UserID(p.User) }

// ChangeAccount handles POST /account/{what}: the forms of these pages.
// Spec: client-server-api/#oauth-20-account-management
func (h *Handlers) ChangeAccount(r *rest.Request) (any, error) {
	change := map[string]func(*rest.Request, *visitor, url.Values) (any, error){
		"profile": h.changeName, "password": h.changePassword, "rename": h.renameDevice, "end": h.endDevice, "deactivate": h.deactivate, "reset": h.approveReset,
	}[r.Path("what")]
	if change == nil {
		return nil, mautrix.MUnrecognized.WithStatus(http.StatusNotFound).WithMessage("Unrecognized request")
	}
	v, err := h.visit(r)
	if err != nil {
		return nil, err
	}
	values, err := h.submitted(r, v)
	if err != nil {
		return h.refuse(v, err)
	}
	if v.signed == nil {
		return seeOther(SignInPath), nil
	}
	if err := r.Limits.Take(rest.LimitGeneral, string(v.user())); err != nil {
		return h.trouble(h.page(v, "note"), err)
	}
	return change(r, v, values)
}

// back leads to a page of the account, which says what was done.
func back(action, done string) rest.Answer {
	return seeOther(AccountPath + "?" + url.Values{"action": {action}, "done": {done}}.Encode())
}

func (h *Handlers) changeName(r *rest.Request, v *visitor, values url.Values) (any, error) {
	name := strings.TrimSpace(values.Get("displayname"))
	if err := h.accounts.SetProfile(r.Context(), v.user(), "displayname", name); err != nil {
		p, wrong := h.accountPage(r, v, actionProfile, "")
		if wrong != nil {
			return nil, wrong
		}
		return h.trouble(p, err)
	}
	return back(actionProfile, "saved"), nil
}

func (h *Handlers) changePassword(r *rest.Request, v *visitor, values url.Values) (any, error) {
	p, err := h.accountPage(r, v, actionPassword, "")
	if err != nil {
		return nil, err
	}
	if values.Get("password") != values.Get("again") {
		p.Error = "signup.differ"
		return p.answer(http.StatusBadRequest), nil
	}
	if err := h.accounts.CheckPassword(r, v.user(), values.Get("old")); err != nil {
		return h.trouble(p, err)
	}
	if err := h.accounts.ChangePassword(r, v.user(), values.Get("password"), values.Get("logout") != ""); err != nil {
		return h.trouble(p, err)
	}
	// The password's change has signed out all browsers; this one has just shown both.
	if err := h.enter(r, v, v.user(), v.signed.Upstream); err != nil {
		return nil, err
	}
	return back(actionProfile, "password"), nil
}

func (h *Handlers) renameDevice(r *rest.Request, v *visitor, values url.Values) (any, error) {
	device, name := id.DeviceID(values.Get("device_id")), strings.TrimSpace(values.Get("name"))
	if utf8.RuneCountInString(name) > 100 {
		name = clipName(name)
	}
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		_, err := h.store.Devices.Rename(ctx, v.user(), device, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	q := url.Values{"action": {actionDevice}, "device_id": {string(device)}, "done": {"saved"}}
	return seeOther(AccountPath + "?" + q.Encode()), nil
}

func (h *Handlers) endDevice(r *rest.Request, v *visitor, values url.Values) (any, error) {
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.Devices.End(ctx, v.user(), id.DeviceID(values.Get("device_id")))
	})
	if err != nil {
		return nil, err
	}
	return back(actionDevices, "ended"), nil
}

// deactivate closes the account. Who has a password gives it; who has none types the own user ID.
func (h *Handlers) deactivate(r *rest.Request, v *visitor, values url.Values) (any, error) {
	p, err := h.accountPage(r, v, actionDeactivate, "")
	if err != nil {
		return nil, err
	}
	if p.HasPassword {
		if err := h.accounts.CheckPassword(r, v.user(), values.Get("password")); err != nil {
			return h.trouble(p, err)
		}
	} else if strings.TrimSpace(values.Get("confirm")) != string(v.user()) {
		p.Error = "deactivate.confirm"
		return p.answer(http.StatusForbidden), nil
	}
	if err := h.accounts.Close(r.Context(), v.user(), values.Get("erase") != ""); err != nil {
		return nil, err
	}
	if err := h.leave(r, v); err != nil {
		return nil, err
	}
	return h.note(v, "deactivate.done"), nil
}

// approveReset lets the user's client replace the cross-signing keys, once and soon.
// Spec: client-server-api/#oauth-authentication
func (h *Handlers) approveReset(r *rest.Request, v *visitor, _ url.Values) (any, error) {
	if h.now().Sub(v.signed.Proved) > proofAge {
		next := AccountPath + "?" + url.Values{"action": {actionReset}}.Encode()
		return seeOther(SignInPath + "?" + url.Values{"next": {next}, "again": {"1"}}.Encode()), nil
	}
	err := h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.Browsers.Approve(ctx, v.user(), actionReset, h.now().Add(approvalAge))
	})
	if err != nil {
		return nil, err
	}
	return back(actionReset, "approved"), nil
}
