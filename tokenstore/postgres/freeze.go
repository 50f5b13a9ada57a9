package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// freezeKey is where the table meta has the reason for which the vault is read-only. The functions apply and sweep look there.
const freezeKey = "freeze"

// Freeze implements tokenstore.Movable.
func (s *Store) Freeze(ctx context.Context, was, now tokenstore.Freeze) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	frozen, err := do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (frozen bool, err error) {
		err = c.QueryRow(ctx, "SELECT "+s.schema+".freeze($1::text, $2::text)", was.Text(), now.Text()).Scan(&frozen)
		return frozen, err
	})
	if err == nil && !frozen {
		return fmt.Errorf("freeze: %w", tokenstore.ErrConflict)
	}
	return err
}

// Frozen implements tokenstore.Movable.
func (s *Store) Frozen(ctx context.Context) (tokenstore.Freeze, error) {
	if err := s.usable(ctx); err != nil {
		return tokenstore.Freeze{}, err
	}
	text, err := do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (text string, err error) {
		err = c.QueryRow(ctx, "SELECT value FROM "+s.schema+".meta WHERE key = $1::text", freezeKey).Scan(&text)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
		return text, err
	})
	if err != nil {
		return tokenstore.Freeze{}, err
	}
	return tokenstore.ParseFreeze(text)
}

// refuse is the error of what a frozen vault does not take.
func (s *Store) refuse(ctx context.Context) error {
	f, err := s.Frozen(ctx)
	if err != nil || !f.Frozen() { // the latter where it is not frozen any more
		return tokenstore.ErrReadOnly
	}
	return f.Refuse()
}

// Interface guard
var _ tokenstore.Movable = (*Store)(nil)
