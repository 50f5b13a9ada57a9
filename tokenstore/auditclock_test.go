package tokenstore_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Within a millisecond a counter keeps the order, and more events than any counter of two bytes can tell apart happen in the life of a process.
func TestEventsOfOneMillisecondKeepTheirOrder(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	last := ""
	for i := range 70_000 {
		e := v.NewEvent(t.Context(), tokenstore.EventTokenRefused)
		if e.ID <= last {
			t.Fatalf("event %d has the id %s, and the one before %s", i, e.ID, last)
		}
		last = e.ID
	}
}

// Of two nodes one cleans up, and the other, whose clock is behind, verifies.
func TestVerificationBearsWithClocksThatDisagree(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]int{"some are left": 2, "none is left": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAttacked(t)
			begin := a.at
			if keep > 0 {
				a.at = a.at.Add(10 * time.Hour)
				flush(t, a.vault)
				record(t, a.vault, 3)
			}
			flush(t, a.vault)
			a.at = begin.Add(testRetention + 2*time.Minute)
			if n, err := a.vault.Sweep(t.Context(), a.at, 100); err != nil || n == 0 {
				t.Fatalf("swept %d, %v", n, err)
			}
			a.at = begin.Add(testRetention - 10*time.Minute)
			if r := verify(t, a.open(), ""); !r.Whole() {
				t.Errorf("faults: %+v", r.Faults)
			}
			a.at = begin.Add(testRetention - 2*time.Hour) // no clock is so wrong
			if r := verify(t, a.open(), ""); r.Whole() {
				t.Error("segments are missing long before their time, and nobody says so")
			}
		})
	}
}

// conflicting has every second change of the chain lost to somebody else.
type conflicting struct {
	tokenstore.Store
	chainings int
}

func (s *conflicting) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	if slices.ContainsFunc(changes, func(c tokenstore.Change) bool { return c.Row.Kind == tokenstore.KindAuditSegment }) {
		if s.chainings++; s.chainings%2 == 1 {
			return tokenstore.ErrConflict
		}
	}
	return s.Store.Apply(ctx, changes...)
}

func TestManySegmentsAreChainedBesideAnotherNode(t *testing.T) {
	t.Parallel()
	v := openAudited(t, &conflicting{Store: newStore(t)}, tokenstore.NewRootKey(), tokenstore.Options{})
	const segments = 12
	for range segments {
		writes := make([]tokenstore.Write, 0, 1000)
		for range cap(writes) {
			writes = append(writes, tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventTokenIssued)))
		}
		commit(t, v, writes...)
	}
	flush(t, v)
	if r := verify(t, v, ""); !r.Whole() || r.Number != segments || r.Waiting != 0 {
		t.Errorf("%+v", r)
	}
}
