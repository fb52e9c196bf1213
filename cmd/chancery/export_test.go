package main

import (
	"archive/zip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestExportCommand asks the running server for an archive, and reads it from the database of one that is down.
func TestExportCommand(t *testing.T) {
	config := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test")[0]
	config.Listen.Admin = loopback("tcp", 0)
	house := &testHouse{t: t, config: config, url: config.Client.PublicURL}
	t.Cleanup(house.close)
	house.open()
	must(askAdmin(t.Context(), config.Listen.Admin, accountWish{Do: "create", Name: "alice", Password: "password of alice"}))(t, "create")
	for _, way := range []string{"running", "alone"} {
		if way == "alone" {
			house.close()
		}
		out := filepath.Join(t.TempDir(), "alice.zip")
		if err := exportTo(t.Context(), config, "alice", out); err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		archive, err := zip.OpenReader(out)
		if err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		if _, err := archive.Open("account.json"); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		archive.Close()
		if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want a file for its owner alone", way, info, err)
		}
		if err := exportTo(t.Context(), config, "alice", out); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s, over a file that is there: got %v", way, err)
		}
		nobody := filepath.Join(t.TempDir(), "nobody.zip")
		if err := exportTo(t.Context(), config, "nobody", nobody); err == nil {
			t.Errorf("%s: an account that is not there was exported", way)
		}
		if _, err := os.Stat(nobody); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a file was left for nobody: %v", way, err)
		}
	}
}
