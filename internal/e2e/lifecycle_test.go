package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// vaultHandles counts the open handles of Caddy's process on the vault file.
func vaultHandles(t *testing.T, w *testenv.World) int {
	t.Helper()
	return len(openFiles(t, w, w.VaultPath()))
}

// openFiles lists Caddy's open files, all of them for an empty path.
func openFiles(t *testing.T, w *testenv.World, path string) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", w.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && (path == "" || target == path) {
			open = append(open, target)
		}
	}
	return open
}

func goroutines(t *testing.T, w *testenv.World) int {
	t.Helper()
	body := get(t, w.AdminURL()+"/debug/pprof/goroutine?debug=1")
	m := regexp.MustCompile(`goroutine profile: total (\d+)`).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no goroutine profile: %s", body)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// works fails the test unless the bot's calls arrive as alice's.
func works(t *testing.T, b *testenv.PlainBot) {
	t.Helper()
	if who, err := b.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "You are alice") {
		t.Errorf("whoami: %q, %v", who, err)
	}
}

func TestRejectedReloadLeavesTheLiveConfigAlone(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	notAVault := filepath.Join(w.Dir(), "text.db")
	if err := os.WriteFile(notAVault, bytes.Repeat([]byte("this is no vault\n"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	good := w.Caddyfile()
	for name, c := range map[string]struct{ caddyfile, want string }{
		"unknown provider type": {strings.Replace(good, "type          oidc", "type openid", 1), `type "openid" is unknown`},
		"unset secret":          {strings.Replace(good, "{env.DEMO_CLIENT_SECRET}", "{env.NOBODY_SET_THIS}", 1), "client_secret: {env.NOBODY_SET_THIS} is not set"},
		"missing key file":      {w.CaddyfileWith("encryption_key {file./nowhere/vault.key}"), "encryption_key 1"},
		// These two come so far as to open the vault, and fail in Start.
		"wrong key":             {w.CaddyfileWith("encryption_key {file." + writeKey(t, w, "other.key") + "}"), "wrong encryption key"},
		"vault is not a vault":  {strings.Replace(good, w.VaultPath(), notAVault, 1), "vault"},
		"listener taken":        {strings.Replace(good, w.URL+" {", w.MCPURL+" {", 1), "address already in use"},
		"another app is broken": {strings.Replace(good, "respond ", "reverse_proxy {\n lb_policy nonsense\n}\nrespond ", 1), "nonsense"},
	} {
		for range 2 {
			err := w.Reload(c.caddyfile)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want … %s …", name, err, c.want)
			}
			works(t, b)
		}
	}
	b.Refresh(t)
	if n := vaultHandles(t, w); n != 1 {
		t.Errorf("%d handles on the vault", n)
	}
	if err := w.Reload(good); err != nil {
		t.Errorf("a good config afterwards: %v", err)
	}
	works(t, b)
}

func writeKey(t *testing.T, w *testenv.World, name string) string {
	t.Helper()
	path := filepath.Join(w.Dir(), name)
	if err := os.WriteFile(path, []byte(testenv.NewKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReloadsUnderLoadFailNoRequest(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{TokenLife: 3 * time.Second})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	for range 5 { // settle
		if err := w.Reload(w.Caddyfile()); err != nil {
			t.Fatal(err)
		}
	}
	filesBefore, before := len(openFiles(t, w, "")), goroutines(t, w)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calls, failed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				who, err := b.WhoAmI(t.Context())
				calls.Add(1)
				if err != nil || !strings.Contains(who, "You are alice") {
					failed.Add(1)
					t.Errorf("under load: %q, %v", who, err)
					return
				}
			}
		})
	}
	for i := range 50 {
		// Every reload changes something, so that none is skipped.
		if err := w.Reload(w.CaddyfileWith(fmt.Sprintf("access_token_ttl %ds", 3600+i))); err != nil {
			t.Errorf("reload %d: %v", i, err)
		}
		b.Refresh(t)
	}
	stop()
	wg.Wait()
	t.Logf("%d calls during 50 reloads, %d failed", calls.Load(), failed.Load())
	if s := w.Provider.Stats(); s.Replays != 0 || s.Refused != 0 || s.Logins != 1 {
		t.Errorf("at the provider: %+v", s)
	}
	if n := vaultHandles(t, w); n != 1 {
		t.Errorf("%d handles on the vault", n)
	}
	b.Client.CloseIdleConnections()
	testenv.Eventually(t, fmt.Sprintf("files and goroutines to go back to %d and %d", filesBefore, before), func() bool {
		return len(openFiles(t, w, "")) <= filesBefore+10 && goroutines(t, w) <= before+20
	})
}

func TestReloadMayChangeKeysLifetimesAndVault(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	generated := filepath.Join(w.Dir(), "vault.key")
	next := writeKey(t, w, "next.key")
	for _, global := range []string{
		"encryption_key {file." + generated + "}",
		"encryption_key {file." + next + "} {file." + generated + "}\naccess_token_ttl 5m",
		"encryption_key {file." + next + "}",
	} {
		if err := w.Reload(w.CaddyfileWith(global)); err != nil {
			t.Fatalf("%s: %v", global, err)
		}
		works(t, b)
		b.Refresh(t)
	}
	if err := w.Reload(w.CaddyfileWith("encryption_key {file." + generated + "}")); err == nil || !strings.Contains(err.Error(), "wrong encryption key") {
		t.Errorf("back to a key that no longer opens the vault: %v", err)
	}
	// Another vault: its users are others, and the old file is closed.
	other := filepath.Join(w.Dir(), "other.db")
	if err := w.Reload(strings.Replace(w.Caddyfile(), w.VaultPath(), other, 1)); err != nil {
		t.Fatal(err)
	}
	// The old config still serves the connections that it has not told to go.
	testenv.Eventually(t, "a token of the other vault to be refused", func() bool {
		a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"))
		return err == nil && a.Status == http.StatusUnauthorized
	})
	testenv.Eventually(t, "the old vault to be closed", func() bool { return vaultHandles(t, w) == 0 })
	if err := w.Reload(w.CaddyfileWith("encryption_key {file." + next + "}")); err != nil {
		t.Fatal(err)
	}
	works(t, b)
}

// counting starts a call that streams for about as long as told, and returns when the first event is here.
func counting(t *testing.T, w *testenv.World, version string, numbers, ms int) (done <-chan error) {
	t.Helper()
	started := make(chan struct{})
	var once sync.Once
	s := w.ConnectWith(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), version, &mcp.ClientOptions{
		ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) { once.Do(func() { close(started) }) },
	})
	result := make(chan error, 1)
	go func() {
		params := &mcp.CallToolParams{Name: "count", Arguments: map[string]any{"to": numbers, "ms": ms}}
		params.SetProgressToken("p")
		_, err := s.CallTool(t.Context(), params)
		result <- err
	}()
	select {
	case <-started:
	case err := <-result:
		t.Fatalf("ended before it began: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("no first event")
	}
	return result
}

func TestR30StreamsOutliveAReload(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	done := counting(t, w, testenv.Stateless, 30, 100)
	for i := range 3 {
		if err := w.Reload(w.CaddyfileWith(fmt.Sprintf("access_token_ttl %dm", 30+i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("the stream broke: %v", err)
	}
}

func TestReloadWithoutThePluginClosesTheVaultAfterTheLastStream(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	done := counting(t, w, testenv.Stateless, 15, 100)
	without := fmt.Sprintf("{\n admin %s\n}\n%s {\n respond \"bare\"\n}\n", strings.TrimPrefix(w.AdminURL(), "http://"), w.URL)
	if err := w.Reload(without); err != nil {
		t.Fatal(err)
	}
	if n := vaultHandles(t, w); n != 1 {
		t.Errorf("%d handles on the vault while a stream is open", n)
	}
	if err := <-done; err != nil {
		t.Errorf("the stream broke: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
	testenv.Eventually(t, "the vault to be closed", func() bool { return vaultHandles(t, w) == 0 })
	if err := w.Reload(w.Caddyfile()); err != nil {
		t.Errorf("and back: %v", err)
	}
}

func TestR06ExitEndsStreamsAndLeavesInTime(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	done := counting(t, w, testenv.Stateful, 100, 1000)
	took := w.Terminate()
	if took > 10*time.Second {
		t.Errorf("leaving took %s", took)
	}
	if err := <-done; err == nil {
		t.Error("a call of 100 s finished")
	}
	if log := w.Log(); !strings.Contains(log, "shutdown complete") || strings.Contains(log, "panic") || strings.Contains(log, "database not open") {
		t.Error("the process did not leave in good order")
	}
}

func TestRestartsLogNobodyOut(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{TokenLife: 2 * time.Second})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	for i := range 6 {
		if i%2 == 0 {
			w.Terminate()
		} else {
			w.Kill()
		}
		w.Run()
		works(t, b)
		b.Refresh(t)
	}
	if s := w.Provider.Stats(); s.Logins != 1 || s.Replays != 0 {
		t.Errorf("%+v", s)
	}
}

// R31: a restart in the middle of a login does not break it.
func TestR31LoginOutlivesARestart(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	browser := testenv.NewBrowser(testenv.Alice)
	browser.OnPage = func(page string) {
		if strings.Contains(page, "password") || strings.Contains(page, "csrf") {
			w.Terminate()
			w.Run()
		}
	}
	b.Login(t, browser)
	works(t, b)
}

func TestR27SecondProcessIsToldWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	second := filepath.Join(w.Dir(), "second")
	config := strings.NewReplacer(w.URL+" {", "http://localhost:0 {", "admin localhost", "admin off #").Replace(w.Caddyfile())
	if err := os.WriteFile(second, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	start := time.Now()
	out, err := w.Command(ctx, "run", "--adapter", "caddyfile", "--config", second).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is another Caddy running") || !strings.Contains(string(out), w.VaultPath()) {
		t.Errorf("%v: %s", err, out)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestR28ValidateRunsBesideALiveGatewayAndTouchesNothing(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	if out, err := w.Command(t.Context(), "validate", "--adapter", "caddyfile", "--config", filepath.Join(w.Dir(), "Caddyfile")).CombinedOutput(); err != nil {
		t.Errorf("beside a live gateway: %v: %s", err, out)
	}
	fresh := filepath.Join(w.Dir(), "fresh.db")
	path := filepath.Join(w.Dir(), "Caddyfile.fresh")
	if err := os.WriteFile(path, []byte(strings.Replace(w.Caddyfile(), w.VaultPath(), fresh, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(w.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := w.Command(t.Context(), "validate", "--adapter", "caddyfile", "--config", path).CombinedOutput(); err != nil {
		t.Errorf("on a fresh host: %v: %s", err, out)
	}
	after, err := os.ReadDir(w.Dir())
	if err != nil || len(after) != len(before) {
		t.Errorf("validate made files: %v, %v", after, err)
	}
}

func TestLostKeyIsAClearStartError(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	w.Terminate()
	key := filepath.Join(w.Dir(), "vault.key")
	if err := os.Rename(key, key+".lost"); err != nil {
		t.Fatal(err)
	}
	vault, err := os.ReadFile(w.VaultPath())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := w.Command(ctx, "run", "--adapter", "caddyfile", "--config", filepath.Join(w.Dir(), "Caddyfile")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "vault.key is missing, but the vault was encrypted with it") {
		t.Errorf("%v: %s", err, out)
	}
	if again, err := os.ReadFile(w.VaultPath()); err != nil || string(again) != string(vault) {
		t.Errorf("the vault was written to: %v", err)
	}
	if err := os.Rename(key+".lost", key); err != nil {
		t.Fatal(err)
	}
	w.Run()
}
