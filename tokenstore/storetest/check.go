package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// faults are those that Check tells of.
func faults(t *testing.T, s tokenstore.Store) []tokenstore.StoreFault {
	t.Helper()
	var found []tokenstore.StoreFault
	told := false
	err := s.Check(t.Context(), func(f tokenstore.StoreFault) { found = append(found, f) }, func(p tokenstore.Progress) {
		told = true
		if p.Step == "" || p.Done > p.Total {
			t.Errorf("Check tells of the progress %+v", p)
		}
	})
	if err != nil || !told {
		t.Fatalf("Check = %v, and has told how far it is: %v", err, told)
	}
	return found
}

func testWhole(t *testing.T, s tokenstore.Store) {
	var changes []tokenstore.Change
	for i := range 1200 {
		r := row(fmt.Sprintf("%04d", i), "user:1", fmt.Sprint("client:", i%7), fmt.Sprint("of:", i))
		if i%3 == 0 {
			r.DeleteAfter, r.Due = at(int64(i+1)), at(int64(2*i+1))
		}
		changes = append(changes, insert(r))
	}
	mustApply(t, s, changes...)
	for i := range 300 {
		r := changes[i].Row
		switch i % 3 {
		case 0:
			mustApply(t, s, remove(r, 1))
		default:
			r.Version, r.Refs, r.Due, r.DeleteAfter = 2, []string{"user:2", "of:both"}, at(int64(i+1)), time.Time{}
			mustApply(t, s, update(r))
		}
	}
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(500), 1000); n == 0 || err != nil {
		t.Fatalf("Sweep = %d, %v; want some", n, err)
	}
	if found := faults(t, s); len(found) > 0 {
		t.Errorf("Check tells of %d faults; want none: %+v", len(found), found[:min(len(found), 5)])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Check(ctx, func(tokenstore.StoreFault) {}, func(tokenstore.Progress) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("Check whose context has ended = %v; want context.Canceled", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context(), func(tokenstore.StoreFault) {}, func(tokenstore.Progress) {}); !errors.Is(err, tokenstore.ErrClosed) {
		t.Errorf("Check of a closed store = %v; want ErrClosed", err)
	}
}

func testWholeUnderLoad(t *testing.T, s tokenstore.Store) {
	const rows = 800
	var changes []tokenstore.Change
	for i := range rows {
		changes = append(changes, insert(row(fmt.Sprintf("%04d", i), "user:1", fmt.Sprint("turn:", 0))))
	}
	mustApply(t, s, changes...)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		race(writers, func(worker int) {
			for turn := 1; ctx.Err() == nil; turn++ {
				r := row(fmt.Sprintf("%04d", (turn*31)%(rows/writers)*writers+worker), "user:1", fmt.Sprint("turn:", turn))
				r.Due, r.DeleteAfter = at(int64(turn)), at(int64(2*turn))
				stored, err := s.Get(t.Context(), tokenstore.KindGrant, r.ID)
				switch {
				case errors.Is(err, tokenstore.ErrNotFound):
					err = s.Apply(t.Context(), insert(r))
				case turn%5 == 0:
					err = s.Apply(t.Context(), remove(r, stored.Version))
				default:
					r.Version = stored.Version + 1
					err = s.Apply(t.Context(), update(r))
				}
				if err != nil {
					t.Errorf("change of %s: %v", r.ID, err)
					return
				}
			}
		})
	}()
	for range 5 {
		if found := faults(t, s); len(found) > 0 {
			t.Errorf("Check tells of %d faults; want none: %+v", len(found), found[:min(len(found), 5)])
		}
	}
	stop()
	<-ended
}
