package authserver

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Where several nodes share a vault, they share the counters of the limits as well. Each counts by itself first, so that a flood at one node reaches the
// database no more often than the rate; what passes is counted by all together. A database that does not answer refuses nobody: the node's own count decides.

const (
	// sharedTime bounds how long a request waits for the shared counters.
	sharedTime = 500 * time.Millisecond

	// sharedAgain is how long they are left alone when they did not answer.
	sharedAgain = 5 * time.Second
)

// sharedRates are the counters that all nodes share.
type sharedRates struct {
	rates tokenstore.Rates
	vault *tokenstore.Vault
	log   *zap.Logger

	began time.Time
	until atomic.Int64 // since began, until when they are left alone
}

// newSharedRates returns nil, by which every node counts for itself, where there are none.
func newSharedRates(rates tokenstore.Rates, v *tokenstore.Vault, log *zap.Logger) *sharedRates {
	if rates == nil {
		return nil
	}
	return &sharedRates{rates: rates, vault: v, log: log, began: time.Now()}
}

// ask asks the counters, unless they did not answer a moment ago. It reports whether they did.
func (s *sharedRates) ask(ctx context.Context, question func(context.Context) error) bool {
	if s == nil || int64(time.Since(s.began)) < s.until.Load() {
		return false
	}
	bounded, cancel := context.WithTimeout(ctx, sharedTime)
	defer cancel()
	err := question(bounded)
	if err != nil && ctx.Err() == nil {
		s.until.Store(int64(time.Since(s.began) + sharedAgain))
		s.log.Warn("limits are counted on this node alone: the shared counters do not answer", zap.Error(err))
	}
	return err == nil
}

// key is under which the events of a limit are counted. Addresses are in it as a keyed hash alone.
func (s *sharedRates) key(l *limiter, key string) string {
	return l.name + ":" + s.vault.Hash(purposeRate, l.name+" "+key)
}

// charge charges an event, here and where all nodes count, or says how long to wait for one.
func (l *limiter) charge(ctx context.Context, key string, now time.Time) (wait time.Duration) {
	if l == nil {
		return 0
	}
	if wait = l.take(key, now); wait > 0 {
		return wait
	}
	answered := l.shared.ask(ctx, func(ctx context.Context) (err error) {
		wait, err = l.shared.rates.Take(ctx, l.shared.key(l, key), l.interval, l.window)
		return err
	})
	if !answered || wait <= 0 {
		return 0
	}
	wait = min(wait, l.window)
	l.holdOff(key, now, wait)
	l.limited()
	return wait
}

// refund takes an event back, here and where all nodes count.
func (l *limiter) refund(ctx context.Context, key string) {
	if l == nil {
		return
	}
	l.giveBack(key)
	l.shared.ask(context.WithoutCancel(ctx), func(ctx context.Context) error {
		return l.shared.rates.GiveBack(ctx, l.shared.key(l, key), l.interval)
	})
}

// holdOff has a key refused here for as long as all nodes together would refuse it.
func (l *limiter) holdOff(key string, now time.Time, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.cells[key]; e != nil {
		c := e.Value.(*cell)
		if until := now.Add(wait + l.window - l.interval); until.After(c.empty) {
			c.empty = until
		}
	}
}
