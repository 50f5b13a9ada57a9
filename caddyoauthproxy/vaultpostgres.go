package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

func init() {
	caddy.RegisterModule(new(PostgresVault))
}

// PostgresVault keeps the gateway's records in a schema of a PostgreSQL database, which any number of gateways share: each of them
// serves every user, and may end at any time. They need the same `issuer`, `encryption_keys`, `providers` and `proxies`. The schema and its tables are
// made, and brought up to date, when the config starts.
//
// A reload that leaves these settings as they are goes on with the same connections. One that changes any of them opens the vault a second time beside the
// first, which is closed when nothing uses the config before any more.
type PostgresVault struct {
	// Where the database is: a URL (`postgres://gateway@db.example.com/oauth_proxy?sslmode=verify-full`) or keywords (`host=db.example.com user=gateway …`) as
	// libpq takes them, with placeholders such as `{env.DATABASE_URL}`. A literal password in it is refused. Default: what libpq's environment says, of
	// which `PGHOST` or `PGSERVICE` must be set.
	Connection string `json:"connection,omitempty"`

	// The password, as a placeholder, such as `{file./run/secrets/pg}`. It is read anew for every new connection. Not where the connection has one. Default:
	// `PGPASSWORD`, or libpq's password file.
	Password string `json:"password,omitempty"`

	// The schema that the tables are in: small letters, digits and `_`, at most 63. It is made if the role may. Default: `oauth_proxy`.
	Schema string `json:"schema,omitempty"`

	// The most connections of this process, beside the one that listens and one during a backup, 1 to 1000. Default: 10.
	Pool int `json:"pool,omitempty"`

	// How long each read or write waits for a database that does not answer, 100ms to 1m. Default: 5s.
	Wait caddy.Duration `json:"wait,omitempty"`

	// How long requests are answered from memory while the database is gone, 1s to 10m; negative for not at all. After it they are answered
	// 503, and so is `GET /oauth/ready`. Default: 10s.
	MaxStale caddy.Duration `json:"max_stale,omitempty"`

	// Where the connection that hears of changes (`LISTEN`) goes, as in `connection`, where that leads to a proxy that pools transactions; or `off`, where there is no
	// such way: then every request asks the database. Default: as `connection`.
	Listen string `json:"listen,omitempty"`

	options postgresOptions
	storage operator.Storage
	log     *zap.Logger
}

// postgresOptions are what a Store is opened with. Configs with the same share one. It holds what placeholders stand for, so it is not to be shown.
type postgresOptions struct {
	connection string
	password   string // its placeholder
	schema     string
	pool       int
	wait       time.Duration
	maxStale   time.Duration
	listen     string // off for none
}

// listenOff is what Listen says when nothing is to listen.
const listenOff = "off"

// CaddyModule returns the Caddy module information.
func (*PostgresVault) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth_proxy.vaults.postgres", New: func() caddy.Module { return new(PostgresVault) }}
}

// postgresStores are the stores that this process has open.
var postgresStores = caddy.NewUsagePool()

// Provision checks and resolves the settings. It connects to nothing.
func (p *PostgresVault) Provision(ctx caddy.Context) error {
	p.log = ctx.Logger()
	if err := p.check(); err != nil {
		return err
	}
	if p.Connection == "" && !environmentConnects() {
		return errors.New("connection is missing: write vault postgres postgres://gateway@db.example.com/oauth_proxy?sslmode=verify-full, or set PGHOST or PGSERVICE and what else libpq takes from the environment")
	}
	o := postgresOptions{
		password: p.Password, schema: p.Schema, pool: p.Pool, wait: time.Duration(p.Wait), maxStale: max(time.Duration(p.MaxStale), 0), listen: p.Listen,
	}
	if o.schema == "" {
		o.schema = postgres.DefaultSchema
	}
	if o.pool == 0 {
		o.pool = postgres.DefaultMaxConns
	}
	if o.wait == 0 {
		o.wait = postgres.DefaultWait
	}
	if p.MaxStale == 0 {
		o.maxStale = postgres.DefaultMaxStale
	}
	var config *pgconn.Config
	var err error
	if o.connection, config, err = p.resolveConnection("connection", p.Connection); err != nil {
		return err
	}
	if p.Listen != "" && p.Listen != listenOff {
		if o.listen, _, err = p.resolveConnection("listen", p.Listen); err != nil {
			return err
		}
	}
	if p.Password != "" {
		if _, err := resolveSecret(p.Password); err != nil {
			return fmt.Errorf("password: %w", err)
		}
	}
	p.options = o
	p.storage = operator.Storage{Hosts: hosts(config), Database: config.Database, Schema: o.schema}
	return nil
}

// resolveConnection resolves one of the connections, and warns of one that might be made to somebody else.
func (p *PostgresVault) resolveConnection(name, text string) (string, *pgconn.Config, error) {
	resolved, config, err := resolveConnection(text)
	if err != nil {
		return "", nil, fmt.Errorf("%s %w", name, err)
	}
	if secrets, err := connectionSecrets(resolved); err == nil && len(secrets) > 0 && p.Password != "" {
		return "", nil, fmt.Errorf("%s has a password, and so has the vault's block: leave one of them out", name)
	}
	if host := unverified(config); host != "" {
		p.log.Warn("the database's certificate is not verified, so that somebody between may be it: set sslmode=verify-full, and sslrootcert", zap.String("setting", name), zap.String("host", host))
	}
	return resolved, config, nil
}

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// maxPool bounds pool.
const maxPool = 1000

// check refuses what can be told to be wrong without the values of placeholders.
func (p *PostgresVault) check() error {
	var errs []error
	for _, c := range []struct{ name, text string }{{"connection", p.Connection}, {"listen", p.Listen}} {
		if c.text == "" || c.name == "listen" && c.text == listenOff {
			continue
		}
		if err := checkConnection(c.text); err != nil {
			errs = append(errs, fmt.Errorf("%s %w", c.name, err))
		}
	}
	if p.Password != "" {
		if err := checkSecret(p.Password); err != nil {
			errs = append(errs, fmt.Errorf("password %w", err))
		}
	}
	if p.Schema != "" {
		errs = append(errs, checkSchema(p.Schema))
	}
	if p.Pool < 0 || p.Pool > maxPool {
		errs = append(errs, fmt.Errorf("pool %d is out of range: 1 to %d", p.Pool, maxPool))
	}
	errs = append(errs, inRange("wait", p.Wait, 100*time.Millisecond, time.Minute))
	if p.MaxStale > 0 {
		errs = append(errs, inRange("max_stale", p.MaxStale, time.Second, 10*time.Minute))
	}
	return errors.Join(errs...)
}

func checkSchema(name string) error {
	if !schemaName.MatchString(name) || strings.HasPrefix(name, "pg_") || name == "information_schema" {
		return fmt.Errorf("schema %q cannot be one: use small letters, digits and _, at most 63 and no digit first, and not pg_… or information_schema, which are PostgreSQL's own", name)
	}
	return nil
}

// postgresStore is an open store in the pool.
type postgresStore struct{ *postgres.Store }

// Destruct implements caddy.Destructor.
func (s postgresStore) Destruct() error { return s.Close() }

// OpenVault implements Vault.
func (p *PostgresVault) OpenVault(ctx context.Context) (tokenstore.Store, func(), error) {
	value, _, err := postgresStores.LoadOrNew(p.options, func() (caddy.Destructor, error) {
		store, err := postgres.Open(ctx, p.options.ofStore())
		if err != nil {
			return nil, err
		}
		return postgresStore{store}, nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%s, database %s: %w", strings.Join(p.storage.Hosts, ","), p.storage.Database, err)
	}
	release := func() {
		if _, err := postgresStores.Delete(p.options); err != nil {
			p.log.Error("closing vault", zap.String("database", p.storage.Database), zap.Error(err))
		}
	}
	return value.(postgresStore).Store, release, nil
}

// ofStore are the options as the store takes them. It outlives the config, so nothing in them is the config's.
func (o postgresOptions) ofStore() postgres.Options {
	options := postgres.Options{
		Connection: o.connection, Schema: o.schema, MaxConns: o.pool, Wait: o.wait, MaxStale: o.maxStale,
		Listen: o.listen, ListenOff: o.listen == listenOff,
		Logger: processLog("oauth_proxy.vaults.postgres"),
	}
	if options.ListenOff {
		options.Listen = ""
	}
	if o.password != "" {
		options.Password = func(context.Context) (string, error) {
			password, err := resolveSecret(o.password)
			if err != nil {
				return "", fmt.Errorf("password: %w", err)
			}
			return password, nil
		}
	}
	return options
}

// KeyFile implements Vault: nodes must be given the same key.
func (*PostgresVault) KeyFile() string { return "" }

// Interface guards
var (
	_ caddy.Provisioner = (*PostgresVault)(nil)
	_ Vault             = (*PostgresVault)(nil)
)
