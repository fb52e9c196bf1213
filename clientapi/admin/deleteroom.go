package admin

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/roomserver/pdu"
	"chancery/storage"
	"chancery/storage/bus"
)

// deletion is what an administrator wishes to become of a room.
type deletion struct {
	NewUser    id.UserID `json:"new_room_user_id,omitempty"`
	Name       string    `json:"room_name,omitempty"`
	Message    string    `json:"message,omitempty"`
	Block      bool      `json:"block"`
	Purge      *bool     `json:"purge"`
	ForcePurge bool      `json:"force_purge"`
}

const (
	violationName    = "Content Violation Notification"
	violationMessage = "Sharing illegal content on this server is not permitted and rooms in violation will be blocked."
)

// deleted is what has become of it so far.
type deleted struct {
	Kicked  []id.UserID    `json:"kicked_users"`
	Failed  []id.UserID    `json:"failed_to_kick_users"`
	Aliases []id.RoomAlias `json:"local_aliases"`
	NewRoom *id.RoomID     `json:"new_room_id"`
}

func (h *Handlers) deletion(r *rest.Request) (id.RoomID, *deletion, error) {
	roomID, err := r.RoomID()
	if err != nil {
		return "", nil, err
	}
	d := &deletion{}
	if err := r.OptionalJSON(d); err != nil {
		return "", nil, err
	}
	if d.NewUser != "" && (!rest.ValidUserID(d.NewUser) || d.NewUser.Homeserver() != h.server) {
		return "", nil, invalid("new_room_user_id is no user of this server")
	}
	if d.Name == "" {
		d.Name = violationName
	}
	if d.Message == "" {
		d.Message = violationMessage
	}
	if d.Purge == nil {
		purge := true
		d.Purge = &purge
	}
	return roomID, d, nil
}

// writeDeletion writes the job down; the ID is empty where there is no such room.
func (h *Handlers) writeDeletion(ctx context.Context, by id.UserID, roomID id.RoomID, d *deletion) (string, error) {
	earlier, err := h.store.Jobs.About(ctx, storage.JobDeleteRoom, string(roomID), 100)
	if err != nil {
		return "", err
	}
	for _, job := range earlier {
		if job.Finished == 0 {
			return "", mautrix.MUnknown.WithStatus(400).WithMessage("This room is being deleted already")
		}
	}
	room, err := h.store.Rooms.ByID(ctx, roomID)
	if err != nil {
		return "", err
	}
	if room == nil {
		members, err := h.store.Memberships.ByRoom(ctx, roomID)
		closing, err2 := h.store.Rooms.Closing(ctx, roomID)
		if err != nil || err2 != nil || len(members) == 0 && !closing {
			return "", err
		}
	}
	job := &storage.Job{ID: newJobID(), Kind: storage.JobDeleteRoom, Subject: string(roomID), By: by}
	return job.ID, h.begin(ctx, job, d)
}

// DeleteRoom handles DELETE /_synapse/admin/v2/rooms/{roomId}: it begins, and says under what name one may ask how it goes on.
func (h *Handlers) DeleteRoom(r *rest.Request) (any, error) {
	roomID, d, err := h.deletion(r)
	if err != nil {
		return nil, err
	}
	job, err := h.writeDeletion(r.Context(), r.By.User, roomID, d)
	if err == nil && job == "" {
		err = noSuchRoom
	}
	return map[string]string{"delete_id": job}, err
}

// DeleteRoomNow handles DELETE /_synapse/admin/v1/rooms/{roomId}, and POST .../delete: it answers when all is done. A room that
// is not known can be blocked so.
func (h *Handlers) DeleteRoomNow(r *rest.Request) (any, error) {
	roomID, d, err := h.deletion(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	begun, err := h.writeDeletion(r.Context(), r.By.User, roomID, d)
	if err != nil {
		return nil, err
	}
	if begun == "" {
		if !d.Block {
			return nil, noSuchRoom
		}
		return shownDeletion(nil), h.store.Do(ctx, func(ctx context.Context) error { return h.store.Rooms.Block(ctx, roomID, r.By.User) })
	}
	job, err := h.ended(ctx, begun)
	switch {
	case err != nil:
		return nil, err
	case job == nil:
		return nil, noSuchRoom
	case job.Status == storage.JobFailed:
		return nil, mautrix.MUnknown.WithStatus(400).WithMessage("%s", job.Error)
	}
	return shownDeletion(job.Result), nil
}

func shownDeletion(result json.RawMessage) any {
	d := deleted{}
	_ = json.Unmarshal(result, &d) // we wrote it; nothing yet is an empty object
	if d.Kicked == nil {
		d.Kicked = []id.UserID{}
	}
	if d.Failed == nil {
		d.Failed = []id.UserID{}
	}
	if d.Aliases == nil {
		d.Aliases = []id.RoomAlias{}
	}
	return d
}

type shownJob struct {
	ID       string `json:"delete_id"`
	RoomID   string `json:"room_id"`
	Status   string `json:"status"`
	Error    string `json:"error,omitempty"`
	Shutdown any    `json:"shutdown_room"`
}

func showDeletion(job *storage.Job) shownJob {
	return shownJob{job.ID, job.Subject, job.Status, job.Error, shownDeletion(job.Result)}
}

// DeletionStatus handles GET /_synapse/admin/v2/rooms/{first}/{second}, of which there are two: delete_status/{deleteId}, for one
// deletion, and {roomId}/delete_status, for all that are remembered of a room.
func (h *Handlers) DeletionStatus(r *rest.Request) (any, error) {
	first, second := r.Path("first"), r.Path("second")
	if first == "delete_status" {
		job, err := h.job(r, "second", storage.JobDeleteRoom)
		if err != nil {
			return nil, err
		}
		return showDeletion(job), nil
	}
	if second != "delete_status" {
		return nil, mautrix.MUnrecognized.WithStatus(404).WithMessage("Unrecognized request")
	}
	if !pdu.ValidRoomID(first) {
		return nil, invalid("This is no room ID")
	}
	jobs, err := h.store.Jobs.About(r.Context(), storage.JobDeleteRoom, first, 100)
	if err == nil && len(jobs) == 0 {
		err = mautrix.MNotFound.WithMessage("Nobody has deleted this room, or it was long ago")
	}
	shown := make([]shownJob, len(jobs))
	for i, job := range jobs {
		shown[i] = showDeletion(job)
	}
	return map[string]any{"results": shown}, err
}

// deleteRoom does the job: bar, make the other room, part, and purge. Each step finds what an earlier attempt has done.
func (h *Handlers) deleteRoom(ctx context.Context, job *storage.Job) error {
	var wish deletion
	var done deleted
	if err := json.Unmarshal(job.Wish, &wish); err != nil {
		return err
	}
	if err := json.Unmarshal(job.Result, &done); err != nil {
		return err
	}
	roomID := id.RoomID(job.Subject)
	if wish.Block {
		if err := h.store.Do(ctx, func(ctx context.Context) error { return h.store.Rooms.Block(ctx, roomID, job.By) }); err != nil {
			return err
		}
	}
	closing, err := h.store.Rooms.Closing(ctx, roomID)
	if err != nil {
		return err
	}
	if !closing {
		if err := h.shutDown(ctx, job, roomID, &wish, &done); err != nil {
			return err
		}
	}
	if !*wish.Purge {
		return nil
	}
	if len(done.Failed) > 0 && !wish.ForcePurge {
		return mautrix.MUnknown.WithMessage("Users of this server are still in the room")
	}
	removed, err := h.slices(ctx, func(ctx context.Context) (bus.Outcome, error) {
		return h.ask(ctx, roomID, bus.RoomQuestion{Purge: &bus.Purge{All: true, Force: wish.ForcePurge}})
	})
	if err == nil {
		zerolog.Ctx(ctx).Info().Int("events", removed).Msg("Room removed")
	}
	return err
}

// shutDown makes the other room, if one is wished, and has our users leave this one.
func (h *Handlers) shutDown(ctx context.Context, job *storage.Job, roomID id.RoomID, wish *deletion, done *deleted) error {
	if wish.NewUser != "" && done.NewRoom == nil {
		made, err := h.makeNextRoom(ctx, wish)
		if err != nil {
			return err
		}
		done.NewRoom = &made
		if err := h.save(ctx, job, done); err != nil {
			return err
		}
	}
	members, err := h.store.Memberships.OfServer(ctx, roomID, h.server)
	if err != nil {
		return err
	}
	done.Failed = nil
	for i, m := range members {
		if m.Membership != event.MembershipJoin && m.Membership != event.MembershipInvite && m.Membership != event.MembershipKnock {
			continue
		}
		if h.part(ctx, roomID, m, done.NewRoom) {
			done.Kicked = append(done.Kicked, m.UserID)
		} else if m.Membership == event.MembershipJoin {
			done.Failed = append(done.Failed, m.UserID)
		}
		if i%100 == 99 {
			if err := h.save(ctx, job, done); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := h.moveAliases(ctx, roomID, wish, done); err != nil {
		return err
	}
	if err := h.save(ctx, job, done); err != nil {
		return err
	}
	return h.settled(ctx)
}

// part has a user leave the room, and join the next one if there is one.
func (h *Handlers) part(ctx context.Context, roomID id.RoomID, m *storage.Membership, next *id.RoomID) bool {
	leave := state(m.UserID, event.StateMember.Type, string(m.UserID), map[string]any{"membership": "leave"})
	if _, err := h.propose(ctx, roomID, leave); err != nil {
		zerolog.Ctx(ctx).Info().Err(err).Stringer("user_id", m.UserID).Msg("User could not leave a room that is to be deleted")
		return false
	}
	if next != nil && m.Membership == event.MembershipJoin {
		join := state(m.UserID, event.StateMember.Type, string(m.UserID), map[string]any{"membership": "join"})
		if _, err := h.propose(ctx, *next, join); err != nil {
			zerolog.Ctx(ctx).Info().Err(err).Stringer("user_id", m.UserID).Msg("User could not join the room after a deleted one")
		}
	}
	return true
}

// makeNextRoom makes the room that tells users why the other is gone. Only its maker speaks there.
func (h *Handlers) makeNextRoom(ctx context.Context, wish *deletion) (id.RoomID, error) {
	err := h.store.Do(ctx, func(ctx context.Context) error { // the maker need not have been somebody before
		_, err := h.store.Accounts.Create(ctx, &storage.Account{UserID: wish.NewUser})
		return err
	})
	if err != nil {
		return "", err
	}
	by := wish.NewUser
	created, err := bus.Ask[bus.Create, bus.Created](ctx, h.bus, bus.CreateRoom, bus.Create{
		Version: id.RoomV11, Content: json.RawMessage("{}"), Sender: by,
		Events: []bus.Proposal{
			state(by, event.StateMember.Type, string(by), map[string]any{"membership": "join"}),
			state(by, event.StatePowerLevels.Type, "", map[string]any{"users": map[id.UserID]int{by: 100}, "users_default": -10}),
			state(by, event.StateJoinRules.Type, "", map[string]any{"join_rule": "public"}),
			state(by, event.StateHistoryVisibility.Type, "", map[string]any{"history_visibility": "shared"}),
			state(by, event.StateRoomName.Type, "", map[string]any{"name": wish.Name}),
		},
	})
	if err != nil {
		return "", err
	}
	content, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": wish.Message})
	if err != nil {
		return "", err
	}
	_, err = h.propose(ctx, created.RoomID, bus.Proposal{Sender: by, Type: event.EventMessage.Type, Content: content})
	return created.RoomID, err
}

// moveAliases gives the room's aliases to the next one, or takes them away if the room goes.
func (h *Handlers) moveAliases(ctx context.Context, roomID id.RoomID, wish *deletion, done *deleted) error {
	if done.NewRoom == nil && !*wish.Purge {
		return nil
	}
	aliases, err := h.store.Rooms.Aliases(ctx, roomID)
	if err != nil {
		return err
	}
	for _, a := range aliases {
		change := bus.AliasChange{Alias: a.Alias, By: a.Creator, Remove: true, Anyway: true}
		if done.NewRoom != nil {
			change.To = *done.NewRoom
			done.Aliases = append(done.Aliases, a.Alias)
		}
		if _, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, h.bus, bus.RoomDo(roomID), bus.RoomQuestion{Alias: &change}); err != nil {
			return err
		}
	}
	return nil
}

// settlePatience is how long the purge waits for those who follow.
const settlePatience = 15 * time.Second

// settled waits until other servers' queues, phones and bridges have been told that our users are gone: what they would read
// is about to vanish. Who is slower than this learns it otherwise.
func (h *Handlers) settled(ctx context.Context) error {
	at := h.store.Head()
	deadline := time.Now().Add(settlePatience)
	for time.Now().Before(deadline) {
		passed, err := h.store.Passed(ctx, at)
		if err != nil || passed {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// ask puts a question to a room that has one outcome.
func (h *Handlers) ask(ctx context.Context, roomID id.RoomID, q bus.RoomQuestion) (bus.Outcome, error) {
	answer, err := bus.Ask[bus.RoomQuestion, bus.RoomAnswer](ctx, h.bus, bus.RoomDo(roomID), q)
	if err != nil || len(answer.Outcomes) == 0 {
		return bus.Outcome{}, err
	}
	return answer.Outcomes[0], nil
}
