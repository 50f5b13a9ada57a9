package postgres_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

func TestOpenSaysWhatToDo(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	swap := func(old, replacement string) string { return strings.Replace(connection, old, replacement, 1) }
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	_ = closed.Close()
	database := connection[strings.LastIndex(connection, "/")+1 : strings.Index(connection, "?")]
	for name, tt := range map[string]struct {
		connection string
		password   func(context.Context) (string, error)
		words      []string
	}{
		"nobody listens":           {swap(testpg.Shared(t).Address(), nobody), nil, []string{"does not answer", "connection refused", nobody}},
		"wrong password":           {swap(testpg.Password, "s3cret"), nil, []string{"refuses the password", "check the user and the password"}},
		"wrong password from":      {connection, func(context.Context) (string, error) { return "s3cret", nil }, []string{"refuses the password"}},
		"no password":              {connection, func(context.Context) (string, error) { return "", errors.New("file /run/x is gone") }, []string{"no password to connect with", "/run/x"}},
		"no such user":             {swap(testpg.User+":"+testpg.Password, "mallory:s3cret"), nil, []string{"refuses the password", "mallory"}},
		"no such database":         {swap("/"+database, "/nowhere"), nil, []string{"no such database", "nowhere", "CREATE DATABASE"}},
		"wrong password, any TLS":  {strings.NewReplacer(testpg.Password, "s3cret", "?sslmode=disable", "").Replace(connection), nil, []string{"refuses the password"}},
		"no database, any TLS":     {strings.NewReplacer("/"+database, "/nowhere", "sslmode=disable", "sslmode=prefer").Replace(connection), nil, []string{"no such database"}},
		"no TLS":                   {swap("sslmode=disable", "sslmode=require"), nil, []string{"does not speak TLS", "sslmode=disable"}},
		"no authority":             {swap("sslmode=disable", "sslmode=verify-full&sslrootcert=/nowhere/ca.pem"), nil, []string{"failed to configure TLS", "/nowhere/ca.pem"}},
		"no libpq URL":             {"postgres://vault:s3cret@host:port:more/x", nil, []string{"connection string cannot be read"}},
		"no keywords":              {"host=x password=s3cret s3cret", nil, []string{"connection string cannot be read"}},
		"bad keyword":              {"host=x password='s3cret", nil, []string{"connection string cannot be read"}},
		"bad port":                 {swap(testpg.Shared(t).Address(), "127.0.0.1:s3cret"), nil, []string{"connection string cannot be read"}},
		"bad escape":               {swap(testpg.Password, "s3cret%zz"), nil, []string{"connection string cannot be read"}},
		"bad mode":                 {connection + "&default_query_exec_mode=s3cret", nil, []string{"default_query_exec_mode"}},
		"bad TLS mode":             {swap("sslmode=disable", "sslmode=s3cret"), nil, []string{"connection string cannot be read"}},
		"server without a setting": {connection + "&no_such_setting=1", nil, []string{"no_such_setting"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			wantOpenFails(t, postgres.Options{Connection: tt.connection, Password: tt.password, Wait: 3 * time.Second}, append(tt.words, "vault in PostgreSQL")...)
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("Open took %s", took)
			}
		})
	}
}

func TestPasswordIsAskedForWithEveryConnection(t *testing.T) {
	t.Parallel()
	connection := strings.Replace(testpg.Database(t), ":"+testpg.Password, "", 1)
	asked := make(chan struct{}, 100)
	s := open(t, postgres.Options{Connection: connection, Password: func(context.Context) (string, error) {
		asked <- struct{}{}
		return testpg.Password, nil
	}})
	if err := s.Apply(t.Context(), insert("id", "sealed")); err != nil {
		t.Fatal(err)
	}
	before := len(asked)
	run(t, testpg.Shared(t).Admin(t, connection), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	if _, err := s.Get(t.Context(), kind, "id"); err != nil {
		t.Fatalf("Get after the connections were lost: %v", err)
	}
	if len(asked) <= before {
		t.Error("a new connection was made with the old password")
	}
}

// TestServerThatCannotBeWrittenIsRefused stands for a standby: it answers in the same words.
func TestServerThatCannotBeWrittenIsRefused(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	open(t, postgres.Options{Connection: connection}) // makes the schema, which may take longer than the others wait
	s := open(t, postgres.Options{Connection: connection, Wait: 2 * time.Second})
	wantWritable := func() error { return s.Apply(t.Context(), insert("id", "sealed")) }
	c := connection[strings.LastIndex(connection, "/")+1 : strings.Index(connection, "?")]
	run(t, testpg.Shared(t).Admin(t, connection), "ALTER DATABASE "+c+" SET default_transaction_read_only = on",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	wantOpenFails(t, postgres.Options{Connection: connection, Wait: 3 * time.Second}, "read-only standby", "name the primary, or all hosts")
	if err := wantWritable(); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("Apply on a server that cannot be written = %v; want ErrUnavailable", err)
	}
	run(t, testpg.Shared(t).Admin(t, ""), "ALTER DATABASE "+c+" RESET default_transaction_read_only")
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := wantWritable()
		if err == nil {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("Apply when it can be written again: %v", err)
		}
	}
}

func TestSettingsOfConnections(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	open(t, postgres.Options{Connection: connection})
	var n int
	c := connection[strings.LastIndex(connection, "/")+1 : strings.Index(connection, "?")]
	s := testpg.Shared(t)
	s.Exec(t, "SELECT 1")
	if err := scalar(t, s.Admin(t, ""), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'caddy-oauth-proxy' AND datname = '"+c+"'", &n); err != nil || n == 0 {
		t.Errorf("%d connections tell their name, %v", n, err)
	}
}
