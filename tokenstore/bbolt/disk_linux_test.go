package bbolt

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// apartVariable says which test a process is for that may mount file systems, or change its own limits.
const apartVariable = "VAULT_TEST_APART"

// apart runs a test once more, in a process with mounts of its own, and reports whether this is that process. Without the right to have them the test is skipped; in CI it fails.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apartVariable) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v")
	cmd.Env = append(os.Environ(), apartVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM) && os.Getenv("CI") != "":
		t.Fatal("file systems cannot be mounted: run the tests as root")
	case errors.Is(err, syscall.EPERM):
		t.Skip("file systems cannot be mounted: run the tests as root")
	case err != nil:
		t.Errorf("%v:\n%s", err, out)
	}
	return false
}

// mount mounts a file system of so much memory.
func mount(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk has somebody else take all the room that is left on a disk, until release is called.
func fillDisk(t *testing.T, dir string) (release func()) {
	t.Helper()
	path := filepath.Join(dir, "of-somebody-else")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestR26FullDiskIsToldAndForgottenWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	dir := mount(t, "64m")
	path := filepath.Join(dir, "vault.db")
	s := openStore(t, path)
	for i := range 20 {
		mustApply(t, s, insert(string(rune('a'+i)), make([]byte, 500_000)))
	}
	for round := range uint64(3) {
		release := fillDisk(t, dir)
		for range 3 {
			if err := s.Apply(t.Context(), insert("new", make([]byte, 3<<20))); !errors.Is(err, tokenstore.ErrUnavailable) || !strings.Contains(err.Error(), "no space left") {
				t.Errorf("Apply on a full disk = %v; want ErrUnavailable that says why", err)
			}
			if _, err := s.Get(t.Context(), tokenstore.KindGrant, "a"); err != nil {
				t.Errorf("Get on a full disk: %v", err)
			}
			if _, _, err := s.Compact(t.Context(), nil); !errors.Is(err, ErrCompact) || !strings.Contains(err.Error(), "make room") {
				t.Errorf("Compact on a full disk = %v; want ErrCompact", err)
			}
		}
		release()
		mustApply(t, s, update("b", round+2, make([]byte, 600_000)))
		if rows := wantWhole(t, s); rows != 20 {
			t.Errorf("%d rows; want 20", rows)
		}
	}
	told, release := false, func() {}
	_, _, err := s.Compact(t.Context(), func(tokenstore.Progress) {
		if !told {
			told, release = true, fillDisk(t, dir)
		}
	})
	if !errors.Is(err, ErrCompact) {
		t.Errorf("Compact on a disk that becomes full = %v; want ErrCompact", err)
	}
	if _, err := os.Stat(path + compactSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the new file was left: %v", err)
	}
	release()
	mustApply(t, s, insert("new", make([]byte, 1<<20)))
	mustCompact(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if rows := wantWhole(t, openStore(t, path)); rows != 21 {
		t.Errorf("%d rows; want 21", rows)
	}
}

func TestFileOnADiskThatIsReadOnlyIsRefused(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	dir := mount(t, "16m")
	path := filepath.Join(dir, "vault.db")
	s, err := Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, insert("a", nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	remount := func(flags uintptr) {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	if _, err := Open(path, time.Minute); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "mounted read-only") {
		t.Errorf("Open = %v; want an error that says what is wrong", err)
	}
	remount(0)
	if rows := wantWhole(t, openStore(t, path)); rows != 1 {
		t.Errorf("%d rows", rows)
	}
}

// asNobody has a user do something who owns no file.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	if os.Getuid() != 0 {
		do()
		return
	}
	runtime.LockOSThread() // and not unlocked: nobody else is to get this thread
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	do()
}

func TestFileOfSomebodyElseIsRefusedInWords(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s, err := Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, insert("a", nil))
	dir := filepath.Dir(path)
	for at, mode := range map[string]os.FileMode{path: 0o444, dir: 0o555, filepath.Dir(dir): 0o755} {
		if err := os.Chmod(at, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Error(err)
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		asNobody(t, func() {
			if _, _, err := s.Compact(t.Context(), nil); !errors.Is(err, ErrCompact) || !strings.Contains(err.Error(), "the new file cannot be made") {
				t.Errorf("Compact in a directory that cannot be written = %v; want ErrCompact", err)
			}
			for _, at := range []string{path, filepath.Join(dir, "new.db")} {
				if _, err := Open(at, time.Minute); err == nil || !strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), "for the user that runs Caddy") {
					t.Errorf("Open of %s = %v; want an error that says what is wrong", at, err)
				}
			}
		})
	}()
	<-done
	mustApply(t, s, insert("b", nil))
	if rows := wantWhole(t, s); rows != 2 {
		t.Errorf("%d rows", rows)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestStoreWorksOnWhenNoFileCanBeOpened(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	s := openStore(t, newPath(t))
	mustApply(t, s, insert("a", nil))
	other := newPath(t)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}); err != nil {
		t.Fatal(err)
	}
	var taken []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		taken = append(taken, f)
	}
	mustApply(t, s, insert("b", nil))
	if _, err := s.Get(t.Context(), tokenstore.KindGrant, "b"); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Compact(t.Context(), nil); !errors.Is(err, ErrCompact) || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("Compact = %v; want ErrCompact", err)
	}
	if _, err := Open(other, time.Minute); err == nil || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("Open = %v", err)
	}
	for _, f := range taken {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	mustCompact(t, s)
	mustApply(t, s, insert("c", nil))
	if rows := wantWhole(t, s); rows != 3 {
		t.Errorf("%d rows", rows)
	}
}
