package view

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

const (
	// someEdits is how many edits are looked through for one that counts.
	someEdits = 3
	// someReferences is how many references are listed with an event.
	someReferences = 50
)

// relations is what is bundled with one event.
// Spec: client-server-api/#aggregations-of-child-events
type relations struct {
	edit       json.RawMessage
	references []id.EventID
	latest     json.RawMessage
	count      int
	took       bool
}

// members writes the members of m.relations; nothing if there are none.
func (b relations) members(e *storage.Event) []byte {
	var dst []byte
	next := func(name string) {
		if len(dst) > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, name), ':')
	}
	if len(b.references) > 0 {
		next(string(event.RelReference))
		dst = append(dst, `{"chunk":[`...)
		for i, ev := range b.references {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(append(dst, `{"event_id":`...), string(ev)), '}')
		}
		dst = append(dst, "]}"...)
	}
	if b.edit != nil && e.RedactedBy == "" {
		next(string(event.RelReplace))
		dst = append(dst, b.edit...)
	}
	if b.latest != nil {
		next(string(event.RelThread))
		dst = strconv.AppendInt(append(dst, `{"count":`...), int64(b.count), 10)
		dst = strconv.AppendBool(append(dst, `,"current_user_participated":`...), b.took)
		dst = append(append(append(dst, `,"latest_event":`...), b.latest...), '}')
	}
	return dst
}

// bundle finds what relates to the events.
func (p *page) bundle(ctx context.Context, events []*storage.Event) (map[id.EventID]relations, error) {
	parents := make(map[id.EventID]*storage.Event, len(events))
	ids := make([]id.EventID, 0, len(events))
	for _, e := range events {
		// State events have none bundled, and neither has what itself edits or annotates.
		if e.StateKey == nil && e.Place != 0 && e.RelType != string(event.RelReplace) && e.RelType != string(event.RelAnnotation) {
			parents[e.ID] = e
			ids = append(ids, e.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	counts, err := p.store.Events.RelationsOf(ctx, ids, p.viewer.User)
	if err != nil {
		return nil, err
	}
	bundles := map[id.EventID]relations{}
	byType := map[string][]id.EventID{}
	for _, c := range counts {
		byType[c.Type] = append(byType[c.Type], c.To)
		if c.Type == string(event.RelThread) {
			b := bundles[c.To]
			b.count, b.took = c.Count, c.ByUser || parents[c.To].Sender == p.viewer.User
			bundles[c.To] = b
		}
	}
	if err := p.bundleChildren(ctx, bundles, byType); err != nil {
		return nil, err
	}
	if referred := byType[string(event.RelReference)]; len(referred) > 0 && !p.form.editsOnly {
		list, err := p.store.Events.Related(ctx, referred, string(event.RelReference), someReferences)
		if err != nil {
			return nil, err
		}
		if list, err = p.seen(ctx, list); err != nil {
			return nil, err
		}
		for i := len(list) - 1; i >= 0; i-- {
			b := bundles[list[i].RelatesTo]
			b.references = append(b.references, list[i].ID)
			bundles[list[i].RelatesTo] = b
		}
	}
	return bundles, nil
}

// bundleChildren puts in the edits and the latest events of threads, rendered.
func (p *page) bundleChildren(ctx context.Context, bundles map[id.EventID]relations, byType map[string][]id.EventID) error {
	var children []*storage.Event
	if edited := byType[string(event.RelReplace)]; len(edited) > 0 {
		list, err := p.store.Events.Edits(ctx, edited, someEdits)
		if err != nil {
			return err
		}
		children = append(children, list...)
	}
	if roots := byType[string(event.RelThread)]; len(roots) > 0 && !p.form.editsOnly {
		list, err := p.store.Events.Related(ctx, roots, string(event.RelThread), 1)
		if err != nil {
			return err
		}
		children = append(children, list...)
	}
	children, err := p.seen(ctx, children)
	if err != nil {
		return err
	}
	type child struct {
		parent id.EventID
		kind   string
	}
	chosen := map[child]bool{}
	kept := children[:0]
	for _, e := range children {
		c := child{e.RelatesTo, e.RelType}
		if chosen[c] || e.RelType == string(event.RelReplace) && !replacesContent(e) {
			continue
		}
		chosen[c] = true
		kept = append(kept, e)
	}
	form := Form{WithoutRoomID: p.form.WithoutRoomID, Bare: p.form.editsOnly, editsOnly: true}
	rendered, err := p.Render(ctx, p.viewer, form, kept)
	if err != nil {
		return err
	}
	for i, e := range kept {
		b := bundles[e.RelatesTo]
		if e.RelType == string(event.RelReplace) {
			b.edit = rendered[i]
		} else {
			b.latest = rendered[i]
		}
		bundles[e.RelatesTo] = b
	}
	return nil
}

// seen leaves out what the viewer may not see: what is bundled was not asked for by name.
func (p *page) seen(ctx context.Context, events []*storage.Event) ([]*storage.Event, error) {
	if len(events) == 0 {
		return nil, nil
	}
	return p.Visible(ctx, p.viewer.User, events)
}

// replacesContent tells whether an edit has something to put in place of the
// original; in an encrypted one that cannot be seen.
// Spec: client-server-api/#validity-of-replacement-events
func replacesContent(e *storage.Event) bool {
	return e.Type == event.EventEncrypted.Type || gjson.Get(contentOf(e.JSON), `m\.new_content`).IsObject()
}
