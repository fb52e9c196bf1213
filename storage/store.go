// Package storage is what the server remembers: one type per noun, group-committed
// transactions, positions in commit order, and the following of the stream.
//
// A noun has a file: its struct, its queries and its methods. Truths to keep:
//
//   - reads outside a transaction go to the pool of readers, reads inside [Store.Do] to the transaction, by the context alone;
//   - every write goes through the committer, which runs what waits in one transaction: a nil error means that it is on disk;
//   - a row of which a waiting client may learn has a position, and is told with note, so that the tail and `advance` hear of it after the commit and only then;
//   - rooms are written by [RoomWriter] alone, which only the room server holds;
//   - absence is not failure: a method that looks for one row gives nil, nil where there is none.
package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
	"github.com/rs/zerolog"
	"go.mau.fi/util/dbutil"

	"chancery/storage/bus"
	"chancery/storage/schema"
)

// Config says where the server's memory lies.
type Config struct {
	// Database: a path ("/var/lib/chancery/chancery.db") for SQLite, or a
	// PostgreSQL DSN ("postgres://..." or "host=... dbname=..."). Default "chancery.db" in the data folder.
	Database string `yaml:"database"`
	// Readers bounds the connections that read at once. Default 8 on SQLite, 32 on PostgreSQL (0 takes the default).
	Readers int `yaml:"readers"`
	// TailBytes bounds the memory that holds the newest changes for followers. Default 8 MiB.
	TailBytes int `yaml:"tail_bytes"`
}

// DefaultConfig is SQLite in the working folder.
func DefaultConfig() Config { return Config{Database: "chancery.db", TailBytes: 8 << 20} }

// Store is the whole memory. It is safe for concurrent use.
type Store struct {
	Rooms       *Rooms
	Events      *Events
	State       *State
	Memberships *Memberships
	Upgrades    *Upgrades
	Leases      *Leases

	Accounts           *Accounts
	Validity           *Validities
	Devices            *Devices
	Tokens             *Tokens
	Profiles           *Profiles
	AccountData        *AccountDatas
	Filters            *Filters
	Media              *Media
	Previews           *Previews
	RegistrationTokens *RegistrationTokens
	Confirmations      *Confirmations
	ThreePIDs          *ThreePIDs
	FormerAddresses    *FormerAddresses
	Validations        *Validations
	Rates              *Rates
	ExternalIDs        *ExternalIDs
	Upstream           *Upstream
	OAuth              *OAuth
	Browsers           *Browsers
	Rendezvous         *Rendezvouses
	Jobs               *Jobs

	Keys        *Keys
	DeviceLists *DeviceLists
	ToDevice    *ToDevice
	Backups     *Backups
	Dehydrated  *DehydratedDevices

	Receipts            *Receipts
	ThreadSubscriptions *ThreadSubscriptions
	Pushers             *Pushers

	DelayedEvents *DelayedEvents
	CallOrders    *CallOrders
	CallLeaves    *CallLeaves
	CallRecords   *CallRecords
	Secrets       *Secrets
	Foci          *Foci
	Reports       *Reports
	AppServices   *AppServices
	Sliding       *Sliding
	Search        *Search

	ServerKeys   *ServerKeys
	Destinations *Destinations
	Outbound     *Outbounds
	Received     *Received

	db     *dbutil.Database // the writing side: the committer alone uses it
	reader *dbutil.Database
	writes *counted
	reads  *counted
	bus    *bus.Bus
	now    func() time.Time

	committer   *committer
	tail        *tail
	incarnation string
	numbers     numberBlock

	drained chan struct{} // closed when the committer has written all it held
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// Open opens the database (making or upgrading its tables) and starts the
// committer and the tail. b carries the wake-ups. Close it when all who use it have ended.
func Open(ctx context.Context, cfg Config, b *bus.Bus) (*Store, error) {
	s := &Store{bus: b, now: time.Now}
	var err error
	if isPostgres(cfg.Database) {
		s.db, s.reader, err = openPostgres(cfg)
	} else {
		s.db, s.reader, err = openSQLite(cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	s.writes, s.reads = count(s.db, "commit"), count(s.reader, "read")
	s.nouns()
	if err := s.alone(ctx, s.makeTables); err != nil {
		_ = s.closeDB()
		return nil, err
	}
	if err := s.begin(ctx, cfg); err != nil {
		_ = s.closeDB()
		return nil, err
	}
	return s, nil
}

// makeTables makes what a new database lacks, or carries an old one forward.
func (s *Store) makeTables(ctx context.Context) error {
	s.db.Owner = "chancery"
	s.db.UpgradeTable = schema.Table()
	if err := s.db.Upgrade(ctx); err != nil {
		return fmt.Errorf("upgrade database: %w", err)
	}
	if err := s.openSearch(ctx); err != nil {
		return fmt.Errorf("open search index: %w", err)
	}
	return nil
}

// alone runs fn while no other process does so: several may start at once upon one empty PostgreSQL.
// (SQLite is one process, which has locked its data folder.)
func (s *Store) alone(ctx context.Context, fn func(context.Context) error) error {
	if !s.Postgres() {
		return fn(ctx)
	}
	const lock = 0x6368616e // any number will do that all our processes share
	conn, err := s.reader.RawDB.Conn(ctx)
	if err != nil {
		return fmt.Errorf("lock database: %w", err)
	}
	// The lock goes with the connection, should the unlocking fail.
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", lock); err != nil {
		return fmt.Errorf("lock database: %w", err)
	}
	err = fn(ctx)
	_, unlockErr := conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", lock)
	return errors.Join(err, unlockErr)
}

// Healthy asks the database for a word, within the patience of ctx.
func (s *Store) Healthy(ctx context.Context) error {
	_, err := s.counterPosition(ctx)
	return err
}

// nouns gives each noun its way to the database.
func (s *Store) nouns() {
	s.Rooms = &Rooms{s: s}
	s.Events = &Events{s}
	s.State = &State{s: s, chains: map[int64]chainLink{}}
	s.Memberships = &Memberships{s}
	s.Upgrades = &Upgrades{s}
	s.Leases = &Leases{s}

	s.Accounts = &Accounts{s: s}
	s.Validity = &Validities{s}
	s.Devices = &Devices{s}
	s.Tokens = &Tokens{s: s}
	s.Profiles = &Profiles{s}
	s.AccountData = &AccountDatas{s}
	s.Filters = &Filters{s: s}
	s.RegistrationTokens = &RegistrationTokens{s}
	s.OAuth = &OAuth{s}
	s.Browsers = &Browsers{s}
	s.Rendezvous = &Rendezvouses{s}
	s.Confirmations = &Confirmations{s}
	s.ThreePIDs = &ThreePIDs{s}
	s.FormerAddresses = &FormerAddresses{s}
	s.Dehydrated = &DehydratedDevices{s}
	s.Validations = &Validations{s}
	s.Rates = &Rates{s}
	s.ExternalIDs = &ExternalIDs{s}
	s.Upstream = &Upstream{s}
	s.Jobs = &Jobs{s}

	s.Keys = &Keys{s: s}
	s.DeviceLists = &DeviceLists{s}
	s.ToDevice = &ToDevice{s}
	s.Backups = &Backups{s}

	s.Receipts = &Receipts{s}
	s.ThreadSubscriptions = &ThreadSubscriptions{s}
	s.Pushers = &Pushers{s}
	s.Media = &Media{s}
	s.Previews = &Previews{s}

	s.DelayedEvents = &DelayedEvents{s}
	s.CallOrders = &CallOrders{s}
	s.CallLeaves = &CallLeaves{s}
	s.CallRecords = &CallRecords{s}
	s.Secrets = &Secrets{s}
	s.Foci = &Foci{s}
	s.Reports = &Reports{s}
	s.AppServices = &AppServices{s}
	s.Sliding = &Sliding{s}

	s.ServerKeys = &ServerKeys{s}
	s.Destinations = &Destinations{s}
	s.Outbound = &Outbounds{s}
	s.Received = &Received{s}
}

// sources lists the nouns whose rows have positions, for tails and followers that lag.
func (s *Store) sources() []source {
	return []source{s.Events, s.State, s.Memberships, s.Devices, s.AccountData, s.DeviceLists, s.ToDevice, s.Outbound, s.Receipts, s.ThreadSubscriptions, s.Validity}
}

func (s *Store) begin(ctx context.Context, cfg Config) error {
	head, err := s.openCounter(ctx)
	if err != nil {
		return fmt.Errorf("read counter: %w", err)
	}
	// The store outlives the request that opens it; its log is the opener's.
	run, stop := context.WithCancel(zerolog.Ctx(ctx).WithContext(context.Background()))
	s.stop = stop
	s.tail = newTail(head, cfg.TailBytes)
	s.committer = newCommitter()
	s.drained = make(chan struct{})
	go func() { defer close(s.drained); s.commitLoop(run) }()
	if s.bus != nil && !s.bus.Embedded() {
		if err := s.readTail(run); err != nil {
			stop()
			return err
		}
	}
	return nil
}

// Close ends the committer after what it holds, and closes the database.
func (s *Store) Close() error {
	s.committer.close()
	<-s.drained
	s.stop()
	s.done.Wait()
	return s.closeDB()
}

func (s *Store) closeDB() error {
	return errors.Join(s.reader.Close(), s.db.Close())
}

// Postgres reports whether the store lies on PostgreSQL.
func (s *Store) Postgres() bool { return s.db.Dialect == dbutil.Postgres }

// Incarnation is the database's own name: a restored backup gets a new one.
func (s *Store) Incarnation() string { return s.incarnation }

func isPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres:") || strings.HasPrefix(dsn, "postgresql:") ||
		strings.Contains(dsn, "dbname=") || strings.Contains(dsn, "host=")
}

func openSQLite(cfg Config) (db, reader *dbutil.Database, err error) {
	common := url.Values{
		"_busy_timeout": {"10000"},
		"_foreign_keys": {"on"},
		"_journal_mode": {"WAL"},
		// The answer to a client is a promise: it is on disk.
		"_synchronous": {"FULL"},
		// KiB for each reader: what they read again lies in the system's cache too.
		"_cache_size": {"-4096"},
		// Prepared statements that a connection keeps.
		"_stmt_cache_size": {"64"},
	}
	writing := url.Values{"_txlock": {"immediate"}}
	for k, v := range common {
		writing[k] = v
	}
	writing.Set("_cache_size", "-16384")
	if db, err = dbutil.NewWithDialect("file:"+cfg.Database+"?"+writing.Encode(), "sqlite3"); err != nil {
		return nil, nil, err
	}
	db.RawDB.SetMaxOpenConns(1)
	db.RawDB.SetMaxIdleConns(1)
	common.Set("_query_only", "true")
	// Each reader has a cache of its own, of much the same pages; the system's holds them once for all.
	common.Set("_cache_size", "-2048")
	if reader, err = dbutil.NewWithDialect("file:"+cfg.Database+"?"+common.Encode(), "sqlite3"); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	pool(reader.RawDB, cfg.Readers, 8)
	return db, reader, nil
}

func openPostgres(cfg Config) (db, reader *dbutil.Database, err error) {
	_ = stdlib.GetDefaultDriver() // registers "pgx"
	dsn := withStatements(cfg.Database)
	if db, err = dbutil.NewWithDialect(dsn, "pgx"); err != nil {
		return nil, nil, err
	}
	db.RawDB.SetMaxOpenConns(2)
	db.RawDB.SetMaxIdleConns(2)
	if reader, err = dbutil.NewWithDialect(dsn, "pgx"); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	pool(reader.RawDB, cfg.Readers, 32)
	return db, reader, nil
}

// withStatements bounds how many prepared statements a connection keeps, if the operator does not: pgx sets room for 512 aside.
func withStatements(dsn string) string {
	const name, number = "statement_cache_capacity", "192"
	switch {
	case strings.Contains(dsn, name):
		return dsn
	case !strings.Contains(dsn, "://"):
		return dsn + " " + name + "=" + number
	case strings.Contains(dsn, "?"):
		return dsn + "&" + name + "=" + number
	}
	return dsn + "?" + name + "=" + number
}

func pool(db *sql.DB, n, otherwise int) {
	if n <= 0 {
		n = otherwise
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
}

// query reads rows: in the transaction that ctx carries, or else in the pool of readers.
func (s *Store) query(ctx context.Context, q string, args ...any) (dbutil.Rows, error) {
	return s.side(ctx).Query(ctx, q, args...)
}

// queryRow reads one row, on the side that query takes.
func (s *Store) queryRow(ctx context.Context, q string, args ...any) *sql.Row {
	return s.side(ctx).QueryRow(ctx, q, args...)
}

// exec writes, in the transaction that ctx carries. Without one it fails: every write goes through Do.
func (s *Store) exec(ctx context.Context, q string, args ...any) (sql.Result, error) {
	if transactionOf(ctx) == nil {
		return nil, errors.New("storage: write outside Do")
	}
	return s.db.Exec(ctx, q, args...)
}

func (s *Store) side(ctx context.Context) *dbutil.Database {
	if transactionOf(ctx) != nil {
		return s.db
	}
	return s.reader
}

// all reads every row of a query with scan. The query bounds them.
func all[T any](ctx context.Context, s *Store, scan func(dbutil.Scannable) (T, error), q string, args ...any) ([]T, error) {
	rows, err := s.query(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// one reads the first row of a query with scan; the zero value and no error where there is none.
func one[T any](ctx context.Context, s *Store, scan func(dbutil.Scannable) (T, error), q string, args ...any) (T, error) {
	v, err := scan(s.queryRow(ctx, q, args...))
	if errors.Is(err, sql.ErrNoRows) {
		var none T
		return none, nil
	}
	return v, err
}

// column scans a row of one column.
func column[T any](row dbutil.Scannable) (T, error) {
	var v T
	err := row.Scan(&v)
	return v, err
}

// insert writes many rows with one statement per few hundred: into is "INSERT INTO t (a, b) VALUES",
// then the rows, then after ("ON CONFLICT ..."). All rows have the same number of columns.
func (s *Store) insert(ctx context.Context, into string, rows [][]any, after string) error {
	for len(rows) > 0 {
		n := min(len(rows), max(1, 8000/len(rows[0])))
		var q strings.Builder
		q.WriteString(into)
		args := make([]any, 0, n*len(rows[0]))
		for i, row := range rows[:n] {
			if i > 0 {
				q.WriteByte(',')
			}
			q.WriteString(" (")
			for j := range row {
				if j > 0 {
					q.WriteByte(',')
				}
				q.WriteByte('$')
				q.WriteString(strconv.Itoa(len(args) + j + 1))
			}
			q.WriteByte(')')
			args = append(args, row...)
		}
		if after != "" {
			q.WriteByte(' ')
			q.WriteString(after)
		}
		if _, err := s.exec(ctx, q.String(), args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// list makes "($first, $first+1, ...)" for n values of an IN, and never an empty one.
func list(first, n int) string {
	if n == 0 {
		return "(NULL)"
	}
	var b strings.Builder
	b.WriteByte('(')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(first + i))
	}
	b.WriteByte(')')
	return b.String()
}

// anys turns a slice into arguments.
func anys[T any](values []T) []any {
	args := make([]any, len(values))
	for i, v := range values {
		args[i] = v
	}
	return args
}

// Text columns cannot hold NUL on PostgreSQL, but names from other servers may:
// NUL and the escape itself are written with a private-use character in front.
var (
	escaper   = strings.NewReplacer("\x00", "\ue0000", "\ue000", "\ue0001")
	unescaper = strings.NewReplacer("\ue0000", "\x00", "\ue0001", "\ue000")
)

func escape(s string) string {
	if strings.IndexByte(s, 0) < 0 && !strings.Contains(s, "\ue000") {
		return s
	}
	return escaper.Replace(s)
}

func unescape(s string) string {
	if !strings.Contains(s, "\ue000") {
		return s
	}
	return unescaper.Replace(s)
}

// nullable makes a NULL of the zero value.
func nullable[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}
