package blobs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPutAndOpen(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("media"), 100_000)
	hash, size, err := s.Put(bytes.NewReader(content), 1<<20)
	if err != nil || size != int64(len(content)) {
		t.Fatalf("put: %d bytes (%v), want %d", size, err, len(content))
	}
	if again, _, err := s.Put(bytes.NewReader(content), 1<<20); err != nil || again != hash {
		t.Errorf("the same content again: %s (%v), want %s", again, err, hash)
	}
	f, err := s.Open(hash)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, _ := io.ReadAll(f); !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, want the %d written", len(got), len(content))
	}
	if err := s.Remove(hash); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(hash); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed blob opens: %v", err)
	}
}

func TestTooLargeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Put(strings.NewReader("12345"), 4); !errors.Is(err, ErrTooLarge) {
		t.Errorf("five bytes with a limit of four: %v, want ErrTooLarge", err)
	}
	if _, _, err := s.Put(strings.NewReader("1234"), 4); err != nil {
		t.Errorf("four bytes with a limit of four: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "incoming"))
	if err != nil || len(left) != 0 {
		t.Errorf("%d files are left in incoming (%v), want none", len(left), err)
	}
}

func TestNamesAreHashesAlone(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "..", "../../etc/passwd", strings.Repeat("z", 64)} {
		if _, err := s.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q opened: %v", name, err)
		}
	}
}
