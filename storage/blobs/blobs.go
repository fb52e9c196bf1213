// Package blobs keeps media files on disk, named by the hash of their content.
//
// The same content is kept once. A file appears under its name whole and synced,
// or not at all; names come from hashes alone, never from what a stranger sent.
// Who refers to a blob is remembered in storage (Media); blobs knows no users.
// A blob that was put just now is not swept away: its owner may be about to be
// written down. So Put touches what is there already, and Sweep looks at the time.
package blobs

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ErrTooLarge says that the content has more bytes than allowed; nothing was kept.
var ErrTooLarge = errors.New("blobs: content too large")

// ErrFull says that the disk has no room; nothing was kept.
var ErrFull = errors.New("blobs: no space left on the disk")

// Store is a folder of blobs. It is safe for concurrent use, by several processes too.
type Store struct{ dir string }

// Open makes the folder if need be, and removes what processes that died have left half-written.
func Open(dir string) (*Store, error) {
	s := &Store{dir}
	if err := os.MkdirAll(s.incoming(), 0o700); err != nil {
		return nil, fmt.Errorf("media folder: %w", err)
	}
	if err := s.makeFolders(); err != nil {
		return nil, fmt.Errorf("media folder: %w", err)
	}
	left, err := os.ReadDir(s.incoming())
	if err != nil {
		return nil, fmt.Errorf("media folder: %w", err)
	}
	for _, entry := range left {
		if err := s.tidy(filepath.Join(s.incoming(), entry.Name())); err != nil {
			return nil, fmt.Errorf("media folder: %w", err)
		}
	}
	return s, nil
}

// makeFolders makes the folders for the first two digits all at once: a Put need not look after any but its own.
func (s *Store) makeFolders() error {
	made := false
	for i := range 256 {
		err := os.Mkdir(filepath.Join(s.dir, fmt.Sprintf("%02x", i)), 0o700)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		made = made || err == nil
	}
	if !made {
		return nil
	}
	return syncFolder(s.dir)
}

func (s *Store) incoming() string { return filepath.Join(s.dir, "incoming") }

// tidy removes an incoming file, unless a process is writing it: that one holds a lock.
func (s *Store) tidy(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Put streams content into the store, never more than a few kilobytes of it in memory, and gives its hash (hex SHA-256)
// and size. Beyond limit bytes it stops reading and gives ErrTooLarge. It returns when the blob is on disk.
func (s *Store) Put(content io.Reader, limit int64) (hash string, size int64, err error) {
	f, err := s.create()
	if err != nil {
		return "", 0, kept(err)
	}
	defer os.Remove(f.Name())
	sum := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(content, limit+1))
	if err == nil && size > limit {
		err = ErrTooLarge
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		hash = hex.EncodeToString(sum.Sum(nil))
		err = s.name(f.Name(), hash) // while it is locked
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, kept(err)
	}
	return hash, size, nil
}

func kept(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w (%w)", ErrFull, err)
	}
	return fmt.Errorf("keep blob: %w", err)
}

// create makes an incoming file and locks it, so that no other process takes it for a dead one's.
func (s *Store) create() (*os.File, error) {
	for {
		f, err := os.OpenFile(filepath.Join(s.incoming(), rand.Text()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			if _, err := os.Stat(f.Name()); err == nil {
				return f, nil
			}
		}
		f.Close() // it was tidied away between the two
	}
}

// name moves a complete file to its place and syncs the folder, so that the name survives a power cut.
func (s *Store) name(temp, hash string) error {
	path, now := s.path(hash), time.Now()
	if os.Chtimes(path, now, now) == nil {
		return nil
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Open gives a blob for reading; the error is fs.ErrNotExist where there is none.
func (s *Store) Open(hash string) (*os.File, error) {
	if !isHash(hash) {
		return nil, os.ErrNotExist
	}
	return os.Open(s.path(hash))
}

// Has says whether the blob is there.
func (s *Store) Has(hash string) bool {
	if !isHash(hash) {
		return false
	}
	_, err := os.Stat(s.path(hash))
	return err == nil
}

// Sweep takes a blob away that belongs to nobody, unless it was put less than grace ago: it may get an owner yet. gone says
// that it is not there any more.
func (s *Store) Sweep(hash string, grace time.Duration) (gone bool, err error) {
	if !isHash(hash) {
		return true, nil
	}
	if info, err := os.Stat(s.path(hash)); err == nil && time.Since(info.ModTime()) < grace {
		return false, nil
	}
	// Aside first, and then looked at again: a Put that comes now finds nothing to touch, and puts its own.
	aside := filepath.Join(s.incoming(), rand.Text())
	if err := os.Rename(s.path(hash), aside); errors.Is(err, os.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, fmt.Errorf("sweep blob: %w", err)
	}
	info, err := os.Stat(aside)
	if err == nil && time.Since(info.ModTime()) < grace {
		err = os.Rename(aside, s.path(hash))
		if err != nil {
			return false, fmt.Errorf("sweep blob: %w", err)
		}
		return false, nil
	}
	if err == nil {
		err = os.Remove(aside)
	}
	if err != nil {
		return false, fmt.Errorf("sweep blob: %w", err)
	}
	return true, nil
}

// Each hands on the names of all blobs, a folder of them at a time, until fn fails.
func (s *Store) Each(fn func(hashes []string) error) error {
	for i := range 256 {
		files, err := os.ReadDir(filepath.Join(s.dir, fmt.Sprintf("%02x", i)))
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		var hashes []string
		for _, f := range files {
			if isHash(f.Name()) {
				hashes = append(hashes, f.Name())
			}
		}
		if err := fn(hashes); err != nil {
			return err
		}
	}
	return nil
}

// Free is how many bytes the disk has left for us.
func (s *Store) Free() (int64, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &stat); err != nil {
		return 0, fmt.Errorf("look for free space: %w", err)
	}
	return int64(stat.Bavail) * int64(stat.Bsize), nil
}

func (s *Store) path(hash string) string { return filepath.Join(s.dir, hash[:2], hash) }

func isHash(hash string) bool {
	raw, err := hex.DecodeString(hash)
	return err == nil && len(raw) == sha256.Size
}
