package postgres

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// moveVariable has the test that is a process of its own move a vault: a file and a database, the source first, apart by a line's end.
const moveVariable = "POSTGRES_TEST_MOVE"

// openPlace opens a file, or a database.
func openPlace(place string) (tokenstore.Movable, error) {
	if strings.HasSuffix(place, ".db") {
		return bbolt.Open(place, time.Minute)
	}
	return Open(context.Background(), Options{Connection: place, Wait: 30 * time.Second})
}

func place(t *testing.T, of string) tokenstore.Movable {
	t.Helper()
	s, err := openPlace(of)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closed(t *testing.T, stores ...tokenstore.Movable) {
	t.Helper()
	for _, s := range stores {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMoveProcess is no test of its own: moveAndKill starts it.
func TestMoveProcess(t *testing.T) { //nolint:paralleltest // it is alone in its process
	from, to, ok := strings.Cut(os.Getenv(moveVariable), "\n")
	if !ok {
		return
	}
	source, target := place(t, from), place(t, to)
	fmt.Println("STEP begun")
	m := &tokenstore.Move{From: source, To: target, Source: "old", Target: "new", Vault: "vault-1", Progress: func(p tokenstore.Progress) { fmt.Println("STEP", p.Step) }}
	if strings.HasSuffix(to, ".db") {
		m.Source, m.Target = "new", "old"
	}
	if _, err := m.Run(context.Background()); err != nil {
		fmt.Println("STEP error:", err)
	}
	fmt.Println("STEP done")
}

// moveAndKill starts a move, kills it after some time, and returns the last step that it had begun.
func moveAndKill(t *testing.T, from, to string, after time.Duration) (step string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMoveProcess$")
	cmd.Env = append(os.Environ(), moveVariable+"="+from+"\n"+to)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		text, ok := strings.CutPrefix(lines.Text(), "STEP ")
		if !ok {
			continue
		}
		if step == "" {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		if step = text; strings.HasPrefix(step, "error") {
			t.Error(step)
		}
	}
	_ = cmd.Wait() // it was killed
	return step
}

// fillStore puts rows of all kinds into a store, some of them updated.
func fillStore(t *testing.T, s tokenstore.Store, perKind int) {
	t.Helper()
	random := rand.New(rand.NewPCG(5, 6))
	for _, kind := range tokenstore.Kinds() {
		var inserts, updates []tokenstore.Change
		for i := range perKind {
			r := tokenstore.Row{Kind: kind, ID: fmt.Sprintf("%c%04d", "Aa_~-"[i%5], i), Version: 1, State: []string{"", "active", "revoked"}[i%3], Sealed: make([]byte, random.IntN(3000))}
			for b := range r.Sealed {
				r.Sealed[b] = byte(random.Uint32())
			}
			for _, n := range random.Perm(30)[:random.IntN(5)] {
				r.Refs = append(r.Refs, fmt.Sprintf("ref:%d", n))
			}
			if i%2 == 0 {
				r.Due, r.DeleteAfter = time.UnixMilli(1+random.Int64N(1<<42)).UTC(), time.UnixMilli(1+random.Int64N(1<<42)).UTC()
			}
			inserts = append(inserts, tokenstore.Change{Op: tokenstore.OpInsert, Row: r})
			if i%4 == 0 {
				r.Version = 2
				updates = append(updates, tokenstore.Change{Op: tokenstore.OpUpdate, Row: r})
			}
		}
		for _, changes := range [][]tokenstore.Change{inserts, updates} {
			if err := s.Apply(t.Context(), changes...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// rowsIn are all rows of a store, each as a text.
func rowsIn(t *testing.T, s tokenstore.Store) []string {
	t.Helper()
	var rows []string
	for _, kind := range tokenstore.Kinds() {
		for q := (tokenstore.Query{Limit: 1000}); ; {
			page, err := s.List(t.Context(), kind, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				q.After = r.ID
				rows = append(rows, fmt.Sprintf("%s %s %d %q %q %d %d %x", kind, r.ID, r.Version, r.State, slices.Sorted(slices.Values(r.Refs)), r.Due.UnixMilli(), r.DeleteAfter.UnixMilli(), r.Sealed))
			}
			if len(page) < q.Limit {
				break
			}
		}
	}
	return rows
}

func TestVaultGoesToPostgreSQLAndBackHoweverItIsKilled(t *testing.T) {
	t.Parallel()
	file, database := filepath.Join(t.TempDir(), "vault.db"), testpg.Database(t)
	s := place(t, file)
	fillStore(t, s, 250)
	closed(t, s)
	for round, way := range [][2]string{{file, database}, {database, file}, {file, database}} {
		from, to := way[0], way[1]
		source := place(t, from)
		if round > 0 { // it is used meanwhile
			rows, err := source.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{})
			if err != nil {
				t.Fatal(err)
			}
			var changes []tokenstore.Change
			for i, r := range rows {
				r.Kind = tokenstore.KindGrant
				switch i % 3 {
				case 0:
					changes = append(changes, tokenstore.Change{Op: tokenstore.OpDelete, Row: r})
				case 1:
					r.Version, r.Refs, r.Sealed = r.Version+1, []string{fmt.Sprint("round:", round)}, bytes.Repeat([]byte{byte(round)}, i)
					changes = append(changes, tokenstore.Change{Op: tokenstore.OpUpdate, Row: r})
				}
			}
			changes = append(changes, tokenstore.Change{Op: tokenstore.OpInsert, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: fmt.Sprint("round-", round), Version: 1}})
			if err := source.Apply(t.Context(), changes...); err != nil {
				t.Fatal(err)
			}
		}
		want := rowsIn(t, source)
		closed(t, source)
		killed := make(map[string]int)
		for attempt := 1; ; attempt++ {
			killed[moveAndKill(t, from, to, time.Duration(rand.Int64N(int64(attempt)*int64(200*time.Millisecond))))]++
			source, target := place(t, from), place(t, to)
			left, err := source.Frozen(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			filled, err := target.Frozen(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !left.Frozen() && !filled.Frozen() && killed["begun"] < attempt {
				t.Fatalf("round %d, attempt %d: both can be written", round, attempt)
			}
			if !slices.Equal(want, rowsIn(t, source)) {
				t.Fatalf("round %d, attempt %d: the source has changed", round, attempt)
			}
			done := left.State == tokenstore.FreezeMoved && !filled.Frozen()
			if done && !slices.Equal(want, rowsIn(t, target)) {
				t.Fatalf("round %d, attempt %d: the target is not the same", round, attempt)
			}
			closed(t, source, target)
			if done {
				break
			}
			if attempt == 100 || t.Failed() {
				t.Fatalf("round %d: the move does not end", round)
			}
		}
		t.Logf("round %d, %d rows, killed: %v", round, len(want), killed)
	}
}
