package pdu

import (
	"bytes"
	"fmt"
	"slices"
)

// member is one key (without quotes) and value of a canonical object; both are slices of it.
type member struct {
	key, value []byte
}

// members lists the members of raw, which must be an object of canonical JSON,
// appended to dst. It looks no deeper.
func members(dst []member, raw []byte) ([]member, error) {
	if len(raw) < 2 || raw[0] != '{' || raw[len(raw)-1] != '}' {
		return nil, fmt.Errorf("%w: not an object", ErrMalformed)
	}
	at := 1
	for at < len(raw)-1 {
		end := skip(raw, at)
		if raw[at] != '"' || end < 0 || end >= len(raw) || raw[end] != ':' {
			return nil, fmt.Errorf("%w: not canonical at byte %d", ErrBadJSON, at)
		}
		m := member{key: raw[at+1 : end-1]}
		at = end + 1
		if end = skip(raw, at); end < 0 || raw[end] != ',' && end != len(raw)-1 {
			return nil, fmt.Errorf("%w: not canonical at byte %d", ErrBadJSON, at)
		}
		m.value = raw[at:end]
		dst = append(dst, m)
		at = end + 1
	}
	return dst, nil
}

// items lists the items of raw, an array of canonical JSON, appended to dst.
func items(dst [][]byte, raw []byte) ([][]byte, error) {
	if len(raw) < 2 || raw[0] != '[' || raw[len(raw)-1] != ']' {
		return nil, fmt.Errorf("%w: not a list", ErrMalformed)
	}
	at := 1
	for at < len(raw)-1 {
		end := skip(raw, at)
		if end < 0 || raw[end] != ',' && end != len(raw)-1 {
			return nil, fmt.Errorf("%w: not canonical at byte %d", ErrBadJSON, at)
		}
		dst = append(dst, raw[at:end])
		at = end + 1
	}
	return dst, nil
}

// skip finds the end of the value that begins at; -1 if it does not end inside raw.
func skip(raw []byte, at int) int {
	if at >= len(raw) {
		return -1
	}
	switch raw[at] {
	case '"':
		return skipText(raw, at)
	case '{', '[':
		return skipNested(raw, at)
	}
	for i := at; i < len(raw); i++ {
		switch raw[i] {
		case ',', '}', ']', ':', ' ', '\n', '\r', '\t', '"', '{', '[':
			if i == at {
				return -1
			}
			return i
		}
	}
	return -1
}

func skipText(raw []byte, at int) int {
	for i := at + 1; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			if i+1 >= len(raw) {
				return -1
			}
			return i + 1
		}
	}
	return -1
}

func skipNested(raw []byte, at int) int {
	depth := 0
	for i := at; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			end := skipText(raw, i)
			if end < 0 {
				return -1
			}
			i = end - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				if i+1 >= len(raw) {
					return -1
				}
				return i + 1
			}
		}
	}
	return -1
}

// field is the value of a key, nil if the object has none.
func field(all []member, key string) []byte {
	for i := range all {
		if string(all[i].key) == key {
			return all[i].value
		}
	}
	return nil
}

// with puts a member in its place, replacing one of the same key.
func with(all []member, key string, value []byte) []member {
	at, found := slices.BinarySearchFunc(all, []byte(key), func(m member, k []byte) int {
		return compareKeys(m.key, k)
	})
	if found {
		all[at].value = value
		return all
	}
	return slices.Insert(all, at, member{[]byte(key), value})
}

// without takes members out, in place.
func without(all []member, keys ...string) []member {
	return slices.DeleteFunc(all, func(m member) bool { return slices.Contains(keys, string(m.key)) })
}

// appendObject writes members in the order given, leaving out the keys in except.
func appendObject(dst []byte, all []member, except ...string) []byte {
	dst = append(dst, '{')
	first := true
	for i := range all {
		if slices.Contains(except, string(all[i].key)) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, all[i].key...)
		dst = append(dst, '"', ':')
		dst = append(dst, all[i].value...)
	}
	return append(dst, '}')
}

// text is the string that a canonical value stands for; false if it is no string.
func text(value []byte) (string, bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	return string(unescape(value[1 : len(value)-1])), true
}

// integer is the whole number that a value stands for; false if it is none or beyond int64.
func integer(value []byte) (int64, bool) {
	negative := len(value) > 0 && value[0] == '-'
	digits := bytes.TrimPrefix(value, []byte("-"))
	if len(digits) == 0 || len(digits) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	if n > 1<<63-1 {
		return 0, false
	}
	if negative {
		return -int64(n), true
	}
	return int64(n), true
}
