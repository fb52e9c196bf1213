package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// dataFolder makes the data folder if need be, and locks it when the database lies in a file: SQLite is one process.
// unlock gives it free again.
func dataFolder(config Config) (unlock func(), err error) {
	if err := os.MkdirAll(config.Data, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if config.onPostgres() {
		return func() {}, nil
	}
	lock, err := os.OpenFile(filepath.Join(config.Data, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data folder %s is in use by another process: with SQLite there can be only one", config.Data)
		}
		return nil, fmt.Errorf("lock data folder %s: %w", config.Data, err)
	}
	return func() { lock.Close() }, nil
}

// onPostgres says whether storage.database is a PostgreSQL DSN rather than a file.
func (c *Config) onPostgres() bool {
	database := c.Storage.Database
	return strings.HasPrefix(database, "postgres:") || strings.HasPrefix(database, "postgresql:") ||
		strings.Contains(database, "dbname=") || strings.Contains(database, "host=")
}

// inData places a relative path in the data folder.
func (c *Config) inData(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(c.Data, path)
}
