package caddyoauthproxy

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// cleanupJob is the name of the clean-up among the jobs of a vault.
	cleanupJob = "clean-up"

	// cleanupBatch is how many records are deleted at a time.
	cleanupBatch = 1000
)

// cleaned is what a clean-up has done.
type cleaned struct {
	began   time.Time
	clock   time.Time // of the vault, then
	ended   int       // grants that had expired
	deleted map[tokenstore.Kind]int
	took    time.Duration
	err     error // of what was left undone
}

// cleanup cleans up at every interval, on one of all processes that share the vault: that which looks first, every minute.
func (a *App) cleanup(g *gateway, interval time.Duration) {
	tick := time.NewTicker(min(interval, time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-a.done:
			return
		case <-tick.C:
		}
		if f, err := g.frozen(a.ctx); err == nil && f.Frozen() {
			continue
		}
		done, err := g.cleanUp(a.ctx, interval)
		if a.ctx.Err() != nil {
			return // the configuration that took this one's place goes on
		}
		if err != nil {
			a.log.Error("clean-up failed", zap.Error(err))
		}
		if done != nil {
			a.cleaned(done)
		}
	}
}

// cleaned tells of a clean-up.
func (a *App) cleaned(c *cleaned) {
	a.metrics.cleanedUp(c.began, c.err)
	deleted := 0
	for _, n := range c.deleted {
		deleted += n
	}
	switch {
	case errors.Is(c.err, authserver.ErrManyExpired):
		a.log.Error("clean-up held: grants, accounts, clients, keys and the audit trail are deleted once fewer expire together; set the clock right, or, if it is, leave the rest to the next clean-ups",
			zap.Int("ended", c.ended), zap.Time("clock", c.clock), zap.Error(c.err))
	case c.err != nil:
		a.log.Error("clean-up failed", zap.Error(c.err))
	}
	a.log.Info("clean-up finished", zap.Int("ended", c.ended), zap.Int("deleted", deleted), zap.Any("deleted_by_kind", c.deleted), zap.Duration("took", c.took))
}

// cleanUp ends what has expired, and deletes what is past its time, unless that was done less than an interval ago or another process is about it; then it
// returns nil. An error is one of the job's.
func (g *gateway) cleanUp(ctx context.Context, interval time.Duration) (*cleaned, error) {
	var c *cleaned
	_, err := g.vault.RunJob(ctx, cleanupJob, interval, func(ctx context.Context) error {
		c = g.cleanUpNow(ctx)
		return ctx.Err() // what failed is tried again after the interval, as all else; what was cut short, at once
	})
	return c, err
}

func (g *gateway) cleanUpNow(ctx context.Context) *cleaned {
	c := &cleaned{began: time.Now(), clock: g.vault.Now(), deleted: make(map[tokenstore.Kind]int)}
	c.ended, c.err = g.server.EndExpired(ctx)
	kinds := tokenstore.SweptKinds()
	if errors.Is(c.err, authserver.ErrManyExpired) { // by that clock, what is needed yet may be past its time
		kinds = tokenstore.PassingKinds()
	}
	for total := cleanupBatch; total == cleanupBatch; {
		swept, err := g.vault.SweepKinds(ctx, g.vault.Now(), cleanupBatch, kinds...)
		total = 0
		for kind, n := range swept {
			c.deleted[kind] += n
			total += n
		}
		if err != nil {
			c.err = errors.Join(c.err, err)
			break
		}
	}
	c.took = time.Since(c.began)
	return c
}
