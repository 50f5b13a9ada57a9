package caddyoauthproxy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// basePostgres is base on a database that is not there: validation asks none.
func basePostgres(t *testing.T, dir string) map[string]any {
	t.Helper()
	key := filepath.Join(dir, "vault.key")
	for path, text := range map[string]string{
		key: tokenstore.NewRootKey().Text() + "\n", filepath.Join(dir, "secret"): "s3cret-of-the-gateway\n", filepath.Join(dir, "pg"): "s3cret-of-the-database\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	app := base(dir)
	app["vault"] = map[string]any{"module": "postgres", "connection": "postgres://gateway@127.0.0.1:1/vault?sslmode=disable", "password": "{file." + dir + "/pg}"}
	app["encryption_keys"] = []string{"{file." + key + "}"}
	return app
}

func TestMistakesOfAVaultInPostgreSQLAreNamedWithoutADatabase(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"PGHOST", "PGSERVICE"} {
		t.Setenv(name, "")
	}
	t.Setenv("TEST_DATABASE_URL", "postgres://gateway:s3cret-of-the-url@127.0.0.1:1/vault")
	t.Setenv("TEST_BAD_URL", "postgres://gateway:s3cret-of-the-url@127.0.0.1:s3cret/vault")
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string // nothing where it is good
	}{
		"as it is":   {func(map[string]any) {}, ""},
		"keywords":   {set("vault/connection", "host=127.0.0.1 user=gateway dbname=vault"), ""},
		"no memory":  {func(m map[string]any) { set("vault/listen", "off")(m); set("vault/max_stale", -1)(m) }, ""},
		"direct way": {set("vault/listen", "postgres://gateway@127.0.0.1:2/vault"), ""},
		"all of it": {func(m map[string]any) {
			set("vault/connection", "{env.TEST_DATABASE_URL}")(m)
			set("vault/password", nil)(m)
		}, ""},
		"no certificate in the file": {set("vault/connection", "postgres://db.test/vault?sslmode=verify-full&sslrootcert="+dir+"/secret"), `connection cannot be used:`},

		"no connection":      {set("vault/connection", nil), `connection is missing: write vault postgres postgres://gateway@db.example.com`},
		"unknown member":     {set("vault/pool_size", 5), `pool_size`},
		"literal password":   {set("vault/connection", "postgres://gateway:s3cret-of-the-url@127.0.0.1/vault"), `connection has a literal password`},
		"password as it is":  {set("vault/password", "s3cret-of-the-database"), `password must be a placeholder`},
		"password not there": {set("vault/password", "{file."+dir+"/nothing}"), `password: {file.` + dir + `/nothing} is not set or cannot be read`},
		"two passwords":      {set("vault/connection", "{env.TEST_DATABASE_URL}"), `connection has a password, and so has the vault's block`},
		"connection not set": {set("vault/connection", "{env.OAUTH_PROXY_TEST_UNSET}"), `connection has a placeholder with nothing behind it`},
		"bad connection": {func(m map[string]any) {
			set("vault/connection", "{env.TEST_BAD_URL}")(m)
			set("vault/password", nil)(m)
		}, `connection cannot be used as its placeholders have it`},
		"unknown placeholder":    {set("vault/connection", "postgres://{http.request.host}/vault"), `connection`},
		"bad sslmode":            {set("vault/connection", "postgres://127.0.0.1/vault?sslmode=verify"), `connection cannot be used: sslmode is invalid`},
		"literal in listen":      {set("vault/listen", "postgres://gateway:s3cret-of-the-url@127.0.0.1/vault"), `listen has a literal password`},
		"listen is nothing":      {set("vault/listen", "on"), `listen is neither a URL nor keywords`},
		"schema of PostgreSQL":   {set("vault/schema", "pg_vault"), `schema "pg_vault" cannot be one`},
		"schema to be quoted":    {set("vault/schema", "Gateway"), `schema "Gateway" cannot be one`},
		"schema that breaks out": {set("vault/schema", `x"; drop`), `cannot be one`},
		"pool too large":         {set("vault/pool", 1001), `pool 1001 is out of range: 1 to 1000`},
		"pool of less":           {set("vault/pool", -1), `pool -1 is out of range: 1 to 1000`},
		"wait too long":          {set("vault/wait", "2m"), `wait 2m0s is out of range: 100ms to 1m0s`},
		"negative wait":          {set("vault/wait", -1), `wait -1ns is out of range`},
		"max_stale too long":     {set("vault/max_stale", "1h"), `max_stale 1h0m0s is out of range: 1s to 10m0s`},
		"no key":                 {set("encryption_keys", nil), `encryption_key is missing: this vault is shared, and makes none`},
		"tokens in one memory":   {set("providers/idp/token_storage", "off"), `provider "idp": token_storage off keeps tokens in the memory of one node`},
	} {
		t.Run(name, func(t *testing.T) {
			app := basePostgres(t, dir)
			c.change(app)
			err := validate(t, app)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant … %s …", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the message holds a secret: %v", err)
			}
		})
	}
	t.Setenv("PGHOST", "127.0.0.1")
	app := basePostgres(t, dir)
	set("vault/connection", nil)(app)
	if err := validate(t, app); err != nil {
		t.Errorf("libpq's environment: %v", err)
	}
}
