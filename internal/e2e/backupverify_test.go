package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A backup is verified where neither a Caddy nor its vault is, whole and signed, and every record in it.
func TestBackupIsVerifiedWithoutItsVault(t *testing.T) {
	t.Parallel()
	w := backupWorld(t)
	w.NewPlainBot(t).Login(t, testenv.NewBrowser(testenv.Alice))
	dir := t.TempDir()
	good := filepath.Join(dir, "vault.backup")
	mustRun(t, w, at(w, "backup", "--to", good)...)
	w.Terminate()
	grant := damageGrant(t, w.VaultPath())
	w.Run()
	damaged := filepath.Join(dir, "damaged.backup")
	mustRun(t, w, at(w, "backup", "--to", damaged)...)
	w.Terminate()
	if err := os.Rename(w.VaultPath(), w.VaultPath()+".old"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cut, otherKey := write("cut.backup", text[:len(text)/2]), write("other.key", []byte(testenv.NewKey()))
	own := config(w)
	caddyfile := w.Caddyfile()
	key := caddyfile[strings.Index(caddyfile, "encryption_key {file."):]
	key = key[:strings.Index(key, "\n")]
	other := configFile(t, strings.Replace(caddyfile, key, "encryption_key {file."+otherKey+"}", 1))
	for _, test := range []struct {
		name string
		args []string
		code int
		want []string
		not  string
	}{
		{"whole and signed", []string{"--from", good, "--config", own}, 0, []string{"signature:", "good", "The backup is whole.", "events in the audit trail", "opening records grant: 0 of 1"}, "FAULT"},
		{"without keys", []string{"--from", good}, 0, []string{"not checked: give --config", "The file is whole; what is in it was not opened."}, "The backup is whole"},
		{"of a damaged vault", []string{"--from", damaged, "--config", own}, 1, []string{"good", "FAULT (sealed, grant " + grant + "): ", "Its user connects again"}, "is whole"},
		{"cut off", []string{"--from", cut, "--config", own}, 1, []string{cut + ": the backup cannot be used: it is cut off"}, "is whole"},
		{"cut off, without keys", []string{"--from", cut}, 1, []string{"it is cut off"}, "is whole"},
		{"another key", []string{"--from", good, "--config", other}, 1, []string{"encrypted with another key when this backup was taken"}, "is whole"},
		{"no backup", []string{"--from", own, "--config", own}, 1, []string{"it is no backup of a vault"}, "is whole"},
		{"no file", []string{"--from", filepath.Join(dir, "none"), "--config", own}, 1, []string{"no such file"}, "is whole"},
		{"no name", []string{"--from", ""}, 2, []string{"--from is empty"}, "is whole"},
		{"no configuration", []string{"--from", good, "--config", filepath.Join(dir, "none")}, 2, []string{"--config: "}, "is whole"},
	} {
		out, said, code := exits(t, w, append([]string{"verify", "--adapter", "caddyfile"}, test.args...)...)
		all := out + said
		for _, want := range test.want {
			if !strings.Contains(all, want) {
				t.Errorf("%s: %q is missing: %s", test.name, want, all)
			}
		}
		if code != test.code || strings.Contains(all, test.not) {
			t.Errorf("%s: exit code %d: %s", test.name, code, all)
		}
	}
	if _, err := os.Stat(w.VaultPath()); !os.IsNotExist(err) {
		t.Errorf("a vault was made: %v", err)
	}
	for _, signed := range []bool{true, false} {
		args := []string{"verify", "--json", "--adapter", "caddyfile", "--from", damaged}
		if signed {
			args = append(args, "--config", own)
		}
		out, said, code := exits(t, w, args...)
		var r struct {
			Backup        tokenstore.Backup
			Signed, Whole bool
			Faults        []tokenstore.Fault
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil || r.Signed != signed || r.Whole == signed || r.Backup.Rows == 0 || (len(r.Faults) == 1) != signed || (code == 1) != signed {
			t.Errorf("signed %t: exit code %d, %v: %s%s", signed, code, err, out, said)
		}
	}
}

func TestBackupOfADatabaseIsVerified(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Postgres: testpg.Shared(t)})
	w.NewPlainBot(t).Login(t, testenv.NewBrowser(testenv.Alice))
	file := filepath.Join(t.TempDir(), "vault.backup")
	mustRun(t, w, at(w, "backup", "--to", file)...)
	w.Terminate()
	if said := mustRun(t, w, "verify", "--from", file, "--adapter", "caddyfile", "--config", configFile(t, w.Caddyfile())); !strings.Contains(said, "The backup is whole.") {
		t.Errorf("%s", said)
	}
}
