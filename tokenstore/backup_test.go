package tokenstore_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// backedUp is a vault with one record of each kind, and a backup of it.
func backedUp(t testing.TB) (*bbolt.Store, *tokenstore.Vault, tokenstore.RootKey, []byte) {
	t.Helper()
	s, key := newStore(t).(*bbolt.Store), tokenstore.NewRootKey()
	v := openVault(t, s, key)
	for r := range oneOfEach(v) {
		commit(t, v, tokenstore.Save(r), tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventTokenIssued)))
	}
	if err := v.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, v, key, takeBackup(t, v, s)
}

func takeBackup(t testing.TB, v *tokenstore.Vault, s tokenstore.Movable) []byte {
	t.Helper()
	var out bytes.Buffer
	made, err := v.WriteBackup(t.Context(), s, &out, nil)
	if err != nil {
		t.Fatal(err)
	}
	read, err := tokenstore.CheckBackup(t.Context(), bytes.NewReader(out.Bytes()), nil, nil)
	if err != nil || fmt.Sprint(read) != fmt.Sprint(made) || read.Vault != v.Identity() {
		t.Fatalf("CheckBackup = %+v, %v; written was %+v", read, err, made)
	}
	return out.Bytes()
}

func TestBackupHasEveryRowAndIsKnownToBeWhole(t *testing.T) {
	t.Parallel()
	s, _, key, backup := backedUp(t)
	want := rowsOf(t, s)
	in, err := tokenstore.ReadBackup(bytes.NewReader(backup))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		row, err := in.Next()
		if errors.Is(err, io.EOF) {
			if n != len(want) || n < 9 {
				t.Errorf("the backup has %d rows, and the store %d", n, len(want))
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := string(row.Kind) + "/" + row.ID
		if got, there := want[name]; !there || fmt.Sprint(got.Refs) != fmt.Sprint(row.Refs) || got.Version != row.Version || !bytes.Equal(got.Sealed, row.Sealed) ||
			got.State != row.State || !got.Due.Equal(row.Due) || !got.DeleteAfter.Equal(row.DeleteAfter) {
			t.Errorf("%s: %+v; want %+v", name, row, got)
		}
	}
	if _, err := tokenstore.CheckBackup(t.Context(), bytes.NewReader(backup), []tokenstore.RootKey{tokenstore.NewRootKey(), key}, nil); err != nil {
		t.Errorf("with the key among others: %v", err)
	}
	if _, err := tokenstore.CheckBackup(t.Context(), bytes.NewReader(backup), []tokenstore.RootKey{tokenstore.NewRootKey()}, nil); !errors.Is(err, tokenstore.ErrWrongKey) {
		t.Errorf("with another key: %v", err)
	}
}

func TestBackupThatWasChangedOrCutOffIsRefused(t *testing.T) {
	t.Parallel()
	_, _, key, backup := backedUp(t)
	check := func(b []byte) error {
		_, err := tokenstore.CheckBackup(t.Context(), bytes.NewReader(b), []tokenstore.RootKey{key}, nil)
		return err
	}
	for i := range backup {
		changed := bytes.Clone(backup)
		changed[i] ^= 1 << (i % 8)
		if err := check(changed); !errors.Is(err, tokenstore.ErrBackup) && !errors.Is(err, tokenstore.ErrWrongKey) {
			t.Fatalf("byte %d of %d was changed: %v", i, len(backup), err)
		}
		if i%7 == 0 {
			if err := check(backup[:i]); !errors.Is(err, tokenstore.ErrBackup) {
				t.Fatalf("%d of %d bytes: %v", i, len(backup), err)
			}
		}
	}
	if err := check(append(bytes.Clone(backup), 'x')); !errors.Is(err, tokenstore.ErrBackup) {
		t.Errorf("with something behind its end: %v", err)
	}
	// Who has no key can make the sum right again, and not the signature.
	forged := bytes.Clone(backup)
	at := bytes.Index(forged, []byte("grant"))
	at += bytes.Index(forged[at:], []byte("active"))
	copy(forged[at:], "actixe")
	sum := sha256.Sum256(forged[:len(forged)-64])
	copy(forged[len(forged)-64:], sum[:])
	if _, err := tokenstore.CheckBackup(t.Context(), bytes.NewReader(forged), nil, nil); err != nil {
		t.Errorf("without keys, the forged one is %v; want whole", err)
	}
	if err := check(forged); !errors.Is(err, tokenstore.ErrBackup) || !strings.Contains(err.Error(), "signature") {
		t.Errorf("the forged one: %v", err)
	}
}

func TestBackupOfANewerReleaseIsNamed(t *testing.T) {
	t.Parallel()
	header, err := json.Marshal(tokenstore.BackupHeader{Format: 2})
	if err != nil {
		t.Fatal(err)
	}
	newer := binary.BigEndian.AppendUint32([]byte("oauth-proxy vault backup\n"), uint32(len(header)))
	if _, err := tokenstore.ReadBackup(bytes.NewReader(append(newer, header...))); !errors.Is(err, tokenstore.ErrBackup) || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("of format 2: %v", err)
	}
	for _, other := range []string{"", "x", strings.Repeat("{}\n", 100)} {
		if _, err := tokenstore.ReadBackup(strings.NewReader(other)); !errors.Is(err, tokenstore.ErrBackup) || !strings.Contains(err.Error(), "caddy oauth-proxy backup") {
			t.Errorf("%q: %v", other, err)
		}
	}
}

func TestErrorsOfWhatABackupIsWrittenToEndIt(t *testing.T) {
	t.Parallel()
	s, v, _, _ := backedUp(t)
	if _, err := v.WriteBackup(t.Context(), s, fullDisk{}, nil); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("WriteBackup = %v", err)
	}
}

func TestBackupThatNobodyCouldOpenIsNotMade(t *testing.T) {
	t.Parallel()
	s, v, _, _ := backedUp(t)
	row, err := s.Get(t.Context(), tokenstore.KindKeyring, "ring")
	if err != nil {
		t.Fatal(err)
	}
	row.Kind, row.ID = tokenstore.KindKeyring, "ring"
	row.Sealed[len(row.Sealed)/2] ^= 1
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpReseal, Row: row}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WriteBackup(t.Context(), s, io.Discard, nil); !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("with damaged keys: %v", err)
	}
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpDelete, Row: row}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WriteBackup(t.Context(), s, io.Discard, nil); !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("without keys: %v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// FuzzBackup reads what somebody gives out for a backup: it never panics, and takes no more memory than a row may have.
func FuzzBackup(f *testing.F) {
	s, key := newStore(f).(*bbolt.Store), tokenstore.RootKey{1, 2, 3, 200}
	v, err := tokenstore.Open(f.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: clock})
	if err != nil {
		f.Fatal(err)
	}
	commit(f, v, tokenstore.Save(newGrant("grant-1")), tokenstore.Save(newAccount("account-1")))
	backup := takeBackup(f, v, s)
	f.Add(backup)
	f.Add(backup[:len(backup)-1])
	f.Add(backup[:len(backup)/2])
	f.Add([]byte("oauth-proxy vault backup\n\x00\x00\x00\x02{}R\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		read, err := tokenstore.CheckBackup(t.Context(), bytes.NewReader(b), nil, nil)
		if err != nil && !errors.Is(err, tokenstore.ErrBackup) {
			t.Errorf("%v", err)
		}
		if err == nil && read.Rows > len(b)/40 {
			t.Errorf("%d rows in %d bytes", read.Rows, len(b))
		}
	})
}
