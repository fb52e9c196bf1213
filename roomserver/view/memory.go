package view

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidwall/gjson"

	"chancery/storage"
)

// memory holds about the size of newest values, in two generations: when the
// young one is full, the old one is dropped. What is asked for becomes young again.
type memory[K comparable, V any] struct {
	mu         sync.Mutex
	young, old map[K]V
	size       int
}

func newMemory[K comparable, V any](size int) *memory[K, V] {
	return &memory[K, V]{young: map[K]V{}, size: size}
}

func (m *memory[K, V]) get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.young[key]
	if !ok {
		if v, ok = m.old[key]; ok {
			m.put(key, v)
		}
	}
	return v, ok
}

func (m *memory[K, V]) set(key K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(key, v)
}

func (m *memory[K, V]) put(key K, v V) {
	if len(m.young) >= m.size/2 {
		m.young, m.old = map[K]V{}, m.young
	}
	m.young[key] = v
}

// lookups answers the number of the event that each key holds at its snapshot,
// 0 for none, with at most one query for what is not remembered.
func (r *Reader) lookups(ctx context.Context, asked []storage.Lookup) (map[storage.Lookup]int64, error) {
	found := make(map[storage.Lookup]int64, len(asked))
	var unknown []storage.Lookup
	for _, q := range asked {
		if _, ok := found[q]; ok {
			continue
		}
		number, ok := r.held.get(q)
		if !ok && q.At != (storage.Snapshot{}) {
			unknown = append(unknown, q)
		}
		found[q] = number
	}
	if len(unknown) == 0 {
		return found, nil
	}
	numbers, err := r.store.State.Lookups(ctx, unknown)
	if err != nil {
		return nil, fmt.Errorf("state at events: %w", err)
	}
	for i, q := range unknown {
		found[q] = numbers[i]
		r.held.set(q, numbers[i])
	}
	return found, nil
}

// sayings answers, by number, what membership and history visibility events say.
func (r *Reader) sayings(ctx context.Context, numbers []int64) (map[int64]string, error) {
	said := make(map[int64]string, len(numbers))
	var unknown []int64
	for _, n := range numbers {
		if _, ok := said[n]; ok || n == 0 {
			continue
		}
		v, ok := r.said.get(n)
		if !ok {
			unknown = append(unknown, n)
		}
		said[n] = v
	}
	if len(unknown) == 0 {
		return said, nil
	}
	events, err := r.store.Events.ByNumbers(ctx, unknown)
	if err != nil {
		return nil, fmt.Errorf("state at events: %w", err)
	}
	for _, e := range events {
		said[e.Number] = saying(e)
		r.said.set(e.Number, said[e.Number])
	}
	return said, nil
}

// saying is the membership or the visibility that an event sets; empty if it says nothing we understand.
func saying(e *storage.Event) string {
	field := "content.membership"
	if e.Type == typeVisibility {
		field = "content.history_visibility"
	}
	return gjson.GetBytes(e.JSON, field).Str
}
