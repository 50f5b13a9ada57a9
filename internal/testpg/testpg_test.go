package testpg

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// asOwner is the environment variable that makes this binary start a server and wait to be killed.
const asOwner = "TESTPG_OWNER"

func TestMain(m *testing.M) {
	if bin := os.Getenv(asOwner); bin != "" {
		s, err := start(bin)
		if err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString(s.dir)
		_ = os.Stdout.Close()
		select {}
	}
	os.Exit(m.Run())
}

func TestServerKeepsWhatWasCommittedOverRestartAndKill(t *testing.T) {
	t.Parallel()
	s := Start(t)
	c := connect(t, s.Connection())
	mustExec(t, c, "CREATE TABLE rows (id int)")
	mustExec(t, c, "INSERT INTO rows VALUES (1)")
	s.Restart(t)
	if err := c.Ping(t.Context()); err == nil {
		t.Error("the connection outlived the server")
	}
	c = connect(t, s.Connection())
	mustExec(t, c, "INSERT INTO rows VALUES (2)")
	s.Kill(t)
	if _, err := pgx.Connect(t.Context(), s.Connection()); err == nil {
		t.Error("a server that was killed answers")
	}
	s.Restart(t)
	var n int
	if err := connect(t, s.Connection()).QueryRow(t.Context(), "SELECT count(*) FROM rows").Scan(&n); n != 2 || err != nil {
		t.Errorf("after a restart and a crash there are %d rows, %v; want 2", n, err)
	}
}

func TestDatabasesAreApartAndTheirUserIsNoSuperuser(t *testing.T) {
	t.Parallel()
	one, other := Database(t), Database(t)
	c := connect(t, one)
	mustExec(t, c, "CREATE SCHEMA s CREATE TABLE t (id int)")
	mustExec(t, connect(t, other), "CREATE SCHEMA s CREATE TABLE t (id int)")
	var super string
	if err := c.QueryRow(t.Context(), "SHOW is_superuser").Scan(&super); super != "off" || err != nil {
		t.Errorf("is_superuser = %q, %v", super, err)
	}
	if _, err := pgx.Connect(t.Context(), strings.Replace(one, Password, "another", 1)); err == nil {
		t.Error("a wrong password is taken")
	}
	if err := connect(t, Shared(t).Admin(t, one)).QueryRow(t.Context(), "SHOW is_superuser").Scan(&super); super != "on" || err != nil {
		t.Errorf("is_superuser of the admin = %q, %v", super, err)
	}
}

func TestServerEndsWithTheTestBinaryThatWasKilled(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asOwner+"="+programs(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir strings.Builder
	buffer := make([]byte, 256)
	for {
		n, err := out.Read(buffer)
		dir.Write(buffer[:n])
		if err != nil {
			break
		}
	}
	if _, err := os.Stat(dir.String() + "/data/postmaster.pid"); err != nil {
		t.Fatalf("the server does not run: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for late := time.Now().Add(patience); ; time.Sleep(poll) {
		if _, err := os.Stat(dir.String()); os.IsNotExist(err) {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s is still there", dir.String())
		}
	}
}

func connect(t *testing.T, connection string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), connection)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	return c
}

func mustExec(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
