package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommandLines gives serve and check what they shall refuse before anything runs.
func TestCommandLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chancery.yaml")
	if err := os.WriteFile(path, []byte("server_name: a.example\nlisten: {certificate: /nowhere/c.pem, key: /nowhere/k.pem}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel() // should one of them serve, it stops
	for _, c := range []struct {
		do   func(context.Context, []string) error
		args []string
		want string
	}{
		{serveCommand, []string{"-config", path, "calls"}, `serve takes flags alone, and no "calls"`},
		{checkCommand, []string{"-config", path, "calls"}, `check takes flags alone, and no "calls"`},
		{checkCommand, []string{"-config", path}, "/nowhere/c.pem"},
	} {
		if err := c.do(stopped, c.args); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got error %v, want a line that holds %q", c.args[2:], err, c.want)
		}
	}
}

// TestServerNameStays starts a server under another name on the database that it had: it is told whose that is.
func TestServerNameStays(t *testing.T) {
	databases(t, func(t *testing.T, database func() string) {
		config := testConfigs(t, database, "interior.test")[0]
		for _, c := range []struct{ name, want string }{{"interior.test", ""}, {"interieur.test", "the database is of interior.test"}, {"interior.test", ""}} {
			config.ServerName = c.name
			s := newStack(t.Context())
			_, err := s.assemble(t.Context(), config, allParts)
			s.stop(stopPatience)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("as %s: got error %v, want one that holds %q", c.name, err, c.want)
			}
		}
	})
}
