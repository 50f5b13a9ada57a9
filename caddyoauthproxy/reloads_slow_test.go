//go:build slow

package caddyoauthproxy

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Every reload opens a gateway beside the one before. What that has begun ends with it, and what it was doing is in the vault.
func TestSlowManyReloadsLeaveNothingBehind(t *testing.T) { //nolint:paralleltest // it counts goroutines
	path := filepath.Join(t.TempDir(), "vault.db")
	before := runtime.NumGoroutine()
	const reloads, events = 25, 20
	var last *App
	var work sync.WaitGroup
	for i := range reloads {
		app := provisioned(t, path)
		if err := app.Start(); err != nil {
			t.Fatal(err)
		}
		g := app.gateway.Load()
		release, err := g.acquire()
		if err != nil {
			t.Fatal(err)
		}
		work.Go(func() {
			defer release()
			for n := range events {
				e := g.vault.NewEvent(context.Background(), tokenstore.EventTokenRefused)
				e.Reason = fmt.Sprintf("reload %d, event %d", i, n)
				if n%2 == 0 {
					g.vault.Note(e)
				} else if err := g.vault.Commit(context.Background(), tokenstore.RecordEvent(e)); err != nil {
					t.Error(err)
				}
			}
		})
		if last != nil {
			if err := last.Cleanup(); err != nil {
				t.Error(err)
			}
		}
		last = app
	}
	work.Wait()
	for deadline := time.Now().Add(lateRequests + 20*time.Second); ; time.Sleep(50 * time.Millisecond) {
		if n, _ := bboltFiles.References(path); n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("gateways of earlier configurations hold the vault")
		}
	}
	v := last.gateway.Load().vault
	if err := v.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for f := (tokenstore.EventFilter{Types: []string{tokenstore.EventTokenRefused}, Limit: 1000}); ; {
		page, next, err := v.Events(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			found[e.Reason] = true
		}
		if f.After = next; next == "" {
			break
		}
	}
	if len(found) != reloads*events {
		t.Errorf("%d of %d events are in the trail", len(found), reloads*events)
	}
	if r, err := v.VerifyAudit(t.Context(), ""); err != nil || !r.Whole() || r.Events < reloads*events {
		t.Errorf("the trail is %+v, %v", r, err)
	}
	if err := last.Cleanup(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(lateRequests + 20*time.Second); ; time.Sleep(50 * time.Millisecond) {
		n := runtime.NumGoroutine()
		if _, open := bboltFiles.References(path); !open && n <= before {
			break
		}
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, n, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
