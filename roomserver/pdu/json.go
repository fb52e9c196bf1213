package pdu

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"
)

// CheckJSON says whether raw is one JSON value without ambiguity: valid UTF-8, no duplicate
// keys, no lone surrogates, bounded nesting. With enforceIntegers (room version 6 and later) numbers must
// also be integers within ±(2^53-1). An error is ErrBadJSON.
func CheckJSON(raw []byte, enforceIntegers bool) error {
	buf := buffers.Get().(*[]byte)
	out, err := canonical((*buf)[:0], raw, enforceIntegers)
	if err == nil {
		*buf = out
	}
	buffers.Put(buf)
	return err
}

// Canonical rewrites raw as canonical JSON: no blanks, keys sorted by code point, shortest
// strings, integers only. It refuses what CheckJSON refuses. The result is the caller's.
// Spec: appendices/#canonical-json
func Canonical(raw []byte) ([]byte, error) {
	return canonical(make([]byte, 0, len(raw)), raw, true)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// canonical appends the canonical form of raw to dst.
func canonical(dst, raw []byte, integers bool) ([]byte, error) {
	w := writer{in: raw, out: dst, integers: integers}
	w.blanks()
	if err := w.value(0); err != nil {
		return nil, err
	}
	w.blanks()
	if w.at != len(w.in) {
		return nil, w.bad("something follows the value")
	}
	return w.out, nil
}

// writer reads JSON once, strictly, and writes its canonical form as it goes. Members of
// an object are written in the order they come, and put in order when the object ends.
type writer struct {
	in       []byte
	at       int
	out      []byte
	integers bool
	spans    []span // members of the objects that are open, innermost last
	scratch  []byte
}

// span is where a member lies in out: key without quotes from start+1 to key, all of it to end.
type span struct {
	start, key, end int
}

func (w *writer) bad(reason string) error {
	return fmt.Errorf("%w at byte %d: %s", ErrBadJSON, w.at, reason)
}

func (w *writer) blanks() {
	for w.at < len(w.in) {
		switch w.in[w.at] {
		case ' ', '\t', '\n', '\r':
			w.at++
		default:
			return
		}
	}
}

func (w *writer) value(depth int) error {
	if w.at >= len(w.in) {
		return w.bad("unexpected end")
	}
	switch c := w.in[w.at]; {
	case c == '{':
		return w.object(depth + 1)
	case c == '[':
		return w.array(depth + 1)
	case c == '"':
		return w.text()
	case c == '-' || c >= '0' && c <= '9':
		return w.number()
	case c == 't':
		return w.word("true")
	case c == 'f':
		return w.word("false")
	case c == 'n':
		return w.word("null")
	}
	return w.bad("no value begins so")
}

func (w *writer) word(word string) error {
	if len(w.in)-w.at < len(word) || string(w.in[w.at:w.at+len(word)]) != word {
		return w.bad("unknown word")
	}
	w.at += len(word)
	w.out = append(w.out, word...)
	return nil
}

func (w *writer) array(depth int) error {
	if depth > maxNesting {
		return w.bad("nested too deeply")
	}
	w.at++
	w.out = append(w.out, '[')
	w.blanks()
	if w.at < len(w.in) && w.in[w.at] == ']' {
		w.at++
		w.out = append(w.out, ']')
		return nil
	}
	for {
		if err := w.value(depth); err != nil {
			return err
		}
		more, err := w.next(']')
		if err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}

// next reads the comma or the closing bracket after an item and writes it.
func (w *writer) next(closing byte) (more bool, err error) {
	w.blanks()
	if w.at >= len(w.in) {
		return false, w.bad("unexpected end")
	}
	c := w.in[w.at]
	if c != ',' && c != closing {
		return false, w.bad("comma or end of list expected")
	}
	w.at++
	w.out = append(w.out, c)
	if c == ',' {
		w.blanks()
	}
	return c == ',', nil
}

func (w *writer) object(depth int) error {
	if depth > maxNesting {
		return w.bad("nested too deeply")
	}
	w.at++
	open := len(w.out)
	w.out = append(w.out, '{')
	w.blanks()
	if w.at < len(w.in) && w.in[w.at] == '}' {
		w.at++
		w.out = append(w.out, '}')
		return nil
	}
	first, sorted := len(w.spans), true
	for {
		m, err := w.member(depth)
		if err != nil {
			return err
		}
		if n := len(w.spans); n > first && sorted {
			last := w.spans[n-1]
			sorted = compareKeys(w.out[last.start+1:last.key], w.out[m.start+1:m.key]) < 0
		}
		w.spans = append(w.spans, m)
		more, err := w.next('}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if !sorted {
		if err := w.sort(open, w.spans[first:]); err != nil {
			return err
		}
	}
	w.spans = w.spans[:first]
	return nil
}

func (w *writer) member(depth int) (m span, err error) {
	m.start = len(w.out)
	if w.at >= len(w.in) || w.in[w.at] != '"' {
		return m, w.bad("key expected")
	}
	if err = w.text(); err != nil {
		return m, err
	}
	m.key = len(w.out) - 1
	w.blanks()
	if w.at >= len(w.in) || w.in[w.at] != ':' {
		return m, w.bad("colon expected")
	}
	w.at++
	w.out = append(w.out, ':')
	w.blanks()
	err = w.value(depth)
	m.end = len(w.out)
	return m, err
}

// sort puts the members of the object that begins at open in order and refuses equal keys.
func (w *writer) sort(open int, members []span) error {
	slices.SortFunc(members, func(a, b span) int {
		return compareKeys(w.out[a.start+1:a.key], w.out[b.start+1:b.key])
	})
	for i := 1; i < len(members); i++ {
		a, b := members[i-1], members[i]
		if bytes.Equal(w.out[a.start:a.key], w.out[b.start:b.key]) {
			return w.bad("key given twice")
		}
	}
	w.scratch = w.scratch[:0]
	for i, m := range members {
		if i > 0 {
			w.scratch = append(w.scratch, ',')
		}
		w.scratch = append(w.scratch, w.out[m.start:m.end]...)
	}
	copy(w.out[open+1:], w.scratch)
	return nil
}

// compareKeys orders two canonically written keys by the code points they stand for.
func compareKeys(a, b []byte) int {
	if bytes.IndexByte(a, '\\') >= 0 || bytes.IndexByte(b, '\\') >= 0 {
		return bytes.Compare(unescape(a), unescape(b))
	}
	return bytes.Compare(a, b)
}

// number copies a number. With integers enforced it refuses all but integers in range;
// a negative nought becomes nought.
func (w *writer) number() error {
	start := w.at
	negative := w.in[w.at] == '-'
	if negative {
		w.at++
	}
	digits := w.digits()
	if digits == 0 || digits > 1 && w.in[w.at-digits] == '0' {
		return w.bad("malformed number")
	}
	whole := w.at
	if err := w.fraction(); err != nil {
		return err
	}
	text := w.in[start:w.at]
	if w.at == whole && negative && digits == 1 && w.in[whole-1] == '0' {
		text = text[1:]
	}
	if w.integers {
		if w.at != whole {
			return w.bad("number is not an integer")
		}
		if digits > 16 || digits == 16 && string(w.in[whole-16:whole]) > "9007199254740991" {
			return w.bad("integer out of range")
		}
	}
	w.out = append(w.out, text...)
	return nil
}

func (w *writer) digits() int {
	start := w.at
	for w.at < len(w.in) && w.in[w.at] >= '0' && w.in[w.at] <= '9' {
		w.at++
	}
	return w.at - start
}

// fraction reads the decimals and the exponent of a number, if it has any.
func (w *writer) fraction() error {
	if w.at < len(w.in) && w.in[w.at] == '.' {
		w.at++
		if w.digits() == 0 {
			return w.bad("malformed number")
		}
	}
	if w.at < len(w.in) && (w.in[w.at] == 'e' || w.in[w.at] == 'E') {
		w.at++
		if w.at < len(w.in) && (w.in[w.at] == '+' || w.in[w.at] == '-') {
			w.at++
		}
		if w.digits() == 0 {
			return w.bad("malformed number")
		}
	}
	return nil
}

// text copies a string with its quotes, each character in its shortest form.
func (w *writer) text() error {
	w.at++
	w.out = append(w.out, '"')
	run := w.at // start of what has not been copied yet
	for w.at < len(w.in) {
		c := w.in[w.at]
		switch {
		case c == '"':
			w.out = append(w.out, w.in[run:w.at+1]...)
			w.at++
			return nil
		case c == '\\':
			w.out = append(w.out, w.in[run:w.at]...)
			if err := w.escape(); err != nil {
				return err
			}
			run = w.at
		case c < ' ':
			return w.bad("control character in a string")
		case c < utf8.RuneSelf:
			w.at++
		default:
			r, n := utf8.DecodeRune(w.in[w.at:])
			if r == utf8.RuneError && n == 1 {
				return w.bad("invalid UTF-8")
			}
			w.at += n
		}
	}
	return w.bad("unexpected end of a string")
}

func (w *writer) escape() error {
	w.at++
	if w.at >= len(w.in) {
		return w.bad("unexpected end of a string")
	}
	c := w.in[w.at]
	w.at++
	switch c {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		w.out = append(w.out, '\\', c)
		return nil
	case '/':
		w.out = append(w.out, '/')
		return nil
	case 'u':
	default:
		return w.bad("unknown escape")
	}
	r, ok := w.hex()
	if !ok {
		return w.bad("malformed \\u escape")
	}
	if r >= 0xd800 && r < 0xe000 {
		if r >= 0xdc00 || w.at+2 > len(w.in) || w.in[w.at] != '\\' || w.in[w.at+1] != 'u' {
			return w.bad("lone surrogate")
		}
		w.at += 2
		low, ok := w.hex()
		if !ok || low < 0xdc00 || low >= 0xe000 {
			return w.bad("lone surrogate")
		}
		r = 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
	}
	w.out = appendRune(w.out, r)
	return nil
}

func (w *writer) hex() (r rune, ok bool) {
	if w.at+4 > len(w.in) {
		return 0, false
	}
	for _, c := range w.in[w.at : w.at+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	w.at += 4
	return r, true
}

// appendRune writes a character of a string in its canonical form.
func appendRune(dst []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	if r < ' ' {
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
	return utf8.AppendRune(dst, r)
}

// appendText writes s as a canonical JSON string. Bytes that are no UTF-8 become U+FFFD.
func appendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	if plain {
		dst = append(dst, s...)
	} else {
		for _, r := range s {
			dst = appendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// unescape gives the characters that a canonically written string stands for. It returns
// raw itself when there is nothing to do.
func unescape(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' || i+1 >= len(raw) {
			out = append(out, raw[i])
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			w := writer{in: raw, at: i + 1}
			r, _ := w.hex() // canonical text has \u only for control characters
			out = utf8.AppendRune(out, r)
			i = max(w.at-1, i)
		default:
			out = append(out, raw[i])
		}
	}
	return out
}
