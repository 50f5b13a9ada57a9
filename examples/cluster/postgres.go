//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// programs returns where PostgreSQL's programs are.
func programs() (string, error) {
	var places []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil { // they look for each other where they are
			places = append(places, filepath.Dir(path))
		}
	}
	if out, err := exec.CommandContext(context.Background(), "pg_config", "--bindir").Output(); err == nil {
		places = append(places, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"} {
		found, _ := filepath.Glob(pattern)
		slices.Reverse(found) // the newest first
		places = append(places, found...)
	}
	for _, bin := range places {
		if executable(filepath.Join(bin, "initdb")) && executable(filepath.Join(bin, "postgres")) && executable(filepath.Join(bin, "pg_ctl")) {
			return bin, nil
		}
	}
	return "", errors.New("PostgreSQL's programs (initdb, postgres, pg_ctl) are missing: install it, on Debian and Ubuntu by `apt-get install postgresql`, " +
		"on Fedora by `dnf install postgresql-server`, on a Mac by `brew install postgresql`. It need not run: the cluster starts one of its own")
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// database is a PostgreSQL server of the cluster's own, which listens on loopback alone.
type database struct {
	bin, dir  string
	port      int
	as        *syscall.Credential // who it runs as, because it refuses root
	superuser string              // the superuser's password
	process   *process
}

// newDatabase makes what the server needs, at the first start.
func newDatabase(ctx context.Context, bin, dir string) (*database, error) {
	d := &database{bin: bin, dir: filepath.Join(dir, "postgres")}
	var err error
	if d.port, err = freePort(ctx, 0); err != nil {
		return nil, err
	}
	if d.as, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	password := filepath.Join(d.dir, "superuser.password")
	if d.superuser, err = secretFile(password, rand.Text()); err != nil {
		return nil, err
	}
	if d.as != nil {
		if err := errors.Join(os.Chown(d.dir, int(d.as.Uid), int(d.as.Gid)), os.Chown(password, int(d.as.Uid), int(d.as.Gid))); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(d.data("PG_VERSION")); err != nil {
		if out, err := d.command("initdb", "--pgdata", d.data(), "--username=postgres", "--pwfile", password, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums").CombinedOutput(); err != nil {
			if d.as != nil && errors.Is(err, fs.ErrPermission) {
				return nil, fmt.Errorf("the user postgres, as whom root starts PostgreSQL, does not get into %s: name another directory with -dir (%w)", d.dir, err)
			}
			return nil, fmt.Errorf("making a database in %s: %w: %s", d.dir, err, bytes.TrimSpace(out))
		}
	}
	// One that an earlier cluster has left behind, because it was killed.
	if d.command("pg_ctl", "status", "--pgdata", d.data()).Run() == nil {
		if out, err := d.command("pg_ctl", "stop", "--pgdata", d.data(), "--mode=fast").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ending the database that is running in %s already: %w: %s", d.dir, err, bytes.TrimSpace(out))
		}
	}
	d.process = &process{
		name: "PostgreSQL", address: "port " + strconv.Itoa(d.port), logFile: filepath.Join(dir, "postgres.log"), goodbye: syscall.SIGINT, // ends sessions, too
		command: func() *exec.Cmd {
			return d.command("postgres", "-D", d.data(), "-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(d.port), "-c", "unix_socket_directories=")
		},
		ready: func(ctx context.Context) error {
			return d.asSuperuser(ctx, func(*pgx.Conn) error { return nil })
		},
	}
	return d, nil
}

// unprivileged is whom root starts the server as; nil when this is not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres that root could start it as: run this as somebody else (%w)", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (d *database) data(name ...string) string {
	return filepath.Join(append([]string{d.dir, "data"}, name...)...)
}

// command runs one of PostgreSQL's programs as the user whom the data belongs to.
func (d *database) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), filepath.Join(d.bin, program), args...) //nolint:gosec // a program that was found above
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if d.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.as}
	}
	return cmd
}

// connection is how the gateway reaches the database; the password stands elsewhere. Over a network it would say sslmode=verify-full.
func (d *database) connection() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=oauth_proxy dbname=oauth_proxy sslmode=disable", d.port)
}

// start starts the server, and gives the gateway a role and a database.
func (d *database) start(ctx context.Context, password string) error {
	if err := d.process.start(ctx); err != nil {
		return err
	}
	return d.asSuperuser(ctx, func(c *pgx.Conn) error {
		for _, s := range []struct{ missing, create string }{
			{"SELECT count(*) = 0 FROM pg_roles WHERE rolname = 'oauth_proxy'", "CREATE ROLE oauth_proxy LOGIN"},
			{"SELECT true", "ALTER ROLE oauth_proxy PASSWORD '" + password + "'"}, // letters and digits, made above
			{"SELECT count(*) = 0 FROM pg_database WHERE datname = 'oauth_proxy'", "CREATE DATABASE oauth_proxy OWNER oauth_proxy"},
		} {
			var missing bool
			if err := c.QueryRow(ctx, s.missing).Scan(&missing); err != nil {
				return fmt.Errorf("preparing the database: %w", err)
			}
			if missing {
				if _, err := c.Exec(ctx, s.create); err != nil {
					return fmt.Errorf("preparing the database: %w", err)
				}
			}
		}
		return nil
	})
}

func (d *database) asSuperuser(ctx context.Context, do func(*pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", d.port))
	if err != nil {
		return err
	}
	config.Password = d.superuser
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer c.Close(ctx) //nolint:errcheck // on the way out
	return do(c)
}
