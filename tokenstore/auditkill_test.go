package tokenstore_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// The test of this file kills a process that records events: this test binary, started with these variables.
const (
	killPathVariable = "AUDIT_TEST_PATH"
	killKeyVariable  = "AUDIT_TEST_KEY"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(killPathVariable); path != "" {
		recordUntilKilled(path)
		return
	}
	if from := os.Getenv(moveFromVariable); from != "" {
		if err := moveUntilKilled(from, os.Getenv(moveToVariable)); err != nil {
			fmt.Println("error:", err)
		}
		return
	}
	os.Exit(m.Run())
}

// recordUntilKilled records events from several goroutines while they are chained as often as can be, and prints the id of each once it is acknowledged.
func recordUntilKilled(path string) {
	key, err := tokenstore.ParseRootKey(os.Getenv(killKeyVariable))
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	s, err := bbolt.Open(path, time.Minute)
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	acknowledged := make(chan string)
	v, err := tokenstore.Open(context.Background(), s, tokenstore.Options{
		Keys: []tokenstore.RootKey{key}, Audit: tokenstore.AuditOptions{Every: time.Millisecond},
		Recorded: func(e *tokenstore.Event) { acknowledged <- e.ID },
	})
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	v.KeepAudit()
	for worker := range 8 {
		go func() {
			for ctx := context.Background(); ; {
				e := v.NewEvent(ctx, tokenstore.EventTokenIssued)
				if worker == 0 {
					v.Note(e)
					time.Sleep(time.Millisecond)
				} else if err := v.Commit(ctx, tokenstore.RecordEvent(e)); err != nil {
					acknowledged <- "error: " + err.Error()
				}
			}
		}()
	}
	for id := range acknowledged {
		fmt.Println(id)
	}
}

func TestR05AcknowledgedEventsSurviveAKillAndNoneIsThereTwice(t *testing.T) {
	t.Parallel()
	path, key := filepath.Join(t.TempDir(), "vault.db"), tokenstore.NewRootKey()
	var acknowledged []string
	for round := range 15 {
		acknowledged = append(acknowledged, recordAndKill(t, path, key, 50+round*20)...)
	}
	v := openAudited(t, openFile(t, path), key, tokenstore.Options{})
	if report := verify(t, v, ""); !report.Whole() || report.Number == 0 {
		t.Errorf("report after the kills = %+v", report)
	}
	flush(t, v)
	report := verify(t, v, "")
	if !report.Whole() || report.Waiting != 0 || report.Events < len(acknowledged) {
		t.Errorf("report = %+v; want at least %d events", report, len(acknowledged))
	}
	found := make(map[string]int)
	for _, e := range events(t, v, tokenstore.EventFilter{Limit: 1000}) {
		found[e.ID]++
	}
	for _, id := range acknowledged {
		if found[id] != 1 {
			t.Errorf("acknowledged event %s is in the trail %d times", id, found[id])
		}
	}
	t.Logf("%d events acknowledged, %d in %d segments", len(acknowledged), report.Events, report.Number)
}

// recordAndKill starts a process, kills it after so many acknowledgements, and returns all that it gave.
func recordAndKill(t *testing.T, path string, key tokenstore.RootKey, n int) (ids []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), killPathVariable+"="+path, killKeyVariable+"="+hex.EncodeToString(key[:]))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // what was cut off was not acknowledged
		}
		if strings.HasPrefix(line, "error") {
			t.Errorf("recorder: %s", line)
			break
		}
		if ids = append(ids, strings.TrimSpace(line)); len(ids) == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if len(ids) < n {
		t.Fatalf("the recorder acknowledged %d events; want at least %d", len(ids), n)
	}
	return ids
}
