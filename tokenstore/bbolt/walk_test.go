package bbolt

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A refresh token that rotates is an update of a row with two dozen references, none of which changes.
func TestUpdateWritesOnlyWhatChangesOfTheIndex(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	c := insert("a", nil)
	c.Row.Due = time.UnixMilli(500)
	mustApply(t, s, c)
	entries := map[string][]byte{
		refsSuffix: []byte(refKey("client:1", "a")), expirySuffix: timeKey(time.UnixMilli(1000), "a"), dueSuffix: timeKey(time.UnixMilli(500), "a"),
	}
	has := func(b *bolt.Bucket, key []byte) bool {
		found, _ := b.Cursor().Seek(key)
		return bytes.Equal(found, key)
	}
	err := s.update(func(tx *bolt.Tx) error {
		before, err := get(tx, tokenstore.KindGrant, "a")
		if err != nil {
			return err
		}
		for suffix, key := range entries { // what is not written again stays away
			b := tx.Bucket([]byte(string(tokenstore.KindGrant) + suffix))
			if !has(b, key) {
				return fmt.Errorf("no entry %q in %s", key, suffix)
			}
			if err := b.Delete(key); err != nil {
				return err
			}
		}
		row := before
		row.Version, row.Refs = 2, []string{"client:1", "user:2"}
		if err := put(tx, row, &before); err != nil {
			return err
		}
		for suffix, key := range entries {
			if has(tx.Bucket([]byte(string(tokenstore.KindGrant)+suffix)), key) {
				return fmt.Errorf("entry %q of %s was written although it has not changed", key, suffix)
			}
		}
		refs := tx.Bucket([]byte(string(tokenstore.KindGrant) + refsSuffix))
		if !has(refs, []byte(refKey("user:2", "a"))) || has(refs, []byte(refKey("user:1", "a"))) {
			return errors.New("the reference that has changed was not written")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A list in which keys do not go up could go on for ever.
func TestR32ListThatGoesBackIsDamaged(t *testing.T) {
	t.Parallel()
	l := &idList{prefix: []byte("ref\x00")}
	if err := l.at([]byte("ref\x00b"), []byte("a"), 1); err != nil || string(l.id) != "b" {
		t.Errorf("at b: %q, %v", l.id, err)
	}
	for _, key := range []string{"ref\x00a", "ref\x00b", "ref\x00c" + string(make([]byte, tokenstore.MaxKey))} {
		if err := l.at([]byte(key), []byte("b"), 1); !errors.Is(err, tokenstore.ErrUnavailable) {
			t.Errorf("%q after b: %v; want ErrUnavailable", key, err)
		}
	}
	if err := l.at([]byte("other\x00a"), []byte("b"), 1); err != nil || l.id != nil {
		t.Errorf("behind the list: %q, %v", l.id, err)
	}
}

// What an index by time says of a row that is not so, as in a damaged file, keeps the others from nothing.
func TestR32EntriesByTimeWithoutTheirRowAreLeftOut(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	mustApply(t, s, insert("a", nil), insert("b", nil))
	if err := s.update(func(tx *bolt.Tx) error {
		for _, suffix := range []string{expirySuffix, dueSuffix} {
			b := tx.Bucket([]byte(string(tokenstore.KindGrant) + suffix))
			for i := range 300 {
				if err := b.Put(timeKey(time.UnixMilli(int64(i+1)), "gone"), nil); err != nil {
					return err
				}
			}
			if err := b.Put(timeKey(time.UnixMilli(1), "a"), nil); err != nil { // at a time that is not the row's
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if rows, err := s.Due(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 10); len(rows) != 0 || err != nil {
		t.Errorf("Due = %v, %v", rows, err)
	}
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 10); n != 2 || err != nil {
		t.Errorf("Sweep = %d, %v; want both rows", n, err)
	}
}
