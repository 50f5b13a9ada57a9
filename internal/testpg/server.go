package testpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	patience = 30 * time.Second // for a server to start, or to stop
	poll     = 10 * time.Millisecond
)

// settings make a server small. It syncs to disk as any does.
var settings = []string{
	"max_connections=400", "shared_buffers=32MB", "max_wal_size=256MB", "max_worker_processes=2", "max_parallel_workers=0",
	"log_min_duration_statement=-1", "log_line_prefix=%m [%p] %d ", "unix_socket_directories=",
}

// Server is a PostgreSQL server.
type Server struct {
	bin, dir string
	port     int
	as       *syscall.Credential // nil for the one that runs the test
	guard    io.Closer           // ends the server with the test binary, see watch
	guarded  *exec.Cmd

	mutex  sync.Mutex
	cmd    *exec.Cmd // nil while it does not run
	exited chan struct{}
}

// start makes a server and runs it.
func start(bin string) (s *Server, err error) {
	s = &Server{bin: bin}
	temporary := os.TempDir()
	if os.Getuid() == 0 { // as whom PostgreSQL does not run
		if s.as, err = other(); err != nil {
			return nil, err
		}
		temporary = "/tmp" // where another user gets to
	}
	if s.dir, err = os.MkdirTemp(temporary, "testpg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	if s.as != nil {
		if err := os.Chown(s.dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
			return nil, err
		}
	}
	if err := s.watch(); err != nil {
		return nil, err
	}
	if err := s.initialize(); err != nil {
		return nil, err
	}
	if s.port, err = freePort(); err != nil {
		return nil, err
	}
	if err := s.run(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, sql := range []string{"CREATE ROLE " + User + " LOGIN PASSWORD '" + Password + "'", "CREATE DATABASE " + User + " OWNER " + User} {
		if err := s.exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// other is the user postgres, or else nobody.
func other() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
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

// program prepares one of PostgreSQL's programs, or the shell, to run as the server's user, away from the terminal's signals.
func (s *Server) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Setpgid: true}
	return cmd
}

// watch starts a shell that waits for the end of its input, which is that of this process at the latest, and then ends the server and its directory.
func (s *Server) watch() error {
	const script = `read -r _; "$1/pg_ctl" stop -D "$2/data" -m immediate -t 10 >/dev/null 2>&1; cd /; rm -rf "$2"`
	s.guarded = s.program("/bin/sh", "-c", script, "sh", s.bin, s.dir)
	stdin, err := s.guarded.StdinPipe()
	if err != nil {
		return err
	}
	s.guard = stdin
	return s.guarded.Start()
}

// initialize makes the cluster. Its databases order text as a language does, where PostgreSQL can, so that whatever needs another order must say so.
func (s *Server) initialize() error {
	args := []string{"-D", s.data(), "-U", admin, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"}
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(Password+"\n"), 0o644); err != nil { // the user of the server reads it
		return err
	}
	args = append(args, "--pwfile", password)
	out, err := s.program(filepath.Join(s.bin, "initdb"), append(args, "--locale-provider=icu", "--icu-locale=en-US")...).CombinedOutput()
	if err != nil {
		if again, errAgain := s.program(filepath.Join(s.bin, "initdb"), args...).CombinedOutput(); errAgain != nil {
			return fmt.Errorf("initdb: %w\n%s%s", errAgain, out, again)
		}
	}
	access := "host all " + admin + " 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 trust\n"
	return os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(access), 0o644)
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// run starts the server, and waits until it answers. One that was killed may leave processes behind, which end soon and hold it up until then.
func (s *Server) run() error {
	var err error
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(poll) {
		if err = s.launch(); err != nil {
			return err
		}
		if err = s.ready(late); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s does not start: %w\n%s", s.Address(), err, s.tail())
}

func (s *Server) launch() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	logFile, err := os.OpenFile(s.log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }() // the server has its own
	args := []string{"-D", s.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port)}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := s.program(filepath.Join(s.bin, "postgres"), args...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(exited)
	}()
	return nil
}

func (s *Server) ready(late time.Time) error {
	ctx, cancel := context.WithDeadline(context.Background(), late)
	defer cancel()
	for {
		c, err := pgx.Connect(ctx, s.connection(admin, "postgres"))
		if err == nil {
			return c.Close(ctx)
		}
		select {
		case <-s.exited:
			return errors.New("it has ended")
		case <-ctx.Done():
			return err
		case <-time.After(poll):
		}
	}
}

// Stop stops the server as its operator would: connections are cut, transactions undone, and all is written.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGINT)
}

// Kill ends the server as a crash does, with nothing written that was not before. Its processes are told nothing.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	children := s.children()
	s.signal(t, syscall.SIGKILL)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it ends by itself without its server
	}
}

// Restart stops the server if it runs, and starts it again at the same address.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if s.running() {
		s.Stop(t)
	}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

// signal sends a signal that ends the server, and waits until it has.
func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	s.mutex.Lock()
	cmd, exited := s.cmd, s.exited
	s.mutex.Unlock()
	if !s.running() {
		t.Fatal("the server does not run")
	}
	_ = cmd.Process.Signal(sig) // fails when it has ended by itself
	select {
	case <-exited:
	case <-time.After(patience):
		t.Fatalf("%s does not end on %s\n%s", s.Address(), sig, s.tail())
	}
}

func (s *Server) running() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// children are the ids of the server's processes, where the system tells them in /proc.
func (s *Server) children() (pids []int) {
	s.mutex.Lock()
	parent := s.cmd.Process.Pid
	s.mutex.Unlock()
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// end ends the server and removes its directory.
func (s *Server) end() {
	if s.guard == nil {
		_ = os.RemoveAll(s.dir)
		return
	}
	_ = s.guard.Close()
	_ = s.guarded.Wait() // it reports nothing
}

// tail is the end of the server's log.
func (s *Server) tail() string {
	text, _ := os.ReadFile(s.log()) // there is none when it never ran
	return string(text[max(0, len(text)-4096):])
}

// Log is what the server has logged.
func (s *Server) Log(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(s.log())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Address is where the server listens, for a proxy before it.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }
func (s *Server) data() string    { return filepath.Join(s.dir, "data") }
func (s *Server) log() string     { return filepath.Join(s.dir, "log") }

func (s *Server) connection(who, database string) string {
	return "postgres://" + who + "@" + s.Address() + "/" + database + "?sslmode=disable"
}
