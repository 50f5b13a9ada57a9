package tokenstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// moveWorld is a source, and a target that is empty.
type moveWorld struct {
	t          *testing.T
	from, to   *bbolt.Store
	fromName   string
	toName     string
	draining   chan struct{} // is closed when the move waits for refreshes
	onDraining sync.Once
}

func newMoveWorld(t *testing.T) *moveWorld {
	t.Helper()
	dir := t.TempDir()
	w := &moveWorld{t: t, fromName: filepath.Join(dir, "old.db"), toName: filepath.Join(dir, "new.db"), draining: make(chan struct{})}
	w.from, w.to = openFile(t, w.fromName).(*bbolt.Store), openFile(t, w.toName).(*bbolt.Store)
	return w
}

func (w *moveWorld) move() *tokenstore.Move {
	return tokenstore.WithDrainTimes(&tokenstore.Move{From: w.from, To: w.to, Source: w.fromName, Target: w.toName, Vault: "vault-1", Progress: func(p tokenstore.Progress) {
		if p.Step == tokenstore.MoveDraining {
			w.onDraining.Do(func() { close(w.draining) })
		}
	}}, time.Second, 100*time.Millisecond, 5*time.Millisecond)
}

func (w *moveWorld) back() *tokenstore.Move {
	m := w.move()
	m.From, m.To, m.Source, m.Target = m.To, m.From, m.Target, m.Source
	return m
}

func (w *moveWorld) run(m *tokenstore.Move) []tokenstore.MovedKind {
	w.t.Helper()
	kinds, err := m.Run(w.t.Context())
	if err != nil {
		w.t.Fatalf("Run: %v", err)
	}
	return kinds
}

func wantState(t *testing.T, s tokenstore.Movable, want tokenstore.FreezeState) {
	t.Helper()
	if f, err := s.Frozen(t.Context()); err != nil || f.State != want {
		t.Errorf("the store is %q, %v; want %q", f.State, err, want)
	}
}

// rowsOf are all rows of a store.
func rowsOf(t *testing.T, s tokenstore.Store) map[string]tokenstore.Row {
	t.Helper()
	rows := make(map[string]tokenstore.Row)
	for _, kind := range tokenstore.Kinds() {
		for q := (tokenstore.Query{Limit: 1000}); ; {
			page, err := s.List(t.Context(), kind, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				q.After = r.ID
				r.Kind = kind
				rows[string(kind)+"/"+r.ID] = r
			}
			if len(page) < q.Limit {
				break
			}
		}
	}
	return rows
}

// wantSame compares stores row by row and byte by byte.
func wantSame(t *testing.T, want, got map[string]tokenstore.Row) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%d rows; want %d", len(got), len(want))
	}
	wrong := 0
	for name, w := range want {
		g, ok := got[name]
		refs := slices.Equal(slices.Sorted(slices.Values(w.Refs)), slices.Sorted(slices.Values(g.Refs)))
		if ok && refs && g.Version == w.Version && g.State == w.State && g.Due.Equal(w.Due) && g.DeleteAfter.Equal(w.DeleteAfter) && bytes.Equal(g.Sealed, w.Sealed) {
			continue
		}
		if wrong++; wrong < 5 {
			t.Errorf("%s: there %t, %+v; want %+v", name, ok, g, w)
		}
	}
}

// randomRow makes a row of which every column may be anything.
func randomRow(random *rand.Rand, kind tokenstore.Kind, id string) tokenstore.Row {
	r := tokenstore.Row{Kind: kind, ID: id, Version: 1, State: []string{"", "active", "revoked"}[random.IntN(3)], Sealed: make([]byte, random.IntN(2000))}
	for i := range r.Sealed {
		r.Sealed[i] = byte(random.Uint32())
	}
	for _, n := range random.Perm(40)[:random.IntN(5)] {
		r.Refs = append(r.Refs, fmt.Sprintf("ref:%d", n))
	}
	if random.IntN(2) == 0 {
		r.Due = time.UnixMilli(1 + random.Int64N(1<<42)).UTC()
	}
	if random.IntN(2) == 0 {
		r.DeleteAfter = time.UnixMilli(1 + random.Int64N(1<<42)).UTC()
	}
	return r
}

// populate fills a store with rows of all kinds, some of which were updated.
func populate(t *testing.T, s tokenstore.Store, perKind int) {
	t.Helper()
	random := rand.New(rand.NewPCG(7, uint64(perKind)))
	for _, kind := range tokenstore.Kinds() {
		var inserts, updates []tokenstore.Change
		for i := range perKind {
			r := randomRow(random, kind, fmt.Sprintf("%s-%05d", []string{"A", "a", "_", "~"}[i%4], i))
			inserts = append(inserts, tokenstore.Change{Op: tokenstore.OpInsert, Row: r})
			if i%3 == 0 {
				next := randomRow(random, kind, r.ID)
				next.Version = 2
				updates = append(updates, tokenstore.Change{Op: tokenstore.OpUpdate, Row: next})
			}
		}
		for _, changes := range [][]tokenstore.Change{inserts, updates} {
			if err := s.Apply(t.Context(), changes...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestMovedVaultIsTheSameAndIsServedWhereItIs(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	key := tokenstore.NewRootKey()
	v := openVault(t, w.from, key)
	commit(t, v, tokenstore.Save(newGrant("grant-1")))
	large := tokenstore.Row{Kind: tokenstore.KindAuditSegment, ID: "large-1", Version: 1, Sealed: bytes.Repeat([]byte("x"), tokenstore.MaxSealed)}
	for i := range 5 {
		large.ID = fmt.Sprintf("large-%d", i)
		if err := w.from.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: large}); err != nil {
			t.Fatal(err)
		}
	}
	populateBesideVault(t, w.from, 1201)
	want := rowsOf(t, w.from)
	m := w.move()
	m.Vault = v.Identity()
	kinds := w.run(m)
	wantSame(t, want, rowsOf(t, w.to))
	wantState(t, w.from, tokenstore.FreezeMoved)
	wantState(t, w.to, "")
	total := 0
	for _, k := range kinds {
		total += k.Source.Rows
		if k.Source != k.Target || len(k.Source.SHA256) != 64 {
			t.Errorf("%+v", k)
		}
	}
	if total != len(want) || len(kinds) != len(tokenstore.Kinds()) {
		t.Errorf("%d rows of %d kinds were compared; want %d of %d", total, len(kinds), len(want), len(tokenstore.Kinds()))
	}
	moved := openVault(t, w.to, key)
	if g, err := moved.Grant(t.Context(), "grant-1"); err != nil || moved.Identity() != v.Identity() {
		t.Errorf("Grant in the new store = %v, %v", g, err)
	}
	if _, err := tokenstore.MayServe(t.Context(), w.to); err != nil {
		t.Errorf("the new store may not be served: %v", err)
	}
	_, err := tokenstore.MayServe(t.Context(), w.from)
	for _, say := range []string{"it was moved to " + w.toName, "start with the configuration that names that", "migrate --thaw"} {
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("the old store may be served: %v; want it to say %q", err, say)
		}
	}
	if err := v.Commit(t.Context(), tokenstore.Save(newGrant("grant-2"))); !errors.Is(err, tokenstore.ErrReadOnly) {
		t.Errorf("a write to the old store = %v; want ErrReadOnly", err)
	}
	if _, err := w.move().Run(t.Context()); !errors.Is(err, tokenstore.ErrMove) || !strings.Contains(err.Error(), "it was moved to") {
		t.Errorf("a second move = %v", err)
	}
}

// populateBesideVault is populate without a keyring.
func populateBesideVault(t *testing.T, s tokenstore.Store, n int) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []tokenstore.Kind{tokenstore.KindConsent, tokenstore.KindGrant, tokenstore.KindEvent} {
		var inserts []tokenstore.Change
		for i := range n {
			inserts = append(inserts, tokenstore.Change{Op: tokenstore.OpInsert, Row: randomRow(random, kind, fmt.Sprintf("x-%04d", i))})
		}
		if err := s.Apply(t.Context(), inserts...); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVaultIsMovedBackAndForth(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	populate(t, w.from, 120)
	w.run(w.move())
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 4 {
		m, at, left := w.back(), w.to, w.from
		if round%2 == 1 {
			m, at, left = w.move(), w.from, w.to
		}
		var changes []tokenstore.Change
		for name, r := range rowsOf(t, at) {
			switch n := random.IntN(6); {
			case r.ID == "again":
			case n == 0:
				changes = append(changes, tokenstore.Change{Op: tokenstore.OpDelete, Row: r})
			case n == 1:
				next := randomRow(random, r.Kind, r.ID)
				next.Version = r.Version + 1
				changes = append(changes, tokenstore.Change{Op: tokenstore.OpUpdate, Row: next})
			case n == 2:
				_, id, _ := strings.Cut(name, "/")
				changes = append(changes, tokenstore.Change{Op: tokenstore.OpInsert, Row: randomRow(random, r.Kind, fmt.Sprintf("%s-%d", id, round))})
			}
		}
		if err := at.Apply(t.Context(), changes...); err != nil {
			t.Fatal(err)
		}
		again := tokenstore.Row{Kind: tokenstore.KindGrant, ID: "again", Version: 1, Sealed: fmt.Append(nil, round)}
		if round > 0 { // deleted, and made again: its version is the same as that of the copy
			if err := at.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpDelete, Row: rowsOf(t, at)["grant/again"]}); err != nil {
				t.Fatal(err)
			}
		}
		if err := at.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: again}); err != nil {
			t.Fatal(err)
		}
		want := rowsOf(t, at)
		w.run(m)
		wantSame(t, want, rowsOf(t, left))
		wantState(t, at, tokenstore.FreezeMoved)
		wantState(t, left, "")
	}
}

func TestMoveRefusesTargetsThatAreOthers(t *testing.T) {
	t.Parallel()
	grant := tokenstore.Change{Op: tokenstore.OpInsert, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: "g", Version: 1, Sealed: []byte("theirs")}}
	state := func(s tokenstore.FreezeState, vault string) tokenstore.Freeze {
		return tokenstore.Freeze{State: s, Vault: vault, From: "elsewhere", To: "somewhere", Since: now}
	}
	for name, tt := range map[string]struct {
		change *tokenstore.Change
		freeze tokenstore.Freeze
		want   string
	}{
		"a vault that is served":                {&grant, tokenstore.Freeze{}, "holds a vault that is served, or was"},
		"a vault that is being moved away":      {&grant, state(tokenstore.FreezeMoving, "vault-1"), "it is being moved to somewhere"},
		"a vault that is about to be":           {&grant, state(tokenstore.FreezeDraining, "vault-1"), "it is being moved to somewhere"},
		"another vault that was moved away":     {&grant, state(tokenstore.FreezeMoved, "vault-2"), "holds another vault: it was moved to somewhere"},
		"another vault that is copied to there": {nil, state(tokenstore.FreezeFilling, "vault-2"), "holds another vault: it is being filled from elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newMoveWorld(t)
			populate(t, w.from, 3)
			if tt.change != nil {
				if err := w.to.Apply(t.Context(), *tt.change); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.to.Freeze(t.Context(), tokenstore.Freeze{}, tt.freeze); err != nil {
				t.Fatal(err)
			}
			before := rowsOf(t, w.to)
			_, checked := w.move().Check(t.Context())
			_, ran := w.move().Run(t.Context())
			for _, err := range []error{checked, ran} {
				if !errors.Is(err, tokenstore.ErrMove) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), w.toName) {
					t.Errorf("%v; want it to say %q", err, tt.want)
				}
			}
			wantSame(t, before, rowsOf(t, w.to))
			wantState(t, w.to, tt.freeze.State)
			wantState(t, w.from, "")
		})
	}
}

func TestMoveOfASourceThatIsMovedElsewhereIsRefused(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	f := tokenstore.Freeze{State: tokenstore.FreezeMoving, Vault: "vault-1", From: w.fromName, To: "elsewhere", Since: now}
	if err := w.from.Freeze(t.Context(), tokenstore.Freeze{}, f); err != nil {
		t.Fatal(err)
	}
	if _, err := w.move().Run(t.Context()); !errors.Is(err, tokenstore.ErrMove) || !strings.Contains(err.Error(), "it is being moved to elsewhere") {
		t.Errorf("Run = %v", err)
	}
	wantState(t, w.from, tokenstore.FreezeMoving)
	wantState(t, w.to, "")
}

func TestEveryWriteThatIsAcknowledgedDuringAMoveIsMoved(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	populate(t, w.from, 200)
	var mu sync.Mutex
	acknowledged := make(map[string][]byte)
	var writing sync.WaitGroup
	var written atomic.Int64
	for worker := range 6 {
		writing.Go(func() {
			for i := 0; ; i++ { // each row is inserted, and updated three times
				r := tokenstore.Row{Kind: tokenstore.KindGrant, ID: fmt.Sprintf("w-%d-%d", worker, i/4), Version: uint64(i%4) + 1, Sealed: fmt.Append(nil, worker, i)}
				c := tokenstore.Change{Op: tokenstore.OpUpdate, Row: r}
				if i%4 == 0 {
					c.Op = tokenstore.OpInsert
				}
				err := w.from.Apply(context.Background(), c)
				if errors.Is(err, tokenstore.ErrReadOnly) {
					return
				}
				if err != nil {
					t.Errorf("Apply: %v", err)
					return
				}
				written.Add(1)
				mu.Lock()
				acknowledged[r.ID] = r.Sealed
				mu.Unlock()
			}
		})
	}
	for written.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	w.run(w.move())
	writing.Wait()
	wantSame(t, rowsOf(t, w.from), rowsOf(t, w.to))
	mu.Lock()
	defer mu.Unlock()
	for id, sealed := range acknowledged {
		r, err := w.to.Get(t.Context(), tokenstore.KindGrant, id)
		if err != nil || !bytes.Equal(r.Sealed, sealed) {
			t.Fatalf("the last acknowledged write of %s is not in the target: %q, %v", id, r.Sealed, err)
		}
	}
}

func refreshingAccount(version uint64, state tokenstore.State) tokenstore.Row {
	return tokenstore.Row{Kind: tokenstore.KindAccount, ID: "acc", Version: version, State: string(state), Sealed: fmt.Append(nil, "v", version)}
}

func TestRefreshUnderWayEndsAndIsMoved(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	if err := w.from.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: refreshingAccount(1, tokenstore.StateRefreshing)}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.move().Run(context.Background())
		done <- err
	}()
	<-w.draining
	wantState(t, w.from, tokenstore.FreezeDraining)
	for _, r := range []tokenstore.Row{refreshingAccount(2, tokenstore.StateRefreshing), refreshingAccount(3, tokenstore.StateActive)} {
		if err := w.from.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: r}); err != nil {
			t.Fatalf("a refresh under way cannot write: %v", err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r, err := w.to.Get(t.Context(), tokenstore.KindAccount, "acc"); err != nil || r.Version != 3 || string(r.Sealed) != "v3" {
		t.Errorf("the target has version %d %q, %v", r.Version, r.Sealed, err)
	}
}

func TestMoveGivesUpOnARefreshThatDoesNotEndAndThaws(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	if err := w.from.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: refreshingAccount(1, tokenstore.StateRefreshing)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.move().Run(t.Context()); err == nil || !strings.Contains(err.Error(), "1 accounts are being refreshed") {
		t.Fatalf("Run = %v", err)
	}
	wantState(t, w.from, "")
	wantState(t, w.to, tokenstore.FreezeFilling)
	m := w.move()
	m.Leased = func(tokenstore.Row) bool { return false } // whoever refreshed it is gone
	w.run(m)
	wantSame(t, rowsOf(t, w.from), rowsOf(t, w.to))
}

// damaged is a target that reads other than what was written.
type damaged struct {
	*bbolt.Store
	edit func(*tokenstore.Row)
}

func (d damaged) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	rows, err := d.Store.List(ctx, kind, q)
	if kind == tokenstore.KindConsent && len(rows) > 2 {
		d.edit(&rows[2])
	}
	return rows, err
}

func TestCopyThatIsNotTheSameIsNotServed(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*tokenstore.Row){
		"version":      func(r *tokenstore.Row) { r.Version++ },
		"state":        func(r *tokenstore.Row) { r.State += "x" },
		"references":   func(r *tokenstore.Row) { r.Refs = append(r.Refs, "more") },
		"due":          func(r *tokenstore.Row) { r.Due = r.Due.Add(time.Millisecond) },
		"end of life":  func(r *tokenstore.Row) { r.DeleteAfter = r.DeleteAfter.Add(time.Millisecond) },
		"sealed value": func(r *tokenstore.Row) { r.Sealed = append(bytes.Clone(r.Sealed), 0) },
		"id":           func(r *tokenstore.Row) { r.ID += "x" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newMoveWorld(t)
			populate(t, w.from, 20)
			m := w.move()
			m.To = damaged{w.to, edit}
			kinds, err := m.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), "the copy is not the same: consent: the source has 20 rows") {
				t.Fatalf("Run = %v", err)
			}
			for _, k := range kinds {
				if (k.Source != k.Target) != (k.Kind == tokenstore.KindConsent) {
					t.Errorf("%+v", k)
				}
			}
			wantState(t, w.from, "")
			wantState(t, w.to, tokenstore.FreezeFilling)
			if _, err := tokenstore.MayServe(t.Context(), w.to); err == nil || !strings.Contains(err.Error(), "it is being filled from "+w.fromName) {
				t.Errorf("the target may be served: %v", err)
			}
		})
	}
}

// cutting is a store whose Freeze fails at some time, before or after it is made.
type cutting struct {
	*bbolt.Store
	after bool // the change is made
	at    *int // how many changes there are until then
}

var errCut = errors.New("cut")

func (c cutting) Freeze(ctx context.Context, was, now tokenstore.Freeze) error {
	*c.at--
	if *c.at != 0 {
		return c.Store.Freeze(ctx, was, now)
	}
	if c.after {
		_ = c.Store.Freeze(ctx, was, now)
	}
	return errCut
}

// However a change of state fails, there are never two stores that can both be written, and running the move again ends it.
func TestMoveThatFailsAnywhereIsRunAgain(t *testing.T) {
	t.Parallel()
	for _, of := range []string{"source", "target"} {
		for at := 1; at <= 5; at++ {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %d %t", of, at, after), func(t *testing.T) {
					t.Parallel()
					w := newMoveWorld(t)
					populate(t, w.from, 5)
					m, n := w.move(), at
					if of == "source" {
						m.From = cutting{Store: w.from, after: after, at: &n}
					} else {
						m.To = cutting{Store: w.to, after: after, at: &n}
					}
					_, err := m.Run(t.Context())
					if err == nil {
						if n <= 0 {
							t.Fatal("nothing failed")
						}
						return
					}
					source, _ := w.from.Frozen(t.Context())
					target, _ := w.to.Frozen(t.Context())
					if !source.Frozen() && !target.Frozen() && len(rowsOf(t, w.to)) > 0 {
						t.Fatalf("both can be written, after %v", err)
					}
					want := rowsOf(t, w.from)
					if source.State != tokenstore.FreezeMoved {
						w.run(w.move())
					}
					wantSame(t, want, rowsOf(t, w.to))
					wantState(t, w.from, tokenstore.FreezeMoved)
					wantState(t, w.to, "")
				})
			}
		}
	}
}

func TestTargetThatWasUsedAlreadyIsNotOverwritten(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	populate(t, w.from, 5)
	m, at := w.move(), 4
	m.From = cutting{Store: w.from, at: &at} // which is not told that the move has ended
	if _, err := m.Run(t.Context()); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	wantState(t, w.to, "")
	if err := w.to.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: "used", Version: 1}}); err != nil {
		t.Fatal(err)
	}
	wantState(t, w.from, tokenstore.FreezeEnding)
	if err := w.move().Thaw(t.Context()); err != nil {
		t.Error(err)
	}
	wantState(t, w.from, tokenstore.FreezeEnding) // nothing thaws it now
	w.run(w.move())
	if _, err := w.to.Get(t.Context(), tokenstore.KindGrant, "used"); err != nil {
		t.Error(err)
	}
	wantState(t, w.from, tokenstore.FreezeMoved)
}

// aborting thaws the source when everything was copied and compared, as another node does that is told to abort.
type aborting struct {
	*bbolt.Store
	when tokenstore.FreezeState
}

func (a aborting) Freeze(ctx context.Context, was, now tokenstore.Freeze) error {
	if now.State == a.when {
		if err := a.Store.Freeze(ctx, was, tokenstore.Freeze{}); err != nil {
			return err
		}
	}
	return a.Store.Freeze(ctx, was, now)
}

func TestMoveThatIsAbortedElsewhereIsNotFinished(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	populate(t, w.from, 5)
	m := w.move()
	m.From = aborting{w.from, tokenstore.FreezeEnding}
	if _, err := m.Run(t.Context()); !errors.Is(err, tokenstore.ErrConflict) {
		t.Errorf("Run = %v; want ErrConflict", err)
	}
	wantState(t, w.from, "")
	wantState(t, w.to, tokenstore.FreezeFilling)
	w.run(w.move())
}

func TestCancelledMoveLeavesTheSourceAsItWas(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	populate(t, w.from, 20)
	for step := 1; ; step++ {
		ctx, cancel := context.WithCancel(t.Context())
		m, n := w.move(), 0
		m.Progress = func(tokenstore.Progress) {
			if n++; n == step {
				cancel()
			}
		}
		_, err := m.Run(ctx)
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("step %d: %v", step, err)
		}
		wantState(t, w.from, "")
		wantState(t, w.to, tokenstore.FreezeFilling)
	}
	wantSame(t, rowsOf(t, w.from), rowsOf(t, w.to))
	wantState(t, w.from, tokenstore.FreezeMoved)
}
