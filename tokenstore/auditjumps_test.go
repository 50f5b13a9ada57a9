package tokenstore_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Nodes whose clocks disagree, and jump to and fro by hours, record, note, chain and read at the same time. Every event is in the trail once, and
// within any bounds of time those are found that a look at all of them finds.
func TestClocksThatJumpLoseNoEvent(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	var recorded sync.Map
	var count atomic.Int64
	var all sync.WaitGroup
	var vaults []*tokenstore.Vault
	for range 3 {
		var offset atomic.Int64
		v := openAudited(t, s, key, tokenstore.Options{
			Now:      func() time.Time { return now.Add(time.Duration(offset.Load())) },
			Recorded: func(e *tokenstore.Event) { recorded.Store(e.ID, e); count.Add(1) },
		})
		vaults = append(vaults, v)
		all.Go(func() {
			for i := range 120 {
				offset.Store(int64(rand.IntN(10*60)-5*60) * int64(time.Minute))
				e := v.NewEvent(t.Context(), tokenstore.EventTokenIssued)
				if i%3 == 0 {
					v.Note(e)
				} else if err := v.Commit(t.Context(), tokenstore.RecordEvent(e)); err != nil {
					t.Error(err)
				}
				if i%7 == 0 {
					if err := v.FlushAudit(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if i%11 == 0 {
					if r, err := v.VerifyAudit(t.Context(), ""); err != nil || !r.Whole() {
						t.Errorf("verified meanwhile: %+v, %v", r, err)
					}
				}
				if _, err := v.Event(t.Context(), e.ID); i%3 != 0 && err != nil {
					t.Errorf("an event that was recorded is not found: %v", err)
				}
			}
		})
	}
	all.Wait()
	for _, v := range vaults {
		flush(t, v)
	}
	if n := count.Load(); n != 360 {
		t.Errorf("told of %d events", n)
	}
	v := vaults[0]
	if r := verify(t, v, ""); !r.Whole() || r.Events != 360 || r.Waiting != 0 {
		t.Errorf("report: %+v", r)
	}
	for range 200 {
		f := tokenstore.EventFilter{Limit: 1 + rand.IntN(50)}
		if rand.IntN(4) > 0 {
			f.From = now.Add(time.Duration(rand.IntN(720)-360) * time.Minute)
		}
		if rand.IntN(4) > 0 {
			f.Until = now.Add(time.Duration(rand.IntN(720)-360) * time.Minute)
		}
		var want []string
		recorded.Range(func(id, e any) bool {
			at := e.(*tokenstore.Event).Time
			if (f.From.IsZero() || !at.Before(f.From)) && (f.Until.IsZero() || at.Before(f.Until)) {
				want = append(want, id.(string))
			}
			return true
		})
		got := eventIDs(events(t, v, f))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: found %d; want %d", fmt.Sprint(f.From, " until ", f.Until), len(got), len(want))
		}
	}
}
