package tokenstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// faulty is a store whose Apply fails as often as fails says: before the changes are made, or after.
type faulty struct {
	tokenstore.Store
	fails func() (before, after bool)
}

var errFault = fmt.Errorf("%w: made to fail", tokenstore.ErrUnavailable)

func (s *faulty) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	before, after := s.fails()
	if before {
		return errFault
	}
	err := s.Store.Apply(ctx, changes...)
	if err == nil && after {
		return errFault
	}
	return err
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 seconds", what)
		}
	}
}

func TestNotedEventsAreWrittenSoonAndInBatches(t *testing.T) {
	t.Parallel()
	var h heard
	var applies atomic.Int64
	s := &faulty{newStore(t), func() (bool, bool) { applies.Add(1); return false, false }}
	v := openAudited(t, s, tokenstore.NewRootKey(), tokenstore.Options{Recorded: h.recorded})
	before := applies.Load()
	stop := v.KeepAudit()
	defer stop()
	var ids []string
	for range 1000 {
		e := v.NewEvent(t.Context(), tokenstore.EventTokenRefused)
		v.Note(e)
		ids = append(ids, e.ID)
	}
	eventually(t, "noted events are recorded", func() bool { return len(h.ids()) == len(ids) })
	wantEvents(t, "trail", events(t, v, tokenstore.EventFilter{}), ids)
	if n := applies.Load() - before; n > 20 {
		t.Errorf("%d writes for a thousand noted events", n)
	}
	if !slices.Equal(h.ids(), ids) {
		t.Error("Recorded was called in another order")
	}
}

func TestNotedEventsThatFindNoRoomAreCountedAndLogged(t *testing.T) {
	t.Parallel()
	var h heard
	v := openAudited(t, newStore(t), tokenstore.NewRootKey(), tokenstore.Options{Recorded: h.recorded})
	const room, more = 4096, 10
	for range room + more { // nobody writes them
		v.Note(v.NewEvent(t.Context(), tokenstore.EventTokenRefused))
	}
	if n := len(h.ids()); n != more {
		t.Errorf("Recorded was called for %d events; want the %d that found no room", n, more)
	}
	flush(t, v)
	all := events(t, v, tokenstore.EventFilter{})
	dropped := events(t, v, tokenstore.EventFilter{Types: []string{tokenstore.EventAuditDropped}})
	if len(all) != room+1 || len(dropped) != 1 || dropped[0].Details["count"] != fmt.Sprint(more) {
		t.Errorf("trail has %d events, and of those that were dropped %+v", len(all), dropped)
	}
}

// TestNoFaultLosesOrDoublesAnEvent has several vaults on one store record, note and chain, while writes fail before they are made and
// after. Every event that was acknowledged is in the trail, and each event once.
func TestNoFaultLosesOrDoublesAnEvent(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	inner := newStore(t)
	key := tokenstore.NewRootKey()
	tokenstore.Open(t.Context(), inner, tokenstore.Options{Keys: []tokenstore.RootKey{key}}) //nolint:errcheck // made before anything fails
	broken.Store(true)
	s := &faulty{inner, func() (bool, bool) {
		if !broken.Load() {
			return false, false
		}
		n := rand.IntN(10)
		return n == 0, n == 1
	}}
	var h heard
	var mu sync.Mutex
	acknowledged := make(map[string]bool)
	var nodes []*tokenstore.Vault
	for range 3 {
		v := openAudited(t, s, key, tokenstore.Options{Recorded: h.recorded, Now: time.Now, Audit: tokenstore.AuditOptions{Every: 5 * time.Millisecond}})
		t.Cleanup(v.KeepAudit())
		nodes = append(nodes, v)
	}
	var running sync.WaitGroup
	for _, v := range nodes {
		for range 4 {
			running.Go(func() {
				for i := range 100 {
					e := v.NewEvent(t.Context(), tokenstore.EventTokenIssued)
					if i%5 == 0 {
						v.Note(e)
					} else if err := v.Commit(t.Context(), tokenstore.RecordEvent(e)); err != nil {
						continue
					}
					mu.Lock()
					acknowledged[e.ID] = true
					mu.Unlock()
				}
			})
		}
	}
	running.Wait()
	broken.Store(false)
	for _, v := range nodes {
		flush(t, v)
	}
	found := make(map[string]int)
	for _, e := range events(t, nodes[0], tokenstore.EventFilter{}) {
		found[e.ID]++
	}
	for id := range acknowledged {
		if found[id] != 1 {
			t.Errorf("event %s is in the trail %d times", id, found[id])
		}
	}
	for _, n := range found {
		if n != 1 {
			t.Errorf("an event is in the trail %d times", n)
		}
	}
	if report := verify(t, nodes[1], ""); !report.Whole() || report.Events < len(acknowledged) || report.Waiting != 0 {
		t.Errorf("report = %+v; want a whole trail of at least %d events", report, len(acknowledged))
	}
	told := make(map[string]int)
	for _, id := range h.ids() {
		told[id]++
	}
	for id := range acknowledged {
		if told[id] != 1 {
			t.Errorf("Recorded was called %d times for %s", told[id], id)
		}
	}
}

func TestErrorsOfTheAuditTrailAreToldAndItGoesOn(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	var failures atomic.Int64
	s := &faulty{newStore(t), func() (bool, bool) { return broken.Load(), false }}
	v := openAudited(t, s, tokenstore.NewRootKey(), tokenstore.Options{Audit: tokenstore.AuditOptions{
		Every: time.Millisecond, Failed: func(err error) {
			if errors.Is(err, errFault) {
				failures.Add(1)
			}
		},
	}})
	record(t, v, 1)
	broken.Store(true)
	t.Cleanup(v.KeepAudit())
	v.Note(v.NewEvent(t.Context(), tokenstore.EventTokenRefused))
	eventually(t, "both failures are told", func() bool { return failures.Load() > 2 })
	broken.Store(false)
	eventually(t, "everything is chained", func() bool {
		report := verify(t, v, "")
		return report.Events == 2 && report.Waiting == 0
	})
}

func TestTamperedRecordIsInTheTrailOnce(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	s.edit = func(r tokenstore.Row) tokenstore.Row {
		if r.Kind == tokenstore.KindGrant && r.ID == "grant-1" {
			r.Sealed[len(r.Sealed)-1] ^= 1
		}
		return r
	}
	for range 3 {
		if _, err := v.Grant(t.Context(), "grant-1"); !errors.Is(err, tokenstore.ErrTampered) {
			t.Fatalf("Grant = %v; want ErrTampered", err)
		}
	}
	flush(t, v)
	all := events(t, v, tokenstore.EventFilter{Types: []string{tokenstore.EventVaultTampered}})
	if len(all) != 1 || all[0].Details["kind"] != "grant" || all[0].Details["id"] != "grant-1" || all[0].Outcome != tokenstore.OutcomeRefused {
		t.Errorf("events = %+v; want one that names the grant", all)
	}
}

func TestFloodOfRefusalsIsCutOff(t *testing.T) {
	t.Parallel()
	at := now
	v := openAudited(t, newStore(t), tokenstore.NewRootKey(), tokenstore.Options{Now: func() time.Time { return at }})
	noted := func(n int) (kept int) {
		t.Helper()
		before := len(events(t, v, tokenstore.EventFilter{Limit: 1000}))
		for range n {
			v.Note(v.NewEvent(t.Context(), tokenstore.EventTokenRefused))
		}
		flush(t, v)
		return len(events(t, v, tokenstore.EventFilter{Limit: 1000})) - before
	}
	if kept := noted(4096); kept != 4096 {
		t.Errorf("%d of as many as there is room for are kept", kept)
	}
	if kept := noted(100); kept != 1 { // which tells of them
		t.Errorf("%d of 100 more are kept", kept)
	}
	at = at.Add(2 * time.Second)
	if kept := noted(100); kept != 20 {
		t.Errorf("%d of 100 are kept two seconds later; want 10 for each", kept)
	}
	at = at.Add(time.Minute)
	if kept := noted(100); kept != 101 {
		t.Errorf("%d of 100 are kept a minute later; want all, and what tells of those before", kept)
	}
	var counts []string
	for _, e := range events(t, v, tokenstore.EventFilter{Types: []string{tokenstore.EventAuditDropped}}) {
		counts = append(counts, e.Details["count"])
	}
	if !slices.Equal(counts, []string{"100", "80"}) {
		t.Errorf("dropped are said to be %v", counts)
	}
}
