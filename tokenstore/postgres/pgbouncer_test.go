package postgres

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/storetest"
)

// startPgbouncer runs PgBouncer before the server that the tests share, and returns its address. It gives each transaction another connection of few.
func startPgbouncer(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		const what = "pgbouncer is not installed; on Debian run: apt-get install pgbouncer"
		if os.Getenv("CI") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	dir, err := os.MkdirTemp("/tmp", "pgbouncer-") // where another user gets to
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	_ = l.Close()
	host, port, err := net.SplitHostPort(testpg.Shared(t).Address())
	if err != nil {
		t.Fatal(err)
	}
	users, config := filepath.Join(dir, "users"), filepath.Join(dir, "config")
	for path, text := range map[string]string{
		users: fmt.Sprintf("%q %q\n", testpg.User, testpg.Password),
		config: fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = transaction
default_pool_size = 3
max_client_conn = 1000
`, host, port, address.Port, users),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 { // as whom it does not run
		other, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(other.Uid) // they are numbers here
		gid, _ := strconv.Atoi(other.Gid)
		for _, path := range []string{dir, users, config} {
			if err := os.Chown(path, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("pgbouncer said:\n%s", log.String()[max(0, log.Len()-4096):])
		}
	})
	eventually(t, "pgbouncer", func() bool {
		c, err := net.Dial("tcp", address.String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return address.String()
}

// at is a connection string that leads elsewhere, in the way that goes with a proxy that pools transactions.
func at(t *testing.T, connection, address string) string {
	t.Helper()
	u, err := url.Parse(connection)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = address
	q := u.Query()
	q.Set("default_query_exec_mode", "exec")
	u.RawQuery = q.Encode()
	return u.String()
}

func TestStoreThroughPgbouncer(t *testing.T) {
	t.Parallel()
	address := startPgbouncer(t)
	storetest.Run(t, func(t *testing.T) tokenstore.Store {
		connection := testpg.Database(t)
		s := openStore(t, Options{Connection: at(t, connection, address), Listen: connection})
		if !s.Status().Listening {
			t.Error("the store does not listen")
		}
		return s
	})
}

func TestNotificationsThatDoNotArriveAreFoundOut(t *testing.T) {
	t.Parallel()
	address := startPgbouncer(t)
	connection := testpg.Database(t)
	logs, seen := observer.New(zapcore.WarnLevel)
	start := time.Now()
	here := openStore(t, Options{Connection: at(t, connection, address), Logger: zap.New(logs)})
	if took := time.Since(start); took > deaf+busy {
		t.Errorf("Open took %s", took)
	}
	there := openStore(t, Options{Connection: connection})
	if n := seen.FilterMessageSnippet("set listen").Len() + seen.FilterMessageSnippet("listen off").Len(); n == 0 {
		t.Errorf("the log has %v", seen.All())
	}
	w := watchGrants(t, here)
	mustApply(t, there, insertGrant("a"))
	for version := uint64(2); version < 20; version++ {
		wantRecall(t, here, "a", version-1)
		mustApply(t, there, updateGrant("a", version))
		wantRecall(t, here, "a", version)
		mustApply(t, here, updateGrant("a", version+1))
		wantRecall(t, here, "a", version+1)
		version++
	}
	wantTold(t, w, "b", func() { mustApply(t, there, insertGrant("b")) })
	if st := here.Status(); st.Listening || here.Recalls().Hits > 0 || !st.Reachable {
		t.Errorf("status = %+v", st)
	}
	if d := time.Since(here.Now()).Abs(); d > time.Second { // both clocks are this machine's
		t.Errorf("the clock is %s off", d)
	}
	if _, err := here.Take(t.Context(), "key", time.Second, time.Minute); err != nil {
		t.Errorf("Take: %v", err)
	}
}

// The way of the calls can fail alone.
func TestProxyThatIsGoneIsADatabaseThatIsGone(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	p := newProxy(t, startPgbouncer(t))
	const wait = time.Second
	s := openStore(t, Options{Connection: at(t, connection, p.address), Listen: connection, Wait: wait, MaxStale: time.Minute})
	mustApply(t, s, insertGrant("a"))
	remembers(t, s, "a", 1)
	p.swallow(true)
	eventually(t, "gone", func() bool { return wantUnavailable(t, "Get", get(s, "a")) < wait/3 })
	wantRecall(t, s, "a", 1) // still told of changes
	other := openStore(t, Options{Connection: connection})
	mustApply(t, other, updateGrant("a", 2))
	time.Sleep(bound)
	wantUnavailable(t, "Recall of what was changed meanwhile", recall(s, "a"))
	p.restore()
	eventually(t, "back", func() bool { return get(s, "a")() == nil })
	wantRecall(t, s, "a", 2)
}
