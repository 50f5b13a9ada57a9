package tokenstore_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

func verified(t testing.TB, v *tokenstore.Vault) *tokenstore.Verification {
	t.Helper()
	r, err := v.Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// foundOf is what was found of a kind.
func foundOf(t testing.TB, r *tokenstore.Verification, kind tokenstore.Kind) tokenstore.VerifiedKind {
	t.Helper()
	i := slices.IndexFunc(r.Records, func(k tokenstore.VerifiedKind) bool { return k.Kind == kind })
	if i < 0 {
		t.Fatalf("nothing was found of the kind %s", kind)
	}
	return r.Records[i]
}

func TestVerifyReadsEverythingAndSaysThatItIsWhole(t *testing.T) {
	t.Parallel()
	v, _ := victims(t)
	for range 3 {
		commit(t, v, tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventGrantEnded)))
	}
	steps := make(map[tokenstore.Step]bool)
	r, err := v.Verify(t.Context(), func(p tokenstore.Progress) {
		if steps[p.Step] = true; p.Done > p.Total {
			t.Errorf("progress %+v", p)
		}
	})
	if err != nil || !r.Whole() || len(r.Remarks) > 0 || r.Vault != v.Identity() || r.Audit.Waiting != 3 || r.Began.IsZero() || r.Ended.IsZero() {
		t.Errorf("%+v, %v", r, err)
	}
	if len(r.Records) != len(tokenstore.Kinds()) {
		t.Errorf("%d kinds were read; want %d", len(r.Records), len(tokenstore.Kinds()))
	}
	if k := foundOf(t, r, tokenstore.KindGrant); k.Rows != 2 || k.Damaged != 0 {
		t.Errorf("grants: %+v", k)
	}
	for _, step := range []tokenstore.Step{tokenstore.VerifyStorage, tokenstore.VerifyIndexes, tokenstore.VerifyRecords, tokenstore.VerifyTrail} {
		if !steps[step] {
			t.Errorf("the step %q was not told of", step)
		}
	}
}

func TestVerifyNamesWhatDoesNotOpenAndGoesOn(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	s.edit = func(row tokenstore.Row) tokenstore.Row {
		if row.ID == "grant-1" || row.ID == "account-2" || row.ID == "keys" {
			row.Sealed[40] ^= 1
		}
		return row
	}
	r := verified(t, v)
	var named []string
	for _, f := range r.Faults {
		if f.Class != tokenstore.FaultSealed || !strings.Contains(f.Problem, "does not open") || f.Advice == "" {
			t.Errorf("%+v", f)
		}
		named = append(named, string(f.Kind)+" "+f.ID)
	}
	if slices.Sort(named); !slices.Equal(named, []string{"account account-2", "grant grant-1", "signing_keys keys"}) || r.Whole() {
		t.Errorf("named are %q, and the vault is whole: %t", named, r.Whole())
	}
	if k := foundOf(t, r, tokenstore.KindGrant); k.Rows != 2 || k.Damaged != 1 {
		t.Errorf("grants: %+v", k)
	}
	s.edit = nil
	if err := v.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events, _, err := v.Events(t.Context(), tokenstore.EventFilter{Limit: 100}); err != nil || len(events) != 3 || events[0].Type != tokenstore.EventVaultTampered {
		t.Errorf("the audit trail has %d events, %v; want one of each", len(events), err)
	}
}

func TestVerifyListsNotMoreThanItsBound(t *testing.T) {
	t.Parallel()
	s := &writable{Store: newStore(t)}
	v := openVault(t, s, tokenstore.NewRootKey())
	for i := range 250 {
		commit(t, v, tokenstore.Save(newAccount(fmt.Sprint("account-", i))))
	}
	s.edit = func(row tokenstore.Row) tokenstore.Row { row.Version++; return row }
	if r := verified(t, v); len(r.Faults) != 200 || r.MoreFaults != 50 || foundOf(t, r, tokenstore.KindAccount).Damaged != 250 {
		t.Errorf("%d faults and %d more, %+v", len(r.Faults), r.MoreFaults, foundOf(t, r, tokenstore.KindAccount))
	}
}

// late is a store whose lists are of a moment before.
type late struct {
	tokenstore.Store
	rows []tokenstore.Row
}

func (l *late) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	if kind == tokenstore.KindGrant && q.After == "" {
		return slices.Clone(l.rows), nil
	}
	return l.Store.List(ctx, kind, q)
}

func TestVerifyTakesNoChangeForAFault(t *testing.T) {
	t.Parallel()
	l := &late{Store: newStore(t)}
	v := openVault(t, l, tokenstore.NewRootKey())
	changed, gone, damaged := newGrant("grant-1"), newGrant("grant-2"), newGrant("grant-3")
	commit(t, v, tokenstore.Save(changed), tokenstore.Save(gone), tokenstore.Save(damaged), tokenstore.Save(newAccount("account-1")))
	for _, id := range []string{"grant-1", "grant-2", "grant-3"} {
		row, err := l.Get(t.Context(), tokenstore.KindGrant, id)
		if err != nil {
			t.Fatal(err)
		}
		row.Sealed[40] ^= 1 // as it was, for a moment
		l.rows = append(l.rows, row)
	}
	commit(t, v, tokenstore.Save(changed), tokenstore.Delete(gone))
	if r := verified(t, v); !r.Whole() || foundOf(t, r, tokenstore.KindGrant).Damaged != 0 {
		t.Errorf("%+v", r.Faults)
	}
}

func TestVerifyRemarksWhatIsNamedAndNotThere(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	lost, ended, own := newGrant("grant-1"), newGrant("grant-2"), newGrant("grant-3")
	ended.State, own.AccountID = tokenstore.StateRevoked, ""
	code := func(id, grant string) *tokenstore.Code {
		return &tokenstore.Code{Meta: tokenstore.Meta{ID: id}, GrantID: grant, Expires: now.Add(time.Minute)}
	}
	late := code("code-3", "nobody")
	late.Expires = now
	commit(t, v, tokenstore.Save(lost), tokenstore.Save(ended), tokenstore.Save(own), tokenstore.Save(code("code-1", "grant-1")), tokenstore.Save(code("code-2", "nobody")), tokenstore.Save(late))
	r := verified(t, v)
	var said []string
	for _, f := range r.Remarks {
		said = append(said, fmt.Sprintf("%s %s %s %s", f.Class, f.Kind, f.ID, f.Problem))
	}
	if slices.Sort(said); !r.Whole() || !slices.Equal(said, []string{"reference code code-2 its grant nobody is not there", "reference grant grant-1 its account account-1 is not there"}) {
		t.Errorf("whole: %t; remarks %q", r.Whole(), said)
	}
	commit(t, v, tokenstore.Save(newAccount("account-1")), tokenstore.Save(newGrant("nobody")))
	if r := verified(t, v); len(r.Remarks) > 0 {
		t.Errorf("remarks: %+v", r.Remarks)
	}
}

func TestVerifyTellsWhatIsWrongWithTheAuditTrail(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	for range 2 {
		commit(t, v, tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventGrantEnded)))
		if err := v.FlushAudit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := tokenstore.RewriteSegment(t.Context(), v, 1, func(line []byte) []byte { return []byte(strings.Replace(string(line), `"ok"`, `"refused"`, 1)) }); err != nil {
		t.Fatal(err)
	}
	r := verified(t, v)
	if len(r.Faults) != 1 || r.Faults[0].Class != tokenstore.FaultAudit || r.Faults[0].Kind != tokenstore.KindAuditSegment || r.Faults[0].ID != "000000000002" || r.Audit == nil || r.Audit.Whole() {
		t.Errorf("%+v", r.Faults)
	}
}

// damageFile edits a closed vault file as whoever can write to it.
func damageFile(t testing.TB, path string, edit func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(edit), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// closedVault is a file with a vault of so many grants, and the key of it.
func closedVault(t testing.TB, grants int) (path string, key tokenstore.RootKey) {
	t.Helper()
	path, key = filepath.Join(t.TempDir(), "vault.db"), tokenstore.NewRootKey()
	s, err := bbolt.Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	v := openVault(t, s, key)
	commit(t, v, tokenstore.Save(newAccount("account-1")))
	var writes []tokenstore.Write
	for i := range grants {
		writes = append(writes, tokenstore.Save(newGrant(fmt.Sprintf("grant-%06d", i))))
		if len(writes) == 500 || i == grants-1 {
			commit(t, v, writes...)
			writes = nil
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path, key
}

func TestVerifyStepsOverRowsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	path, key := closedVault(t, 700)
	broken := []string{"grant-000000", "grant-000001", "grant-000350", "grant-000699"}
	damageFile(t, path, func(tx *bolt.Tx) error {
		for _, id := range broken {
			if err := tx.Bucket([]byte("grant")).Put([]byte(id), []byte("short")); err != nil {
				return err
			}
		}
		return tx.DeleteBucket([]byte("audit_segment"))
	})
	r := verified(t, openVault(t, openFile(t, path), key))
	var named []string
	for _, f := range r.Faults {
		if f.Class == tokenstore.FaultUnreadable && f.Kind == tokenstore.KindGrant {
			named = append(named, f.ID)
		}
	}
	if k := foundOf(t, r, tokenstore.KindGrant); k.Rows != 700-len(broken) || k.Damaged != len(broken) || !slices.Equal(named, broken) {
		t.Errorf("grants: %+v, and named are %q", k, named)
	}
	for _, want := range []struct {
		class tokenstore.FaultClass
		text  string
	}{{tokenstore.FaultStorage, "bucket audit_segment"}, {tokenstore.FaultUnreadable, "rows behind"}, {tokenstore.FaultAudit, "cannot be read to its end"}} {
		if !slices.ContainsFunc(r.Faults, func(f tokenstore.Fault) bool { return f.Class == want.class && strings.Contains(f.Problem, want.text) }) {
			t.Errorf("%s %q is missing: %+v", want.class, want.text, r.Faults)
		}
	}
}

func TestVaultThatIsOpenedForReadingIsNotWritten(t *testing.T) {
	t.Parallel()
	path, key := closedVault(t, 3)
	sum := func() [32]byte {
		t.Helper()
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(file)
	}
	before := sum()
	s, err := bbolt.OpenReadOnly(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	// The vault's key is not the first, so that Open would seal the ring anew.
	v, err := tokenstore.OpenReadOnly(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey(), key}, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	if r := verified(t, v); !r.Whole() || foundOf(t, r, tokenstore.KindGrant).Rows != 3 {
		t.Errorf("%+v", r)
	}
	if err := v.Commit(t.Context(), tokenstore.Save(newGrant("grant-9"))); !errors.Is(err, tokenstore.ErrReadOnly) {
		t.Errorf("Commit = %v; want ErrReadOnly", err)
	}
	if _, err := v.Sweep(t.Context(), now.AddDate(10, 0, 0), 10); !errors.Is(err, tokenstore.ErrReadOnly) {
		t.Errorf("Sweep = %v; want ErrReadOnly", err)
	}
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: "grant-000000", Version: 1}}); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("Apply = %v; want ErrUnavailable", err)
	}
	other, err := bbolt.OpenReadOnly(path, time.Minute)
	if err != nil {
		t.Errorf("a second time for reading: %v", err)
	} else if err := other.Close(); err != nil {
		t.Error(err)
	}
	if _, err := bbolt.Open(path, time.Millisecond); err == nil || !strings.Contains(err.Error(), "is locked") {
		t.Errorf("for writing meanwhile: %v; want that it is locked", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if sum() != before {
		t.Error("the file has changed")
	}
}

func TestVaultThatIsNotThereIsNotMade(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	if _, err := bbolt.OpenReadOnly(path, time.Second); err == nil || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("OpenReadOnly = %v; want that there is none", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
	s := newStore(t)
	keys := tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}}
	if _, err := tokenstore.OpenReadOnly(t.Context(), s, keys); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("OpenReadOnly of an empty store = %v; want ErrNotFound", err)
	}
	if there, err := tokenstore.Initialized(t.Context(), s); there || err != nil {
		t.Errorf("Initialized = %t, %v", there, err)
	}
	openVault(t, s, tokenstore.NewRootKey())
	if _, err := tokenstore.OpenReadOnly(t.Context(), s, keys); !errors.Is(err, tokenstore.ErrWrongKey) {
		t.Errorf("OpenReadOnly with another key = %v; want ErrWrongKey", err)
	}
	if _, err := tokenstore.OpenReadOnly(t.Context(), s, tokenstore.Options{}); !errors.Is(err, tokenstore.ErrNoKey) {
		t.Errorf("OpenReadOnly without a key = %v; want ErrNoKey", err)
	}
	old := filepath.Join(t.TempDir(), "old.db")
	damageFile(t, old, func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		return b.Put([]byte("format"), []byte("3"))
	})
	if _, err := bbolt.OpenReadOnly(old, time.Second); err == nil || !strings.Contains(err.Error(), "of an older release") {
		t.Errorf("OpenReadOnly of an older file = %v", err)
	}
}
