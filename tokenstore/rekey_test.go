package tokenstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// rekeyVault opens a vault whose rekeys take no time beside their work.
func rekeyVault(t *testing.T, s tokenstore.Store, o tokenstore.Options) *tokenstore.Vault {
	t.Helper()
	if o.Messages == 0 {
		o.Messages = time.Nanosecond
	}
	v, err := tokenstore.Open(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return tokenstore.WithRekeyTimes(v, time.Millisecond, time.Millisecond)
}

// rekey gives a vault new keys, and waits until it is in the state.
func rekey(t *testing.T, v *tokenstore.Vault, want tokenstore.RekeyState) *tokenstore.Rekey {
	t.Helper()
	if _, err := v.BeginRekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	return awaitRekey(t, v, want)
}

func awaitRekey(t *testing.T, v *tokenstore.Vault, want tokenstore.RekeyState) *tokenstore.Rekey {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r, err := v.Rekey(t.Context())
		if err == nil && r.State == want {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("rekey is %+v, %v; want %s", r, err, want)
		}
	}
}

// wantSealedAnew looks at every row: none is sealed by one of the keys.
func wantSealedAnew(t *testing.T, v *tokenstore.Vault, s tokenstore.Store, old map[string]bool) {
	t.Helper()
	state, err := v.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]bool)
	for _, k := range state.VaultKeys {
		if keys[k.ID] = true; old[k.ID] || !k.Seals {
			t.Errorf("the key %+v is still there", k)
		}
	}
	for _, kind := range tokenstore.Kinds() {
		rows, err := s.List(t.Context(), kind, tokenstore.Query{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if kind == tokenstore.KindKeyring {
				continue
			}
			if by, err := tokenstore.SealedBy(row.Sealed); err != nil || !keys[by] {
				t.Errorf("%s %s is sealed by %s, %v", kind, row.ID, by, err)
			}
		}
	}
}

// sealingKeys are the keys of a vault that seal now.
func sealingKeys(t *testing.T, v *tokenstore.Vault) map[string]bool {
	t.Helper()
	state, err := v.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]bool)
	for _, k := range state.VaultKeys {
		if k.Use != "index" && k.Use != "derive" {
			keys[k.ID] = true
		}
	}
	return keys
}

func TestRekeySealsEveryRecordAnewAndNobodyNotices(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	v := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	records := oneOfEach(v)
	for record := range records {
		commit(t, v, tokenstore.Save(record), tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventTokenIssued)))
	}
	if err := v.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	commit(t, v, tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventTokenIssued)))
	for i := range 130 {
		commit(t, v, tokenstore.Save(newGrant(fmt.Sprintf("grant-%03d", i+100))))
	}
	old, hash := sealingKeys(t, v), v.Hash("state", "x")
	before, err := v.Grant(t.Context(), "grant-100")
	if err != nil {
		t.Fatal(err)
	}
	asleep := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	blind := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	defer v.KeepKeys()()
	r := rekey(t, v, tokenstore.RekeyDone)
	if r.Ended.IsZero() || r.DamagedRows != 0 {
		t.Errorf("rekey ended as %+v", r)
	}
	wantSealedAnew(t, v, s, old)

	before.Client = "saved in the version that was read before"
	commit(t, v, tokenstore.Save(before))
	second := newGrant("grant-late") // by a process that has not heard of it
	commit(t, asleep, tokenstore.Save(second))
	for name, node := range map[string]*tokenstore.Vault{"this": v, "one that wrote": asleep, "one that reads": blind, "a new": openVault(t, s, key)} {
		for record, read := range oneOfEach(node) {
			if _, err := read(t.Context()); err != nil {
				t.Errorf("%s process: %T: %v", name, record, err)
			}
		}
		if g, err := node.Grant(t.Context(), "grant-late"); err != nil || g.Version != 1 {
			t.Errorf("%s process: %v", name, err)
		}
		if node.Hash("state", "x") != hash {
			t.Errorf("%s process: hashes have changed", name)
		}
	}
	wantSealedAnew(t, v, s, old)
	if err := v.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report, err := v.VerifyAudit(t.Context(), ""); err != nil || !report.Whole() {
		t.Errorf("audit trail: %+v, %v", report, err)
	}
	events, _, err := v.Events(t.Context(), tokenstore.EventFilter{Types: []string{tokenstore.EventVaultRekey}, Limit: 10})
	if err != nil || len(events) != 2 || events[0].Details["step"] != "done" || events[1].Details["step"] != "begun" {
		t.Errorf("events of the rekey: %+v, %v", events, err)
	}

	again := sealingKeys(t, v)
	rekey(t, v, tokenstore.RekeyDone)
	wantSealedAnew(t, v, s, again)
}

func TestMessagesOpenForAsLongAsTheyAreGoodAfterARekey(t *testing.T) {
	t.Parallel()
	s, c := newStore(t), new(turned)
	o := tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}, Now: c.now, Messages: time.Minute}
	v, other := rekeyVault(t, s, o), rekeyVault(t, s, o)
	commit(t, v, tokenstore.Save(newGrant("grant-1")))
	message := v.Seal("consent", []byte("asked"), now.Add(time.Hour))
	defer v.KeepKeys()()
	old := sealingKeys(t, v)
	if r := rekey(t, v, tokenstore.RekeyWaiting); r.Next.IsZero() {
		t.Errorf("%+v", r)
	}
	after := v.Seal("consent", []byte("asked"), now.Add(time.Hour))
	for _, node := range []*tokenstore.Vault{v, other} {
		for _, m := range []string{message, after} {
			if plain, err := node.OpenSealed("consent", m); err != nil || string(plain) != "asked" {
				t.Errorf("OpenSealed = %q, %v", plain, err)
			}
		}
	}
	c.turn(2 * time.Minute)
	rekey(t, v, tokenstore.RekeyDone) // which only looks again
	wantSealedAnew(t, v, s, old)
	if _, err := v.OpenSealed("consent", message); !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("OpenSealed of a message of before = %v; want ErrTampered", err)
	}
	if _, err := v.OpenSealed("consent", after); err != nil {
		t.Errorf("OpenSealed of a later message = %v", err)
	}
}

func TestProcessWithoutTheNewKeyReadsOnAndCannotWrite(t *testing.T) {
	t.Parallel()
	s, first, second := newStore(t), tokenstore.NewRootKey(), tokenstore.NewRootKey()
	var failed atomic.Int32
	behind := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{first}, KeysFailed: func(err error) {
		if errors.Is(err, tokenstore.ErrWrongKey) {
			failed.Add(1)
		}
	}})
	commit(t, behind, tokenstore.Save(newGrant("grant-1")))
	v := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{second, first}})
	commit(t, behind, tokenstore.Save(newGrant("grant-2"))) // a change of the encryption key alone is nothing to it
	if _, err := behind.Rekey(t.Context()); !errors.Is(err, tokenstore.ErrWrongKey) || behind.LockedOut() {
		t.Errorf("with another encryption key: %v, locked out: %t", err, behind.LockedOut())
	}
	failed.Store(0)
	defer v.KeepKeys()()
	rekey(t, v, tokenstore.RekeyDone)
	for range 3 {
		err := behind.Commit(t.Context(), tokenstore.Save(newGrant("grant-3")))
		if !errors.Is(err, tokenstore.ErrUnavailable) || !errors.Is(err, tokenstore.ErrWrongKey) {
			t.Errorf("Commit = %v; want ErrUnavailable, and that the key is wrong", err)
		}
	}
	if _, err := behind.Grant(t.Context(), "grant-1"); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("Grant = %v; want ErrUnavailable: it is not damaged", err)
	}
	if !behind.LockedOut() || v.LockedOut() {
		t.Errorf("locked out: %t; who has the keys: %t", behind.LockedOut(), v.LockedOut())
	}
	if n := behind.AuditWaiting(); n != 0 {
		t.Errorf("%d events say that something was tampered with", n)
	}
	if n := failed.Load(); n != 1 {
		t.Errorf("the operator was told %d times", n)
	}
	if _, err := v.Grant(t.Context(), "grant-3"); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("what it could not write is there: %v", err)
	}
}

func TestRekeyKeepsTheKeysOfRowsThatDoNotOpen(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	v := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	commit(t, v, tokenstore.Save(newGrant("grant-1")), tokenstore.Save(newLogin("login-1")))
	commit(t, v, tokenstore.Save(newGrant("grant-2")))
	row, err := s.Get(t.Context(), tokenstore.KindGrant, "grant-1")
	if err != nil {
		t.Fatal(err)
	}
	whole := append([]byte(nil), row.Sealed...)
	spoil := func(sealed []byte) {
		t.Helper()
		if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpReseal, Row: tokenstore.Row{Kind: row.Kind, ID: row.ID, Version: row.Version, Sealed: sealed}}); err != nil {
			t.Fatal(err)
		}
	}
	row.Sealed[len(row.Sealed)-1] ^= 1
	spoil(row.Sealed)
	defer v.KeepKeys()()
	r := rekey(t, v, tokenstore.RekeyHeld)
	if r.DamagedRows != 1 || len(r.Damaged) != 1 || r.Damaged[0] != (tokenstore.RowName{Kind: tokenstore.KindGrant, ID: "grant-1"}) || r.Error == "" || r.Next.IsZero() {
		t.Errorf("%+v", r)
	}
	if _, err := v.Grant(t.Context(), "grant-2"); err != nil {
		t.Error(err)
	}
	spoil([]byte("G")) // no header at all
	if r := rekey(t, v, tokenstore.RekeyHeld); r.DamagedRows != 1 {
		t.Errorf("%+v", r)
	}
	spoil(whole) // as from a backup
	rekey(t, v, tokenstore.RekeyDone)
	for _, node := range []*tokenstore.Vault{v, openVault(t, s, key)} {
		if _, err := node.Grant(t.Context(), "grant-1"); err != nil {
			t.Errorf("a row that was put back: %v", err)
		}
	}
}

func TestRekeyWaitsWhileTheVaultIsReadOnly(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	v := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	tokenstore.WithRekeyTimes(v, 300*time.Millisecond, time.Millisecond)
	commit(t, v, tokenstore.Save(newGrant("grant-1")))
	m, frozen := s.(tokenstore.Movable), tokenstore.Freeze{State: tokenstore.FreezeMoving, From: "a", To: "b", Since: now}
	old := sealingKeys(t, v)
	if _, err := v.BeginRekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer v.KeepKeys()()
	if err := m.Freeze(t.Context(), tokenstore.Freeze{}, frozen); err != nil {
		t.Fatal(err)
	}
	if _, err := openVault(t, newStore(t), tokenstore.NewRootKey()).BeginRekey(t.Context()); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r, err := v.Rekey(t.Context())
		if err != nil || r.State != tokenstore.RekeyRunning {
			t.Fatalf("%+v, %v", r, err)
		}
		if r.Error != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not said that the vault is read-only")
		}
	}
	if _, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey(), key}}); err != nil {
		t.Errorf("with a new encryption key in front: %v", err)
	}
	if err := m.Freeze(t.Context(), frozen, tokenstore.Freeze{}); err != nil {
		t.Fatal(err)
	}
	awaitRekey(t, v, tokenstore.RekeyDone)
	wantSealedAnew(t, v, s, old)
}

// dying is a store that takes so many Applies, and then no more, as if its process had been killed.
type dying struct {
	tokenstore.Store
	left atomic.Int64
}

func (d *dying) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	if d.left.Add(-1) < 0 {
		return fmt.Errorf("%w: killed", tokenstore.ErrUnavailable)
	}
	return d.Store.Apply(ctx, changes...)
}

func TestRekeyThatIsKilledAtAnyStepGoesOn(t *testing.T) {
	t.Parallel()
	s, key, c := newStore(t), tokenstore.NewRootKey(), new(turned)
	o := tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: c.now, Audit: tokenstore.AuditOptions{Off: true}}
	first := rekeyVault(t, s, o)
	const grants = 120
	for i := range grants {
		commit(t, first, tokenstore.Save(newGrant(fmt.Sprintf("grant-%03d", i))))
	}
	old := sealingKeys(t, first)
	if _, err := first.BeginRekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	const most = 40
	for n := range int64(most) {
		d := &dying{Store: s}
		d.left.Store(n % 7) // so that each life ends at another step
		v := rekeyVault(t, d, o)
		stop := v.KeepKeys()
		for deadline := time.Now().Add(20 * time.Second); d.left.Load() >= 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if r, err := v.Rekey(t.Context()); err == nil && r.State == tokenstore.RekeyDone {
				break
			}
		}
		stop()
		for i := range grants {
			if _, err := first.Grant(t.Context(), fmt.Sprintf("grant-%03d", i)); err != nil {
				t.Fatalf("life %d: %v", n, err)
			}
		}
		c.turn(time.Hour) // the lease of who was killed ends
		if r, err := first.Rekey(t.Context()); err == nil && r.State == tokenstore.RekeyDone {
			wantSealedAnew(t, first, s, old)
			if n < 3 {
				t.Errorf("it was done in life %d: nothing was killed", n)
			}
			return
		}
	}
	t.Errorf("not done after %d lives", most)
}

// lossy makes an Apply, lets something happen, and loses the answer.
type lossy struct {
	tokenstore.Store
	once atomic.Bool
	then func()
}

func (l *lossy) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	err := l.Store.Apply(ctx, changes...)
	if err == nil && changes[0].Row.Kind == tokenstore.KindGrant && l.once.CompareAndSwap(true, false) {
		l.then()
		return fmt.Errorf("%w: the answer was lost", tokenstore.ErrUnavailable)
	}
	return err
}

func TestWhatWasMadeAndSealedAnewIsKnownToBeMade(t *testing.T) {
	t.Parallel()
	l := &lossy{Store: newStore(t)}
	key := tokenstore.NewRootKey()
	v, other := rekeyVault(t, l, tokenstore.Options{Keys: []tokenstore.RootKey{key}}), rekeyVault(t, l.Store, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Messages: time.Hour})
	g := newGrant("grant-1")
	commit(t, v, tokenstore.Save(g))
	defer other.KeepKeys()()
	l.then = func() { // all is sealed anew; v learns of the new keys by what it reads
		rekey(t, other, tokenstore.RekeyWaiting)
		if _, err := v.Rekey(t.Context()); err != nil {
			t.Error(err)
		}
	}
	l.once.Store(true)
	g.Client = "changed"
	if err := v.Commit(t.Context(), tokenstore.Save(g)); err != nil {
		t.Errorf("Commit = %v; want nil: it was made", err)
	}
	if now, err := v.Grant(t.Context(), "grant-1"); err != nil || now.Client != "changed" {
		t.Errorf("%+v, %v", now, err)
	}
}

func TestRekeyIsLeftToAnotherVaultOfTheProcess(t *testing.T) {
	t.Parallel()
	s, o := newStore(t), tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}, Messages: time.Hour}
	retired, next := rekeyVault(t, s, o), rekeyVault(t, s, o)
	for i := range 200 {
		commit(t, retired, tokenstore.Save(newGrant(fmt.Sprintf("grant-%03d", i))))
	}
	defer retired.KeepKeys()()
	retired.LeaveRekeys()
	defer next.KeepKeys()()
	if r := rekey(t, next, tokenstore.RekeyWaiting); r.Resealed < 200 {
		t.Errorf("another than the one that was asked has sealed rows anew: %+v", r)
	}
	if g, err := retired.Grant(t.Context(), "grant-100"); err != nil || g.ID != "grant-100" { // it goes on following the keys
		t.Errorf("the vault that leaves rekeys to others: %+v, %v", g, err)
	}
}

func TestRekeyIsLeftToAnotherVaultMeanwhile(t *testing.T) {
	t.Parallel()
	s, o := newStore(t), tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}}
	retired := tokenstore.WithRekeyTimes(rekeyVault(t, s, o), time.Hour, time.Millisecond)
	next := rekeyVault(t, s, o)
	commit(t, retired, tokenstore.Save(newGrant("grant-1")))
	old := sealingKeys(t, retired)
	defer retired.KeepKeys()()
	r, err := retired.BeginRekey(t.Context())
	for deadline := time.Now().Add(20 * time.Second); err == nil && r.Progress == nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		r, err = retired.Rekey(t.Context())
	}
	if err != nil || r.Progress == nil || r.Progress.Step != tokenstore.RekeyAnnouncing {
		t.Fatalf("%+v, %v; want one that announces for an hour", r, err)
	}
	retired.LeaveRekeys()
	defer next.KeepKeys()()
	awaitRekey(t, next, tokenstore.RekeyDone)
	wantSealedAnew(t, next, s, old)
}

func TestRekeyUnderLoadLosesNoChange(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	o := tokenstore.Options{Keys: []tokenstore.RootKey{key}}
	vaults := []*tokenstore.Vault{rekeyVault(t, s, o), rekeyVault(t, s, o), rekeyVault(t, s, o)}
	const grants = 60
	for i := range grants {
		commit(t, vaults[0], tokenstore.Save(newGrant(fmt.Sprintf("grant-%02d", i))))
	}
	defer vaults[0].KeepKeys()()
	defer vaults[1].KeepKeys()() // the third hears nothing
	stop := make(chan struct{})
	var made [grants]atomic.Uint64
	var workers sync.WaitGroup
	for w := range 6 {
		workers.Go(func() {
			v := vaults[w%3]
			for n := w; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				i := (n * 7) % grants
				g, err := v.Grant(t.Context(), fmt.Sprintf("grant-%02d", i))
				if err != nil {
					t.Errorf("Grant: %v", err)
					return
				}
				switch err := v.Commit(t.Context(), tokenstore.Save(g), tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventTokenIssued))); {
				case err == nil:
					made[i].Add(1)
				case !errors.Is(err, tokenstore.ErrConflict):
					t.Errorf("Commit: %v", err)
					return
				}
			}
		})
	}
	for range 3 {
		old := sealingKeys(t, vaults[0])
		rekey(t, vaults[0], tokenstore.RekeyDone)
		wantSealedAnew(t, vaults[0], s, old)
	}
	close(stop)
	workers.Wait()
	for i := range grants {
		if g, err := vaults[0].Grant(t.Context(), fmt.Sprintf("grant-%02d", i)); err != nil || g.Version != 1+made[i].Load() {
			t.Errorf("grant-%02d is of version %v after %d changes, %v", i, g, made[i].Load(), err)
		}
	}
}
