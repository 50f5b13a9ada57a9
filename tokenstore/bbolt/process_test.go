package bbolt

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// The tests of this file need a second process on the same vault file: this test binary, started with these variables.
const (
	roleVariable = "VAULT_TEST_ROLE"
	pathVariable = "VAULT_TEST_PATH"
	roleWriter   = "writer"
	roleOpener   = "opener"

	// roleCompactor is a writer that compacts the file all the time.
	roleCompactor = "compactor"

	// lineCompacted is what it prints after each time.
	lineCompacted = "compacted"
)

func TestMain(m *testing.M) {
	switch path := os.Getenv(pathVariable); os.Getenv(roleVariable) {
	case roleWriter:
		writeUntilKilled(path, false)
	case roleCompactor:
		writeUntilKilled(path, true)
	case roleOpener:
		s, err := Open(path, 50*time.Millisecond)
		if err == nil {
			err = s.Close()
		}
		fmt.Println(err)
	default:
		os.Exit(m.Run())
	}
}

func child(ctx context.Context, role, path string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, pathVariable+"="+path)
	return cmd
}

// writeUntilKilled inserts rows from several goroutines, and prints the id of each once it is acknowledged.
func writeUntilKilled(path string, compact bool) {
	s, err := Open(path, time.Second)
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	acknowledged := make(chan string)
	if compact {
		go func() {
			for {
				done := lineCompacted
				if _, _, err := s.Compact(context.Background(), nil); err != nil {
					done = "error: " + err.Error()
				}
				acknowledged <- done
			}
		}()
	}
	for worker := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), worker, i)
				if err := s.Apply(context.Background(), insert(id, []byte(strings.Repeat(id, 50)))); err != nil {
					id = "error: " + err.Error()
				}
				acknowledged <- id
			}
		}()
	}
	for id := range acknowledged {
		fmt.Println(id)
	}
}

func TestR05AcknowledgedWritesSurviveAKill(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	var ids []string
	for round := range kills(t, 20) {
		ids = append(ids, writeAndKill(t, roleWriter, path, 20+round*5, 0)...)
	}
	s := openStore(t, path)
	for _, id := range ids {
		row, err := s.Get(t.Context(), tokenstore.KindGrant, id)
		if err != nil || string(row.Sealed) != strings.Repeat(id, 50) {
			t.Fatalf("acknowledged row %s is lost: %v", id, err)
		}
	}
	db := s.db
	tx, err := db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	for err := range tx.Check() {
		t.Errorf("the file is not consistent: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
}

// writeAndKill starts a writer, kills it after n acknowledgements, and so many compactions, and returns all that it gave.
func writeAndKill(t *testing.T, role, path string, n, compactions int) []string {
	t.Helper()
	cmd := child(t.Context(), role, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ids []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "error") {
			t.Errorf("writer: %s", lines.Text())
			break
		}
		if strings.Count(lines.Text(), "-") == 2 {
			ids = append(ids, lines.Text())
		}
		if lines.Text() == lineCompacted {
			compactions--
		}
		if len(ids) >= n && compactions <= 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if len(ids) < n {
		t.Fatalf("writer acknowledged %d rows; want at least %d", len(ids), n)
	}
	return ids[:len(ids)-1] // the last line may be cut
}

func TestR27SecondOpenOfAFileFailsInTime(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	openStore(t, path)
	_, within := Open(path, 50*time.Millisecond)
	out, err := child(t.Context(), roleOpener, path).Output()
	if err != nil {
		t.Fatal(err)
	}
	for who, message := range map[string]string{"this process": fmt.Sprint(within), "another process": string(out)} {
		for _, want := range []string{path, "is locked: is another Caddy running?", "`caddy reload`", "its own vault file"} {
			if !strings.Contains(message, want) {
				t.Errorf("Open in %s = %q; want it to say %q", who, message, want)
			}
		}
	}
}
