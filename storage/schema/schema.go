// Package schema holds the tables, as numbered .sql files for both databases.
//
// Each chapter of the server's memory has its own file; dbutil runs them in
// their order and remembers in the table `version` how far a database has come.
// Lines that only one database wants are marked as dbutil marks them.
// Until the first release a file is edited in place; afterwards never again.
package schema

import (
	"embed"

	"go.mau.fi/util/dbutil"
)

//go:embed *.sql
var files embed.FS

// Table gives the upgrades, in their order. It panics on a malformed file,
// which is a fault of the build.
func Table() dbutil.UpgradeTable {
	return dbutil.BuildUpgradeTable().WithFS(files).Finish()
}
