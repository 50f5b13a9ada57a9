// Package postgres keeps a vault's rows in a schema of a PostgreSQL database, for any number of processes.
package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
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

	getSQL, applySQL, sweepSQL string

	mutex   sync.Mutex     // of closing
	closing bool           // Close was called
	running sync.WaitGroup // calls, see do
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
	pool, err := newPool(o)
	if err != nil {
		return nil, err
	}
	s := &Store{pool: pool, name: o.Schema, schema: quote(o.Schema), wait: o.Wait, logger: o.Logger, slots: make(chan int32, pool.Config().MaxConns)}
	for slot := range pool.Config().MaxConns {
		s.slots <- slot
	}
	var node [8]byte
	_, _ = rand.Read(node[:])                        // never fails
	s.node = int64(binary.BigEndian.Uint64(node[:])) //nolint:gosec // any number will do
	s.getSQL = "SELECT " + columns + " FROM " + s.schema + ".rows WHERE kind = $1::text AND id = $2::text"
	s.applySQL = "SELECT " + s.schema + ".apply($1::bigint, $2::integer, $3::bigint, $4::integer[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bytea[])"
	s.sweepSQL = "SELECT " + s.schema + ".sweep($1::text, $2::bigint, $3::integer)"
	if err := s.prepare(ctx); err != nil {
		pool.Close()
		return nil, err
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
		err = c.QueryRow(ctx, "SELECT current_setting('synchronous_commit')").Scan(&commit)
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

// Close implements tokenstore.Store.
func (s *Store) Close() error {
	s.mutex.Lock()
	s.closing = true
	s.mutex.Unlock()
	s.running.Wait()
	s.pool.Close()
	return nil
}

// Interface guard
var _ tokenstore.Store = (*Store)(nil)
