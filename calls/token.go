package calls

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// roomSlot is the one slot of a Matrix room that clients call in. No other has tokens: each slot is a call of its own, with places and
// bits of its own, and a room whose members name slots as they like would have no bounds.
const roomSlot = "m.call#ROOM"

var errNoSlot = mautrix.MInvalidParam.WithMessage("The slot of a room's call is " + roomSlot)

// tokenLife is how long a token opens the door; it is refreshed while its bearer is inside.
const tokenLife = time.Hour

const (
	// tokenSkew is how long before it was signed a token is good: clocks differ.
	tokenSkew = 10 * time.Second
	// tokenLeeway is how far the clock of another service that gives tokens may be from ours. (LiveKit 1.13.5 has the same)
	tokenLeeway = time.Minute
	// insideFor is how long a token that was given to somebody inside says that its bearer is there: until the next one, and
	// some time to come back.
	insideFor = refreshEvery + time.Minute
)

// ErrBadToken is wrapped by every refusal of a token.
var ErrBadToken = errors.New("calls: bad token")

// Claims is what a token says. The video grant is LiveKit's, the matrix claim ours: it binds the token
// to a user and a room, so that no process needs a table of identities.
type Claims struct {
	jwt.RegisteredClaims
	Name     string `json:"name,omitempty"`
	Metadata string `json:"metadata,omitempty"`
	// Attributes are what the bearer tells the others of itself.
	Attributes map[string]string `json:"attributes,omitempty"`
	Video      Grant             `json:"video"`
	Matrix     *Matrix           `json:"matrix,omitempty"`
	// Granted: publishing, as the room service last said to somebody inside; nil: it did not.
	Granted *bool `json:"granted,omitempty"`
	// Again: it was given to somebody inside, as a refreshed one; who comes in with it was there before.
	Again bool `json:"again,omitempty"`
	// SentAway: when it was given to somebody as the last word of a focus that stopped; milliseconds.
	SentAway int64 `json:"sent_away,omitempty"`
	// FirstTry: how long after that the bearer tries first, at the latest; milliseconds. 0: not known.
	FirstTry int64 `json:"first_try,omitempty"`
}

// Grant says what the bearer may do. Publishing and subscribing are allowed unless forbidden.
type Grant struct {
	Room                 string `json:"room,omitempty"`
	RoomJoin             bool   `json:"roomJoin,omitempty"`
	RoomCreate           bool   `json:"roomCreate,omitempty"`
	RoomList             bool   `json:"roomList,omitempty"`
	RoomAdmin            bool   `json:"roomAdmin,omitempty"`
	CanPublish           *bool  `json:"canPublish,omitempty"`
	CanSubscribe         *bool  `json:"canSubscribe,omitempty"`
	CanPublishData       *bool  `json:"canPublishData,omitempty"`
	CanUpdateOwnMetadata *bool  `json:"canUpdateOwnMetadata,omitempty"`
	// CanPublishSources, if there are any, are the only kinds of tracks that may be published: camera, microphone, screen_share and screen_share_audio.
	CanPublishSources []string `json:"canPublishSources,omitempty"`
	Hidden            bool     `json:"hidden,omitempty"`
}

// Matrix is for whom, and in which room, we gave the token.
type Matrix struct {
	User   id.UserID   `json:"user"`
	Device id.DeviceID `json:"device"`
	Room   id.RoomID   `json:"room"`
	Known  bool        `json:"known,omitempty"`  // the device was one of ours: the token ends with it
	Others bool        `json:"others,omitempty"` // it was none, and the user of ours had others: the token ends with the last of them
	// By is the device of ours that asked for the token, if it called itself another: the token ends with this one too.
	By id.DeviceID `json:"by,omitempty"`
	// Legacy: the client says by a state event that it is in the call, and not by a sticky one.
	Legacy bool `json:"legacy,omitempty"`
	// Watch: the bearer publishes elsewhere, at the focus of its own server.
	Watch bool `json:"watch,omitempty"`
}

// user is to whom we gave the token; empty in a focus alone.
func (c *Claims) user() id.UserID {
	if c.Matrix == nil {
		return ""
	}
	return c.Matrix.User
}

// GetNotBefore is when the token begins to hold. One that we gave a user holds at once: where it says otherwise, the clock was set
// back since. What another service gives may begin later.
func (c Claims) GetNotBefore() (*jwt.NumericDate, error) {
	if c.Matrix != nil {
		return nil, nil
	}
	return c.NotBefore, nil
}

// given says when the token was signed, to the second.
func (c *Claims) given() time.Time {
	if c.NotBefore == nil {
		return time.Time{}
	}
	return c.NotBefore.Add(tokenSkew)
}

// inside says whether the bearer was in the call a moment ago.
func (c *Claims) inside(now time.Time) bool { return c.Again && now.Sub(c.given()) < insideFor }

// tokens signs and checks tokens with one key.
type tokens struct {
	key    string
	secret []byte
	now    func() time.Time
}

// seal is of a text, and the same only for who signs as we do.
func (t *tokens) seal(text string) string {
	mac := hmac.New(sha256.New, t.secret)
	fmt.Fprintf(mac, "seal %s %s", t.key, text)
	return hex.EncodeToString(mac.Sum(nil))
}

// sign gives a token that holds for life from now.
func (t *tokens) sign(c Claims, life time.Duration) (string, error) {
	now := t.now()
	c.Issuer = t.key
	c.NotBefore = jwt.NewNumericDate(now.Add(-tokenSkew))
	c.ExpiresAt = jwt.NewNumericDate(now.Add(life))
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(t.secret)
	if err != nil {
		return "", fmt.Errorf("sign call token: %w", err)
	}
	return token, nil
}

// verify checks signature, algorithm, issuer and times. A token that we gave a user ends to the second, since our own clock said when.
func (t *tokens) verify(token string) (*Claims, error) {
	var c Claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return t.secret, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(t.key),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(t.now), jwt.WithLeeway(tokenLeeway))
	if err == nil && c.Matrix != nil && !t.now().Before(c.ExpiresAt.Time) {
		err = jwt.ErrTokenExpired
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadToken, err)
	}
	return &c, nil
}

// roomName is the SFU's name for a slot of a Matrix room, as every client computes it too.
func roomName(room id.RoomID, slot string) string {
	return hashOf(string(room), slot)
}

// legacyIdentity is the participant identity that clients of /sfu/get expect.
func legacyIdentity(user id.UserID, device id.DeviceID) string {
	return string(user) + ":" + string(device)
}

// memberIdentity is the one that clients of /get_token expect.
func memberIdentity(user id.UserID, device id.DeviceID, member string) string {
	return hashOf(string(user), string(device), member)
}

// lineEnds undoes what Go escapes in JSON even where the escaping is off, and browsers do not: U+2028 and U+2029. The backslash of another
// escape is passed over.
var lineEnds = strings.NewReplacer(`\\`, `\\`, `\u2028`, "\u2028", `\u2029`, "\u2029")

// hashOf is the unpadded standard base64 of the SHA-256 of the strings as a JSON array. Go escapes <, > and &
// in JSON, browsers do not: the escaping is off.
func hashOf(parts ...string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(parts); err != nil {
		panic(err) // strings always encode
	}
	sum := sha256.Sum256([]byte(lineEnds.Replace(strings.TrimRight(b.String(), "\n"))))
	return base64.RawStdEncoding.EncodeToString(sum[:])
}

func allowed(flag *bool) bool { return flag == nil || *flag }
