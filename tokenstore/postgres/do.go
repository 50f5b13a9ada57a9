package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	maxCollisions = 3

	retryFirst = 10 * time.Millisecond
	retryMost  = 250 * time.Millisecond
)

// do asks the database. Every query of a Store goes through it. When the database cannot be reached, or the connection is lost, it asks again until the time is over
// that a call may wait: what query does must do no harm twice. Errors are the contract's.
func do[T any](ctx context.Context, s *Store, query func(ctx context.Context, c *pgxpool.Conn) (T, error)) (T, error) {
	var none T
	if err := s.begin(); err != nil {
		return none, err
	}
	defer s.running.Done()
	bounded, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	var last error
	collisions, breaks, pause := 0, 0, retryFirst
	for bounded.Err() == nil {
		value, err := once(bounded, s, query)
		switch {
		case err == nil:
			return value, nil
		case collided(err) && collisions < maxCollisions:
			collisions++
			continue
		case !unreachable(err):
			return none, translate(ctx, err)
		case bounded.Err() == nil || last == nil:
			last = err
		}
		if breaks++; errors.As(err, new(*pgconn.ConnectError)) || breaks > cap(s.slots) { // others than this connection may be fine
			wait(bounded, pause)
			pause = min(2*pause, retryMost)
		}
	}
	return none, translate(ctx, fmt.Errorf("%w for %s: %w", errSilent, s.wait, explain(last)))
}

// once asks the database on one connection. When the caller goes away meanwhile, the query goes on without: ending it would cost the connection.
func once[T any](ctx context.Context, s *Store, query func(ctx context.Context, c *pgxpool.Conn) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	acquiring, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	c, err := s.pool.Acquire(acquiring)
	if err != nil {
		return none, err
	}
	answered := make(chan answer, 1)
	s.running.Go(func() {
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.patience())
		defer cancel()
		value, err := query(detached, c)
		if err != nil && detached.Err() != nil {
			s.pool.Reset() // when one is silent, the others are likely to be
		}
		c.Release()
		answered <- answer{value, err}
	})
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// patience is how long one attempt may take: a connection that has died silently leaves time for another.
func (s *Store) patience() time.Duration { return max(s.wait/2, time.Millisecond) }

// wait waits for a time, or for the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
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

// usable fails when the store was closed or ctx has ended.
func (s *Store) usable(ctx context.Context) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closing {
		return tokenstore.ErrClosed
	}
	return context.Cause(ctx)
}
