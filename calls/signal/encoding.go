package signal

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Message is any message of this package.
type Message = proto.Message

// Clone gives a deep copy.
func Clone[M Message](m M) M { return proto.CloneOf(m) }

// ParseData reads of a client's data packet what forwarding looks at; all else is kept as it came. What names the speakers is the focus's to
// say, and refused.
func ParseData(raw []byte) (*DataPacket, error) {
	if err := packetShape.check(raw); err != nil {
		return nil, fmt.Errorf("signal: data packet: %w", err)
	}
	var p DataPacket
	if err := proto.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("signal: parse data packet: %w", err)
	}
	return &p, nil
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

// Prepare sets all messages up. The library does that with each when it is first used, and whoever joins a focus first would wait for it.
func Prepare() {
	for _, file := range []protoreflect.FileDescriptor{File_signal_proto, File_service_proto} {
		prepare(file.Messages())
	}
}

func prepare(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		m := messages.Get(i)
		if kind, err := protoregistry.GlobalTypes.FindMessageByName(m.FullName()); err == nil { // the entries of maps are no messages of their own
			proto.Size(proto.Clone(kind.New().Interface()))
		}
		prepare(m.Messages())
	}
}
