package tokenstore_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// The test of this file kills a process that moves a vault: this test binary, started for moveUntilKilled with these variables.
const (
	moveFromVariable = "MOVE_TEST_FROM"
	moveToVariable   = "MOVE_TEST_TO"
)

// moveUntilKilled moves a vault, and prints how far it is.
func moveUntilKilled(from, to string) error {
	source, err := bbolt.Open(from, time.Minute)
	if err != nil {
		return err
	}
	target, err := bbolt.Open(to, time.Minute)
	if err != nil {
		return err
	}
	fmt.Println("begun")
	m := &tokenstore.Move{From: source, To: target, Source: from, Target: to, Vault: "vault-1", Progress: func(p tokenstore.Progress) { fmt.Println(p.Step) }}
	if _, err := m.Run(context.Background()); err != nil {
		return err
	}
	fmt.Println("done")
	return nil
}

func TestMoveThatIsKilledGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	killed := make(map[string]int) // by the last step that was begun
	for world := range 6 {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "old.db"), filepath.Join(dir, "new.db")
		s := openFile(t, from)
		populate(t, s, 250)
		want := rowsOf(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for attempt := 1; ; attempt++ {
			step := moveAndKill(t, from, to, time.Duration(rand.Int64N(int64(attempt)*int64(60*time.Millisecond))))
			killed[step]++
			source, target := openFile(t, from).(*bbolt.Store), openFile(t, to).(*bbolt.Store)
			served, errServed := source.Frozen(t.Context())
			filled, errFilled := target.Frozen(t.Context())
			if errServed != nil || errFilled != nil {
				t.Fatal(errServed, errFilled)
			}
			wantSame(t, want, rowsOf(t, source))
			copied := len(rowsOf(t, target))
			if copied > 0 && !served.Frozen() && !filled.Frozen() {
				t.Fatalf("world %d, attempt %d: both can be written", world, attempt)
			}
			if _, err := tokenstore.MayServe(t.Context(), target); err == nil && copied > 0 {
				wantSame(t, want, rowsOf(t, target)) // it is served as soon as it may be
			}
			done := served.State == tokenstore.FreezeMoved
			if done {
				wantState(t, target, "")
				wantSame(t, want, rowsOf(t, target))
			}
			if err := source.Close(); err != nil {
				t.Fatal(err)
			}
			if err := target.Close(); err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
			if attempt == 200 || t.Failed() {
				t.Fatalf("world %d: the move does not end", world)
			}
		}
	}
	t.Logf("killed: %v", killed)
	if len(killed) < 3 {
		t.Errorf("only killed in %v: the test is no good", killed)
	}
}

// moveAndKill starts a move, kills it after some time, and returns the last step that it had begun.
func moveAndKill(t *testing.T, from, to string, after time.Duration) (step string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), moveFromVariable+"="+from, moveToVariable+"="+to)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if step == "" {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		if step = lines.Text(); strings.HasPrefix(step, "error") {
			t.Error(step)
		}
	}
	_ = cmd.Wait() // it was killed
	return step
}
