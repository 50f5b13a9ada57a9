package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// compact writes the vault's file anew, without the room that nothing takes any more, while the gateway serves.
func (a *App) compact(ctx context.Context, g *gateway, tell func(tokenstore.Progress)) (*operator.Compaction, error) {
	file, ok := g.store.(*bbolt.Store)
	if !ok {
		return nil, operator.Conflict(fmt.Sprintf("a vault of the module %s has no file to compact: PostgreSQL gives free room back by itself (autovacuum)", storageOf(a.vault).Module))
	}
	leave, err := g.acquire()
	if err != nil {
		return nil, err
	}
	defer leave()
	log := processLog("oauth_proxy.compact").With(zap.String("vault", placeOf(a.vault)))
	began := time.Now()
	before, after, err := file.Compact(ctx, tell)
	switch {
	case err == nil:
		log.Info("the vault file was compacted", zap.Int64("before", before), zap.Int64("after", after), zap.Duration("took", time.Since(began)))
		return &operator.Compaction{Before: before, After: after}, nil
	case ctx.Err() != nil:
		log.Info("compacting was broken off: who asked for it has left", zap.Error(err))
		return nil, err
	case errors.Is(err, bbolt.ErrCompact):
		return nil, operator.Conflict(err.Error())
	default:
		return nil, err
	}
}
