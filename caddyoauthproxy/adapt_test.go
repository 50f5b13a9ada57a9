package caddyoauthproxy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-proxy/caddy-oauth-proxy"
)

var update = flag.Bool("update", false, "rewrite the expected JSON of the adapt tests")

// Each file in testdata/adapt is a Caddyfile, a line of ten dashes, and the JSON that it adapts to or the
// message that refuses it.
func TestCaddyfileAdaptsToJSON(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			caddyfile, want, ok := strings.Cut(string(content), "\n----------\n")
			if !ok {
				t.Fatal("no line of ten dashes")
			}
			got := adapt(t, caddyfile)
			if *update {
				if err := os.WriteFile(file, []byte(caddyfile+"\n----------\n"+got+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != strings.TrimSpace(want) {
				t.Errorf("got:\n%s\n\nwant:\n%s", got, strings.TrimSpace(want))
			}
		})
	}
}

// adapt returns indented JSON, or the error message.
func adapt(t *testing.T, caddyfile string) string {
	t.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	result, warnings, err := adapter.Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err.Error()
	}
	for _, w := range warnings {
		if w.Directive != "" || !strings.Contains(w.Message, "not formatted") {
			t.Errorf("warning: %+v", w)
		}
	}
	var out bytes.Buffer
	if err := json.Indent(&out, result, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
