package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
)

// ready asks whether a gateway is ready, and returns status and text.
func ready(t testing.TB, w *testenv.World) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+"/oauth/ready", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

// becomes waits until a gateway says that it is ready, or not.
func becomes(t *testing.T, w *testenv.World, status int) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("/oauth/ready to be %d", status), func() bool {
		got, _ := ready(t, w)
		return got == status
	})
}

func TestReloadsUnderLoadFailNoRequestOnPostgreSQL(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{TokenLife: 3 * time.Second, Postgres: testpg.Shared(t)})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calls atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				who, err := b.WhoAmI(t.Context())
				calls.Add(1)
				if err != nil || !strings.Contains(who, "You are alice") {
					t.Errorf("under load: %q, %v", who, err)
					return
				}
			}
		})
	}
	const pool = 10
	most := 0
	reload := func(i int, caddyfile string) {
		if err := w.Reload(caddyfile); err != nil {
			t.Errorf("reload %d: %v", i, err)
		}
		b.Refresh(t)
		most = max(most, w.Connections(t))
	}
	for i := range 30 {
		reload(i, w.CaddyfileWith(fmt.Sprintf("access_token_ttl %ds", 3600+i)))
	}
	if most > pool+1 {
		t.Errorf("reloads that leave the vault as it is: %d connections, want one pool of %d and a listener", most, pool)
	}
	for i := range 3 { // a vault of its own each, until the config before is gone
		reload(30+i, strings.Replace(w.Caddyfile(), w.VaultInPostgres(""), w.VaultInPostgres(fmt.Sprintf("pool %d", 4+i)), 1))
	}
	stop()
	wg.Wait()
	t.Logf("%d calls during 33 reloads, at most %d connections", calls.Load(), most)
	if s := w.Provider.Stats(); s.Replays != 0 || s.Refused != 0 || s.Logins != 1 {
		t.Errorf("at the provider: %+v", s)
	}
	b.Client.CloseIdleConnections()
	testenv.Eventually(t, "the vaults of earlier configs to be closed", func() bool { return w.Connections(t) <= 6+1 })
	works(t, b)
}

func TestRejectedReloadLeavesTheLiveConfigOnPostgreSQLAlone(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Postgres: testpg.Shared(t)})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	good, vault := w.Caddyfile(), w.VaultInPostgres("")
	wrong := filepath.Join(w.Dir(), "wrong")
	if err := os.WriteFile(wrong, []byte("another-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ caddyfile, want string }{
		"wrong key":            {strings.Replace(good, w.Dir()+"/vault.key}", writeKey(t, w, "other.key")+"}", 1), "wrong encryption key"},
		"wrong password":       {strings.Replace(good, w.Dir()+"/pg}", wrong+"}", 1), "password authentication failed"},
		"no database there":    {strings.Replace(good, "{env.DATABASE_URL}", "postgres://vault@127.0.0.1:1/vault?sslmode=disable", 1), "127.0.0.1:1, database vault: "},
		"no such database":     {strings.Replace(good, "{env.DATABASE_URL}", "postgres://vault@"+testpg.Shared(t).Address()+"/nothing?sslmode=disable", 1), `database "nothing" does not exist`},
		"schema it may not":    {strings.Replace(good, vault, w.VaultInPostgres("schema information_schema"), 1), "cannot be one"},
		"listener taken":       {strings.Replace(good, w.URL+" {", w.MCPURL+" {", 1), "address already in use"},
		"no key":               {strings.Replace(good, "encryption_key", "#", 1), "encryption_key is missing"},
		"unset database":       {strings.Replace(good, "{env.DATABASE_URL}", "{env.NOBODY_SET_THIS}", 1), "NOBODY_SET_THIS"},
		"another app is wrong": {strings.Replace(good, "respond ", "reverse_proxy {\n lb_policy nonsense\n}\nrespond ", 1), "nonsense"},
	} {
		began := time.Now()
		err := w.Reload(c.caddyfile)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want … %s …", name, err, c.want)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
		if err != nil && (strings.Contains(err.Error(), testpg.Password) || strings.Contains(err.Error(), "another-password")) {
			t.Errorf("%s: the message holds a password: %v", name, err)
		}
		works(t, b)
	}
	b.Refresh(t)
	if n := w.Connections(t); n > 10+1 {
		t.Errorf("%d connections", n)
	}
	if err := w.Reload(good); err != nil {
		t.Errorf("a good config afterwards: %v", err)
	}
	works(t, b)
}

func TestReloadMovesFromAFileToPostgreSQLAndBack(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Postgres: testpg.Shared(t)})
	file := strings.Replace(w.Caddyfile(), w.VaultInPostgres(""), "vault bbolt "+w.VaultPath()+"\nencryption_key {file."+w.Dir()+"/vault.key}", 1)
	if err := w.Reload(file); err != nil {
		t.Fatal(err)
	}
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)
	testenv.Eventually(t, "the database to be left", func() bool { return w.Connections(t) == 0 })
	if err := w.Reload(w.Caddyfile()); err != nil {
		t.Fatal(err)
	}
	other := w.NewPlainBot(t)
	other.UseHTTP2()
	other.Login(t, testenv.NewBrowser(testenv.Bob))
	if who, err := other.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "You are bob") {
		t.Errorf("in the database: %q, %v", who, err)
	}
	testenv.Eventually(t, "the file to be closed", func() bool { return vaultHandles(t, w) == 0 })
	if err := w.Reload(file); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the file to have who logged in there", func() bool {
		who, err := b.WhoAmI(t.Context())
		return err == nil && strings.Contains(who, "You are alice")
	})
}

func TestPasswordOfTheDatabaseMayChangeWithoutAReload(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t) // whose role no other test uses
	w := testenv.Start(t, testenv.Options{Postgres: server})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	// The store outlives the config that it was opened under, and its log with it.
	log := filepath.Join(w.Dir(), "caddy.log")
	if err := w.Reload(strings.Replace(w.Caddyfile(), "level DEBUG", "level DEBUG\n\t\toutput file "+log, 1)); err != nil {
		t.Fatal(err)
	}
	const next = "the-next-password-of-the-vault"
	server.Exec(t, "ALTER ROLE "+testpg.User+" PASSWORD '"+next+"'")
	w.WritePassword(t, next)
	if cut := w.CutConnections(t); cut == 0 {
		t.Error("there were no connections")
	}
	works(t, b)
	b.Refresh(t)
	works(t, b)
	written, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(written), `"logger":"oauth_proxy.vaults.postgres"`) {
		t.Errorf("the log has nothing of connections that were lost: %v", err)
	}
	for _, text := range []string{w.Log(), string(written)} {
		if strings.Contains(text, next) || strings.Contains(text, testpg.Password) {
			t.Error("a password is in the log")
		}
	}
}

func TestPasswordOfTheDatabaseIsNowhereToBeRead(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	w := testenv.Start(t, testenv.Options{Postgres: server, Env: []string{"WHOLE_URL=" + server.Connection()}})
	whole := strings.Replace(w.Caddyfile(), "vault postgres {env.DATABASE_URL} {\n\t\t\tpassword {file."+w.Dir()+"/pg}", "vault postgres {env.WHOLE_URL} {", 1)
	for name, caddyfile := range map[string]string{"password in a file": w.Caddyfile(), "password in the URL": whole} {
		if err := w.Reload(caddyfile); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b := w.NewPlainBot(t)
		b.UseHTTP2()
		b.Login(t, testenv.NewBrowser(testenv.Alice))
		works(t, b)
		vault := get(t, w.AdminURL()+"/oauth_proxy/vault")
		if !strings.Contains(vault, `"module":"postgres"`) || !strings.Contains(vault, `"hosts":["`+server.Address()+`"]`) || !strings.Contains(vault, `"schema":"oauth_proxy"`) {
			t.Errorf("%s: the admin API says of the vault: %s", name, vault)
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.PID()))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // only Linux has it
			t.Fatal(err)
		}
		var activity string
		w.Ask(t, &activity, "SELECT string_agg(application_name || ' ' || query, ';') FROM pg_stat_activity")
		for where, text := range map[string]string{
			"the config": get(t, w.AdminURL()+"/config/"), "the admin API": vault, "the metrics": get(t, w.AdminURL()+"/metrics"), "the command line": string(command),
			"what the database shows": activity, "the goroutines": get(t, w.AdminURL()+"/debug/pprof/goroutine?debug=2"),
		} {
			if strings.Contains(text, testpg.Password) {
				t.Errorf("%s: it is in %s", name, where)
			}
		}
	}
	server.Stop(t)
	becomes(t, w, http.StatusServiceUnavailable)
	if err := w.Reload(strings.Replace(whole, "vault postgres {env.WHOLE_URL} {", "vault postgres {env.WHOLE_URL} {\npool 3", 1)); err == nil || strings.Contains(err.Error(), testpg.Password) {
		t.Errorf("without the database: %v", err)
	}
	if strings.Contains(w.Log(), testpg.Password) {
		t.Error("it is in the log")
	}
	server.Restart(t)
	becomes(t, w, http.StatusOK)
}

func TestGatewayIsReadyForAsLongAsItCanAnswer(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	const stale = 6 * time.Second
	w := testenv.Start(t, testenv.Options{Postgres: server})
	if err := w.Reload(strings.Replace(w.Caddyfile(), w.VaultInPostgres(""), w.VaultInPostgres("max_stale 6s"), 1)); err != nil {
		t.Fatal(err)
	}
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)
	becomes(t, w, http.StatusOK)
	server.Stop(t)
	began := time.Now()
	for time.Since(began) < stale/3 {
		if status, text := ready(t, w); status != http.StatusOK {
			t.Errorf("%s after the database went: %d %s", time.Since(began), status, text)
		}
		works(t, b) // from memory
	}
	becomes(t, w, http.StatusServiceUnavailable)
	if took := time.Since(began); took > stale+5*time.Second {
		t.Errorf("it said so after %s", took)
	}
	if _, text := ready(t, w); text != "the vault does not answer" {
		t.Errorf("it says %q", text)
	}
	if live := get(t, w.URL+"/oauth/live"); live != "live\n" {
		t.Errorf("live says %q", live)
	}
	metrics := get(t, w.AdminURL()+"/metrics")
	for _, line := range []string{"caddy_oauth_proxy_vault_reachable 0\n", "caddy_oauth_proxy_vault_listening 0\n", "caddy_oauth_proxy_vault_connections_max 10\n"} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	server.Restart(t)
	becomes(t, w, http.StatusOK)
	works(t, b)
	testenv.Eventually(t, "the node to listen again", func() bool {
		metrics := get(t, w.AdminURL()+"/metrics")
		return strings.Contains(metrics, "caddy_oauth_proxy_vault_reachable 1\n") && strings.Contains(metrics, "caddy_oauth_proxy_vault_listening 1\n")
	})
	b.Refresh(t)
	if metrics := get(t, w.AdminURL()+"/metrics"); strings.Contains(metrics, "caddy_oauth_proxy_vault_repeats_total 0\n") || !strings.Contains(metrics, "caddy_oauth_proxy_vault_contact_timestamp_seconds 1") {
		t.Error("nothing was made again, or the last contact is not told")
	}
}

func TestValidateAsksNoDatabase(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Postgres: testpg.Shared(t)})
	path := filepath.Join(w.Dir(), "Caddyfile.elsewhere")
	elsewhere := strings.Replace(w.Caddyfile(), "{env.DATABASE_URL}", "postgres://vault@127.0.0.1:1/vault?sslmode=disable", 1)
	if err := os.WriteFile(path, []byte(elsewhere), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if out, err := w.Command(t.Context(), "validate", "--adapter", "caddyfile", "--config", path).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}
