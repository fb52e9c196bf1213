package signal

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Message is any message of this package.
type Message = proto.Message

// Clone gives a deep copy.
func Clone[M Message](m M) M { return proto.CloneOf(m) }

// ParseData reads of a client's data packet what forwarding looks at; all else is kept as it came. What names the speakers is the focus's to
// say, and refused.
func ParseData(raw []byte) (*DataPacket, error) {
	if err := inShape(raw, packetShape); err != nil {
		return nil, fmt.Errorf("signal: data packet: %w", err)
	}
	var p DataPacket
	if err := proto.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("signal: parse data packet: %w", err)
	}
	return &p, nil
}

const speakerField = 3 // of a data packet

// How the fields are written that clients know: those that have another form than length and bytes, and the highest number.
var (
	packetShape = shape{last: 18, varints: 1<<1 | 1<<16, refused: 1 << speakerField, within: map[protowire.Number]shape{2: userShape}}
	userShape   = shape{last: 11, varints: 1<<9 | 1<<10}
)

type shape struct {
	last             protowire.Number
	varints, refused uint32 // bits, by number
	within           map[protowire.Number]shape
}

var errShape = errors.New("a field has not its form")

// inShape says whether each field has the form that it is known by. The readers of clients do not look at the form that a field says it has:
// under another one, which is unknown to us and kept, they would read what we have not seen, such as another sender.
func inShape(raw []byte, s shape) error {
	for len(raw) > 0 {
		number, form, n := protowire.ConsumeField(raw)
		if n < 0 {
			return protowire.ParseError(n)
		}
		field := raw[:n]
		raw = raw[n:]
		if number > s.last {
			continue
		}
		want := protowire.BytesType
		if s.varints>>number&1 == 1 {
			want = protowire.VarintType
		}
		if form != want || s.refused>>number&1 == 1 {
			return fmt.Errorf("%w: %d", errShape, number)
		}
		if inner, ok := s.within[number]; ok {
			_, _, tag := protowire.ConsumeTag(field)
			body, _ := protowire.ConsumeBytes(field[tag:])
			if err := inShape(body, inner); err != nil {
				return err
			}
		}
	}
	return nil
}

// EncodeData is the packet's form on the wire.
func EncodeData(p *DataPacket) ([]byte, error) { return proto.Marshal(p) }

// DecodeBody reads the body of an HTTP request, JSON (unknown fields are passed over) or protobuf.
func DecodeBody(body []byte, isJSON bool, into Message) error {
	if isJSON {
		return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(body, into)
	}
	return proto.Unmarshal(body, into)
}

// EncodeBody is the reverse; JSON has the wire's names and all fields.
func EncodeBody(m Message, isJSON bool) ([]byte, error) {
	if isJSON {
		return protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	}
	return proto.Marshal(m)
}

// Encode is a message's form on the wire.
func Encode(m Message) ([]byte, error) { return proto.Marshal(m) }

// Size is how long Encode's form of a message is.
func Size(m Message) int { return proto.Size(m) }

// EncodeEvent is the JSON of a webhook: names in the camel's case, and only what is set.
func EncodeEvent(e *WebhookEvent) ([]byte, error) { return protojson.Marshal(e) }
