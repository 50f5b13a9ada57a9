package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// asWriter is the environment variable that makes this test binary write to a vault until it is killed.
const asWriter = "VAULT_TEST_CONNECTION"

func TestMain(m *testing.M) {
	if connection := os.Getenv(asWriter); connection != "" {
		writeUntilKilled(connection)
		return
	}
	os.Exit(m.Run())
}

// writeUntilKilled inserts pairs of rows from several goroutines, and prints the id of each pair once it is acknowledged.
func writeUntilKilled(connection string) {
	s, err := postgres.Open(context.Background(), postgres.Options{Connection: connection})
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	acknowledged := make(chan string)
	for worker := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), worker, i)
				if err := s.Apply(context.Background(), pair(id)...); err != nil {
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

// pair are two rows that are there together or not at all.
func pair(id string) []tokenstore.Change {
	one, other := insert(id, strings.Repeat(id, 50)), insert("other-"+id, id)
	other.Row.Kind = tokenstore.KindAccount
	return []tokenstore.Change{one, other}
}

func wantPairs(t *testing.T, s *postgres.Store, ids []string) {
	t.Helper()
	for _, id := range ids {
		row, err := s.Get(t.Context(), kind, id)
		if err != nil || string(row.Sealed) != strings.Repeat(id, 50) {
			t.Fatalf("acknowledged row %s is lost: %v", id, err)
		}
	}
	grants, err := s.Count(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := s.Count(t.Context(), tokenstore.KindAccount, "all")
	if err != nil || grants != accounts || grants < len(ids) {
		t.Errorf("%d rows, and %d of those that were inserted along, %v; %d were acknowledged", grants, accounts, err, len(ids))
	}
}

func TestR05AcknowledgedWritesSurviveAKillOfTheNode(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	var ids []string
	for round := range 5 {
		ids = append(ids, writeAndKill(t, connection, 20+round*10)...)
	}
	wantPairs(t, open(t, postgres.Options{Connection: connection}), ids)
}

// writeAndKill starts a writer, kills it after n acknowledgements, and returns all that it gave.
func writeAndKill(t *testing.T, connection string, n int) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asWriter+"="+connection)
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
		if len(ids) == n {
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

// TestAcknowledgedWritesSurviveCrashesOfTheDatabase kills PostgreSQL under load, and starts it again. Calls that run at the time wait for it.
func TestAcknowledgedWritesSurviveCrashesOfTheDatabase(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	s := open(t, postgres.Options{Connection: server.Connection(), Wait: 30 * time.Second})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		mutex   sync.Mutex
		ids     []string
		writers sync.WaitGroup
	)
	acknowledged := func() int {
		mutex.Lock()
		defer mutex.Unlock()
		return len(ids)
	}
	for worker := range 6 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%d-%d", worker, i)
				if err := s.Apply(context.WithoutCancel(ctx), pair(id)...); err != nil {
					t.Errorf("Apply: %v", err)
					return
				}
				mutex.Lock()
				ids = append(ids, id)
				mutex.Unlock()
			}
		})
	}
	for range 3 {
		before := acknowledged()
		for late := time.Now().Add(20 * time.Second); acknowledged() < before+30; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(late) {
				t.Fatal("nothing is acknowledged")
			}
		}
		server.Kill(t)
		server.Restart(t)
	}
	stop()
	writers.Wait()
	wantPairs(t, s, ids)
}
