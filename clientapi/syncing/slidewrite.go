package syncing

import (
	"context"
	"maps"
	"slices"
	"strconv"
)

// write writes the answer, but for its pos, and says whether there was anything in it worth waiting for.
func (a *slideAnswer) write(ctx context.Context) error {
	slices.SortFunc(a.works, func(x, y *slideWork) int { return int(max(-1, min(1, y.order(a.ask.shape)-x.order(a.ask.shape)))) })
	b := make([]byte, 0, 4096)
	b = append(b, `,"lists":{`...)
	for i, name := range slices.Sorted(maps.Keys(a.counts)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendInt(append(appendText(b, name), ':'), `{"count":`, a.counts[name]), '}')
	}
	b = append(b, `},"rooms":{`...)
	n := 0
	for _, w := range a.works {
		if w.next != nil && (w.body != nil || w.old == nil || w.next.held != w.old.held || w.next.state != w.old.state) {
			a.told[w.id] = w.next
		}
		if w.body == nil {
			continue
		}
		if n > 0 {
			b = append(b, ',')
		}
		n++
		b = append(append(appendText(b, string(w.id)), ':'), w.body...)
	}
	b = append(b, `},"extensions":{`...)
	b, news, err := a.appendExtensions(ctx, b)
	if err != nil {
		return err
	}
	a.body = append(b, `}}`...)
	a.empty = n == 0 && !news && a.x.base != nil && !a.asksMore()
	return nil
}

// asksMore tells whether the request asks for something that the one before did not: that is answered at once, also with nothing.
func (a *slideAnswer) asksMore() bool {
	before := a.x.base.parts
	if before == nil || a.x.base.text == a.ask.text {
		return false // as after a restart: what is missing will be told
	}
	for name, text := range a.ask.parts {
		if before[name] != text {
			return true
		}
	}
	return false
}

func appendNumber(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
