package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// durations are times that were measured.
type durations []time.Duration

func (d durations) String() string {
	if len(d) == 0 {
		return "nothing was measured"
	}
	d = slices.Sorted(slices.Values(d))
	part := func(p float64) time.Duration { return d[int(p*float64(len(d)-1))].Round(10 * time.Microsecond) }
	return fmt.Sprintf("%d times, median %s, 90%% %s, 99%% %s, 99.9%% %s, most %s", len(d), part(0.5), part(0.9), part(0.99), part(0.999), part(1))
}

// revocationSeen uses the bot's access token on nodes 2 and 3, so that they know it, ends the grant on node 1, and returns how long after the answer to that
// the others accepted it last: the time from that answer to the beginning of the first request that each refused. It fails the test when a node accepts
// what was asked later than the bound.
func revocationSeen(t *testing.T, c *testenv.Cluster, b *testenv.PlainBot) (took durations) {
	t.Helper()
	for _, node := range []int{2, 3} {
		if status, body := callAt(t, c, b, node); status != http.StatusOK {
			t.Errorf("node %d before the revocation: %d %s", node, status, body)
			return nil
		}
	}
	if status, m, err := via(c, b, 1).Form("revoke", "token", b.Token()); err != nil || status != http.StatusOK {
		t.Errorf("revocation: %d %v %v", status, m, err)
		return nil
	}
	revoked := time.Now()
	for open := []int{2, 3}; len(open) > 0; {
		for _, node := range slices.Clone(open) {
			asked := time.Since(revoked)
			status, body := callAt(t, c, b, node)
			switch {
			case status == http.StatusUnauthorized:
				took = append(took, asked)
				open = slices.DeleteFunc(open, func(n int) bool { return n == node })
			case status != http.StatusOK:
				t.Errorf("node %d %s after the revocation on node 1: %d %s", node, asked, status, body)
				return took
			case asked > bound:
				t.Errorf("node %d accepts what was asked %s after the revocation on node 1", node, asked)
				return took
			}
		}
	}
	return took
}

// callAt calls a tool on one node.
func callAt(t *testing.T, c *testenv.Cluster, b *testenv.PlainBot, node int) (int, string) {
	t.Helper()
	a, err := via(c, b, node).Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"))
	if err != nil {
		return 0, err.Error()
	}
	return a.Status, a.Body
}
