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

// maxCalls bounds how many calls run or wait at a time. Each that waits holds a request and its memory.
const maxCalls = 4096

// suspicious is how long a call may take before somebody looks whether the database is there.
const suspicious = time.Second

// manner is how a call goes about. The zero value is how most do.
type manner struct {
	hasty bool          // does not wait for a database that is known to be gone
	once  bool          // does not ask again either
	lane  chan struct{} // shared by those who may use only so many connections at a time; nil for all that there are
}

// do asks the database. When it cannot be reached, or the connection is lost, do waits for it and asks again until the time is over
// that a call may wait: what query does must do no harm twice. Errors are the contract's.
func do[T any](ctx context.Context, s *Store, query func(ctx context.Context, c *pgxpool.Conn) (T, error)) (T, error) {
	return ask(ctx, s, manner{}, query)
}

// ask is do in a manner. Every query of a Store goes through it.
func ask[T any](ctx context.Context, s *Store, m manner, query func(ctx context.Context, c *pgxpool.Conn) (T, error)) (T, error) {
	var none T
	if err := s.begin(); err != nil {
		return none, err
	}
	defer s.running.Done()
	if err := s.enter(); err != nil {
		return none, err
	}
	defer s.leave()
	bounded, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	var last error
	collisions, breaks, pause := 0, 0, retryFirst
	for bounded.Err() == nil {
		if err := s.outage.await(bounded, !m.hasty && !m.once); err != nil {
			if last != nil && errors.Is(err, errGone) {
				err = fmt.Errorf("%w: %w", err, explain(last))
			}
			if bounded.Err() == nil {
				return none, translate(ctx, err)
			}
			if last == nil {
				last = err
			}
			break
		}
		value, err := once(bounded, s, m.lane, query)
		switch {
		case err == nil:
			return value, nil
		case collided(err) && collisions < maxCollisions:
			collisions++
			s.repeats.Add(1)
			continue
		case !unreachable(err):
			return none, translate(ctx, err)
		case last == nil || telling(err) || bounded.Err() == nil && !telling(last): // the last attempt may have been cut short
			last = err
		}
		s.outage.suspect()
		switch {
		case s.closed.Load():
			return none, tokenstore.ErrClosed
		case m.once:
			return none, translate(ctx, err)
		}
		s.repeats.Add(1)
		if breaks++; errors.As(err, new(*pgconn.ConnectError)) || breaks > int(s.pool.Config().MaxConns) { // others than this connection may be fine
			wait(bounded, about(pause))
			pause = min(2*pause, retryMost)
		}
	}
	if why := s.outage.cause(); why != nil { // which says more than that its connections were cut
		last = why
	}
	return none, translate(ctx, fmt.Errorf("%w for %s: %w", errGone, s.wait, explain(last)))
}

// once asks the database on one connection. When the caller goes away meanwhile, the query goes on without: ending it would cost the connection.
func once[T any](ctx context.Context, s *Store, lane chan struct{}, query func(ctx context.Context, c *pgxpool.Conn) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	slow := time.AfterFunc(suspicious, s.outage.suspect)
	defer slow.Stop()
	if lane != nil {
		select {
		case lane <- struct{}{}:
		case <-ctx.Done():
			return none, fmt.Errorf("%w: %d such calls run", ctx.Err(), cap(lane))
		}
	}
	free := func() {
		if lane != nil {
			<-lane
		}
	}
	acquiring, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	c, err := s.pool.Acquire(acquiring)
	if err != nil {
		free()
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
		switch {
		case c.Conn().IsClosed():
			c.Hijack() // pgx waits for the end of a connection that it could not end well; its place in the pool does not
		default:
			s.outage.answered()
			c.Release()
		}
		free()
		answered <- answer{value, err}
	})
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// enter counts a call that runs or waits, and refuses it when there are too many.
func (s *Store) enter() error {
	if s.calls.Add(1) > maxCalls {
		s.calls.Add(-1)
		return fmt.Errorf("%w: %d calls wait for the database already", tokenstore.ErrUnavailable, maxCalls)
	}
	return nil
}

func (s *Store) leave() { s.calls.Add(-1) }

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
	if s.closed.Load() {
		return tokenstore.ErrClosed
	}
	s.running.Add(1)
	return nil
}

// usable fails when the store was closed or ctx has ended.
func (s *Store) usable(ctx context.Context) error {
	if s.closed.Load() {
		return tokenstore.ErrClosed
	}
	return context.Cause(ctx)
}
