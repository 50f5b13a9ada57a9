// Package testpg runs PostgreSQL for tests: real servers, started from the programs that are installed, each in a directory of its own on a free loopback port.
// A server ends, and its directory goes, when its test does; and with the test binary, however that ends.
package testpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The roles of a server. What is tested connects as the user, who owns databases and is no superuser, and proves the password.
const (
	User     = "vault"
	Password = "password-of-the-vault"
	admin    = "postgres" // needs no password
)

// shared is the server of Database.
var shared struct {
	sync.Mutex
	server *Server
}

// databases counts those that were made, for their names.
var databases atomic.Int64

// Start runs a server for one test, which may stop it.
func Start(t testing.TB) *Server {
	t.Helper()
	bin := programs(t)
	s, err := start(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s, end of its log:\n%s", s.Address(), s.tail())
		}
		s.end()
	})
	return s
}

// Database makes an empty database in a server that all tests of the binary share, and returns its connection string. No test stops that server.
func Database(t testing.TB) string {
	t.Helper()
	return Shared(t).Database(t)
}

// Shared is the server of Database. It runs until the test binary ends.
func Shared(t testing.TB) *Server {
	t.Helper()
	bin := programs(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := start(bin)
		if err != nil {
			t.Fatal(err)
		}
		shared.server = s
	}
	return shared.server
}

// Database makes an empty database, and returns its connection string. It is dropped when the test ends.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	s.Exec(t, "CREATE DATABASE "+name+" OWNER "+User)
	t.Cleanup(func() {
		if s.running() {
			s.Exec(t, "DROP DATABASE "+name+" WITH (FORCE)")
		}
	})
	return s.connection(User+":"+Password, name)
}

// Connection is the connection string of a database that every server has, for its user.
func (s *Server) Connection() string { return s.connection(User+":"+Password, User) }

// Admin is the connection string of a superuser for the same database as another one is of, or for Connection's when that is empty.
func (s *Server) Admin(t testing.TB, connection string) string {
	t.Helper()
	if connection == "" {
		connection = s.Connection()
	}
	c, err := pgx.ParseConfig(connection)
	if err != nil {
		t.Fatal(err)
	}
	return s.connection(admin, c.Database)
}

// Exec runs statements as a superuser in the database postgres.
func (s *Server) Exec(t testing.TB, sql string) {
	t.Helper()
	if err := s.exec(context.Background(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (s *Server) exec(ctx context.Context, sql string) error {
	c, err := pgx.Connect(ctx, s.connection(admin, "postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	_, err = c.Exec(ctx, sql)
	return err
}

// programs finds the directory of PostgreSQL's programs. Without them the test is skipped; in CI it fails.
func programs(t testing.TB) string {
	t.Helper()
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is good
	slices.Sort(installed)
	slices.Reverse(installed)
	for _, dir := range append(dirs, installed...) {
		if all(dir, "initdb", "pg_ctl", "postgres") {
			return dir
		}
	}
	const what = "PostgreSQL's programs (initdb, pg_ctl, postgres) are not installed; on Debian run: apt-get install postgresql"
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
	return ""
}

func all(dir string, names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err != nil
	})
}
