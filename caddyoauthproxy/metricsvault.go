package caddyoauthproxy

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/tracing"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// storeOperations are the operations of a store that are timed.
var storeOperations = []string{"get", "recall", "apply", "list", "count", "due", "sweep"}

// timedStore times a store's operations. What it does not know of passes it by.
type timedStore struct {
	tokenstore.Store
	get, recall, apply, list, count, due, sweep timed

	deleted *prometheus.CounterVec
}

// timed is how one operation is measured.
type timed struct {
	took   prometheus.Observer
	failed prometheus.Counter
}

// timeStore has a store's operations measured.
func (m *metrics) timeStore(s tokenstore.Store) *timedStore {
	of := func(operation string) timed {
		return timed{m.vaultTime.WithLabelValues(operation), m.vaultErrors.WithLabelValues(operation)}
	}
	return &timedStore{Store: s, get: of("get"), recall: of("recall"), apply: of("apply"), list: of("list"), count: of("count"), due: of("due"), sweep: of("sweep"), deleted: m.deleted}
}

// done measures an operation that began then.
func (t timed) done(began time.Time, err error) {
	t.took.Observe(time.Since(began).Seconds())
	if failed(err) {
		t.failed.Inc()
	}
}

// failed tells failures from answers: that nothing was there, that somebody else was faster, that the vault is being moved, and that nobody waits any more are such.
func failed(err error) bool {
	return err != nil && !errors.Is(err, tokenstore.ErrNotFound) && !errors.Is(err, tokenstore.ErrConflict) && !errors.Is(err, tokenstore.ErrReadOnly) && !errors.Is(err, context.Canceled)
}

// Get implements tokenstore.Store.
func (s *timedStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	began := time.Now()
	row, err := s.Store.Get(ctx, kind, id)
	s.get.done(began, err)
	return row, err
}

// Recall implements tokenstore.Store. What is remembered is answered sooner than it could be timed.
func (s *timedStore) Recall(ctx context.Context, kind tokenstore.Kind, id string, open tokenstore.OpenRow) (any, error) {
	opened, err := s.Store.Recall(ctx, kind, id, open)
	if failed(err) {
		s.recall.failed.Inc()
	}
	return opened, err
}

// Apply implements tokenstore.Store.
func (s *timedStore) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	ctx, span := tracing.Start(ctx, "oauth_proxy vault apply")
	defer span.End()
	began := time.Now()
	err := s.Store.Apply(ctx, changes...)
	s.apply.done(began, err)
	switch {
	case errors.Is(err, tokenstore.ErrConflict):
		span.Mark("conflict")
	case err != nil:
		span.Fail("not written")
	}
	return err
}

// List implements tokenstore.Store.
func (s *timedStore) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	began := time.Now()
	rows, err := s.Store.List(ctx, kind, q)
	s.list.done(began, err)
	return rows, err
}

// Count implements tokenstore.Store.
func (s *timedStore) Count(ctx context.Context, kind tokenstore.Kind, refs ...string) (int, error) {
	began := time.Now()
	n, err := s.Store.Count(ctx, kind, refs...)
	s.count.done(began, err)
	return n, err
}

// Due implements tokenstore.Store.
func (s *timedStore) Due(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) ([]tokenstore.Row, error) {
	began := time.Now()
	rows, err := s.Store.Due(ctx, kind, before, limit)
	s.due.done(began, err)
	return rows, err
}

// Sweep implements tokenstore.Store.
func (s *timedStore) Sweep(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) (int, error) {
	began := time.Now()
	n, err := s.Store.Sweep(ctx, kind, before, limit)
	s.sweep.done(began, err)
	if n > 0 {
		s.deleted.WithLabelValues(string(kind)).Add(float64(n))
	}
	return n, err
}

// cleanedUp counts a clean-up.
func (m *metrics) cleanedUp(began time.Time, err error) {
	m.cleanupTime.WithLabelValues().Observe(time.Since(began).Seconds())
	switch {
	case errors.Is(err, authserver.ErrManyExpired):
		m.cleanups.WithLabelValues("held").Inc()
		return
	case err != nil:
		m.cleanups.WithLabelValues("failed").Inc()
		return
	}
	m.cleanups.WithLabelValues("ok").Inc()
	m.cleanupLast.WithLabelValues().SetToCurrentTime()
}

// cleansUp notes that there will be clean-ups; none without a positive interval, and then nobody is to wait for one.
func (m *metrics) cleansUp(interval time.Duration) {
	if interval <= 0 {
		m.cleanupEvery.Reset()
		m.cleanupLast.Reset()
		m.cleaning.Store(false)
		return
	}
	m.cleanupEvery.WithLabelValues().Set(interval.Seconds())
	if m.cleaning.CompareAndSwap(false, true) {
		m.cleanupLast.WithLabelValues().SetToCurrentTime()
	}
}

// sized is a store that knows its size.
type sized interface {
	// Size is how many bytes the store takes, and how many of them are free for new records.
	Size(ctx context.Context) (total, free int64, err error)
}

// countedKinds are the kinds of records whose number is told, beside grants.
var countedKinds = []tokenstore.Kind{tokenstore.KindAccount, tokenstore.KindClient, tokenstore.KindAPIKey, tokenstore.KindLogin}

// countAgain is how long after a count the next one is due: a minute, and so much more in a large vault that counting takes a hundredth of the time.
func countAgain(took time.Duration) time.Duration { return max(time.Minute, 100*took) }

// countRecords counts what is in the vault, as often as that is worth it and not with every scrape, until the config is no longer in use.
func (a *App) countRecords(g *gateway) {
	for {
		began := time.Now()
		if err := a.metrics.count(a.ctx, g.store, g.vault); err != nil && a.ctx.Err() == nil {
			a.log.Warn("records cannot be counted for the metrics", zap.Error(err))
		}
		select {
		case <-a.done:
			return
		case <-time.After(countAgain(time.Since(began))):
		}
	}
}

// count counts what is in the vault.
func (m *metrics) count(ctx context.Context, store tokenstore.Store, vault *tokenstore.Vault) error {
	for _, health := range tokenstore.Healths() {
		n, err := vault.CountGrants(ctx, health)
		if err != nil {
			return err
		}
		m.grants.WithLabelValues(string(health)).Set(float64(n))
	}
	for _, kind := range countedKinds {
		n, err := store.Count(ctx, kind)
		if err != nil {
			return err
		}
		m.records.WithLabelValues(string(kind)).Set(float64(n))
	}
	if s, ok := store.(sized); ok {
		total, free, err := s.Size(ctx)
		if err != nil {
			return err
		}
		m.fileBytes.WithLabelValues().Set(float64(total))
		m.freeBytes.WithLabelValues().Set(float64(free))
	}
	return nil
}
