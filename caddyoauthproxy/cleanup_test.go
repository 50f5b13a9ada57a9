package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// openedGateway is that of one more process on the vault of a file, as far as that can be had in one.
func openedGateway(t *testing.T, path string) *gateway {
	t.Helper()
	app := provisioned(t, path)
	g, err := app.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.hold.leave)
	return g
}

func commit(t *testing.T, v *tokenstore.Vault, writes ...tokenstore.Write) {
	t.Helper()
	if err := v.Commit(t.Context(), writes...); err != nil {
		t.Fatal(err)
	}
}

func TestCleanUpEndsAndDeletesWhatIsPastItsTime(t *testing.T) {
	t.Parallel()
	g := openedGateway(t, filepath.Join(t.TempDir(), "vault.db"))
	now := g.vault.Now()
	record := func(id string, age time.Duration) tokenstore.Meta { // kept for 30 days
		return tokenstore.Meta{ID: id, DeleteAfter: now.Add(30*24*time.Hour - age)}
	}
	const day = 24 * time.Hour
	for i, age := range []time.Duration{45 * day, 31 * day, 29 * day, 20 * day} {
		id := fmt.Sprint("record-", i)
		ended := &tokenstore.Grant{Meta: record(id, age), State: tokenstore.StateRevoked}
		commit(t, g.vault, tokenstore.Save(ended), tokenstore.Save(&tokenstore.Account{Meta: record(id, age), State: tokenstore.StateRevoked}),
			tokenstore.Save(&tokenstore.Login{Meta: record(id, age)}))
	}
	expired := &tokenstore.Grant{Meta: tokenstore.Meta{ID: "expired", DeleteAfter: now.Add(day)}, State: tokenstore.StateActive, AccountID: "account", Expires: now.Add(-2 * time.Hour), Ends: now}
	commit(t, g.vault, tokenstore.Save(expired))
	c, err := g.cleanUp(t.Context(), time.Hour)
	if err != nil || c == nil || c.err != nil || c.ended != 1 || c.took <= 0 {
		t.Fatalf("clean-up did %+v, %v", c, err)
	}
	if want := map[tokenstore.Kind]int{tokenstore.KindGrant: 2, tokenstore.KindAccount: 2, tokenstore.KindLogin: 2}; !maps.Equal(c.deleted, want) {
		t.Errorf("deleted %v, want %v", c.deleted, want)
	}
	for i := range 4 {
		_, err := g.vault.Grant(t.Context(), fmt.Sprint("record-", i))
		if gone := errors.Is(err, tokenstore.ErrNotFound); gone != (i < 2) || err != nil && !gone {
			t.Errorf("record %d: %v", i, err)
		}
	}
	if grant, err := g.vault.Grant(t.Context(), "expired"); err != nil || grant.State != tokenstore.StateRevoked || grant.Reason != "expired" {
		t.Errorf("expired grant is %+v, %v", grant, err)
	}
	if c, err := g.cleanUp(t.Context(), time.Hour); c != nil || err != nil {
		t.Errorf("again, at once: %+v, %v", c, err)
	}
}

func TestCleanUpRunsOnOneNodeOfMany(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	var runs atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		g := openedGateway(t, path)
		all.Go(func() {
			c, err := g.cleanUp(t.Context(), time.Hour)
			if err != nil {
				t.Error(err)
			}
			if c != nil {
				runs.Add(1)
			}
		})
	}
	all.Wait()
	if runs.Load() != 1 {
		t.Errorf("it ran on %d nodes", runs.Load())
	}
}

func TestCleanUpDeletesMoreThanABatchBesideOtherWriters(t *testing.T) {
	t.Parallel()
	g := openedGateway(t, filepath.Join(t.TempDir(), "vault.db"))
	const n = 2*cleanupBatch + 10
	var writes []tokenstore.Write
	for i := range n {
		writes = append(writes, tokenstore.Save(&tokenstore.Login{Meta: tokenstore.Meta{ID: fmt.Sprintf("login-%05d", i), DeleteAfter: time.Now().Add(-time.Minute)}}))
	}
	commit(t, g.vault, writes...)
	finished := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-finished:
				return
			default:
				commit(t, g.vault, tokenstore.Save(&tokenstore.Login{Meta: tokenstore.Meta{ID: fmt.Sprint("other-", i)}}))
			}
		}
	})
	c, err := g.cleanUp(t.Context(), time.Hour)
	close(finished)
	writer.Wait()
	if err != nil || c == nil || c.err != nil || c.deleted[tokenstore.KindLogin] != n {
		t.Errorf("clean-up did %+v, %v", c, err)
	}
}

func TestR37CleanUpByAClockThatIsWrongDeletesNothingThatLasts(t *testing.T) {
	t.Parallel()
	g := openedGateway(t, filepath.Join(t.TempDir(), "vault.db"))
	now := g.vault.Now()
	past := func(id string) tokenstore.Meta {
		return tokenstore.Meta{ID: id, DeleteAfter: now.Add(-time.Hour)}
	}
	for i := range 30 {
		id := fmt.Sprint("expired-", i)
		commit(t, g.vault, tokenstore.Save(&tokenstore.Grant{Meta: past(id), State: tokenstore.StateActive, AccountID: id, Expires: now.Add(-2 * time.Hour), Ends: now, Family: tokenstore.RefreshFamily{Generation: 1}}))
	}
	commit(t, g.vault, tokenstore.Save(&tokenstore.Account{Meta: past("account")}), tokenstore.Save(&tokenstore.Client{Meta: past("client")}), tokenstore.Save(&tokenstore.Login{Meta: past("login")}))
	for run, held := range []bool{true, true, false} {
		c := g.cleanUpNow(t.Context())
		want, outcome := map[tokenstore.Kind]int{}, "ok"
		switch {
		case held && run == 0:
			want = map[tokenstore.Kind]int{tokenstore.KindLogin: 1}
		case !held:
			want = map[tokenstore.Kind]int{tokenstore.KindAccount: 1, tokenstore.KindClient: 1}
		}
		if held {
			outcome = "held"
		}
		if errors.Is(c.err, authserver.ErrManyExpired) != held || c.ended != 10 || !maps.Equal(c.deleted, want) {
			t.Errorf("run %d: %+v, want %v deleted", run, c, want)
		}
		m := newMetrics()
		m.cleanedUp(c.began, c.err)
		registry := prometheus.NewRegistry()
		registry.MustRegister(m.cleanups)
		counted, err := registry.Gather()
		if err != nil || len(counted) != 1 || len(counted[0].GetMetric()) != 1 || counted[0].GetMetric()[0].GetLabel()[0].GetValue() != outcome {
			t.Errorf("run %d is not counted as %s: %v, %v", run, outcome, counted, err)
		}
	}
	if n, err := g.vault.CountGrants(t.Context(), tokenstore.HealthRevoked); n != 30 || err != nil {
		t.Errorf("%d grants ended, and kept for a while, %v", n, err)
	}
}

// A reload in the middle of a clean-up must not have the rest wait for an interval.
func TestCleanUpThatWasCutShortIsDueAgain(t *testing.T) {
	t.Parallel()
	g := openedGateway(t, filepath.Join(t.TempDir(), "vault.db"))
	now := g.vault.Now()
	for i := range 50 {
		id := fmt.Sprint("expired-", i)
		commit(t, g.vault, tokenstore.Save(&tokenstore.Grant{Meta: tokenstore.Meta{ID: id, DeleteAfter: now.Add(24 * time.Hour)}, State: tokenstore.StateActive, AccountID: id,
			Expires: now.Add(-2 * time.Hour), Ends: now}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := g.vault.WatchGrants(func(string) { cancel() })
	c, _ := g.cleanUp(ctx, time.Hour)
	stop()
	if c == nil || c.err == nil || c.ended == 50 {
		t.Fatalf("it was not cut short: %+v", c)
	}
	rest, err := g.cleanUp(t.Context(), time.Hour)
	if err != nil || rest == nil || rest.err != nil {
		t.Fatalf("after %d had ended the clean-up did %+v, %v", c.ended, rest, err)
	}
	if n, err := g.vault.CountGrants(t.Context(), tokenstore.HealthRevoked); err != nil || n != 50 {
		t.Errorf("%d grants are ended, %v", n, err)
	}
}

// Who turns the clean-up off is not warned for ever that it does not run.
func TestCleanUpThatIsOffIsExpectedNoMore(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	count := func() int {
		series := make(chan prometheus.Metric, 10)
		m.cleanupEvery.Collect(series)
		m.cleanupLast.Collect(series)
		return len(series)
	}
	m.cleansUp(-1)
	if n := count(); n != 0 {
		t.Errorf("%d series of a clean-up that never was on", n)
	}
	m.cleansUp(time.Hour)
	if n := count(); n != 2 {
		t.Errorf("%d series", n)
	}
	m.cleansUp(-1)
	if n := count(); n != 0 {
		t.Errorf("%d series are left", n)
	}
	m.cleansUp(time.Hour)
	if n := count(); n != 2 {
		t.Errorf("%d series when it is on again", n)
	}
}
