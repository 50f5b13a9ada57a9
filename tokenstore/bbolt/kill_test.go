package bbolt

import (
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// killsVariable says how often a process is killed, where that is to be more than every test should take.
const killsVariable = "VAULT_TEST_KILLS"

func kills(t *testing.T, otherwise int) int {
	t.Helper()
	text := os.Getenv(killsVariable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of kills", killsVariable, text)
	}
	return n
}

// TestKillWhileCompactingLeavesOneWholeVault kills, at random moments, a process that writes and compacts all the time, and opens after each what it has left.
func TestKillWhileCompactingLeavesOneWholeVault(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	path := newPath(t)
	seed, n := rand.Uint64(), kills(t, 25)
	t.Logf("seed %d, %d kills", seed, n)
	r := rand.New(rand.NewPCG(seed, 0))
	var ids []string
	leftOver, replaced := 0, 0
	var last os.FileInfo
	for range n {
		ids = append(ids, writeAndKill(t, roleCompactor, path, 2+r.IntN(120), r.IntN(3))...)
		if _, err := os.Stat(path + compactSuffix); err == nil {
			leftOver++
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if last != nil && !os.SameFile(last, info) {
			replaced++
		}
		last = info
		s, err := Open(path, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			row, err := s.Get(t.Context(), tokenstore.KindGrant, id)
			if err != nil || string(row.Sealed) != strings.Repeat(id, 50) {
				t.Fatalf("acknowledged row %s is lost: %v", id, err)
			}
		}
		wantWhole(t, s)
		if _, err := os.Stat(path + compactSuffix); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what a compaction has left is there after the next start: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d rows; %d kills in the midst of a compaction, and %d after one or more", len(ids), leftOver, replaced)
	if leftOver == 0 || replaced == 0 {
		t.Error("no kill met a compaction")
	}
}
