package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// backupWorld is a gateway on a file, with its key in another one.
func backupWorld(t *testing.T) *testenv.World {
	t.Helper()
	key := filepath.Join(t.TempDir(), "vault.key")
	if err := os.WriteFile(key, []byte(testenv.NewKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	return testenv.Start(t, testenv.Options{TokenLife: 10 * time.Minute, Global: "encryption_key {file." + key + "}"})
}

// config is the file that a world's Caddy was started with.
func config(w *testenv.World) string { return filepath.Join(w.Dir(), "Caddyfile") }

// logFile has what Caddy has logged.
func logFile(t *testing.T, w *testenv.World) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(w.Log()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustRun(t *testing.T, w *testenv.World, args ...string) string {
	t.Helper()
	out, errs, code := exits(t, w, args...)
	if code != 0 {
		t.Fatalf("%v: exit code %d\n%s%s", args, code, out, errs)
	}
	return out + errs
}

// wantStatus sends a call.
func wantStatus(t *testing.T, b *testenv.PlainBot, want int) {
	t.Helper()
	if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != want {
		t.Errorf("call: %d %s, %v; want %d", a.Status, a.Body, err, want)
	}
}

// wantWho refreshes, and calls.
func wantWho(t *testing.T, b *testenv.PlainBot, name string) {
	t.Helper()
	b.Refresh(t)
	if who, err := b.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "You are "+name) {
		t.Errorf("%s is %q, %v", name, who, err)
	}
}

// startRefused starts Caddy, which is to refuse, and returns what it says.
func startRefused(t *testing.T, w *testenv.World) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := w.Command(ctx, "run", "--adapter", "caddyfile", "--config", config(w)).CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("Caddy starts: %v\n%s", err, out)
	}
	return string(out)
}

func TestR36DrillUnderLoadAndRestoreOnAnEmptyPlace(t *testing.T) {
	t.Parallel()
	w := backupWorld(t)
	alices, bobs, ended, later := w.NewPlainBot(t), w.NewPlainBot(t), w.NewPlainBot(t), w.NewPlainBot(t)
	alices.Login(t, testenv.NewBrowser(testenv.Alice))
	bobs.Login(t, testenv.NewBrowser(testenv.Bob))
	ended.Login(t, testenv.NewBrowser(testenv.Bob))
	stops := []func() int{calling(t, alices, "alice"), calling(t, bobs, "bob")}

	free := testenv.FreePort(t)
	drill := strings.NewReplacer("vault bbolt "+w.VaultPath(), "vault bbolt "+filepath.Join(t.TempDir(), "drill.db"),
		strings.TrimPrefix(w.AdminURL(), "http://"), fmt.Sprintf("localhost:%d", free), "http_port ", fmt.Sprintf("http_port %d\n#", testenv.FreePort(t))).Replace(w.Caddyfile())
	drillFile := filepath.Join(t.TempDir(), "Caddyfile.drill")
	if err := os.WriteFile(drillFile, []byte(drill), 0o600); err != nil {
		t.Fatal(err)
	}
	own := w.Command(t.Context())
	cmd := exec.CommandContext(t.Context(), "sh", "../../examples/backup/drill.sh", config(w), drillFile)
	cmd.Env = append(own.Env, "CADDY="+own.Path)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "The trail is whole.") || !strings.Contains(string(out), "The backup is good.") {
		t.Fatalf("drill: %v\n%s", err, out)
	}

	file := filepath.Join(t.TempDir(), "vault.backup")
	if said := mustRun(t, w, at(w, "backup", "--to", file)...); !strings.Contains(said, "sha-256") {
		t.Errorf("backup said: %s", said)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("backup: %v, %v", info, err)
	}
	for _, stop := range stops {
		if n := stop(); n < 5 {
			t.Errorf("only %d calls were made meanwhile", n)
		}
	}
	later.Login(t, testenv.NewBrowser(testenv.Alice))
	before := bobs.Twin(bobs.Token())
	bobs.Refresh(t) // the backup does not know the new one
	if status, m, err := ended.Form("revoke", "token", ended.Token()); err != nil || status != http.StatusOK {
		t.Fatalf("revoke: %d %v, %v", status, m, err)
	}
	w.Terminate()

	if err := os.Rename(w.VaultPath(), w.VaultPath()+".old"); err != nil {
		t.Fatal(err)
	}
	said := mustRun(t, w, "restore", "--from", file, "--config", config(w), "--audit-log", logFile(t, w))
	if !strings.Contains(said, "grants ended:") {
		t.Errorf("restore said: %s", said)
	}
	w.Run()
	for _, b := range []*testenv.PlainBot{alices, bobs, ended, later} {
		wantStatus(t, b, http.StatusUnauthorized) // every access token of before
	}
	wantWho(t, alices, "alice")
	for name, b := range map[string]*testenv.PlainBot{"bob, with a token of after the backup": bobs, "ended": ended, "later": later} {
		if err := b.TryRefresh(); err == nil || !strings.Contains(err.Error(), "invalid_grant") && !strings.Contains(err.Error(), "invalid_client") {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantWho(t, before, "bob")
	bobs.Login(t, testenv.NewBrowser(testenv.Bob))
	wantWho(t, bobs, "bob")
	wantWho(t, alices, "alice")
	if said := mustRun(t, w, at(w, "verify-audit")...); !strings.Contains(said, "The trail is whole.") {
		t.Errorf("verify-audit: %s", said)
	}
	if said := mustRun(t, w, at(w, "audit", "--type", "vault.backed_up,vault.restored", "--json")...); !strings.Contains(said, "audit_log") || !strings.Contains(said, "vault.backed_up") {
		t.Errorf("the trail says: %s", said)
	}
}

func TestBackupsThatCannotBeUsedAreRefusedBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	w := backupWorld(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "vault.backup")
	mustRun(t, w, at(w, "backup", "--to", file)...)
	if _, said, code := exits(t, w, at(w, "backup", "--to", file)...); code != 2 || !strings.Contains(said, "--force") {
		t.Errorf("backup over a file: exit code %d: %s", code, said)
	}
	mustRun(t, w, at(w, "backup", "--to", file, "--force")...)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out, said, code := exits(t, w, at(w, "backup", "--to", "-")...); code != 0 || !strings.HasPrefix(out, "oauth-proxy vault backup\n") {
		t.Errorf("backup to standard output: exit code %d: %s", code, said)
	}
	target := filepath.Join(dir, "new.db")
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fresh := write("fresh", strings.Replace(w.Caddyfile(), "vault bbolt "+w.VaultPath(), "vault bbolt "+target, 1))
	otherKey := strings.Replace(w.Caddyfile(), "vault bbolt "+w.VaultPath(), "vault bbolt "+target, 1)
	lines := strings.Split(otherKey, "\n")
	for i, line := range lines {
		if strings.Contains(line, "encryption_key") {
			lines[i] = "encryption_key {file." + write("other.key", testenv.NewKey()) + "}"
		}
	}
	other := write("other", strings.Join(lines, "\n"))
	changed := []byte(string(whole))
	changed[len(changed)/2] ^= 1
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no choice":       {[]string{"--from", file, "--config", fresh}, 2, "--end-all"},
		"two choices":     {[]string{"--from", file, "--config", fresh, "--end-all", "--revive"}, 2, "say one of"},
		"nothing":         {[]string{"--config", fresh, "--revive"}, 2, "--in-place"},
		"both":            {[]string{"--from", file, "--in-place", "--config", fresh, "--revive"}, 2, "--in-place"},
		"no config":       {[]string{"--from", file, "--revive"}, 2, "--config is missing"},
		"other key":       {[]string{"--from", file, "--config", other, "--revive"}, 1, "encrypted with another key"},
		"cut off":         {[]string{"--from", write("cut", string(whole[:len(whole)-10])), "--config", fresh, "--revive"}, 1, "cut off"},
		"changed":         {[]string{"--from", write("changed", string(changed)), "--config", fresh, "--revive"}, 1, "was changed, or damaged"},
		"no backup":       {[]string{"--from", config(w), "--config", fresh, "--revive"}, 1, "no backup of a vault"},
		"not there":       {[]string{"--from", file + ".x", "--config", fresh, "--revive"}, 1, "no such file"},
		"log is text":     {[]string{"--from", file, "--config", fresh, "--audit-log", config(w)}, 1, "line 1"},
		"in use":          {[]string{"--from", file, "--config", config(w), "--revive"}, 1, "is another Caddy running"},
		"settle nothing":  {[]string{"--in-place", "--config", fresh, "--revive"}, 1, "holds no vault"},
		"settle, running": {[]string{"--in-place", "--config", config(w), "--revive"}, 1, "is another Caddy running"},
	} {
		_ = os.Remove(target)
		args := append([]string{"restore", "--adapter", "caddyfile"}, c.args...)
		if _, said, code := exits(t, w, args...); code != c.code || !strings.Contains(said, c.want) {
			t.Errorf("%s: exit code %d: %s", name, code, said)
		}
		if _, err := os.Stat(target); err == nil && !strings.HasPrefix(name, "settle") {
			t.Errorf("%s: the target was made", name)
		}
	}
}

// Whatever puts the vault's file back, a gateway does not serve it before it was said what is to become of what was ended since.
func TestT76VaultThatWasPutBackIsNotServedBeforeThatIsSettled(t *testing.T) {
	t.Parallel()
	w := backupWorld(t)
	alices, ended := w.NewPlainBot(t), w.NewPlainBot(t)
	alices.Login(t, testenv.NewBrowser(testenv.Alice))
	ended.Login(t, testenv.NewBrowser(testenv.Bob))
	w.Terminate()
	copied, err := os.ReadFile(w.VaultPath())
	if err != nil {
		t.Fatal(err)
	}
	w.Run()
	if status, m, err := ended.Form("revoke", "token", ended.Token()); err != nil || status != http.StatusOK {
		t.Fatalf("revoke: %d %v, %v", status, m, err)
	}
	w.Terminate()
	log := logFile(t, w)
	newest, err := os.ReadFile(w.VaultPath())
	if err != nil {
		t.Fatal(err)
	}
	put := func(vault []byte) {
		t.Helper()
		if err := os.WriteFile(w.VaultPath(), vault, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	put(copied)
	for range 2 { // trying again does not help
		if said := startRefused(t, w); !strings.Contains(said, "set back to an earlier state") || !strings.Contains(said, "restore --in-place") {
			t.Fatalf("Caddy says: %s", said)
		}
	}
	put(newest) // nor was anything done to what belongs there
	w.Run()
	wantWho(t, alices, "alice")
	w.Terminate()

	put(copied)
	mustRun(t, w, "restore", "--in-place", "--config", config(w), "--audit-log", log)
	w.Run()
	wantStatus(t, alices, http.StatusUnauthorized)
	if err := ended.TryRefresh(); err == nil {
		t.Error("the grant that was ended lives again")
	}
	alices.Login(t, testenv.NewBrowser(testenv.Alice))
	wantWho(t, alices, "alice")
	w.Terminate()
	w.Run() // as any other vault from now on
	w.Terminate()
	put(newest) // which is not the vault of after that any more
	if said := startRefused(t, w); !strings.Contains(said, "the vault of before") {
		t.Errorf("Caddy says: %s", said)
	}
}

func TestT76AnchorThatCannotBeReadOrWrittenHasAWayOut(t *testing.T) {
	t.Parallel()
	w := backupWorld(t)
	w.Terminate()
	dir := filepath.Join(w.Dir(), "caddy", "oauth_proxy", "anchors")
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("anchors: %v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := startRefused(t, w); !strings.Contains(said, files[0]+" is damaged") || !strings.Contains(said, "remove that file") {
		t.Errorf("Caddy says: %s", said)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	w.Run() // and makes it anew
	w.Terminate()
	if _, err := os.Stat(files[0]); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0123.json"), []byte("{"), 0o600); err != nil { // of another vault
		t.Fatal(err)
	}
	if err := os.Rename(w.VaultPath(), w.VaultPath()+".old"); err != nil {
		t.Fatal(err)
	}
	w.Run() // with a new vault, of which nothing is known
	w.Terminate()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/nowhere/anchors", dir); err != nil { // where nobody can write
		t.Fatal(err)
	}
	w.Run()
	if !strings.Contains(w.Log(), "nobody would notice that the vault was set back") {
		t.Error("the log does not say that the anchor cannot be written")
	}
}

// The running Caddy fills the store of another configuration; and a backup of a file is one for a database.
func TestBackupOfAFileIsRestoredToADatabase(t *testing.T) {
	t.Parallel()
	w := startMigrationWorld(t)
	alices := w.NewPlainBot(t)
	alices.UseHTTP2()
	alices.Login(t, testenv.NewBrowser(testenv.Alice))
	file := filepath.Join(t.TempDir(), "vault.backup")
	mustRun(t, w.World, at(w.World, "backup", "--to", file)...)
	args := at(w.World, "restore", "--from", file, "--to", w.config(w.database), "--adapter", "caddyfile", "--end-all")
	if said := mustRun(t, w.World, args...); !strings.Contains(said, "revocation orders:") || !strings.Contains(said, "postgres") {
		t.Errorf("restore said: %s", said)
	}
	if _, said, code := exits(t, w.World, args...); code != 1 || !strings.Contains(said, "holds a vault") {
		t.Errorf("restore over it: exit code %d: %s", code, said)
	}
	if who, err := alices.WhoAmI(t.Context()); err != nil {
		t.Errorf("the gateway that restored: %s, %v", who, err)
	}
	if err := w.Reload(w.database); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, alices, http.StatusUnauthorized)
	if err := alices.TryRefresh(); err == nil {
		t.Error("a grant outlives the end of all")
	}
	alices.Login(t, testenv.NewBrowser(testenv.Alice))
	wantWho(t, alices, "alice")
}
