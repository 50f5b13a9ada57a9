package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

func TestVaultFileIsCompactedWhileItServes(t *testing.T) {
	t.Parallel()
	w := startMigrationWorld(t)
	alices := w.NewPlainBot(t)
	alices.UseHTTP2()
	alices.Login(t, testenv.NewBrowser(testenv.Alice))
	was, err := os.Stat(w.VaultPath())
	if err != nil {
		t.Fatal(err)
	}
	stop := calling(t, alices, "alice")
	for range 3 {
		out, said, code := exits(t, w.World, at(w.World, "compact", "--json")...)
		var done operator.Compaction
		if err := json.Unmarshal([]byte(out), &done); code != 0 || err != nil || done.Before == 0 || done.After == 0 {
			t.Fatalf("compact: exit code %d, %v: %s%s", code, err, out, said)
		}
	}
	if n := stop(); n == 0 {
		t.Error("nobody called meanwhile")
	}
	if now, err := os.Stat(w.VaultPath()); err != nil || os.SameFile(was, now) {
		t.Errorf("the file was not replaced: %v", err)
	}
	bobs := w.NewPlainBot(t)
	bobs.Login(t, testenv.NewBrowser(testenv.Bob))
	if out, said, code := exits(t, w.World, at(w.World, "compact")...); code != 0 || !strings.Contains(out, "before:") {
		t.Errorf("compact: exit code %d: %s%s", code, out, said)
	}
	w.Kill()
	w.Run()
	for name, bot := range map[string]*testenv.PlainBot{"alice": alices, "bob": bobs} {
		if who, err := bot.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "You are "+name) {
			t.Errorf("after a restart: %q, %v", who, err)
		}
	}

	w.move(w.database)
	if _, said, code := exits(t, w.World, at(w.World, "compact")...); code == 0 || !strings.Contains(said, "read-only") || !strings.Contains(said, "migrate --abort") {
		t.Errorf("compact of a vault that was moved: exit code %d: %s", code, said)
	}
	if err := w.Reload(w.database); err != nil {
		t.Fatal(err)
	}
	if _, said, code := exits(t, w.World, at(w.World, "compact")...); code == 0 || !strings.Contains(said, "PostgreSQL gives free room back by itself") {
		t.Errorf("compact of a vault in PostgreSQL: exit code %d: %s", code, said)
	}
}
