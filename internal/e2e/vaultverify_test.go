package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// configFile writes a world's configuration to a file.
func configFile(t *testing.T, caddyfile string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A vault is verified while it is served, and when nothing serves it, in the same words; meanwhile and afterwards it is as it was.
func TestVaultIsVerifiedWithAndWithoutARunningCaddy(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	config := configFile(t, w.Caddyfile())
	verify := func(want int, args ...string) (out, said string) {
		t.Helper()
		out, said, code := exits(t, w, append([]string{"verify", "--adapter", "caddyfile"}, args...)...)
		if code != want {
			t.Fatalf("%v: exit code %d, %s%s; want %d", args, code, out, said, want)
		}
		return out, said
	}
	for _, args := range [][]string{at(w), {"--config", config}} {
		out, said := verify(0, args...)
		if !strings.Contains(out, "The vault is whole.") || !strings.Contains(said, "checking storage: ") || strings.Contains(said, "No Caddy answers") {
			t.Errorf("%v: %s%s", args, out, said)
		}
	}
	if _, said := verify(1, "--config", config, "--address", "localhost:1"); !strings.Contains(said, "is locked: is another Caddy running?") {
		t.Errorf("of a Caddy that is not asked: %s", said)
	}
	verify(4, "--address", "localhost:1")

	w.Terminate()
	file, err := os.ReadFile(w.VaultPath())
	if err != nil {
		t.Fatal(err)
	}
	out, said := verify(0, "--config", config)
	if !strings.Contains(out, "The vault is whole.") || !strings.Contains(said, "No Caddy answers at its admin endpoint: reading bbolt "+w.VaultPath()) {
		t.Errorf("without a Caddy: %s%s", out, said)
	}
	if after, err := os.ReadFile(w.VaultPath()); err != nil || !bytes.Equal(after, file) {
		t.Errorf("the file was changed, or %v", err)
	}
	verify(4)
	key := strings.TrimSuffix(w.VaultPath(), ".db") + ".key"
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		do   func() error
		want string
	}{
		{func() error { return os.WriteFile(key, []byte(testenv.NewKey()), 0o600) }, "wrong encryption key"},
		{func() error { return os.Remove(key) }, "the key file " + key + " is missing"},
	} {
		if err := test.do(); err != nil {
			t.Fatal(err)
		}
		if _, said := verify(1, "--config", config); !strings.Contains(said, test.want) {
			t.Errorf("%s; want %q", said, test.want)
		}
	}
	if _, err := os.Stat(key); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key was made: %v", err)
	}
	if err := os.WriteFile(key, text, 0o600); err != nil {
		t.Fatal(err)
	}

	grant := damageGrant(t, w.VaultPath())
	for _, running := range []bool{false, true} {
		if running {
			w.Run()
		}
		out, said := verify(1, "--config", config, "--json")
		var r operator.Verification
		if err := json.Unmarshal([]byte(out), &r); err != nil || r.Whole || len(r.Faults) != 2 || r.Faults[0].Class != tokenstore.FaultIndex || r.Faults[1].ID != grant || r.Faults[1].Class != tokenstore.FaultSealed {
			t.Errorf("running %t: %v: %s%s", running, err, out, said)
		}
		out, _ = verify(1, "--config", config)
		for _, want := range []string{"FAULT (sealed, grant " + grant + "): ", "Its user connects again", "user:mallory"} {
			if !strings.Contains(out, want) {
				t.Errorf("running %t: %q is missing: %s", running, want, out)
			}
		}
	}
	if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status == http.StatusOK {
		t.Errorf("the call of a grant that does not open: %d, %v", a.Status, err)
	}
}

// damageGrant flips a bit of the one grant in a file that is not open, and adds an index entry for it. It returns the grant's id.
func damageGrant(t *testing.T, path string) (id string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		grants := tx.Bucket([]byte("grant"))
		key, value := grants.Cursor().First()
		id, value = string(key), bytes.Clone(value)
		value[len(value)-1] ^= 1
		if err := grants.Put([]byte(id), value); err != nil {
			return err
		}
		return tx.Bucket([]byte("grant/refs")).Put([]byte("user:mallory\x00"+id), nil)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestVaultInPostgresIsVerified(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Postgres: testpg.Shared(t)})
	w.NewPlainBot(t).Login(t, testenv.NewBrowser(testenv.Alice))
	config := configFile(t, w.Caddyfile())
	verify := func(want int, text string) {
		t.Helper()
		out, said, code := exits(t, w, "verify", "--adapter", "caddyfile", "--config", config)
		if code != want || !strings.Contains(out, text) {
			t.Fatalf("exit code %d, %s%s; want %d and %q", code, out, said, want, text)
		}
	}
	verify(0, "The vault is whole.")
	w.Terminate()
	verify(0, "The vault is whole.")
	var n int
	w.Ask(t, &n, `WITH gone AS (DELETE FROM oauth_proxy.refs WHERE kind = 'grant' AND ref LIKE 'user:%' RETURNING 1) SELECT count(*) FROM gone`)
	verify(1, "the row is not found by the reference user:")
	w.Run()
	verify(1, "the row is not found by the reference user:")
}
