package signal

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// A client's reader takes a field in the form that it knows it by, whatever form the field says it has, and does not notice where one within
// another is longer than that. It would so find speakers, or another sender, where ours sees something unknown and keeps it. So each field that
// clients know must have its form, all the way down. (livekit-client 2.23.0, whose fields these are; what is newer it passes over as we do)

// shape is how a message is written: its fields are bytes with their length, but for those named.
type shape struct {
	last    protowire.Number // the highest number that clients know
	only    bool             // nothing above it is allowed
	varints uint32           // bits, by number
	floats  uint32           // likewise, of four bytes
	refused uint32           // what only the focus may say
	within  map[protowire.Number]*shape
}

var packetShape = &shape{last: 18, varints: 1<<1 | 1<<16, refused: 1 << 3 /* speakers */, within: map[protowire.Number]*shape{
	2:  {last: 11, varints: 1<<9 | 1<<10},                                             // a user's packet
	6:  {last: 4, varints: 1 << 3},                                                    // a tone
	7:  {last: 4, within: map[protowire.Number]*shape{4: {last: 6, varints: 7 << 3}}}, // a transcription
	8:  metricsShape,
	9:  {last: 6, varints: 3<<2 | 3<<5},                                               // a chat message
	10: {last: 6, varints: 3 << 4},                                                    // a call of a procedure
	11: {last: 1},                                                                     // that it came
	12: {last: 4, within: map[protowire.Number]*shape{3: {last: 3, varints: 1 << 1}}}, // its answer
	13: {last: 12, varints: 1<<2 | 1<<5 | 1<<7 | 1<<12, within: map[protowire.Number]*shape{ // a stream's head
		8: entryShape, 9: {last: 5, varints: 3<<1 | 1<<5}, 10: {last: 1},
	}},
	14: {last: 5, varints: 1<<2 | 1<<4},                               // a part of it
	15: {last: 3, within: map[protowire.Number]*shape{3: entryShape}}, // its end
	18: {last: 4, varints: 1<<1 | 1<<3},                               // an encrypted packet
}}

var (
	entryShape   = &shape{last: 2, only: true} // of a map of texts
	timeShape    = &shape{last: 2, varints: 3 << 1}
	metricsShape = &shape{last: 5, varints: 1 << 1, within: map[protowire.Number]*shape{
		2: timeShape,
		4: {last: 5, varints: 7<<1 | 1<<5, within: map[protowire.Number]*shape{
			4: {last: 3, varints: 1 << 1, floats: 1 << 3, within: map[protowire.Number]*shape{2: timeShape}},
		}},
		5: {last: 9, varints: 31<<1 | 1<<9, within: map[protowire.Number]*shape{6: timeShape, 7: timeShape}},
	}}
)

var errShape = errors.New("a field has not its form")

// check says what is wrong with a message.
func (s *shape) check(raw []byte) error {
	for len(raw) > 0 {
		number, form, tag := protowire.ConsumeTag(raw)
		if tag < 0 {
			return protowire.ParseError(tag)
		}
		n := protowire.ConsumeFieldValue(number, form, raw[tag:])
		if n < 0 {
			return protowire.ParseError(n)
		}
		value := raw[tag : tag+n]
		raw = raw[tag+n:]
		if !s.takes(number, form) {
			return fmt.Errorf("%w: %d", errShape, number)
		}
		if inner := s.within[number]; inner != nil {
			body, _ := protowire.ConsumeBytes(value)
			if err := inner.check(body); err != nil {
				return err
			}
		}
	}
	return nil
}

// takes says whether a field may be there in this form.
func (s *shape) takes(number protowire.Number, form protowire.Type) bool {
	switch {
	case number > s.last:
		return !s.only && number <= protowire.MaxValidNumber && form != protowire.StartGroupType
	case s.refused>>number&1 == 1:
		return false
	case s.varints>>number&1 == 1:
		return form == protowire.VarintType
	case s.floats>>number&1 == 1:
		return form == protowire.Fixed32Type
	}
	return form == protowire.BytesType
}
