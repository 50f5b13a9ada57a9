package caddyoauthproxy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestLiteralPasswordsInConnectionStringsAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"":                        nil,
		"{env.DATABASE_URL}":      nil,
		"postgres://db/vault":     nil,
		"postgres://gw@db/vault":  nil,
		"postgres://gw:@db/vault": nil,
		"postgres://gw:{env.PG_PASSWORD}@db:5432/vault":                     nil,
		"postgres://gw:{file./run/secrets/pg}@{env.HOST}:{env.PORT}/v?a=b":  nil,
		"postgresql://db1:5432,db2:5433/vault?target_session_attrs=primary": nil,
		"host=/run/postgresql dbname=vault":                                 nil,
		"host=db user=gw password={env.PG_PASSWORD}":                        nil,
		"host=db password=''":                                               nil,
		"postgres://gw:s3cret@db/vault":                                     errLiteralPassword,
		"postgres://gw:{env.A}{env.B}@db/vault":                             errLiteralPassword,
		"postgres://gw:0@db/vault":                                          errLiteralPassword,
		"postgres://gw:s@cr@t@db/vault":                                     errLiteralPassword,
		"postgres://db/vault?password=s3cret":                               errLiteralPassword,
		"postgres://db/vault?%70assword=s3cret":                             errLiteralPassword,
		"postgres://db?sslmode=require&sslpassword=s3cret":                  errLiteralPassword,
		"password=s3cret":                                                   errLiteralPassword,
		"host=db\tpassword\n=\n's3 \\' cret' user=gw":                       errLiteralPassword,
		`host=a\ b password=s3cret`:                                         errLiteralPassword,
		"host='x' password=s3cret":                                          errLiteralPassword,
		"password={env.A} password=s3cret":                                  errLiteralPassword,
		"db.example.com":                                                    errNoConnectionString,
		"host=db user='gw":                                                  errNoConnectionString,
		"host db=x":                                                         errNoConnectionString,
		"postgres://db/vault?%zz=1":                                         errNoConnectionString,
		"postgres://[::1]:5432,[::2]/vault":                                 nil,
		"postgres://db/vault?user=gw@tenant":                                nil,
		"postgres://gw:s3cret/s3cret@db/vault":                              errNoConnectionString,
		"postgres://gw:123/s3cret@db/vault":                                 errNoConnectionString,
		"postgres://gw:s3cret/s?cret@db/vault":                              errNoConnectionString,
	} {
		if err := checkConnection(text); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

// What PostgreSQL's client takes for a password, the check does too.
func FuzzConnectionSecrets(f *testing.F) {
	f.Add("postgres://gw:s3cret@db/vault")
	f.Add("postgres://[::1]:5432/vault?password=x")
	f.Add("postgres://a,b:1/vault?a=b&password=x&c")
	f.Add(`host=a password = 'x \' y' user=b`)
	f.Add(`password=a\ b`)
	f.Add("postgres://db?%70assword=x")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "service") || strings.Contains(text, "passfile") {
			return // which have passwords elsewhere
		}
		config, err := pgconn.ParseConfig(text)
		secrets, ours := connectionSecrets(text)
		if err != nil || ours != nil {
			return
		}
		if config.Password != "" && len(secrets) == 0 {
			t.Errorf("%q has the password %q, and is let through", text, config.Password)
		}
	})
}

func TestErrorsOfConnectionsDoNotShowWhatPlaceholdersStandFor(t *testing.T) {
	for name, value := range map[string]string{
		"slash in the password":    "postgres://gw:s3cret/s3cret@db/vault",
		"bad port":                 "postgres://gw:s3cret@db:s3cret/vault",
		"bad escape":               "postgres://gw:s3cret%zz@db/vault",
		"no connection string":     "s3cret",
		"quote that does not end":  "password='s3cret",
		"unknown sslmode":          "postgres://gw:s3cret@db/vault?sslmode=s3cret",
		"files that are not there": "postgres://gw:s3cret@db/vault?sslmode=verify-full&sslrootcert=/s3cret",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TEST_DATABASE_URL", value)
			_, _, err := resolveConnection("{env.TEST_DATABASE_URL}")
			if err == nil || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v", err)
			}
		})
	}
	if _, _, err := resolveConnection("{env.NOBODY_SET_THIS}"); err == nil || !strings.Contains(err.Error(), "NOBODY_SET_THIS") {
		t.Errorf("a placeholder with nothing behind it: %v", err)
	}
	if _, _, err := resolveConnection("postgres://gw@db/vault?sslmode=bogus"); err == nil || !strings.Contains(err.Error(), "sslmode") {
		t.Errorf("a literal one: %v", err)
	}
}

func TestHostsOfAConnectionAreNamedOnce(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"postgres://gw@db1:5433,db2/vault":    {"db1:5433", "db2:5432"},
		"postgres://gw@[2001:db8::1]/vault":   {"[2001:db8::1]:5432"},
		"host=/run/postgresql user=gw":        {"/run/postgresql"},
		"host=db user=gw sslmode=verify-full": {"db:5432"},
	} {
		_, config, err := resolveConnection(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := hosts(config); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestServersThatAnybodyCouldBeAreFound(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"postgres://db.example.com/vault":                       "db.example.com",
		"postgres://db.example.com/vault?sslmode=disable":       "db.example.com",
		"postgres://db.example.com/vault?sslmode=require":       "db.example.com",
		"postgres://db.example.com/vault?sslmode=verify-ca":     "",
		"postgres://db.example.com/vault?sslmode=verify-full":   "",
		"postgres://localhost,db.example.com/v?sslmode=require": "db.example.com",
		"postgres://localhost/vault":                            "",
		"postgres://127.0.0.1/vault":                            "",
		"postgres://[::1]/vault":                                "",
		"host=/run/postgresql":                                  "",
	} {
		_, config, err := resolveConnection(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := unverified(config); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
