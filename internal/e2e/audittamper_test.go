package e2e

import (
	"bytes"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// Whoever can write to the vault's file, and has not its key, changes or removes a piece of the audit trail: the command says so.
func TestVerifyAuditFindsWhatWasDoneToTheFile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		tamper func(segments *bolt.Bucket, id, sealed []byte) error
		want   string
	}{
		"a segment was removed": {
			func(segments *bolt.Bucket, id, _ []byte) error { return segments.Delete(id) },
			"segment 2, after -: the segments before this one are missing",
		},
		"a segment was edited": {
			func(segments *bolt.Bucket, id, sealed []byte) error {
				edited := bytes.Clone(sealed)
				edited[len(edited)/2] ^= 1
				return segments.Put(id, edited)
			},
			"segment 1, after -: audit_segment 000000000001: sealed value does not open",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testenv.Start(t, testenv.Options{})
			b := w.NewPlainBot(t)
			b.Login(t, testenv.NewBrowser(testenv.Alice))
			w.Terminate() // which chains what waits
			w.Run()
			b.Refresh(t)
			w.Terminate()
			w.Run()
			if out, errs, code := exits(t, w, at(w, "verify-audit")...); code != 0 {
				t.Fatalf("before: exit code %d, %s%s", code, out, errs)
			}
			w.Terminate()

			db, err := bolt.Open(w.VaultPath(), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bolt.Tx) error {
				segments := tx.Bucket([]byte("audit_segment"))
				id, sealed := segments.Cursor().First()
				return tt.tamper(segments, bytes.Clone(id), sealed)
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}

			w.Run()
			out, errs, code := exits(t, w, at(w, "verify-audit")...)
			if code != 1 || !strings.Contains(out, tt.want) {
				t.Errorf("exit code %d, %s%s; want it to say %s", code, out, errs, tt.want)
			}
			if a, err := b.WhoAmI(t.Context()); err != nil {
				t.Errorf("a damaged trail keeps users out: %s, %v", a, err)
			}
		})
	}
}
