package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDoctorFindsWhatIsWrongBeforeTheFirstLogin(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	if strings.Contains(w.Log(), "no site has") {
		t.Error("the log says that something is not served")
	}
	config := filepath.Join(w.Dir(), "Caddyfile")
	doctor := func(file string, env ...string) (string, bool) {
		t.Helper()
		cmd := w.Command(t.Context(), "oauth-proxy", "doctor", "--config", file, "--adapter", "caddyfile")
		cmd.Env = append(cmd.Env, env...)
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), testenv.ClientSecret) {
			t.Error("the output holds a secret")
		}
		return string(out), err == nil
	}
	out, healthy := doctor(config)
	for _, want := range []string{
		"ok       serves " + w.URL + "/.well-known/oauth-authorization-server",
		"ok       serves " + w.URL + "/.well-known/oauth-protected-resource/demo/mcp",
		"ok       serves " + w.URL + "/oauth/ready",
		"ok       asks for a token at " + w.URL + "/demo/mcp",
		"note     no allow: every user of demo may come in",
		"ok       discovery: issuer " + w.ProviderURL,
		"ok       token endpoint: answers, and does not refuse the gateway as a client",
		"redirect URI to register there: " + w.URL + "/api/v1/oauth/callback",
		"warning  the encryption key lies beside the vault",
	} {
		if !healthy || !strings.Contains(out, want) {
			t.Errorf("healthy %v, no %q in:\n%s", healthy, want, out)
		}
	}
	moved := filepath.Join(t.TempDir(), "Caddyfile")
	write(t, moved, strings.Replace(w.CaddyfileWith(""), "oauth_proxy {", "oauth_proxy {\n callback_path /oauth/callback", 1))
	if out, _ := doctor(moved); !strings.Contains(out, "redirect URI to register there: "+w.URL+"/oauth/callback") {
		t.Errorf("callback_path:\n%s", out)
	}
	write(t, moved, strings.Replace(w.CaddyfileWith("provider second {\n type oidc\n issuer "+w.ProviderURL+"\n client_id x\n client_secret {env.DEMO_CLIENT_SECRET}\n}\nproxy closed {\n resource "+
		w.URL+"/closed/mcp\n provider demo\n allow email_domain example.com\n}"), "proxy demo {", "proxy demo {\n provider demo\n login second", 1))
	if out, _ := doctor(moved); !strings.Contains(out, "note     no allow: every user of second may come in") || strings.Count(out, "no allow") != 1 {
		t.Errorf("allow:\n%s", out)
	}
	if out, healthy := doctor(config, "DEMO_CLIENT_SECRET="); healthy || !strings.Contains(out, "client_secret") {
		t.Errorf("no secret: healthy %v\n%s", healthy, out)
	}
	other := filepath.Join(t.TempDir(), "Caddyfile")
	write(t, other, strings.ReplaceAll(w.CaddyfileWith(""), "issuer        "+w.ProviderURL, "issuer        http://localhost:1"))
	if out, healthy := doctor(other); healthy || !strings.Contains(out, "problem") || !strings.Contains(out, "check name resolution") {
		t.Errorf("provider that is not there: healthy %v\n%s", healthy, out)
	}
	write(t, other, strings.Replace(w.CaddyfileWith(""), "resource "+w.URL+"/demo/mcp", "resource "+w.URL+"/demo/other", 1))
	if out, _ := doctor(other); !strings.Contains(out, "warning  "+w.URL+"/.well-known/oauth-protected-resource/demo/other cannot be read: 404") {
		t.Errorf("proxy that is not served:\n%s", out)
	}
	write(t, other, strings.Replace(w.CaddyfileWith("provider mcp {\n server "+w.URL+"/demo/mcp\n}"), "proxy demo {", "proxy demo {\n provider demo", 1))
	if out, healthy := doctor(other); !healthy || !strings.Contains(out, "provider mcp\n  ok       MCP server: protected by "+w.URL) {
		t.Errorf("provider where nothing is to be registered: healthy %v\n%s", healthy, out)
	}
	write(t, other, strings.Replace(w.CaddyfileWith(""), "oauth_proxy {", "oauth_proxy {\n isuer x", 1))
	if out, healthy := doctor(other); healthy || !strings.Contains(out, "unknown option") {
		t.Errorf("bad config: healthy %v\n%s", healthy, out)
	}
	cmd := w.Command(t.Context(), "oauth-proxy", "doctor", "--config", config, "--adapter", "caddyfile", "--json")
	raw, err := cmd.Output()
	var reports []map[string]any
	if err != nil || json.Unmarshal(raw, &reports) != nil || len(reports) != 3 {
		t.Errorf("as JSON: %v, %s", err, raw)
	}
}

func TestDoctorAndTheLogTellWhatNoSiteServes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		away   string // what is not in the site, a regular expression
		want   []string
		unwant string
		log    string // what is said at the start
	}{
		"no oauth_proxy": {`(?m)^\toauth_proxy\n`, []string{
			"ok       serves {URL}/.well-known/oauth-authorization-server",
			"problem  no site has the directive oauth_proxy: {URL}/oauth/ready answers 200 OK",
			"→ write oauth_proxy into the site of {HOST}",
			"ok       asks for a token at {URL}/demo/mcp",
		}, "ok       serves {URL}/oauth/ready", "nobody can log in: no site has the handler oauth_proxy"},
		"no mcp_proxy": {`(?m)^\t*mcp_proxy demo .*\n`, []string{
			"ok       serves {URL}/oauth/ready",
			"problem  {URL}/demo/mcp: no mcp_proxy demo or mcp_filter demo answers there: 200 OK",
			"→ write mcp_proxy demo with the URL of the MCP server into the site of {HOST}",
		}, "ok       asks for a token", `no site has an mcp_proxy or mcp_filter for this proxy","proxy":"demo"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			away := regexp.MustCompile(tt.away + `|(?m)^\t*respond .* 404\n`)
			w := testenv.Start(t, testenv.Options{Caddyfile: func(w *testenv.World) string { return away.ReplaceAllString(w.CaddyfileWith(""), "") }})
			here := strings.NewReplacer("{URL}", w.URL, "{HOST}", strings.TrimPrefix(w.URL, "http://")).Replace
			out, err := w.Command(t.Context(), "oauth-proxy", "doctor", "--config", filepath.Join(w.Dir(), "Caddyfile"), "--adapter", "caddyfile").CombinedOutput()
			if err == nil {
				t.Error("there are no problems")
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), here(want)) {
					t.Errorf("no %q in:\n%s", here(want), out)
				}
			}
			if warned := strings.Count(w.Log(), "no site has"); warned != 1 || !strings.Contains(w.Log(), tt.log) {
				t.Errorf("no %q in the log, or something else beside it: %d", tt.log, warned)
			}
			if strings.Contains(string(out), here(tt.unwant)) {
				t.Errorf("%q in:\n%s", here(tt.unwant), out)
			}
		})
	}
}
