package postgres

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	applicationName = "caddy-oauth-proxy"

	connLifetime = 30 * time.Minute
	connIdle     = 5 * time.Minute
)

var errReadOnlyServer = errors.New("transaction_read_only is on")

// newPool reads the connection string. It connects to nothing.
func newPool(o Options, dial pgconn.DialFunc) (*pgxpool.Pool, error) {
	c, err := poolConfig(o, o.Connection)
	if err != nil {
		return nil, err
	}
	c.ConnConfig.DialFunc = dial
	c.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {} // that a proxy sends here by mistake, and pgx would keep
	c.MaxConns = int32(min(o.MaxConns, math.MaxInt32))                          //nolint:gosec // bounded
	c.MaxConnLifetime, c.MaxConnLifetimeJitter, c.MaxConnIdleTime = connLifetime, connLifetime/10, connIdle
	c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // what was lost shows soon enough, see do
	c.BeforeConnect = o.password
	return pgxpool.NewWithConfig(context.Background(), c)
}

// poolConfig reads a connection string, and says how each connection is made.
func poolConfig(o Options, connection string) (*pgxpool.Config, error) {
	p, err := pgxpool.ParseConfig(connection)
	if err != nil {
		return nil, refused("the connection string cannot be read: %s", parseFailure(err))
	}
	c := p.ConnConfig
	if c.ConnectTimeout <= 0 || c.ConnectTimeout > o.Wait {
		c.ConnectTimeout = o.Wait
	}
	c.ValidateConnect = writable
	set := func(name, value string) {
		if _, there := c.RuntimeParams[name]; !there && !strings.Contains(c.RuntimeParams["options"], name) {
			c.RuntimeParams[name] = value
		}
	}
	set("application_name", applicationName)
	if pooled(c) {
		return p, nil
	}
	ms := strconv.FormatInt(max(o.Wait.Milliseconds(), 1), 10)
	set("statement_timeout", ms)
	set("lock_timeout", ms)
	set("idle_in_transaction_session_timeout", ms)
	set("synchronous_commit", "on")
	set("default_transaction_isolation", "read committed")
	return p, nil
}

// pooled reports whether the connection string says that a proxy is in between which gives every transaction another connection: nothing can be prepared
// there, and no settings made but the name.
func pooled(c *pgx.ConnConfig) bool {
	switch c.DefaultQueryExecMode {
	case pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol:
		return true
	default:
		return false
	}
}

// password sets that of a new connection.
func (o Options) password(ctx context.Context, c *pgx.ConnConfig) error {
	if o.Password == nil {
		return nil
	}
	password, err := o.Password(ctx)
	if err != nil {
		return passwordError{err}
	}
	c.Password = password
	return nil
}

// writable refuses a server that cannot be written.
func writable(ctx context.Context, c *pgconn.PgConn) error {
	result := c.ExecParams(ctx, "SELECT current_setting('transaction_read_only')", nil, nil, nil, nil).Read()
	if result.Err != nil {
		return result.Err
	}
	if len(result.Rows) == 1 && string(result.Rows[0][0]) == "on" {
		return errReadOnlyServer
	}
	return nil
}

// parseFailures are what pgx says of connection strings. What it quotes with that can hold a password.
var parseFailures = []string{
	"failed to parse as URL", "failed to parse as keyword/value", "failed to read service", "failed to configure TLS", "invalid connect_timeout", "invalid port",
	"unknown target_session_attrs", "unknown channel_binding", "invalid require_auth", "invalid min_protocol_version", "invalid max_protocol_version", "could not match",
	"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity", "pool_",
}

// parseFailure says what is wrong with a connection string, without quoting it.
func parseFailure(err error) string {
	var parse *pgconn.ParseConfigError
	if !errors.As(err, &parse) {
		return "it is not of libpq's form"
	}
	text := strings.ReplaceAll(parse.Error(), parse.ConnString, "")
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i:]
	}
	for _, known := range parseFailures {
		if strings.Contains(text, known) {
			if inner := errors.Unwrap(parse); inner != nil && known == "failed to configure TLS" { // it names a file
				return known + ": " + inner.Error()
			}
			return known
		}
	}
	return "it is not of libpq's form"
}

// quote makes an identifier of a name.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
