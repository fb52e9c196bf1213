package storage

import (
	"testing"
)

func TestSharedSecrets(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		first, err := s.Secrets.Shared(t.Context(), "calls")
		if err != nil || len(first) < 32 {
			t.Fatalf("got %q, %v, want at least 32 characters", first, err)
		}
		if again, err := s.Secrets.Shared(t.Context(), "calls"); again != first || err != nil {
			t.Errorf("asked again: got %q, %v, want %q", again, err, first)
		}
		if other, err := s.Secrets.Shared(t.Context(), "else"); other == first || other == "" || err != nil {
			t.Errorf("another name: got %q, %v", other, err)
		}
	})
}
