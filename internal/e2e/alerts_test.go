package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// promtool is Prometheus's own tool, as `make promtool` builds it.
func promtool(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("PROMTOOL"), "../../.bin/promtool", "promtool"} {
		if exe, err := exec.LookPath(name); err == nil {
			return exe
		}
	}
	missing(t, "promtool is not there: run `make promtool`")
	return ""
}

func TestPromtoolAcceptsTheRulesAndTheirTests(t *testing.T) {
	t.Parallel()
	exe := promtool(t)
	for _, args := range [][]string{{"check", "rules", "prometheus-rules.yml"}, {"test", "rules", "prometheus-rules_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), exe, args...)
		cmd.Dir = "../../examples/monitoring"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// The alerts are provoked: a real gateway is scraped before and after something goes wrong, and Prometheus is shown a time in which nothing happened, and then
// one in which that goes on, minute by minute.
func TestAlertsFireWhenSomethingGoesWrong(t *testing.T) {
	t.Parallel()
	exe := promtool(t)
	for _, tt := range []struct {
		alert   string
		global  string
		prepare int // logins before
		fault   func(*testing.T, *testenv.World, []*testenv.PlainBot)
	}{
		{alert: "OAuthProxyRefreshFailures", prepare: 5, fault: refreshesFail},
		{alert: "OAuthProxyProviderGateClosed", prepare: 5, fault: refreshesFail},
		{alert: "OAuthProxyMCPFailures", prepare: 5, fault: refreshesFail},
		{alert: "OAuthProxyAccountsBreak", prepare: 6, fault: func(t *testing.T, w *testenv.World, bots []*testenv.PlainBot) {
			w.Provider.EndLogin(testenv.Alice.Name)
			for _, b := range bots {
				testenv.Eventually(t, "the account to break", func() bool {
					_, err := b.WhoAmI(t.Context())
					return err != nil && strings.Contains(err.Error(), "401")
				})
			}
		}},
		{alert: "OAuthProxyLoginFailures", prepare: 1, fault: func(t *testing.T, w *testenv.World, bots []*testenv.PlainBot) {
			w.Provider.SetFault(func(*http.Request) *provider.Fault { return &provider.Fault{Status: http.StatusServiceUnavailable} })
			for range 5 {
				if _, err := testenv.NewBrowser(testenv.Alice).TryLogin(bots[0].AuthorizeURL(), bots[0].Redirect); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{alert: "OAuthProxyLoginsRefused", prepare: 1, fault: func(t *testing.T, _ *testenv.World, bots []*testenv.PlainBot) {
			for range 12 {
				if status, m, err := bots[0].TokenRequest("authorization_code", strings.Repeat("x", 43)); err != nil || status != http.StatusBadRequest {
					t.Fatal(status, m, err)
				}
			}
		}},
		{alert: "OAuthProxyTokenReused", global: "refresh_grace off", prepare: 1, fault: func(t *testing.T, _ *testenv.World, bots []*testenv.PlainBot) {
			stolen := bots[0].Token()
			bots[0].Refresh(t)
			if status, _, err := bots[0].TokenRequest("refresh_token", stolen); err != nil || status != http.StatusBadRequest {
				t.Fatal(status, err)
			}
		}},
		{alert: "OAuthProxyRateLimitHits", prepare: 1, fault: func(t *testing.T, _ *testenv.World, bots []*testenv.PlainBot) {
			for range 100 {
				if _, _, err := bots[0].TokenRequest("refresh_token", "guess"); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{alert: "OAuthProxyVaultErrors", prepare: 1, fault: func(t *testing.T, w *testenv.World, bots []*testenv.PlainBot) {
			full := unix.Rlimit{Cur: 1, Max: 1} // no file can be written beyond its first byte
			if err := unix.Prlimit(w.PID(), unix.RLIMIT_FSIZE, &full, nil); err != nil {
				t.Fatal(err)
			}
			if status, m, err := bots[0].TokenRequest("refresh_token", bots[0].Token()); err != nil || status != http.StatusServiceUnavailable {
				t.Fatal(status, m, err)
			}
		}},
		{alert: "OAuthProxyAuditNotWritten", prepare: 1, fault: func(t *testing.T, w *testenv.World, bots []*testenv.PlainBot) {
			full := unix.Rlimit{Cur: 1, Max: 1}
			if err := unix.Prlimit(w.PID(), unix.RLIMIT_FSIZE, &full, nil); err != nil {
				t.Fatal(err)
			}
			if status, m, err := bots[0].TokenRequest("refresh_token", "guess"); err != nil || status != http.StatusBadRequest {
				t.Fatal(status, m, err)
			}
			testenv.Eventually(t, "the refusal not to be written", func() bool { s := scrape(t, w); return s.of("audit_failures_total") >= 3 && s.of("audit_waiting") > 0 })
		}},
		{alert: "OAuthProxyCleanupNotRun", fault: func(*testing.T, *testenv.World, []*testenv.PlainBot) {}}, // nothing is: no node cleans up any more
	} {
		t.Run(tt.alert, func(t *testing.T) {
			t.Parallel()
			w := testenv.Start(t, testenv.Options{TokenLife: time.Second, Global: tt.global})
			var bots []*testenv.PlainBot
			for range tt.prepare {
				b := w.NewPlainBot(t)
				b.Login(t, testenv.NewBrowser(testenv.Alice))
				bots = append(bots, b)
			}
			before := scrape(t, w)
			tt.fault(t, w, bots)
			replay(t, exe, tt.alert, before, scrape(t, w))
		})
	}
}

// refreshesFail has the provider answer 503, and waits until the gateway holds back.
func refreshesFail(t *testing.T, w *testenv.World, bots []*testenv.PlainBot) {
	w.Provider.SetFault(func(*http.Request) *provider.Fault { return &provider.Fault{Status: http.StatusServiceUnavailable} })
	testenv.Eventually(t, "refreshes to fail, and the gate to close", func() bool {
		for _, b := range bots {
			_, _ = b.WhoAmI(t.Context())
		}
		s := scrape(t, w)
		return s.of("upstream_refreshes_total", `outcome="unreachable"`) >= 4 && s.of("provider_gate_closed") == 1
	})
}

// replay shows Prometheus the two scrapes, and asks for the alert.
func replay(t *testing.T, exe, alert string, before, after series) {
	t.Helper()
	const quiet, faulty = 90, 60 // minutes; the clean-up of an hour is missed with the third
	now := float64(time.Now().Unix())
	var y strings.Builder
	fmt.Fprintf(&y, "rule_files: [%s]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n", absolute(t, "../../examples/monitoring/prometheus-rules.yml"))
	for _, name := range slices.Sorted(maps.Keys(after)) {
		was, is := before[name], after[name]
		switch {
		case strings.Contains(name, "_timestamp_seconds"): // time begins at zero there
			fmt.Fprintf(&y, "  - {series: '%s', values: '%gx%d'}\n", name, is-now, 5*quiet)
		case strings.Contains(name, "_total{") || strings.Contains(name, "_sum{") || strings.Contains(name, "_count{") || strings.Contains(name, "_bucket{"):
			fmt.Fprintf(&y, "  - {series: '%s', values: '%gx%d %g+%gx%d'}\n", name, was, quiet-1, is, is-was, 5*quiet)
		default:
			fmt.Fprintf(&y, "  - {series: '%s', values: '%gx%d %gx%d'}\n", name, was, quiet-1, is, 5*quiet)
		}
	}
	y.WriteString("  promql_expr_test:\n")
	want := func(minute int, expr string, value int) {
		fmt.Fprintf(&y, "  - {expr: '%s', eval_time: %dm, exp_samples: [{value: %d}]}\n", expr, minute, value)
	}
	firing := `count(ALERTS{alertname="` + alert + `",alertstate="firing"}) > bool 0 or vector(0)`
	want(quiet-1, `count(ALERTS) or vector(0)`, 0)
	if strings.Contains(alert, "Cleanup") {
		want(5*quiet, firing, 1)
	} else {
		want(quiet+faulty, firing, 1)
	}
	file := filepath.Join(t.TempDir(), "replay.yml")
	if err := os.WriteFile(file, []byte(y.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), exe, "test", "rules", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
