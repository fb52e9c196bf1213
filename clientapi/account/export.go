package account

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

const (
	exportEvents = 500
	exportFiles  = 200
	exportCalls  = 1000
)

// ErrNoAccount is what Export says of a user who never was.
var ErrNoAccount = mautrix.MNotFound.WithMessage("There is no such account")

// ExportUser handles GET /_chancery/admin/v1/users/{userId}/export: all that this server holds of a user, as one archive.
func (h *Handlers) ExportUser(r *rest.Request) (any, error) {
	user, err := r.UserID()
	if err != nil {
		return nil, err
	}
	account, err := h.store.Accounts.ByID(r.Context(), user)
	if err != nil {
		return nil, err
	}
	if account == nil {
		return nil, ErrNoAccount
	}
	return rest.Answer(func(w http.ResponseWriter, hr *http.Request) {
		w.Header().Set("Content-Type", "application/zip")
		w.Header().Set("Content-Disposition", `attachment; filename="account.zip"`)
		w.Header().Set("Cache-Control", "no-store")
		if err := h.Export(hr.Context(), string(user), w); err != nil {
			zerolog.Ctx(hr.Context()).Warn().Err(err).Msg("An export broke off")
			panic(http.ErrAbortHandler) // so that nobody takes half of it for the whole
		}
	}), nil
}

// Export writes all that this server holds of a user into a zip archive: account, profile, addresses, devices, private
// notes, rooms, calls, receipts, pushers, public keys, what the user said, and uploaded files. Not in it are hashes of passwords
// and tokens, and what others said. name is a localpart or a whole user ID of this server.
func (h *Handlers) Export(ctx context.Context, name string, w io.Writer) error {
	user, ok := h.userID(name)
	if !ok {
		return ErrNoAccount
	}
	account, err := h.store.Accounts.ByID(ctx, user)
	if err != nil {
		return err
	}
	if account == nil {
		return ErrNoAccount
	}
	x := &export{Handlers: h, user: user, zip: zip.NewWriter(w), now: h.now()}
	for _, part := range []func(context.Context, *storage.Account) error{x.account, x.notes, x.rooms, x.calls, x.keys, x.files} {
		if err := part(ctx, account); err != nil {
			return fmt.Errorf("export %s: %w", user, err)
		}
	}
	return x.zip.Close()
}

// export is one archive being written.
type export struct {
	*Handlers
	user id.UserID
	zip  *zip.Writer
	now  time.Time
}

// create begins a file of the archive.
func (x *export) create(name string) (io.Writer, error) {
	return x.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: x.now})
}

// write adds a file with a JSON value.
func (x *export) write(name string, value any) error {
	w, err := x.create(name)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

func (x *export) account(ctx context.Context, a *storage.Account) error {
	profile, err1 := x.store.Profiles.All(ctx, x.user)
	addresses, err2 := x.store.ThreePIDs.Of(ctx, x.user)
	devices, err3 := x.store.Devices.All(ctx, x.user)
	pushers, err4 := x.store.Pushers.Of(ctx, x.user)
	signedIn, err5 := x.store.Browsers.Of(ctx, x.user)
	elsewhere, err6 := x.store.ExternalIDs.Of(ctx, x.user)
	validity, err7 := x.store.Validity.Of(ctx, x.user)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return err
	}
	var expires *int64
	if validity != nil {
		ms := validity.Until.UnixMilli()
		expires = &ms
	}
	type browser struct {
		Seen    int64  `json:"last_seen_ts"`
		Address string `json:"last_seen_ip"`
		Agent   string `json:"last_seen_user_agent"`
	}
	browsers := make([]browser, len(signedIn))
	for i, b := range signedIn {
		browsers[i] = browser{b.Seen.UnixMilli(), b.Address, b.Agent}
	}
	type externalID struct {
		Provider string `json:"auth_provider"`
		ID       string `json:"external_id"`
	}
	externalIDs := make([]externalID, len(elsewhere))
	for i, e := range elsewhere {
		externalIDs[i] = externalID{e.Provider, e.ExternalID}
	}
	threepids := make([]threePID, len(addresses))
	for i, t := range addresses {
		threepids[i] = threePID{t.Medium, t.Address, t.Validated.UnixMilli(), t.Added.UnixMilli()}
	}
	shownDevices := make([]device, len(devices))
	for i, d := range devices {
		shownDevices[i] = shown(d)
	}
	type pusher struct {
		AppID, Kind, PushKey, DeviceDisplayName, Lang string
		Data                                          json.RawMessage
	}
	shownPushers := make([]pusher, len(pushers))
	for i, p := range pushers {
		shownPushers[i] = pusher{p.AppID, p.Kind, p.PushKey, p.DeviceDisplayName, p.Lang, p.Data}
	}
	return x.write("account.json", map[string]any{
		"user_id": x.user, "created_ts": a.Created.UnixMilli(), "admin": a.Admin, "locked": a.Locked, "suspended": a.Suspended,
		"deactivated": a.Deactivated, "expiration_ts": expires, "exported_ts": x.now.UnixMilli(), "profile": profile, "threepids": threepids,
		"devices": shownDevices, "browsers": browsers, "pushers": shownPushers, "external_ids": externalIDs,
	})
}

func (x *export) notes(ctx context.Context, _ *storage.Account) error {
	notes, err := x.store.AccountData.Between(ctx, x.user, 0, x.store.Head())
	if err != nil {
		return err
	}
	type note struct {
		RoomID  id.RoomID       `json:"room_id,omitempty"`
		Type    string          `json:"type"`
		Content json.RawMessage `json:"content"`
	}
	list := []note{}
	for _, n := range notes {
		if !n.Deleted {
			list = append(list, note{n.RoomID, n.Type, n.Content})
		}
	}
	return x.write("account_data.json", list)
}

// rooms writes where the user is or was, how far the user has read, and what the user said there: a line for each event.
func (x *export) rooms(ctx context.Context, _ *storage.Account) error {
	list, err := x.store.Memberships.Ever(ctx, x.user)
	if err != nil {
		return err
	}
	type room struct {
		RoomID     id.RoomID `json:"room_id"`
		Membership string    `json:"membership"`
		Forgotten  bool      `json:"forgotten"`
		Events     string    `json:"events,omitempty"`
	}
	type receipt struct {
		RoomID    id.RoomID  `json:"room_id"`
		Type      string     `json:"type"`
		Thread    string     `json:"thread_id,omitempty"`
		EventID   id.EventID `json:"event_id"`
		Timestamp int64      `json:"ts"`
	}
	rooms, receipts := []room{}, []receipt{}
	for i, m := range list {
		file, err := x.said(ctx, fmt.Sprintf("rooms/%04d.jsonl", i+1), m.RoomID)
		if err != nil {
			return err
		}
		rooms = append(rooms, room{m.RoomID, string(m.Membership), m.Forgotten, file})
		read, err := x.store.Receipts.Of(ctx, m.RoomID, x.user)
		if err != nil {
			return err
		}
		for _, r := range read {
			receipts = append(receipts, receipt{r.RoomID, r.Type, r.Thread, r.EventID, r.Timestamp})
		}
	}
	return errors.Join(x.write("rooms.json", rooms), x.write("receipts.json", receipts))
}

// said writes what the user said in a room; the file's name, or nothing if there is nothing.
func (x *export) said(ctx context.Context, name string, room id.RoomID) (string, error) {
	var w io.Writer
	after := storage.Page{Place: math.MinInt64}
	for {
		events, err := x.store.Events.SaidBy(ctx, room, x.user, after, exportEvents)
		if err != nil || len(events) == 0 {
			if w == nil {
				name = ""
			}
			return name, err
		}
		if w == nil {
			if w, err = x.create(name); err != nil {
				return "", err
			}
		}
		for _, e := range events {
			line, err := json.Marshal(struct {
				EventID    id.EventID      `json:"event_id"`
				RedactedBy id.EventID      `json:"redacted_by,omitempty"`
				Event      json.RawMessage `json:"event"`
			}{e.ID, e.RedactedBy, e.JSON})
			if err != nil {
				return "", err
			}
			if _, err := w.Write(append(line, '\n')); err != nil {
				return "", err
			}
			after = e.PageOf()
		}
	}
}

// calls writes in which calls the user was, and when.
func (x *export) calls(ctx context.Context, _ *storage.Account) error {
	list := []*storage.CallRecord{}
	for {
		page, err := x.store.CallRecords.Find(ctx, storage.CallSearch{UserID: x.user, To: x.now.UnixMilli(), Limit: exportCalls, Offset: len(list)})
		if err != nil {
			return err
		}
		if list = append(list, page...); len(page) < exportCalls {
			return x.write("calls.json", list)
		}
	}
}

func (x *export) keys(ctx context.Context, _ *storage.Account) error {
	devices, err1 := x.store.Keys.Devices(ctx, x.user)
	crossSigning, err2 := x.store.Keys.CrossSigning(ctx, x.user)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	byDevice, byUsage := map[id.DeviceID]json.RawMessage{}, map[string]json.RawMessage{}
	for _, k := range devices {
		byDevice[k.DeviceID] = k.JSON
	}
	for usage, k := range crossSigning {
		byUsage[usage] = k.JSON
	}
	return x.write("keys.json", map[string]any{"device_keys": byDevice, "cross_signing_keys": byUsage})
}

// files writes what the user has uploaded: a list, and each file.
func (x *export) files(ctx context.Context, _ *storage.Account) error {
	type file struct {
		URI         string `json:"uri"`
		Name        string `json:"name,omitempty"`
		ContentType string `json:"content_type"`
		Size        int64  `json:"size"`
		Created     int64  `json:"created_ts"`
		File        string `json:"file,omitempty"`
	}
	list := []file{}
	for {
		page, _, err := x.store.Media.OfUser(ctx, x.user, storage.MediaPage{Order: storage.MediaByID, Skip: len(list), Limit: exportFiles})
		if err != nil {
			return err
		}
		for _, f := range page {
			entry := file{storage.MXC{Server: f.Server, MediaID: f.MediaID}.String(), f.Name, f.ContentType, f.Size, f.Created, ""}
			if x.blobs != nil && f.Hash != "" {
				if entry.File, err = x.file(f); err != nil {
					return err
				}
			}
			list = append(list, entry)
		}
		if len(page) < exportFiles {
			return x.write("media.json", list)
		}
	}
}

// file copies one uploaded file; nothing if it is not on the disk any more.
func (x *export) file(f *storage.File) (string, error) {
	blob, err := x.blobs.Open(f.Hash)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer blob.Close()
	name := "media/" + strings.ReplaceAll(path.Base("/"+f.MediaID), "..", "_")
	w, err := x.create(name)
	if err == nil {
		_, err = io.Copy(w, blob)
	}
	return name, err
}
