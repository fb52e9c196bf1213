package bus

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"maunium.net/go/mautrix/id"
)

// Subjects of the bus. <key> is the room ID in base64url, since NATS reads dots.
const (
	// Advance tells that the stream has reached a position: a number, nothing else.
	Advance = "advance"
	// AllRooms is served by the room server: RoomQuestion to RoomAnswer.
	AllRooms = "room.*.do"
	// CreateRoom is served by the room server: Create to Created.
	CreateRoom = "rooms.create"
	// FederationDo is served by federation: FederationQuestion to FederationAnswer.
	FederationDo = "federation.do"
	// MediaDo is served by the client API's media: MediaQuestion to MediaAnswer.
	MediaDo = "media.do"
	// DelayedDo is served by the holder of the delayed events' timers.
	DelayedDo = "delayed.do"
	// TURNDo is served by the call focus: TURNQuestion to TURNAnswer.
	TURNDo = "turn.do"
	// CallsDo is served by the call foci, each question by one of them: CallsQuestion to CallsAnswer.
	CallsDo = "calls.do"
	// FociNews carries FocusNews, once a second from each focus process.
	FociNews = "foci.news"
	// AllTyping carries Typing.
	AllTyping = "typing.*"
	// AllPresence carries Presence.
	AllPresence = "presence.*"
	// AllAlive wakes a destination's queue.
	AllAlive = "destination.*.alive"
)

// RoomDo is the subject on which questions to one room are asked.
func RoomDo(room id.RoomID) string { return "room." + key(string(room)) + ".do" }

// TypingIn is the subject of typing in one room.
func TypingIn(room id.RoomID) string { return "typing." + key(string(room)) }

// PresenceOf is the subject of one user's presence.
func PresenceOf(user id.UserID) string { return "presence." + key(string(user)) }

// Alive is the subject on which a server is told to be reachable again; the message is the server's name.
func Alive(server string) string { return "destination." + key(server) + ".alive" }

// FocusDo is the subject of one focus process: FocusQuestion to FocusAnswer.
func FocusDo(process string) string { return "focus." + process + ".do" }

func key(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// RoomOf reads the room ID out of a RoomDo or TypingIn subject; empty if there is none.
func RoomOf(subject string) id.RoomID {
	parts := strings.Split(subject, ".")
	if len(parts) < 2 {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	return id.RoomID(raw)
}

// Refusal is a no by rule, not a fault: the client is told Code and Message
// with the HTTP status. It is an error, and crosses the bus as itself.
type Refusal struct {
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
	// Rule is the number of the rule that refused, where there is one.
	Rule string `json:"rule,omitempty"`
	// Extra holds further members of the error body.
	Extra map[string]any `json:"extra,omitempty"`
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Message }

// Refuse makes a Refusal.
func Refuse(status int, code, message string) *Refusal {
	return &Refusal{Status: status, Code: code, Message: message}
}

// RoomQuestion is put to one room. Exactly one field is set.
type RoomQuestion struct {
	Propose *Proposal    `json:"propose,omitempty"`
	Draft   *Proposal    `json:"draft,omitempty"`
	Receive *Received    `json:"receive,omitempty"`
	Adopt   *Adopt       `json:"adopt,omitempty"`
	Alias   *AliasChange `json:"alias,omitempty"`
	Publish *Publish     `json:"publish,omitempty"`
	Forget  *Forget      `json:"forget,omitempty"`
	Purge   *Purge       `json:"purge,omitempty"`
}

// RoomAnswer holds one outcome for Propose, Draft and Adopt, and one for each
// PDU of Receive, in their order. The others answer with none.
type RoomAnswer struct {
	Outcomes []Outcome `json:"outcomes,omitempty"`
}

// Proposal is what a local user (or a server, for a Draft) wishes to happen in a room.
// It is not yet an event: the room server adds parents, depth, auth events, hashes and signature.
type Proposal struct {
	Sender   id.UserID       `json:"sender"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key,omitempty"`
	Content  json.RawMessage `json:"content"`
	// Redacts is the target of an m.room.redaction; put where the room version wants it.
	Redacts id.EventID `json:"redacts,omitempty"`
	// Device, Path and TransactionID make the proposal idempotent: the same three
	// from the same sender give the same event. Path is "<method> <event type>" or alike, without the room.
	Device        id.DeviceID `json:"device,omitempty"`
	Path          string      `json:"path,omitempty"`
	TransactionID string      `json:"transaction_id,omitempty"`
	// Timestamp in ms since 1970; zero: now. (Application services may set it.)
	Timestamp int64 `json:"timestamp,omitempty"`
	// Sticky is for how many milliseconds the event is to be sticky (MSC4354); 0: not at all.
	Sticky int64 `json:"sticky,omitempty"`
	// Always makes an event even if the state is already so.
	Always bool `json:"always,omitempty"`
	// Unsigned (Draft only) asks for a template: no hashes, no signature (make_join and its kin).
	Unsigned bool `json:"unsigned,omitempty"`
}

// Verdict is what became of an event.
type Verdict string

// The verdicts.
const (
	Accepted   Verdict = "accepted"
	SoftFailed Verdict = "soft-failed"
	Rejected   Verdict = "rejected"
	Missing    Verdict = "missing"
	// Known: it was there already, and stands as before.
	Known Verdict = "known"
)

// Outcome tells what became of one event.
type Outcome struct {
	EventID id.EventID `json:"event_id,omitempty"`
	Verdict Verdict    `json:"verdict"`
	// Rule and Reason of a rejection.
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Missing lists parents or auth events that we do not have.
	Missing []id.EventID `json:"missing,omitempty"`
	// Event is the event as built (Draft), in federation format.
	Event   json.RawMessage `json:"event,omitempty"`
	Version id.RoomVersion  `json:"version,omitempty"`
	// Already: the transaction or the state was so before; nothing was written.
	Already bool `json:"already,omitempty"`
	// Removed tells of a Purge how many events it took away; More, that it has to be asked again for the rest.
	Removed int  `json:"removed,omitempty"`
	More    bool `json:"more,omitempty"`
}

// Received hands PDUs from outside to their room. The receiver has checked
// format, hashes (redacting where they failed) and signatures; the room judges the rest.
type Received struct {
	Origin  string            `json:"origin"`
	Version id.RoomVersion    `json:"version,omitempty"`
	PDUs    []json.RawMessage `json:"pdus"`
	// Snapshot is the chain number of an unattached snapshot that holds the
	// state before the first PDU, where it had to be fetched; zero otherwise.
	Snapshot int64 `json:"snapshot,omitempty"`
	// Unapproved are the places of those PDUs that the room's policy server does not recommend.
	Unapproved []int `json:"unapproved,omitempty"`
	// Backfill: the PDUs are history, placed before what we have; they are not news.
	Backfill bool `json:"backfill,omitempty"`
	// Stripped is the state sent along with an invite (or knock) to a room that we are not in.
	Stripped []json.RawMessage `json:"stripped,omitempty"`
	// Onward: what is accepted is sent on, to the servers that were in the room before it: its own cannot reach them yet, or any more.
	Onward bool `json:"onward,omitempty"`
}

// Adopt takes a joined room's state into use: the join event, and the number of
// the unattached snapshot that holds the state before it.
type Adopt struct {
	Version  id.RoomVersion  `json:"version"`
	Event    json.RawMessage `json:"event"`
	Snapshot int64           `json:"snapshot"`
	// Resident is the server that let us in.
	Resident string `json:"resident"`
	// Device, Path, TransactionID: as in Proposal.
	Device        id.DeviceID `json:"device,omitempty"`
	TransactionID string      `json:"transaction_id,omitempty"`
}

// AliasChange adds or removes a local alias of the room; permission is checked by the room.
type AliasChange struct {
	Alias  id.RoomAlias `json:"alias"`
	By     id.UserID    `json:"by"`
	Remove bool         `json:"remove,omitempty"`
	// To, with Remove, gives the alias to another room in the same commit.
	To id.RoomID `json:"to,omitempty"`
	// Anyway: an administrator wishes it; By need not be in the room.
	Anyway bool `json:"anyway,omitempty"`
}

// Publish lists the room in the directory, or takes it out.
type Publish struct {
	By     id.UserID `json:"by"`
	Listed bool      `json:"listed"`
}

// Forget makes a room that the user has left vanish from the user's lists.
type Forget struct {
	User id.UserID `json:"user"`
}

// Purge takes something away from the room, a slice with each question. Exactly one of All, Before and Extremities is set.
type Purge struct {
	// All removes the room altogether; none of our users may be left in it.
	All bool `json:"all,omitempty"`
	// Force removes it though some are.
	Force bool `json:"force,omitempty"`
	// Before is the place before which history goes; with Local, also what our own users sent.
	Before int64 `json:"before,omitempty"`
	Local  bool  `json:"local,omitempty"`
	// Extremities forgets all forward extremities but the deepest.
	Extremities bool `json:"extremities,omitempty"`
}

// Create makes a room: the create event, and then the given events, in one commit or not at all.
type Create struct {
	Version id.RoomVersion `json:"version"`
	// Content of m.room.create, without creator and room_version.
	Content json.RawMessage `json:"content"`
	// Events follow the create event in this order, each proposed by its sender (the creator's join among them).
	Events []Proposal   `json:"events"`
	Sender id.UserID    `json:"sender"`
	Alias  id.RoomAlias `json:"alias,omitempty"`
	Listed bool         `json:"listed,omitempty"`
	// Replaces is the room that is upgraded by this one. One that is being replaced already is not replaced twice: the
	// answer then names the room that was made before.
	Replaces id.RoomID `json:"replaces,omitempty"`
}

// Created names the new room.
type Created struct {
	RoomID id.RoomID `json:"room_id"`
}

// Typing says who types, or no longer does. It is gone if nobody listens.
type Typing struct {
	RoomID id.RoomID `json:"room_id"`
	UserID id.UserID `json:"user_id"`
	Typing bool      `json:"typing"`
	// Until in ms since 1970.
	Until int64 `json:"until"`
}

// Presence says how a user is. It is gone if nobody listens.
type Presence struct {
	UserID        id.UserID `json:"user_id"`
	Presence      string    `json:"presence"`
	StatusMessage string    `json:"status_msg,omitempty"`
	// LastActive in ms since 1970.
	LastActive      int64 `json:"last_active"`
	CurrentlyActive bool  `json:"currently_active"`
}

// FederationQuestion asks federation to speak to other servers. Exactly one field is set.
type FederationQuestion struct {
	Join         *JoinRemote       `json:"join,omitempty"`
	Knock        *JoinRemote       `json:"knock,omitempty"`
	Leave        *LeaveRemote      `json:"leave,omitempty"`
	Invite       *InviteRemote     `json:"invite,omitempty"`
	Backfill     *Backfill         `json:"backfill,omitempty"`
	FetchEvent   *FetchEvent       `json:"fetch_event,omitempty"`
	FetchMedia   *FetchMedia       `json:"fetch_media,omitempty"`
	QueryProfile *QueryProfile     `json:"query_profile,omitempty"`
	QueryAlias   *QueryAlias       `json:"query_alias,omitempty"`
	QueryKeys    *QueryKeys        `json:"query_keys,omitempty"`
	ClaimKeys    *ClaimKeys        `json:"claim_keys,omitempty"`
	PublicRooms  *PublicRooms      `json:"public_rooms,omitempty"`
	Hierarchy    *Hierarchy        `json:"hierarchy,omitempty"`
	Timestamp    *TimestampToEvent `json:"timestamp,omitempty"`
	UserInfo     *UserInfo         `json:"user_info,omitempty"`
	UserStatus   *UserStatus       `json:"user_status,omitempty"`
	PolicySign   *PolicySign       `json:"policy_sign,omitempty"`
	Peers        *Peers            `json:"peers,omitempty"`
	CallToken    *RemoteCallToken  `json:"call_token,omitempty"`
	DelayedLeave *DelayedLeave     `json:"delayed_leave,omitempty"`
}

// FederationAnswer is the other server's JSON answer, where there is one, as it came.
type FederationAnswer struct {
	// Room joined, knocked on or left.
	RoomID id.RoomID `json:"room_id,omitempty"`
	// EventID of the membership event, where one was made.
	EventID id.EventID `json:"event_id,omitempty"`
	// Body is the answer's JSON, bounded by MaxQuestion.
	Body json.RawMessage `json:"body,omitempty"`
	// Events tells how many events came in (Backfill).
	Events int `json:"events,omitempty"`
}

// JoinRemote joins (or knocks on) a room through one of the servers, tried in their order.
type JoinRemote struct {
	RoomID  id.RoomID       `json:"room_id"`
	UserID  id.UserID       `json:"user_id"`
	Servers []string        `json:"servers"`
	Content json.RawMessage `json:"content,omitempty"`
}

// LeaveRemote leaves a room that we are not in (rejects an invite, takes back a knock).
type LeaveRemote struct {
	RoomID  id.RoomID       `json:"room_id"`
	UserID  id.UserID       `json:"user_id"`
	Servers []string        `json:"servers"`
	Content json.RawMessage `json:"content,omitempty"`
}

// InviteRemote has the invite in Event (a Draft) co-signed by its target's server; Body of the answer is the signed event.
type InviteRemote struct {
	Version id.RoomVersion  `json:"version"`
	Event   json.RawMessage `json:"event"`
	// Stripped state for the invited server.
	Stripped []json.RawMessage `json:"stripped"`
}

// Backfill fetches history before what we hold of a room; Events tells how many came in.
type Backfill struct {
	RoomID id.RoomID `json:"room_id"`
	Limit  int       `json:"limit"`
}

// FetchEvent fetches one event of a room into storage as an outlier.
type FetchEvent struct {
	RoomID  id.RoomID  `json:"room_id"`
	EventID id.EventID `json:"event_id"`
	Servers []string   `json:"servers,omitempty"`
}

// FetchMedia fetches a remote media file into our store; Body is the media row's JSON, nothing else.
type FetchMedia struct {
	Server  string `json:"server"`
	MediaID string `json:"media_id"`
	// Timeout in ms that the other server may wait for an upload to end.
	Timeout int64 `json:"timeout,omitempty"`
	// Authenticated: the copy is for those with a token only.
	Authenticated bool `json:"authenticated,omitempty"`
}

// MediaQuestion asks the content repository. Exactly one field is set.
type MediaQuestion struct {
	Thumbnail *MakeThumbnail `json:"thumbnail,omitempty"`
}

// MakeThumbnail asks for a thumbnail of one of our own files, no smaller than this where that can be.
type MakeThumbnail struct {
	MediaID  string `json:"media_id"`
	Width    int    `json:"width"`
	Height   int    `json:"height"`
	Method   string `json:"method,omitempty"`
	Animated bool   `json:"animated,omitempty"`
}

// MediaAnswer names the blob that holds the thumbnail.
type MediaAnswer struct {
	Hash        string `json:"hash"`
	ContentType string `json:"content_type"`
}

// QueryProfile asks for a user's profile, or one field of it.
type QueryProfile struct {
	UserID id.UserID `json:"user_id"`
	Field  string    `json:"field,omitempty"`
}

// QueryAlias asks the alias's server for the room; Body is {"room_id", "servers"}.
type QueryAlias struct {
	Alias id.RoomAlias `json:"alias"`
}

// QueryKeys asks one server for its users' device keys; Body is its answer.
type QueryKeys struct {
	Server string                      `json:"server"`
	Users  map[id.UserID][]id.DeviceID `json:"users"`
}

// ClaimKeys claims one-time keys at one server; Body is its answer.
type ClaimKeys struct {
	Server string                               `json:"server"`
	Claims map[id.UserID]map[id.DeviceID]string `json:"claims"`
}

// PublicRooms asks another server's directory; Query is the body of the POST form.
type PublicRooms struct {
	Server string          `json:"server"`
	Query  json.RawMessage `json:"query"`
}

// Hierarchy asks for a space's children.
type Hierarchy struct {
	RoomID        id.RoomID `json:"room_id"`
	Servers       []string  `json:"servers"`
	SuggestedOnly bool      `json:"suggested_only"`
}

// TimestampToEvent asks for the event nearest to a time.
type TimestampToEvent struct {
	RoomID    id.RoomID `json:"room_id"`
	Servers   []string  `json:"servers"`
	Timestamp int64     `json:"timestamp"`
	Forwards  bool      `json:"forwards"`
}

// PolicySign asks a room's policy server for its signature on an event, in federation format; Body is {server: {key ID: signature}}.
type PolicySign struct {
	Server string          `json:"server"`
	Event  json.RawMessage `json:"event"`
}

// UserInfo asks whom an OpenID token names; Body is {"sub"}.
type UserInfo struct {
	Server string `json:"server"`
	Token  string `json:"token"`
}

// UserStatus asks a server how the accounts of its users stand; Body is {user ID: {"expired", "deactivated"}}.
type UserStatus struct {
	Server string      `json:"server"`
	Users  []id.UserID `json:"users"`
}

// Peers asks how it stands with other servers; Body is a PeerList.
type Peers struct {
	// Server alone, or all after After in the order of their names, Limit at most.
	Server string `json:"server,omitempty"`
	After  string `json:"after,omitempty"`
	Limit  int    `json:"limit,omitempty"`
}

// PeerList tells how it stands with other servers.
type PeerList struct {
	Peers []Peer `json:"peers"`
	// Total is how many there are in all; Next is what to ask After for more, empty at the end.
	Total int    `json:"total"`
	Next  string `json:"next,omitempty"`
}

// Peer tells how it stands with another server. Times are in ms since 1970, 0 for never; what is counted is counted since the start.
type Peer struct {
	Server string `json:"server"`
	// Allowed: the configuration lets us speak with it.
	Allowed bool `json:"allowed"`
	// Reachable: it answered when it was last asked. Tried: it was asked at all.
	Reachable bool `json:"reachable"`
	Tried     bool `json:"tried"`
	// Answered is when it last answered, Failed when it last did not, and Failure why; Heard is when it last spoke to us.
	Answered int64  `json:"last_success"`
	Failed   int64  `json:"last_failure,omitempty"`
	Failure  string `json:"failure,omitempty"`
	Heard    int64  `json:"last_heard"`
	// Queue is what waits for it in memory and rows; Lagging are the rooms of which it lacks events.
	Queue   int `json:"queue"`
	Lagging int `json:"lagging_rooms"`
	// Failures in a row of sending, and when it is tried again.
	Failures int   `json:"failures"`
	RetryAt  int64 `json:"retry_at,omitempty"`
	// Skew in ms is how far its clock is ahead of ours, to about a second; nil if it never told the time.
	Skew *int64 `json:"clock_skew,omitempty"`
	// Certificate is until when its certificate is good.
	Certificate int64 `json:"certificate_until,omitempty"`
	// What became of its events, and for which reasons some were not accepted.
	Accepted   int            `json:"accepted"`
	SoftFailed int            `json:"soft_failed"`
	Rejected   int            `json:"rejected"`
	Dropped    int            `json:"dropped"`
	Reasons    map[string]int `json:"reasons,omitempty"`
}

// DelayedAction is what is done with a delayed event.
type DelayedAction string

// The actions of MSC4140.
const (
	DelayedRestart DelayedAction = "restart"
	DelayedCancel  DelayedAction = "cancel"
	DelayedSend    DelayedAction = "send"
)

// DelayedQuestion is put to the holder of the timers. Added: a row was written, look again.
type DelayedQuestion struct {
	ID     string        `json:"id,omitempty"`
	Action DelayedAction `json:"action,omitempty"`
	Added  bool          `json:"added,omitempty"`
}

// DelayedAnswer says that it is done.
type DelayedAnswer struct{}

// TURNQuestion asks for a credential at the focus's TURN server, for a user's calls between two devices.
type TURNQuestion struct {
	User id.UserID `json:"user"`
}

// TURNAnswer is that credential. Without URIs there is no such server.
type TURNAnswer struct {
	URIs     []string `json:"uris,omitempty"`
	Username string   `json:"username,omitempty"`
	Password string   `json:"password,omitempty"`
	// Seconds is how long it opens relays.
	Seconds int `json:"seconds,omitempty"`
}

// CallsQuestion is put to the call foci. Exactly one field is set.
type CallsQuestion struct {
	Token    *CallToken    `json:"token,omitempty"`
	Delegate *CallDelegate `json:"delegate,omitempty"`
	Order    *CallOrder    `json:"order,omitempty"`
}

// CallOrder is what an administrator orders for the calls of a room on our foci, in place of what was ordered before: an
// object of the form of the room's own settings.
type CallOrder struct {
	RoomID id.RoomID       `json:"room_id"`
	Orders json.RawMessage `json:"orders"`
	By     id.UserID       `json:"by"`
}

// CallsAnswer holds what was asked for.
type CallsAnswer struct {
	// URL and JWT answer Token: where the call is, and what opens it.
	URL string `json:"url,omitempty"`
	JWT string `json:"jwt,omitempty"`
}

// CallMember names a participant of a call as its own client does, in one of two ways: by the member ID alone, or by the
// member ID with the device.
type CallMember struct {
	RoomID   id.RoomID `json:"room_id"`
	Slot     string    `json:"slot_id"`
	MemberID string    `json:"member_id"`
	// Claimed is the device that the client put into the name; empty: none.
	Claimed id.DeviceID `json:"claimed,omitempty"`
	UserID  id.UserID   `json:"user_id"`
	// DeviceID is the device that asked, as its access token proves; empty for other servers' users.
	DeviceID id.DeviceID `json:"device_id,omitempty"`
	// URL is the focus that is meant; empty is ours.
	URL string `json:"url,omitempty"`
}

// CallToken asks for a token of our focus. Guest: another server vouches for the user, who publishes at its own focus.
type CallToken struct {
	CallMember
	Guest bool `json:"guest,omitempty"`
}

// CallDelegate hands a delayed leave over.
type CallDelegate struct {
	CallMember
	DelayID string `json:"delay_id"`
}

// RemoteCallToken asks another server for a token of its focus; Body of the answer holds the jwt.
type RemoteCallToken struct {
	Server string          `json:"server"`
	Body   json.RawMessage `json:"body"`
}

// DelayedLeave restarts or sends a delayed event at the client API of another server; with Look, nothing is done but to find that API.
type DelayedLeave struct {
	Server  string        `json:"server"`
	DelayID string        `json:"delay_id,omitempty"`
	Action  DelayedAction `json:"action,omitempty"`
	Look    bool          `json:"look,omitempty"`
}
