package bus

import (
	"encoding/json"
	"net/netip"

	"maunium.net/go/mautrix/id"
)

// AllFoci is asked of every call focus at once: FociQuestion to FociAnswer, with AskAll.
const AllFoci = "calls.all"

// FociQuestion is put to every focus; exactly one field is set.
type FociQuestion struct {
	// List gives the live calls: those of a room, or all.
	List *CallList `json:"list,omitempty"`
	// Command does something once to those in a room's calls whom it names.
	Command *CallCommand `json:"command,omitempty"`
}

// CallList asks for live calls. An empty room is all of them.
type CallList struct {
	RoomID id.RoomID `json:"room_id,omitempty"`
}

// CallCommand is what an administrator does once in a room's calls.
type CallCommand struct {
	RoomID id.RoomID `json:"room_id"`
	// Command is an object of the form of the room's own command events.
	Command json.RawMessage `json:"command"`
}

// FociAnswer is what one focus says.
type FociAnswer struct {
	Focus string     `json:"focus"`
	Calls []LiveCall `json:"calls,omitempty"`
	// More: there are calls, or participants of theirs, that the answer has no room for.
	More bool `json:"more,omitempty"`
	// Done is how many a command touched.
	Done int `json:"done,omitempty"`
}

// LiveCall is a call that is open. Times are ms since 1970, rates bits a second.
type LiveCall struct {
	SID    string    `json:"sid"`
	Name   string    `json:"name"`
	RoomID id.RoomID `json:"room_id,omitempty"`
	Focus  string    `json:"focus"`
	Since  int64     `json:"since_ts"`
	// Class is by how many are in it: pair, small, large or crowd.
	Class string `json:"class"`
	// Count is how many are in it, also where not all of them are listed. What they send and get together, and the worst loss of theirs in percent,
	// are of all as well.
	Count int `json:"participant_count"`
	Up    int `json:"up_bitrate"`
	Down  int `json:"down_bitrate"`
	Loss  int `json:"loss_percent"`
	// Dropped is how many packets found the call's budget used up.
	Dropped uint64 `json:"dropped_packets"`
	// Participants are those who came first, as far as an answer has room.
	Participants []LiveParticipant `json:"participants"`
}

// LiveParticipant is somebody in a call, and how the line is.
type LiveParticipant struct {
	SID      string      `json:"sid"`
	Identity string      `json:"identity"`
	UserID   id.UserID   `json:"user_id,omitempty"`
	DeviceID id.DeviceID `json:"device_id,omitempty"`
	Joined   int64       `json:"joined_ts"`
	// Rule is by which it was let in.
	Rule string `json:"rule"`
	// Publishes: it may send media. Connected: its carrier stands.
	Publishes bool `json:"may_publish"`
	Connected bool `json:"connected"`
	// What it gets: Loss in percent and Jitter in ms the worst of all tracks, RoundTrip in ms.
	Loss      int     `json:"loss_percent"`
	Jitter    float64 `json:"jitter_ms"`
	RoundTrip float64 `json:"round_trip_ms"`
	// Up and Down are the rates of what it sends and gets, Subscribed to how many tracks.
	Up         int `json:"up_bitrate"`
	Down       int `json:"down_bitrate"`
	Subscribed int `json:"subscribed"`
	// KeyAsks are the key frames that it had to ask for, Repaired the packets that it was sent again.
	KeyAsks  uint64 `json:"key_frame_requests"`
	Repaired uint64 `json:"repaired_packets"`
	// Dropped is how many of the packets that it sent were more than one participant may send.
	Dropped uint64      `json:"dropped_packets"`
	Tracks  []LiveTrack `json:"tracks"`
}

// LiveTrack is what a participant publishes.
type LiveTrack struct {
	SID   string `json:"sid"`
	Kind  string `json:"kind"`
	Codec string `json:"codec,omitempty"`
	Muted bool   `json:"muted"`
	// Silenced: others than its client have muted it, and the focus drops its packets.
	Silenced  bool `json:"silenced,omitempty"`
	Encrypted bool `json:"encrypted"`
	Bitrate   int  `json:"bitrate"`
	// Lost packets, those that never came also after repair; Jitter in ms of the best layer.
	Lost    uint64      `json:"lost_packets"`
	Jitter  float64     `json:"jitter_ms"`
	KeyAsks uint64      `json:"key_frame_requests"`
	Layers  []LiveLayer `json:"layers,omitempty"`
}

// LiveLayer is one size of a picture.
type LiveLayer struct {
	Width   uint32 `json:"width,omitempty"`
	Height  uint32 `json:"height,omitempty"`
	Bitrate int    `json:"bitrate"`
	Alive   bool   `json:"alive"`
}

// FocusNews is how it stands with one focus process. It is gone if nobody listens.
type FocusNews struct {
	Process string `json:"process"`
	// Load is what its calls cost, in participants.
	Load int `json:"load"`
	// Draining: it takes no new calls. Gone: it has just ended.
	Draining bool `json:"draining,omitempty"`
	Gone     bool `json:"gone,omitempty"`
	// Media are its media addresses: as clients are told them, and where they are.
	Media []FocusMedia `json:"media,omitempty"`
	// Seal proves by which key and secret it signs tokens, and tells neither.
	Seal string `json:"seal,omitempty"`
}

// FocusMedia is one media address.
type FocusMedia struct {
	Told netip.AddrPort `json:"told"`
	At   netip.AddrPort `json:"at"`
}

// FocusQuestion asks one focus process for something; exactly one field is set.
type FocusQuestion struct {
	// Take makes the process the home of a call, by the call's name on the foci, unless it has one already. One that is drained refuses.
	Take string `json:"take,omitempty"`
	// Do is a request of the room service, which is answered for the calls of this process.
	Do *FocusRequest `json:"do,omitempty"`
}

// FocusRequest is a request of the room service, as its caller sent it.
type FocusRequest struct {
	Method string `json:"method"`
	Token  string `json:"token"`
	Body   []byte `json:"body"`
	JSON   bool   `json:"json,omitempty"` // and not protobuf
}

// FocusAnswer answers it.
type FocusAnswer struct {
	// Home is the process where the call is after a Take.
	Home string `json:"home,omitempty"`
	// Body is what the room service says.
	Body []byte `json:"body,omitempty"`
}
