package syncing

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
)

// The bounds of a sliding sync's request.
const (
	maxSlideName     = 16 // characters of a connection's name
	maxSlideLists    = 100
	maxSlideRooms    = 500 // subscriptions of the shape without a bound of its own
	maxSlideRanges   = 20
	maxSlideRequired = 500 // elements of one required_state
	maxSlideFilter   = 500 // items of one list of a filter
	maxListKey       = 255
)

// slideAsk is what a client asks of a sliding sync, whichever shape it was written in.
type slideAsk struct {
	by    rest.Requester
	shape shape
	// name is the client's name for the connection; pos its place in it, empty at the first request.
	name, pos string
	wait      time.Duration
	lists     []*slideList // by name
	rooms     map[id.RoomID]*slideConfig
	ext       slideExtensions
	// text says the lists, subscriptions and what they want, but no more: what equals it wants the same rooms.
	text string
	// parts are its parts, by a name of each.
	parts map[string]string
}

// slideList is a window on the user's rooms.
type slideList struct {
	name string
	// ranges, both ends included; all: no range was given, every room is wanted.
	ranges [][2]int
	all    bool
	filter slideFilter
	config *slideConfig
}

// slideConfig says what is wanted of a room.
type slideConfig struct {
	limit int
	state *required
}

// slideFilter chooses rooms. Its zero value lets every room through.
// Spec: MSC4186
type slideFilter struct {
	IsDM         *bool       `json:"is_dm"`
	Spaces       []id.RoomID `json:"spaces"`
	IsEncrypted  *bool       `json:"is_encrypted"`
	IsInvite     *bool       `json:"is_invite"`
	IsInvited    *bool       `json:"is_invited"`
	RoomTypes    []*string   `json:"room_types"`
	NotRoomTypes []*string   `json:"not_room_types"`
	RoomNameLike string      `json:"room_name_like"`
	Tags         []string    `json:"tags"`
	NotTags      []string    `json:"not_tags"`
}

// slideExtensions are what is wanted beside rooms. One that is nil is not.
type slideExtensions struct {
	e2ee, accountData, receipts, typing *slideExtension
	toDevice, threads, sticky           *slideExtension
	// threadsName and stickyName are how the client called them.
	threadsName, stickyName string
}

// slideExtension is what a client says to an extension.
type slideExtension struct {
	Enabled bool      `json:"enabled"`
	Lists   *[]string `json:"lists"`
	Rooms   *[]string `json:"rooms"`
	Since   string    `json:"since"`
	Limit   *int      `json:"limit"`
}

// limit is how much of it is wanted, held between 1 and most.
func (x *slideExtension) limit(most int) int {
	if x.Limit == nil {
		return most
	}
	return max(1, min(most, *x.Limit))
}

// covers tells whether the extension is to tell of a room.
func (x *slideExtension) covers(w *slideWant, room id.RoomID) bool {
	if w.subscribed && (x.Rooms == nil || slices.Contains(*x.Rooms, "*") || slices.Contains(*x.Rooms, string(room))) {
		return true
	}
	if len(w.lists) == 0 {
		return false
	}
	if x.Lists == nil || slices.Contains(*x.Lists, "*") {
		return true
	}
	return slices.ContainsFunc(w.lists, func(list string) bool { return slices.Contains(*x.Lists, list) })
}

// shape is one of the two ways in which requests and answers are written.
type shape int

const (
	unstableShape shape = iota // what clients ship with: org.matrix.simplified_msc3575
	mergedShape                // what was merged as MSC4186: /v4/sync
)

// slideBody is a request's body, in either shape: what one of them lacks is absent.
type slideBody struct {
	Pos      string                         `json:"pos"`
	Name     string                         `json:"conn_id"`
	Timeout  int64                          `json:"timeout"`
	Presence string                         `json:"set_presence"`
	Lists    map[string]*slideListBody      `json:"lists"`
	Rooms    map[id.RoomID]*slideConfigBody `json:"room_subscriptions"`
	Ext      map[string]json.RawMessage     `json:"extensions"`
}

type slideConfigBody struct {
	Limit int             `json:"timeline_limit"`
	State json.RawMessage `json:"required_state"`
}

type slideListBody struct {
	slideConfigBody
	Ranges *[][]int     `json:"ranges"`
	Range  *[]int       `json:"range"`
	Every  bool         `json:"slow_get_all_rooms"`
	Filter *slideFilter `json:"filters"`
}

// parseSlide reads a body that is sure to be sane JSON.
func parseSlide(raw []byte, sh shape, by rest.Requester) (*slideAsk, *slideBody, error) {
	body := &slideBody{}
	if err := rest.Decode(raw, body); err != nil {
		return nil, nil, err
	}
	ask := &slideAsk{by: by, shape: sh, name: body.Name, pos: body.Pos, rooms: map[id.RoomID]*slideConfig{}}
	if len(ask.name) > maxSlideName {
		return nil, nil, mautrix.MInvalidParam.WithMessage("conn_id is longer than %d characters", maxSlideName)
	}
	most := maxSlideRooms
	if sh == mergedShape {
		most = 100
	}
	if len(body.Lists) > maxSlideLists || len(body.Rooms) > most {
		return nil, nil, mautrix.MInvalidParam.WithMessage("There are more than %d lists, or more than %d room subscriptions", maxSlideLists, most)
	}
	for name, l := range body.Lists {
		list, err := l.list(name, sh, by.User)
		if err != nil {
			return nil, nil, err
		}
		ask.lists = append(ask.lists, list)
	}
	slices.SortFunc(ask.lists, func(a, b *slideList) int { return strings.Compare(a.name, b.name) })
	for room, c := range body.Rooms {
		if !strings.HasPrefix(string(room), "!") {
			return nil, nil, mautrix.MInvalidParam.WithMessage("room_subscriptions names what is no room ID")
		}
		if c == nil {
			continue
		}
		config, err := c.config(sh, by.User)
		if err != nil {
			return nil, nil, err
		}
		ask.rooms[room] = config
	}
	var err error
	if ask.ext, err = slideExtensionsOf(body.Ext); err != nil {
		return nil, nil, err
	}
	ask.parts, ask.text, err = body.parts()
	return ask, body, err
}

// parts are what of the body says which rooms are wanted and what of them, apart and as a whole.
func (body *slideBody) parts() (parts map[string]string, text string, err error) {
	parts = make(map[string]string, len(body.Lists)+len(body.Rooms))
	put := func(name string, what any) {
		raw, e := json.Marshal(what)
		parts[name] = string(raw)
		err = errors.Join(err, e)
	}
	for name, l := range body.Lists {
		put("list "+name, l)
	}
	for room, c := range body.Rooms {
		put("room "+string(room), c)
	}
	raw, e := json.Marshal(parts)
	return parts, string(raw), errors.Join(err, e)
}

func (l *slideListBody) list(name string, sh shape, me id.UserID) (*slideList, error) {
	if l == nil {
		return nil, mautrix.MInvalidParam.WithMessage("A list is null")
	}
	if len(name) > maxListKey {
		return nil, mautrix.MInvalidParam.WithMessage("The name of a list is too long")
	}
	config, err := l.config(sh, me)
	if err != nil {
		return nil, err
	}
	list := &slideList{name: name, config: config}
	var ranges [][]int
	switch {
	case sh == mergedShape && l.Range != nil:
		ranges = [][]int{*l.Range}
	case sh == unstableShape && l.Ranges != nil && !l.Every:
		ranges = *l.Ranges
	default:
		list.all = true
	}
	if len(ranges) > maxSlideRanges {
		return nil, mautrix.MInvalidParam.WithMessage("A list has more than %d ranges", maxSlideRanges)
	}
	for _, r := range ranges {
		if len(r) != 2 || r[0] < 0 || r[1] < r[0] {
			return nil, mautrix.MInvalidParam.WithMessage("A range is not two numbers that rise from 0")
		}
		list.ranges = append(list.ranges, [2]int{r[0], r[1]})
	}
	if l.Filter != nil {
		list.filter = *l.Filter
		f := l.Filter
		if max(len(f.Spaces), len(f.RoomTypes), len(f.NotRoomTypes), len(f.Tags), len(f.NotTags)) > maxSlideFilter || len(f.RoomNameLike) > maxListKey {
			return nil, mautrix.MInvalidParam.WithMessage("A filter is too long")
		}
		if f.IsInvite == nil {
			list.filter.IsInvite = f.IsInvited
		}
	}
	return list, nil
}

func (c *slideConfigBody) config(sh shape, me id.UserID) (*slideConfig, error) {
	if c.Limit < 0 {
		return nil, mautrix.MInvalidParam.WithMessage("timeline_limit is below zero")
	}
	state, err := parseRequired(c.State, sh, me)
	return &slideConfig{limit: min(c.Limit, maxTimeline), state: state}, err
}

// most is the highest limit of a timeline that is asked for.
func (ask *slideAsk) most() int {
	n := 0
	for _, l := range ask.lists {
		n = max(n, l.config.limit)
	}
	for _, config := range ask.rooms {
		n = max(n, config.limit)
	}
	return n
}

// within tells whether a place in the filtered list lies in one of the list's ranges.
func (l *slideList) within(i int) bool {
	if l.all {
		return true
	}
	for _, r := range l.ranges {
		if i >= r[0] && i <= r[1] {
			return true
		}
	}
	return false
}

// slideExtensionsOf reads the extensions that we know; others are left alone.
func slideExtensionsOf(body map[string]json.RawMessage) (x slideExtensions, err error) {
	read := func(names ...string) (*slideExtension, string) {
		for _, name := range names {
			raw, ok := body[name]
			if !ok || err != nil || !gjson.ParseBytes(raw).IsObject() {
				continue
			}
			asked := &slideExtension{}
			if json.Unmarshal(raw, asked) != nil {
				err = mautrix.MBadJSON.WithMessage("An extension does not have the shape it should have")
				return nil, ""
			}
			if asked.Enabled {
				return asked, name
			}
		}
		return nil, ""
	}
	x.e2ee, _ = read("e2ee")
	x.toDevice, _ = read("to_device")
	x.accountData, _ = read("account_data")
	x.receipts, _ = read("receipts")
	x.typing, _ = read("typing")
	x.threads, x.threadsName = read("io.element.msc4308.thread_subscriptions", "thread_subscriptions")
	x.sticky, x.stickyName = read("org.matrix.msc4354.sticky_events", "sticky_events")
	return x, err
}
