// Package postgres keeps a vault's rows in a schema of a PostgreSQL database, for any number of processes.
//
// The role that connects is no superuser. It makes the schema, for which it needs CREATE on the database; or the schema is there, and it needs CREATE and USAGE on that. What it
// makes it owns, and it needs no more. All nodes connect as the same role.
//
// Statements are prepared. A proxy that gives every transaction another connection may not bear that: default_query_exec_mode=exec in the connection string prepares none, and
// makes no settings of connections but their name. Otherwise each has the limits of a call, and synchronous_commit=on, unless the connection string says otherwise.
package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/watch"
)

// Defaults of Options.
const (
	DefaultSchema   = "oauth_proxy"
	DefaultMaxConns = 10
	DefaultWait     = 5 * time.Second
	DefaultMaxStale = 10 * time.Second
)

// Options says which database, and how to use it.
type Options struct {
	// Connection is a libpq URL or keywords, without the password.
	Connection string

	// Password returns the password for a new connection. Nil takes what libpq would: PGPASSWORD, or the file of PGPASSFILE.
	Password func(ctx context.Context) (string, error)

	// Schema holds the tables. Empty means DefaultSchema.
	Schema string

	// MaxConns is the most connections of this Store, beside the one that listens. Zero means DefaultMaxConns.
	MaxConns int

	// Wait is how long a call waits for a database that does not answer. Zero means DefaultWait.
	Wait time.Duration

	// MaxStale is for how long Recall answers from memory while the database is gone. Zero means not at all.
	MaxStale time.Duration

	// Listen is the connection string of the connection that listens, where Connection leads to a proxy that
	// cannot. Empty means Connection.
	Listen string

	// ListenOff means that there is no way to listen.
	ListenOff bool

	// ReadOnly means that only reads will follow: the schema is left as it is, and is an error where it is not the one of this release.
	ReadOnly bool

	// Logger gets what an operator should know. Nil logs nothing.
	Logger *zap.Logger
}

// Store is a tokenstore.Store in a PostgreSQL database. Use Open.
type Store struct {
	pool   *pgxpool.Pool
	name   string // of the schema
	schema string // the same, quoted
	wait   time.Duration
	logger *zap.Logger

	node  int64        // tells this Store's Applies from others', see apply
	count atomic.Int64 // of its Applies
	slots chan int32   // numbers under which it may apply at the moment
	queue queue

	getSQL, listSQL, countSQL, dueSQL, aheadSQL, applySQL, sweepSQL string

	config   *pgx.ConnConfig // of connections beside the pool's
	password func(ctx context.Context, c *pgx.ConnConfig) error
	maxStale time.Duration
	fillWait time.Duration // for another Recall's read of the same row
	calls    atomic.Int64  // that run or wait
	repeats  atomic.Uint64 // calls that were made again, see do
	writing  chan struct{} // has a place for each connection that may write at a time, and rating for each that may count events
	rating   chan struct{}
	memory   *memory.Memory
	clock    *clock
	outage   *outage
	sockets  *sockets // of calls, and ears of what listens
	ears     *sockets
	watchers *watch.Watchers
	listener *listener

	mutex      sync.Mutex     // of closing
	closed     atomic.Bool    // Close was called
	over       chan struct{}  // closed with it
	running    sync.WaitGroup // calls, see do
	background sync.WaitGroup
	end        context.CancelFunc // of the background
}

// Open connects to the database, and makes the schema or brings it up to date.
func Open(ctx context.Context, o Options) (*Store, error) {
	o = o.withDefaults()
	s, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("vault in PostgreSQL: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	if err := checkSchema(o.Schema); err != nil {
		return nil, err
	}
	sockets := newSockets()
	pool, err := newPool(o, sockets.dial)
	if err != nil {
		return nil, err
	}
	s := &Store{pool: pool, name: o.Schema, schema: quote(o.Schema), wait: o.Wait, logger: o.Logger, slots: make(chan int32, maxSlots)}
	s.config, s.password, s.maxStale, s.fillWait, s.sockets = pool.Config().ConnConfig, o.password, o.MaxStale, fillWait, sockets
	s.ears = newSockets()
	s.writing, s.rating = make(chan struct{}, max(1, o.MaxConns-o.MaxConns/4-1)), make(chan struct{}, max(1, o.MaxConns/4))
	s.over = make(chan struct{})
	s.memory, s.clock, s.watchers = memory.New(), newClock(), watch.New(s.over)
	s.outage = newOutage(s.wait, s.clock.now, s.logger, s.reach, s.cut)
	if err := s.connectListener(o); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	for slot := range int32(maxSlots) {
		s.slots <- slot
	}
	var node [8]byte
	_, _ = rand.Read(node[:])                        // never fails
	s.node = int64(binary.BigEndian.Uint64(node[:])) //nolint:gosec // any number will do
	s.getSQL = "SELECT " + columns + " FROM " + s.schema + ".rows WHERE kind = $1::text AND id = $2::text"
	s.listSQL = "SELECT " + columns + " FROM " + s.schema + ".page($1::text, $2::text[], $3::text, $4::integer) ORDER BY id"
	s.countSQL = "SELECT " + s.schema + ".tally($1::text, $2::text[])"
	s.dueSQL = "SELECT " + columns + " FROM " + s.schema + ".overdue($1::text, $2::bigint, $3::integer) ORDER BY due, id"
	s.aheadSQL = "SELECT " + s.schema + ".ahead($1::bigint, $2::integer[], $3::text[], $4::text[])"
	s.applySQL = "SELECT " + s.schema + ".apply($1::bigint, $2::integer, $3::bigint, $4::integer[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bytea[])"
	s.sweepSQL = "SELECT " + s.schema + ".sweep($1::text, $2::bigint, $3::integer)"
	prepare := s.prepare
	if o.ReadOnly {
		prepare = s.checkVersion
	}
	if err := prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.listen(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the connection that listens: %w", explain(err)), s.Close())
	}
	return s, nil
}

// prepare makes the schema what this release needs, and looks at how the server is set.
func (s *Store) prepare(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	commit, err := do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (commit string, err error) {
		if _, err := c.Exec(ctx, "DELETE FROM "+s.schema+".applies WHERE at < now() - interval '1 day'"); err != nil { // of nodes that have ended
			return "", err
		}
		var isolation string
		err = c.QueryRow(ctx, "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')").Scan(&commit, &isolation)
		if err == nil && isolation != "read committed" { // others do not see the freeze that they have waited for
			err = refused("default_transaction_isolation is %q; set it to read committed, for the role or the database", isolation)
		}
		return commit, err
	})
	if commit == "off" {
		s.logger.Warn("the vault's last writes are lost when the database crashes: synchronous_commit is off; set it on, for the role or in the connection string")
	}
	return err
}

func (o Options) withDefaults() Options {
	if o.Schema == "" {
		o.Schema = DefaultSchema
	}
	if o.MaxConns <= 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.Wait <= 0 {
		o.Wait = DefaultWait
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// Close implements tokenstore.Store. Calls end within the time that they wait; connections to a database that does not answer are closed without its knowing.
func (s *Store) Close() error {
	s.mutex.Lock()
	first := !s.closed.Swap(true)
	s.mutex.Unlock()
	if first {
		close(s.over)
	}
	s.finish()
	if !s.watchers.End(time.After(maxClose)) {
		return fmt.Errorf("%w: somebody who watches the vault does not return for %s; its connections are closed", tokenstore.ErrUnavailable, maxClose)
	}
	return nil
}

// maxClose bounds how long Close waits for watchers.
const maxClose = 10 * time.Second

// cut ends all connections of calls, when the database is gone: what waits for an answer on one of them would wait in vain.
func (s *Store) cut() {
	s.sockets.cut()
	s.pool.Reset()
}

// Interface guard
var _ tokenstore.Store = (*Store)(nil)
