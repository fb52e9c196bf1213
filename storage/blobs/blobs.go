// Package blobs keeps media files on disk, named by the hash of their content.
//
// The same content is kept once. A file appears under its name whole and synced,
// or not at all; names come from hashes alone, never from what a stranger sent.
// Who refers to a blob is remembered in storage (Media); blobs knows no users.
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
)

// ErrTooLarge says that the content has more bytes than allowed; nothing was kept.
var ErrTooLarge = errors.New("blobs: content too large")

// Store is a folder of blobs. It is safe for concurrent use, by several processes too.
type Store struct{ dir string }

// Open makes the folder if need be.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, "incoming"), 0o700); err != nil {
		return nil, fmt.Errorf("media folder: %w", err)
	}
	return &Store{dir}, nil
}

// Put streams content into the store, never more than a few kilobytes of it in memory, and gives its hash (hex SHA-256)
// and size. Beyond limit bytes it stops reading and gives ErrTooLarge. It returns when the blob is on disk.
func (s *Store) Put(content io.Reader, limit int64) (hash string, size int64, err error) {
	temp := filepath.Join(s.dir, "incoming", rand.Text())
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", 0, fmt.Errorf("keep blob: %w", err)
	}
	defer os.Remove(temp)
	sum := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(content, limit+1))
	if err == nil && size > limit {
		err = ErrTooLarge
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, fmt.Errorf("keep blob: %w", err)
	}
	hash = hex.EncodeToString(sum.Sum(nil))
	return hash, size, s.name(temp, hash)
}

// name moves a complete file to its place and syncs the folders, so that the name survives a power cut.
func (s *Store) name(temp, hash string) error {
	path := s.path(hash)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep blob: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("keep blob: %w", err)
	}
	for _, d := range []string{dir, filepath.Dir(dir), s.dir} {
		if err := syncFolder(d); err != nil {
			return fmt.Errorf("keep blob: %w", err)
		}
	}
	return nil
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

// Remove takes a blob away; one that is not there is no error.
func (s *Store) Remove(hash string) error {
	if !isHash(hash) {
		return nil
	}
	if err := os.Remove(s.path(hash)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove blob: %w", err)
	}
	return nil
}

func (s *Store) path(hash string) string { return filepath.Join(s.dir, hash[:2], hash[2:4], hash) }

func isHash(hash string) bool {
	raw, err := hex.DecodeString(hash)
	return err == nil && len(raw) == sha256.Size
}
