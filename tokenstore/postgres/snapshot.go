package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// snapshotRows and snapshotBytes bound what a snapshot reads at once, and snapshotFirst is how many rows it reads to learn how large they are.
	snapshotRows  = 500
	snapshotBytes = 2 << 20
	snapshotFirst = 10
)

// Snapshot implements tokenstore.Movable. It is one transaction on one connection beside the pool, page by page; when that is lost, the snapshot is too: another one would be of another moment.
func (s *Store) Snapshot(ctx context.Context, visit func(tokenstore.Row) error) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.running.Done()
	if err := ctx.Err(); err != nil {
		return err
	}
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.over: // Close waits for this
			cancel(tokenstore.ErrClosed)
		case <-reading.Done():
		}
	}()
	err := s.snapshot(reading, visit)
	if err != nil && context.Cause(reading) != nil && ctx.Err() == nil {
		return context.Cause(reading)
	}
	return err
}

func (s *Store) snapshot(ctx context.Context, visit func(tokenstore.Row) error) error {
	acquiring, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	taken, err := s.pool.Acquire(acquiring)
	if err != nil {
		return s.lost(ctx, err)
	}
	c := taken.Hijack() // it is out of the pool, which may be of one connection: nobody waits for this
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.patience())
		defer cancel()
		_ = c.Close(ending) // nothing was written
	}()
	if _, err := c.BeginTx(acquiring, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}); err != nil {
		return s.lost(ctx, err)
	}
	for _, kind := range tokenstore.Kinds() {
		if err := s.snapshotKind(ctx, c, kind, visit); err != nil {
			return err
		}
	}
	return nil
}

// snapshotKind visits the rows of a kind, on a connection that is in the transaction.
func (s *Store) snapshotKind(ctx context.Context, c *pgx.Conn, kind tokenstore.Kind, visit func(tokenstore.Row) error) error {
	for after, size := "", snapshotFirst; ; {
		page, err := s.snapshotPage(ctx, c, kind, after, size)
		if err != nil {
			return s.lost(ctx, fmt.Errorf("%s: %w", kind, err))
		}
		bytes := 0
		for _, row := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := visit(row); err != nil {
				return err
			}
			after, bytes = row.ID, bytes+len(row.Sealed)
		}
		if len(page) < size {
			return nil
		}
		size = max(1, min(snapshotRows, snapshotBytes*len(page)/max(bytes, 1)))
	}
}

func (s *Store) snapshotPage(ctx context.Context, c *pgx.Conn, kind tokenstore.Kind, after string, size int) ([]tokenstore.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	return collect(ctx, c, kind, s.listSQL, string(kind), []string{}, after, size)
}

// lost is the error of a snapshot that broke off, and has somebody look whether the database is there.
func (s *Store) lost(ctx context.Context, err error) error {
	if ctx.Err() == nil && unreachable(err) {
		s.outage.suspect()
		return fmt.Errorf("%w: the connection was lost while everything was read; try again: %w", tokenstore.ErrUnavailable, explain(err))
	}
	return translate(ctx, err)
}
