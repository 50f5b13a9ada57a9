package caddyoauthproxyplugin

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"testing"
)

// builder is what of xcaddy.Builder the file may use.
type builder struct {
	CaddyVersion string `json:"caddy_version"`
	Plugins      []struct {
		ModulePath string `json:"module_path"`
		Version    string `json:"version"`
	} `json:"plugins"`
	Replacements []struct {
		Old string `json:"old"`
		New string `json:"new"`
	} `json:"replacements"`
}

func TestXcaddyJSONSaysWhatGoModSays(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("xcaddy.json")
	if err != nil {
		t.Fatal(err)
	}
	var b builder
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	gomod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	module := regexp.MustCompile(`(?m)^module (\S+)$`).FindSubmatch(gomod)
	caddy := regexp.MustCompile(`(?m)^\tgithub\.com/caddyserver/caddy/v2 (\S+)$`).FindSubmatch(gomod)
	if module == nil || caddy == nil {
		t.Fatal("go.mod is not as expected")
	}
	if b.CaddyVersion != string(caddy[1]) {
		t.Errorf("caddy_version is %s, go.mod requires %s", b.CaddyVersion, caddy[1])
	}
	if len(b.Plugins) != 1 || b.Plugins[0].ModulePath != string(module[1]) {
		t.Errorf("plugins: %+v, want %s", b.Plugins, module[1])
	}
	if len(b.Replacements) != 1 || b.Replacements[0].Old != string(module[1]) || b.Replacements[0].New != "." {
		t.Errorf("replacements: %+v, want this checkout", b.Replacements)
	}
}
