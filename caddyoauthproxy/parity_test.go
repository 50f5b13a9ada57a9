package caddyoauthproxy_test

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// unset lists the configuration fields of a struct that none of its values sets.
func unset(values ...reflect.Value) []string {
	var names []string
	kind := values[0].Type()
	for i := range kind.NumField() {
		name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
		set := slices.ContainsFunc(values, func(v reflect.Value) bool { return !v.Field(i).IsZero() })
		if kind.Field(i).IsExported() && name != "" && !set {
			names = append(names, name)
		}
	}
	return names
}

func TestCaddyfileCanSetEveryFieldOfTheJSON(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/adapt/every_option.caddyfiletest")
	if err != nil {
		t.Fatal(err)
	}
	_, adapted, _ := strings.Cut(string(content), "\n----------\n")
	var config struct {
		Apps struct {
			OAuthProxy caddyoauthproxy.App `json:"oauth_proxy"`
		} `json:"apps"`
	}
	if err := json.Unmarshal([]byte(adapted), &config); err != nil {
		t.Fatal(err)
	}
	app := &config.Apps.OAuthProxy
	var providers, proxies, clients []reflect.Value
	for _, c := range app.Clients {
		clients = append(clients, reflect.ValueOf(c).Elem())
	}
	// Both say in one word what cannot be said together with the rest.
	registration, documents := app.Registration, app.MetadataDocuments
	registration.Off, documents.Off = true, true
	audit := app.Audit
	audit.Off = true
	for _, p := range app.Providers {
		providers = append(providers, reflect.ValueOf(p).Elem())
	}
	var tokens, policies, rules []reflect.Value
	for _, p := range app.Proxies {
		proxies = append(proxies, reflect.ValueOf(p).Elem())
		tokens = append(tokens, reflect.ValueOf(p.UpstreamToken))
		policies = append(policies, reflect.ValueOf(p.Allow))
		for _, rule := range p.Policy {
			rules = append(rules, reflect.ValueOf(rule))
		}
	}
	for what, names := range map[string][]string{
		"oauth_proxy": unset(reflect.ValueOf(app).Elem()), "provider": unset(providers...), "proxy": unset(proxies...),
		"upstream_token": unset(tokens...), "allow": unset(policies...), "policy": unset(rules...), "client": unset(clients...), "admin": unset(reflect.ValueOf(app.Admin).Elem()), "connections": unset(reflect.ValueOf(app.Connections)), "console": unset(reflect.ValueOf(app.Console)), "registration": unset(reflect.ValueOf(registration)), "metadata_documents": unset(reflect.ValueOf(documents)),
		"audit": unset(reflect.ValueOf(audit)),
	} {
		if len(names) > 0 {
			t.Errorf("%s: no Caddyfile option sets %v", what, names)
		}
	}
}

func TestCaddyfileCanSetEveryFieldOfTheVaultInPostgreSQL(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/adapt/postgres.caddyfiletest")
	if err != nil {
		t.Fatal(err)
	}
	_, adapted, _ := strings.Cut(string(content), "\n----------\n")
	var config struct {
		Apps struct {
			OAuthProxy struct {
				Vault caddyoauthproxy.PostgresVault `json:"vault"`
			} `json:"oauth_proxy"`
		} `json:"apps"`
	}
	if err := json.Unmarshal([]byte(adapted), &config); err != nil {
		t.Fatal(err)
	}
	if names := unset(reflect.ValueOf(&config.Apps.OAuthProxy.Vault).Elem()); len(names) > 0 {
		t.Errorf("no Caddyfile option sets %v", names)
	}
}

func TestEveryFieldIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []reflect.Type{
		reflect.TypeFor[caddyoauthproxy.App](), reflect.TypeFor[caddyoauthproxy.Provider](), reflect.TypeFor[caddyoauthproxy.Proxy](), reflect.TypeFor[mcpfilter.Filter](),
		reflect.TypeFor[caddyoauthproxy.Client](), reflect.TypeFor[caddyoauthproxy.Registration](), reflect.TypeFor[caddyoauthproxy.MetadataDocuments](), reflect.TypeFor[caddyoauthproxy.UpstreamToken](), reflect.TypeFor[caddyoauthproxy.Audit](), reflect.TypeFor[authserver.Policy](), reflect.TypeFor[caddyoauthproxy.PolicyRule](), reflect.TypeFor[mcpfilter.Matcher](),
		reflect.TypeFor[caddyoauthproxy.Admin](), reflect.TypeFor[caddyoauthproxy.Connections](), reflect.TypeFor[caddyoauthproxy.Console](),
		reflect.TypeFor[caddyoauthproxy.PostgresVault](), reflect.TypeFor[caddyoauthproxy.KeyCommand](), reflect.TypeFor[caddyoauthproxy.KeyCredential](),
	} {
		for field := range kind.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" || name == "providers" || name == "proxies" || name == "proxy" {
				continue // blocks, which have sections of their own
			}
			if !strings.Contains(string(doc), name) {
				t.Errorf("%s: docs/configuration.md does not know %s", kind, name)
			}
		}
	}
}
