// Package postgres keeps a vault's rows in a schema of a PostgreSQL database, for any number of processes.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	schema string // quoted
	wait   time.Duration
	logger *zap.Logger

	mutex   sync.Mutex     // of closing
	closing bool           // Close was called
	running sync.WaitGroup // calls, see do
}

// Open connects to the database, and makes the schema or brings it up to date.
func Open(ctx context.Context, o Options) (*Store, error) {
	o = o.withDefaults()
	pool, err := newPool(o)
	if err != nil {
		return nil, err
	}
	s := &Store{pool: pool, schema: quote(o.Schema), wait: o.Wait, logger: o.Logger}
	if err := s.migrate(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("vault in PostgreSQL: %w", err)
	}
	return s, nil
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

// begin counts a call that Close waits for, unless the Store was closed.
func (s *Store) begin() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closing {
		return tokenstore.ErrClosed
	}
	s.running.Add(1)
	return nil
}

// do runs one query of the Store. It bounds the time, and says in the contract's errors what went wrong.
func (s *Store) do(ctx context.Context, query func(ctx context.Context, pool *pgxpool.Pool) error) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.running.Done()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	bounded, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	return translate(ctx, query(bounded, s.pool))
}

// translate turns an error of the database into the contract's.
func translate(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, tokenstore.ErrConflict), errors.Is(err, tokenstore.ErrNotFound):
		return err
	default:
		return fmt.Errorf("%w: %w", tokenstore.ErrUnavailable, err)
	}
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
