package caddyoauthproxy

import (
	"cmp"
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// frozen says why the gateway's vault is read-only, if it is.
func (g *gateway) frozen(ctx context.Context) (tokenstore.Freeze, error) {
	m, ok := g.store.(tokenstore.Movable)
	if !ok {
		return tokenstore.Freeze{}, nil
	}
	return m.Frozen(ctx)
}

// abortMigration ends a migration that has not come to its end, whoever began it.
func (a *App) abortMigration(ctx context.Context, g *gateway) (*operator.Migration, error) {
	migrations.Lock()
	last := migrations.last
	migrations.Unlock()
	running := last.running()
	if running {
		last.cancel()
		select {
		case <-last.ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(abortTime):
			return nil, operator.Conflict("the migration does not end: one of the stores does not answer; look again with caddy oauth-proxy migrate")
		}
	}
	f, err := g.frozen(ctx)
	if err != nil {
		return nil, err
	}
	switch f.State {
	case tokenstore.FreezeDraining, tokenstore.FreezeMoving:
		if err := g.store.(tokenstore.Movable).Freeze(ctx, f, tokenstore.Freeze{}); err != nil {
			return nil, err
		}
	case tokenstore.FreezeEnding, tokenstore.FreezeMoved, tokenstore.FreezeFilling: // the last is never that of a vault that is served
		return nil, operator.Conflict(f.String() + ", and may be in use there: to go back, have a gateway serve it there, and move it back. Only if nobody has used it there, " +
			"stop Caddy, and caddy oauth-proxy migrate --thaw --config with the configuration of this vault")
	}
	if running || f.Frozen() {
		if err := g.vault.Commit(ctx, tokenstore.RecordEvent(moveEvent(ctx, g, &tokenstore.Move{Source: placeOf(a.vault), Target: cmp.Or(f.To, last.show().To)}, "aborted"))); err != nil {
			a.log.Error("the end of a migration is not in the audit trail", zap.Error(err))
		}
	}
	return last.describe(ctx, g)
}
