package blobs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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
	if gone, err := s.Sweep(hash, time.Hour); err != nil || gone {
		t.Errorf("swept within its grace: %v (%v)", gone, err)
	}
	if gone, err := s.Sweep(hash, 0); err != nil || !gone {
		t.Errorf("swept: %v (%v), want it gone", gone, err)
	}
	if _, err := s.Open(hash); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a swept blob opens: %v", err)
	}
}

func TestPutAgainKeepsFromSweeping(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	hash, _, err := s.Put(strings.NewReader("twice"), 10)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.path(hash), old, old); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Put(strings.NewReader("twice"), 10); err != nil {
		t.Fatal(err)
	}
	if gone, err := s.Sweep(hash, time.Minute); err != nil || gone {
		t.Errorf("put again just now, and swept: %v (%v)", gone, err)
	}
	var seen []string
	if err := s.Each(func(hashes []string) error { seen = append(seen, hashes...); return nil }); err != nil || len(seen) != 1 || seen[0] != hash {
		t.Errorf("all blobs: %v (%v), want %s", seen, err, hash)
	}
}

func TestHalfWrittenFilesAreTidied(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.incoming(), "dead"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	put := make(chan error)
	go func() {
		_, _, err := s.Put(r, 100)
		put <- err
	}()
	if _, err := w.Write([]byte("under ")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err != nil { // another process starts
		t.Fatal(err)
	}
	left, err := os.ReadDir(s.incoming())
	if err != nil || len(left) != 1 || left[0].Name() == "dead" {
		t.Errorf("incoming holds %v (%v), want only what is being written", left, err)
	}
	if _, err := w.Write([]byte("way")); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-put; err != nil {
		t.Errorf("the upload under way: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	for err, want := range map[error]bool{syscall.ENOSPC: true, &fs.PathError{Err: syscall.EDQUOT}: true, io.ErrUnexpectedEOF: false} {
		if got := errors.Is(kept(err), ErrFull); got != want {
			t.Errorf("%v is a full disk: %v, want %v", err, got, want)
		}
	}
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if free, err := s.Free(); err != nil || free <= 0 {
		t.Errorf("free: %d (%v)", free, err)
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
