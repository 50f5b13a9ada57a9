package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// rateWait bounds how long an event waits to be counted. Who counts by himself meanwhile does no harm.
	rateWait = time.Second

	// emptyEvery is how often each node deletes buckets that are empty, and emptyBatch how many at a time.
	emptyEvery = time.Minute
	emptyBatch = 5000
)

// Take implements tokenstore.Rates: a generic cell rate algorithm by the database's clock. It does not wait for a database that is gone.
func (s *Store) Take(ctx context.Context, key string, interval, window time.Duration) (wait time.Duration, err error) {
	if err := checkRate(key, interval, window); err != nil {
		return 0, err
	}
	err = s.rate(ctx, func(ctx context.Context, c *pgxpool.Conn) error {
		var micros int64
		err := c.QueryRow(ctx, "SELECT "+s.schema+".take($1::text, $2::bigint, $3::bigint)", key, interval.Microseconds(), window.Microseconds()).Scan(&micros)
		wait = time.Duration(micros) * time.Microsecond
		return err
	})
	return wait, err
}

// GiveBack implements tokenstore.Rates.
func (s *Store) GiveBack(ctx context.Context, key string, interval time.Duration) error {
	if err := checkRate(key, interval, interval); err != nil {
		return err
	}
	return s.rate(ctx, func(ctx context.Context, c *pgxpool.Conn) error {
		_, err := c.Exec(ctx, "UPDATE "+s.schema+".rates SET empty = empty - $2::bigint WHERE key = $1::text", key, interval.Microseconds())
		return err
	})
}

func checkRate(key string, interval, window time.Duration) error {
	const most = 366 * 24 * time.Hour
	if err := tokenstore.CheckChanges([]tokenstore.Change{{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: tokenstore.KindLogin, ID: key, Version: 1}}}); err != nil {
		return fmt.Errorf("key of a rate: %w", err)
	}
	switch {
	case interval < time.Microsecond || interval > most || window < time.Microsecond || window > most:
		return fmt.Errorf("%w: a rate of one event in %s, counted over %s", tokenstore.ErrInvalid, interval, window)
	}
	return nil
}

// rate counts an event, on one of few connections: a key that everybody wants at the same time leaves the others to those who do more.
func (s *Store) rate(ctx context.Context, query func(ctx context.Context, c *pgxpool.Conn) error) error {
	bounded, cancel := context.WithTimeoutCause(ctx, min(rateWait, s.wait), fmt.Errorf("%w: the event could not be counted in time", tokenstore.ErrUnavailable))
	defer cancel()
	_, err := ask(bounded, s, manner{once: true, lane: s.rating}, func(ctx context.Context, c *pgxpool.Conn) (struct{}, error) { return struct{}{}, query(ctx, c) })
	return err
}

// emptyRates deletes buckets that are empty, again and again until ctx ends.
func (s *Store) emptyRates(ctx context.Context) {
	for {
		select {
		case <-time.After(about(emptyEvery)):
		case <-ctx.Done():
			return
		}
		if _, err := s.deleteEmpty(ctx); err != nil && ctx.Err() == nil {
			s.logger.Debug("rates that nobody needs any more were not deleted, which is tried again", zap.Error(err))
		}
	}
}

// deleteEmpty deletes buckets that are empty, and returns how many. What another node has locked it leaves to that.
func (s *Store) deleteEmpty(ctx context.Context) (total int64, err error) {
	for {
		n, err := do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (int64, error) {
			tag, err := c.Exec(ctx, "DELETE FROM "+s.schema+".rates WHERE key IN (SELECT key FROM "+s.schema+
				".rates WHERE empty < (extract(epoch FROM clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::bigint LIMIT $1::int FOR UPDATE SKIP LOCKED)", emptyBatch)
			return tag.RowsAffected(), err
		})
		total += n
		if err != nil || n < emptyBatch {
			return total, err
		}
	}
}

// Interface guard
var _ tokenstore.Rates = (*Store)(nil)
