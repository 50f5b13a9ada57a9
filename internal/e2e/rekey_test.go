package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// rekeyed runs the command, and returns what it printed and its exit code.
func rekeyed(t *testing.T, w *testenv.World, args ...string) (r tokenstore.Rekey, said string, code int) {
	t.Helper()
	out, said, code := exits(t, w, append(at(w, "rekey", "--json"), args...)...)
	if len(out) > 0 {
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return r, said, code
}

// vaultKeys are the ids of the vault's own keys by use.
func vaultKeys(t *testing.T, w *testenv.World) (v operator.VaultInfo, keys map[string][]string) {
	t.Helper()
	if err := json.Unmarshal([]byte(get(t, w.AdminURL()+"/oauth_proxy/vault")), &v); err != nil {
		t.Fatal(err)
	}
	keys = make(map[string][]string)
	for _, k := range v.VaultKeys {
		keys[k.Use] = append(keys[k.Use], k.ID)
	}
	return v, keys
}

func TestVaultIsGivenNewKeysWhileItServes(t *testing.T) {
	t.Parallel()
	old, fresh := filepath.Join(t.TempDir(), "old.key"), filepath.Join(t.TempDir(), "new.key")
	for _, file := range []string{old, fresh} {
		if err := os.WriteFile(file, []byte(testenv.NewKey()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := testenv.Start(t, testenv.Options{TokenLife: 10 * time.Minute, Global: "encryption_key {file." + old + "}"})
	alices, bobs := w.NewPlainBot(t), w.NewPlainBot(t)
	alices.UseHTTP2()
	bobs.UseHTTP2()
	alices.Login(t, testenv.NewBrowser(testenv.Alice))
	bobs.Login(t, testenv.NewBrowser(testenv.Bob))
	stops := []func() int{calling(t, alices, "alice"), calling(t, bobs, "bob")}

	if r, _, code := rekeyed(t, w, "--show"); code != 0 || r.State != tokenstore.RekeyNone {
		t.Errorf("exit code %d, %+v", code, r)
	}
	if err := w.Reload(strings.Replace(w.Caddyfile(), "{file."+old+"}", "{file."+fresh+"} {file."+old+"}", 1)); err != nil {
		t.Fatal(err)
	}
	before, keys := vaultKeys(t, w)
	if len(before.RemovableKeys) != 1 || before.RemovableKeys[0] != "{file."+old+"}" {
		t.Errorf("keys that can be taken out: %q", before.RemovableKeys)
	}
	r, said, code := rekeyed(t, w)
	if code != 0 || r.State != tokenstore.RekeyWaiting || r.Resealed == 0 || r.DamagedRows != 0 || !strings.Contains(said, "Every record is sealed anew") || !strings.Contains(said, string(tokenstore.RekeyAnnouncing)) {
		t.Errorf("exit code %d, %+v\n%s", code, r, said)
	}
	if _, now := vaultKeys(t, w); len(now["grant"]) != 1 || now["grant"][0] == keys["grant"][0] || len(now["jwtkey"]) != 1 || now["jwtkey"][0] == keys["jwtkey"][0] ||
		len(now["txn"]) != 2 || len(now["index"]) != 1 || now["index"][0] != keys["index"][0] {
		t.Errorf("keys were %v, and are %v", keys, now)
	}
	alices.Refresh(t)
	bobs.Refresh(t)
	w.NewPlainBot(t).Login(t, testenv.NewBrowser(testenv.Alice))
	for _, stop := range stops {
		if n := stop(); n < 20 {
			t.Errorf("only %d calls were made", n)
		}
	}
	text, err := os.ReadFile(fresh)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, text, 0o600); err != nil { // the configuration that it is started with names this file alone
		t.Fatal(err)
	}
	w.Kill() // what it knows is in the vault
	w.Run()
	works(t, alices)
	alices.Refresh(t)
	if r, _, code := rekeyed(t, w, "--show"); code != 0 || r.State != tokenstore.RekeyWaiting {
		t.Errorf("after a restart: exit code %d, %+v", code, r)
	}
	out, err := w.Command(t.Context(), at(w, "oauth-proxy", "verify-audit")...).CombinedOutput()
	if err != nil {
		t.Errorf("verify-audit: %v\n%s", err, out)
	}
	if _, said, code := exits(t, w, "rekey", "--address=localhost:1"); code != 4 || !strings.Contains(said, "no Caddy answers") {
		t.Errorf("without a Caddy: exit code %d: %s", code, said)
	}
}

// A node that was asleep while the keys were changed, under it, writes nothing that the others cannot read.
func TestNodeThatSleepsOverARekeyWritesWhatAllCanRead(t *testing.T) {
	t.Parallel()
	c := testenv.StartCluster(t, testenv.ClusterOptions{Nodes: 2})
	hers := c.NewPlainBot(t, c.Node(2))
	hers.Login(t, testenv.NewBrowser(testenv.Alice))
	c.Node(2).Stop()
	r, said, code := rekeyed(t, c.Node(1))
	c.Node(2).Continue()
	if code != 0 || r.State != tokenstore.RekeyWaiting {
		t.Fatalf("exit code %d, %+v\n%s", code, r, said)
	}
	hers.Refresh(t) // the first that it does
	works(t, hers)
	other := c.NewPlainBot(t, c.Node(2))
	other.Login(t, testenv.NewBrowser(testenv.Alice))
	for _, b := range []*testenv.PlainBot{hers, other} {
		via(c, b, 1)
		works(t, b)
		b.Refresh(t)
	}
	v := c.Vault(t)
	report, err := v.VerifyAudit(t.Context(), "")
	if err != nil || !report.Whole() {
		t.Errorf("audit trail: %+v, %v", report, err)
	}
}
