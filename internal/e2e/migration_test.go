package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// migrationWorld is a gateway on a file, and the configurations between which its vault is moved.
type migrationWorld struct {
	*testenv.World
	t              *testing.T
	file, database string // configurations
}

func startMigrationWorld(t *testing.T) *migrationWorld {
	t.Helper()
	connection := testpg.Database(t)
	key := filepath.Join(t.TempDir(), "vault.key")
	if err := os.WriteFile(key, []byte(testenv.NewKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	w := testenv.Start(t, testenv.Options{
		TokenLife: 10 * time.Minute, Env: []string{"DATABASE_URL=" + connection}, Global: "encryption_key {file." + key + "}",
	})
	return &migrationWorld{World: w, t: t, file: w.Caddyfile(), database: strings.Replace(w.Caddyfile(), "vault bbolt "+w.VaultPath(), "vault postgres {env.DATABASE_URL}", 1)}
}

// migrate runs the command, and returns what it printed and its exit code.
func (w *migrationWorld) migrate(args ...string) (m operator.Migration, said string, code int) {
	w.t.Helper()
	out, said, code := exits(w.t, w.World, append(at(w.World, "migrate", "--json"), args...)...)
	if len(out) > 0 {
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			w.t.Fatalf("%v: %s", err, out)
		}
	}
	return m, said, code
}

// config writes a configuration to a file.
func (w *migrationWorld) config(caddyfile string) string {
	w.t.Helper()
	f, err := os.CreateTemp(w.Dir(), "*.Caddyfile")
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := f.WriteString(caddyfile); err != nil {
		w.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		w.t.Fatal(err)
	}
	return f.Name()
}

func (w *migrationWorld) move(caddyfile string) operator.Migration {
	w.t.Helper()
	m, said, code := w.migrate("--to", w.config(caddyfile), "--adapter", "caddyfile")
	if code != 0 || m.State != operator.MigrationDone || !strings.Contains(said, "caddy reload") {
		w.t.Fatalf("migrate: exit code %d, %+v\n%s", code, m, said)
	}
	if err := tokenstore.Different(m.Kinds); err != nil || len(m.Kinds) != len(tokenstore.Kinds()) {
		w.t.Errorf("%d kinds were compared: %v", len(m.Kinds), err)
	}
	return m
}

// calling has a bot call without a pause, until stop is called, which returns how often it did.
func calling(t *testing.T, b *testenv.PlainBot, name string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var calls int
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			who, err := b.WhoAmI(context.WithoutCancel(ctx))
			if err != nil || !strings.Contains(who, "You are "+name) {
				t.Errorf("call %d of %s's: %q, %v", calls, name, who, err)
				return
			}
			calls++
		}
	})
	return func() int {
		cancel()
		running.Wait()
		return calls
	}
}

func TestVaultIsMovedToPostgreSQLAndBackWhileItServes(t *testing.T) {
	t.Parallel()
	w := startMigrationWorld(t)
	alices, bobs := w.NewPlainBot(t), w.NewPlainBot(t)
	alices.UseHTTP2()
	bobs.UseHTTP2()
	alices.Login(t, testenv.NewBrowser(testenv.Alice))
	bobs.Login(t, testenv.NewBrowser(testenv.Bob))
	stops := []func() int{calling(t, alices, "alice"), calling(t, bobs, "bob")}

	if m, said, code := w.migrate("--to", w.config(w.database), "--adapter", "caddyfile", "--dry-run"); code != 0 || m.State != operator.MigrationReady || m.Copy || m.ReadOnly != "" ||
		m.From != "bbolt "+w.VaultPath() || !strings.HasPrefix(m.To, "postgres 127.0.0.1") || !strings.HasSuffix(m.To, ", schema oauth_proxy") {
		t.Errorf("dry run: exit code %d, %+v\n%s", code, m, said)
	}
	for round := range 2 {
		from, to := w.file, w.database
		if round == 1 {
			from, to = w.database, w.file
		}
		m := w.move(to)
		if !strings.Contains(m.ReadOnly, "it was moved to "+m.To) {
			t.Errorf("after the move: %+v", m)
		}
		w.wantReadOnly(alices)
		if err := w.Reload(from + "\n# again\n"); err == nil || !strings.Contains(err.Error(), "the vault is not to be served: it was moved to "+m.To) {
			t.Errorf("reload of the configuration before: %v", err)
		}
		if _, said, code := w.migrate("--abort"); code != 1 || !strings.Contains(said, "to go back") {
			t.Errorf("abort when it is done: exit code %d: %s", code, said)
		}
		if err := w.Reload(to); err != nil {
			t.Fatal(err)
		}
		alices.Refresh(t)
		bobs.Refresh(t)
		w.NewPlainBot(t).Login(t, testenv.NewBrowser(testenv.Alice))
		if got, _, code := w.migrate(); code != 0 || got.ReadOnly != "" || got.State != operator.MigrationDone {
			t.Errorf("migrate on the new vault: exit code %d, %+v", code, got)
		}
	}
	for _, stop := range stops {
		if n := stop(); n < 20 {
			t.Errorf("only %d calls were made", n)
		}
	}
	w.wantTrail("begun", "done", "begun", "done")
}

// wantReadOnly tries what must write.
func (w *migrationWorld) wantReadOnly(b *testenv.PlainBot) {
	w.t.Helper()
	if err := b.TryRefresh(); err == nil || !strings.Contains(err.Error(), "503") {
		w.t.Errorf("refresh while the vault is read-only: %v", err)
	}
	resp, err := http.Post(w.URL+"/api/v1/oauth-proxy/demo/register", "application/json", strings.NewReader(`{"client_name":"late","redirect_uris":["http://localhost/callback"]}`))
	if err != nil {
		w.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		w.t.Errorf("registration while the vault is read-only: %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
}

// wantTrail holds the trail against the steps of migrations, the oldest first, and against itself.
func (w *migrationWorld) wantTrail(steps ...string) {
	w.t.Helper()
	var got string
	testenv.Eventually(w.t, "the migrations in the audit trail", func() bool {
		var page struct {
			Events []struct{ Details map[string]string }
		}
		if err := json.Unmarshal([]byte(get(w.t, w.AdminURL()+"/oauth_proxy/audit?type=vault.move")), &page); err != nil {
			w.t.Fatal(err)
		}
		got = ""
		for _, e := range page.Events {
			got = e.Details["step"] + " " + got
		}
		return strings.TrimSpace(got) == strings.Join(steps, " ")
	})
	out, err := w.Command(w.t.Context(), "oauth-proxy", "verify-audit", "--address", strings.TrimPrefix(w.AdminURL(), "http://")).CombinedOutput()
	if err != nil {
		w.t.Errorf("verify-audit: %v\n%s", err, out)
	}
}

func TestMigrationIsRefusedInWords(t *testing.T) {
	t.Parallel()
	w := startMigrationWorld(t)
	other := filepath.Join(t.TempDir(), "other.key")
	if err := os.WriteFile(other, []byte(testenv.NewKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	beside := strings.Replace(w.file, w.VaultPath(), filepath.Join(w.Dir(), "beside.db"), 1)
	key := w.file[strings.Index(w.file, "encryption_key "):]
	key = key[:strings.Index(key, "\n")]
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"the same file":        {[]string{"--to", w.config(w.file)}, 1, "is where the vault is"},
		"another key":          {[]string{"--to", w.config(strings.Replace(w.database, key, "encryption_key {file."+other+"}", 1))}, 1, "wrong encryption key"},
		"no key in a database": {[]string{"--to", w.config(strings.Replace(w.database, key, "", 1))}, 2, "encryption_key is missing"},
		"no key beside a file": {[]string{"--to", w.config(strings.Replace(beside, key, "", 1))}, 1, "copy the key file of this vault there"},
		"no such database":     {[]string{"--to", w.config(strings.Replace(w.database, "{env.DATABASE_URL}", "postgres://nobody@127.0.0.1:1/none", 1))}, 1, "127.0.0.1"},
		"no such directory":    {[]string{"--to", w.config(strings.Replace(w.file, w.VaultPath(), "/no/such/directory/vault.db", 1))}, 1, "/no/such/directory"},
		"no such file":         {[]string{"--to", "/no/such/Caddyfile"}, 2, "/no/such/Caddyfile"},
		"empty":                {[]string{"--to", ""}, 2, "--to is empty"},
		"two things at once":   {[]string{"--to", "x", "--abort"}, 2, "give one of them"},
		"a dry run of nothing": {[]string{"--dry-run"}, 2, "--dry-run is for --to"},
		"thawing nothing":      {[]string{"--thaw"}, 2, "name that with --config"},
		"no Caddy":             {[]string{"--to", w.config(w.database), "--address=localhost:1"}, 4, "no Caddy answers"},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // one Caddy for all
			_, said, code := w.migrate(append(tt.args, "--adapter", "caddyfile")...)
			if code != tt.code || !strings.Contains(said, tt.want) {
				t.Errorf("exit code %d: %s; want %d, and %q", code, said, tt.code, tt.want)
			}
		})
	}
	if m, _, code := w.migrate(); code != 0 || m.State != operator.MigrationNone || m.ReadOnly != "" {
		t.Errorf("exit code %d, %+v", code, m)
	}
	if m, _, code := w.migrate("--abort"); code != 0 || m.State != operator.MigrationNone {
		t.Errorf("abort of nothing: exit code %d, %+v", code, m)
	}
}

// A gateway that is started on the vault that was left behind says so, and does not serve it.
func TestVaultThatWasMovedIsNotServedByMistake(t *testing.T) {
	t.Parallel()
	w := startMigrationWorld(t)
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	m := w.move(w.database)
	w.Terminate()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	old := w.config(w.file)
	out, err := w.Command(ctx, "run", "--adapter", "caddyfile", "--config", old).CombinedOutput()
	for _, want := range []string{"the vault is not to be served: it was moved to " + m.To, "start with the configuration that names that", "migrate --thaw"} {
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("Caddy started on the old vault: %v: %s; want %q", err, out, want)
		}
	}
	if _, said, code := w.migrate("--thaw", "--config", old, "--adapter", "caddyfile"); code != 0 {
		t.Fatalf("thaw: exit code %d: %s", code, said)
	}
	if _, said, code := w.migrate("--thaw", "--config", old, "--adapter", "caddyfile"); code != 1 || !strings.Contains(said, "it is not frozen") {
		t.Errorf("thaw again: exit code %d: %s", code, said)
	}
	w.Run()
	works(t, b)
	b.Refresh(t)
	if _, said, code := w.migrate("--to", w.config(w.database), "--adapter", "caddyfile"); code != 1 || !strings.Contains(said, "holds a vault that is served, or was") {
		t.Errorf("a second move to a vault that may be served: exit code %d: %s", code, said)
	}
}

// Killed in the middle, the gateway serves read-only when it is back, until the migration is run again or aborted.
func TestGatewayThatIsKilledDuringAMigrationGoesOn(t *testing.T) {
	t.Parallel()
	w := startMigrationWorld(t)
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	w.Kill()
	w.freeze(tokenstore.FreezeMoving, "somewhere else")
	w.Run()
	works(t, b)
	w.wantReadOnly(b)
	if m, _, code := w.migrate(); code != 0 || m.State != operator.MigrationInterrupted || m.To != "somewhere else" || !strings.Contains(m.ReadOnly, "it is being moved to somewhere else") {
		t.Errorf("exit code %d, %+v", code, m)
	}
	if _, said, code := w.migrate("--to", w.config(w.database), "--adapter", "caddyfile"); code != 1 || !strings.Contains(said, "it is being moved to somewhere else") {
		t.Errorf("a migration to another place: exit code %d: %s", code, said)
	}
	if m, said, code := w.migrate("--abort"); code != 0 || m.ReadOnly != "" {
		t.Errorf("abort: exit code %d, %+v: %s", code, m, said)
	}
	b.Refresh(t)
	ready, _, _ := w.migrate("--to", w.config(w.database), "--adapter", "caddyfile", "--dry-run")
	w.Kill()
	w.freeze(tokenstore.FreezeDraining, ready.To)
	w.Run()
	w.move(w.database)
	if err := w.Reload(w.database); err != nil {
		t.Fatal(err)
	}
	works(t, b)
	b.Refresh(t)
	w.wantTrail("aborted", "done")
}

// freeze leaves the vault of a Caddy that is gone as it is in the middle of a migration.
func (w *migrationWorld) freeze(state tokenstore.FreezeState, to string) {
	w.t.Helper()
	s, err := bbolt.Open(w.VaultPath(), 10*time.Second)
	if err != nil {
		w.t.Fatal(err)
	}
	f := tokenstore.Freeze{State: state, Vault: "any", From: "bbolt " + w.VaultPath(), To: to, Since: time.Now().UTC().Truncate(time.Millisecond)}
	if err := s.Freeze(w.t.Context(), tokenstore.Freeze{}, f); err != nil {
		w.t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// A stream of the configuration before would never hear that its grant was revoked where the vault is now.
func TestStreamsEndWhenTheirVaultIsElsewhere(t *testing.T) {
	t.Parallel()
	w := startMigrationWorld(t)
	done := counting(t, w.World, testenv.Stateful, 100, 1000)
	w.move(w.database)
	select {
	case err := <-done:
		t.Fatalf("the stream ended before the new configuration was loaded: %v", err)
	default:
	}
	if err := w.Reload(w.database); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Error("a call of 100 s finished")
		}
	case <-time.After(30 * time.Second):
		t.Error("the stream goes on on a vault that was moved")
	}
}
