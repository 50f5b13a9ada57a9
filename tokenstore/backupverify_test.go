package tokenstore_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// verifiedBackup is the report of a backup, in JSON and without times.
func verifiedBackup(t *testing.T, backup []byte, keys ...tokenstore.RootKey) (*tokenstore.Verification, string) {
	t.Helper()
	made, r, err := tokenstore.VerifyBackup(t.Context(), bytes.NewReader(backup), int64(len(backup)), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if made.Vault != r.Vault || made.Rows == 0 || !r.Began.Equal(made.Taken) {
		t.Errorf("%+v is of %+v", r, made)
	}
	return r, withoutTimes(t, *r)
}

func withoutTimes(t *testing.T, r tokenstore.Verification) string {
	t.Helper()
	r.Began, r.Ended = time.Time{}, time.Time{}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBackupIsVerifiedAsItsVaultIs(t *testing.T) {
	t.Parallel()
	_, v, key, backup := backedUp(t)
	r, got := verifiedBackup(t, backup, tokenstore.NewRootKey(), key)
	if want := withoutTimes(t, *verified(t, v)); got != want || !r.Whole() || r.Audit == nil || r.Audit.Events == 0 {
		t.Errorf("the backup is %s\nand the vault %s", got, want)
	}
	if n := len(tokenstore.Kinds()); len(r.Records) != n || foundOf(t, r, tokenstore.KindGrant).Rows == 0 || foundOf(t, r, tokenstore.KindKeyring).Rows == 0 {
		t.Errorf("%d of %d kinds: %+v", len(r.Records), n, r.Records)
	}
}

// A backup that is whole and signed may be of a vault that was damaged before.
func TestDamagedRecordsOfABackupAreNamed(t *testing.T) {
	t.Parallel()
	const grants = 1500 // more than are between two places that are known
	path, key := closedVault(t, grants)
	broken := []string{"grant-000000", "grant-000701", "grant-001499"}
	damageFile(t, path, func(tx *bolt.Tx) error {
		for _, id := range broken {
			value := bytes.Clone(tx.Bucket([]byte("grant")).Get([]byte(id)))
			value[len(value)-1] ^= 1
			if err := tx.Bucket([]byte("grant")).Put([]byte(id), value); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte("account")).Delete([]byte("account-1"))
	})
	s := openFile(t, path)
	v := openVault(t, s, key)
	backup := takeBackup(t, v, s.(tokenstore.Movable))
	r, _ := verifiedBackup(t, backup, key)
	var named []string
	for _, f := range r.Faults {
		if f.Class != tokenstore.FaultSealed || f.Kind != tokenstore.KindGrant || !strings.Contains(f.Advice, "connects again") {
			t.Errorf("%+v", f)
		}
		named = append(named, f.ID)
	}
	if k := foundOf(t, r, tokenstore.KindGrant); !slices.Equal(named, broken) || k.Rows != grants || k.Damaged != len(broken) || r.Whole() {
		t.Errorf("named are %q, and found %+v", named, k)
	}
	if n := len(r.Remarks) + r.MoreRemarks; n != grants-len(broken) {
		t.Errorf("%d remarks of grants without their account; want %d", n, grants-len(broken))
	}
}

func TestBackupThatCannotBeUsedIsNotVerified(t *testing.T) {
	t.Parallel()
	_, _, key, backup := backedUp(t)
	changed := bytes.Clone(backup)
	changed[len(changed)/2] ^= 1
	forged := bytes.Clone(changed) // who has no key can make the sum right again
	sum := sha256.Sum256(forged[:len(forged)-64])
	copy(forged[len(forged)-64:], sum[:])
	if _, err := tokenstore.CheckBackup(t.Context(), bytes.NewReader(forged), nil, nil); err != nil {
		t.Fatalf("without keys, the forged one is %v; want whole", err)
	}
	for name, test := range map[string]struct {
		backup []byte
		keys   []tokenstore.RootKey
		want   error
	}{
		"changed":     {changed, []tokenstore.RootKey{key}, tokenstore.ErrBackup},
		"forged":      {forged, []tokenstore.RootKey{key}, tokenstore.ErrBackup},
		"cut off":     {backup[:len(backup)-1], []tokenstore.RootKey{key}, tokenstore.ErrBackup},
		"empty":       {nil, []tokenstore.RootKey{key}, tokenstore.ErrBackup},
		"another key": {backup, []tokenstore.RootKey{tokenstore.NewRootKey()}, tokenstore.ErrWrongKey},
		"no key":      {backup, nil, tokenstore.ErrNoKey},
	} {
		made, r, err := tokenstore.VerifyBackup(t.Context(), bytes.NewReader(test.backup), int64(len(test.backup)), test.keys, nil)
		if !errors.Is(err, test.want) || made != nil || r != nil {
			t.Errorf("%s: %v, %v, %v; want %v", name, made, r, err, test.want)
		}
	}
}

// changing is a file of which another one takes the place once it was read to its end.
type changing struct {
	first, then []byte
	read        bool
}

func (c *changing) ReadAt(p []byte, at int64) (int, error) {
	now := c.first
	if c.read {
		now = c.then
	}
	n, err := bytes.NewReader(now).ReadAt(p, at)
	c.read = c.read || at+int64(n) >= int64(len(now))
	return n, err
}

func TestBackupThatChangesWhileItIsVerifiedIsNoticed(t *testing.T) {
	t.Parallel()
	_, _, key, backup := backedUp(t)
	for i := range 200 {
		then := bytes.Clone(backup)
		at := len(backup) / 200 * i
		for j := range then[at : at+len(backup)/200] {
			then[at+j] ^= 0x55
		}
		f := &changing{first: backup, then: then}
		_, r, err := tokenstore.VerifyBackup(t.Context(), f, int64(len(backup)), []tokenstore.RootKey{key}, nil)
		inRows := at > 200 && at+len(backup)/200 < len(backup)-200
		if inRows && err == nil && r.Whole() {
			t.Errorf("nothing is wrong with what was changed at byte %d of %d", at, len(backup))
		}
	}
}
