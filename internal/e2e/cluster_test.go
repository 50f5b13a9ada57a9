package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// bound is how long after a write on one node all others act on it, at most.
const bound = time.Second

// via sends what a bot asks for to one node, until it is sent to another.
func via(c *testenv.Cluster, b *testenv.PlainBot, node int) *testenv.PlainBot {
	b.Client = c.Client(c.Node(node))
	return b
}

// hopping is a user's browser, whose requests to the gateway go to the node that their path calls for, and to the other node where it calls for none.
func hopping(c *testenv.Cluster, other int, nodes map[string]int) *testenv.Browser {
	return testenv.NewBrowser(testenv.Alice).Through(c.Through(func(r *http.Request) *testenv.World {
		for part, node := range nodes {
			if strings.Contains(r.URL.Path, part) {
				return c.Node(node)
			}
		}
		return c.Node(other)
	}))
}

// refusedWithin fails the test unless the nodes refuse the bot's access token soon after since.
func refusedWithin(t *testing.T, c *testenv.Cluster, b *testenv.PlainBot, since time.Time, nodes ...int) {
	t.Helper()
	for _, node := range nodes {
		for {
			asked := time.Since(since)
			a, err := via(c, b, node).Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"))
			if err != nil {
				t.Fatal(err)
			}
			if a.Status == http.StatusUnauthorized {
				break
			}
			if asked > bound {
				t.Fatalf("node %d answers %d to what was asked %s after the end of the grant on another node", node, a.Status, asked)
			}
		}
	}
}

// Three nodes on one PostgreSQL are one gateway: nobody can tell which of them a request went to.
func TestNodesAreOneGateway(t *testing.T) {
	t.Parallel()
	const registrations = 20
	c := testenv.StartCluster(t, testenv.ClusterOptions{
		Options: testenv.Options{Global: "admin {\n\tallow user alice\n}"},
		Limits:  strings.Replace(testenv.NoLimits, "register  100000 1s", fmt.Sprintf("register %d 1m", registrations), 1),
	})
	t.Run("a flow hops", func(t *testing.T) { flowHops(t, c) })
	t.Run("a sign-in hops", func(t *testing.T) { signInHops(t, c) })
	t.Run("a stream ends by another node", func(t *testing.T) { streamEndsByAnotherNode(t, c) })
	t.Run("revocations are seen in time", func(t *testing.T) {
		b := c.NewPlainBot(t, nil)
		const times = 20
		took := make(durations, 0, 2*times)
		for i := range times {
			via(c, b, i%3+1).Login(t, testenv.NewBrowser(testenv.Alice))
			took = append(took, revocationSeen(t, c, b)...)
		}
		t.Logf("refused on the other nodes after a revocation: %s", took)
	})
	t.Run("a rotation of the signing keys is seen in time", func(t *testing.T) { rotationIsSeen(t, c) })
	t.Run("a rate limit is shared", func(t *testing.T) { limitIsShared(t, c, registrations) })
}

// Registered on node 1, authorized on 2, back from the provider on 3, tokens from 1, calls on 2, refreshed on 3, revoked on 1.
func flowHops(t *testing.T, c *testenv.Cluster) {
	t.Helper()
	b := c.NewPlainBot(t, c.Node(1))
	b.Login(t, hopping(c, 2, map[string]int{"/callback": 3}))
	works(t, via(c, b, 2))
	via(c, b, 3).Refresh(t)
	for node := range c.Nodes {
		works(t, via(c, b, node+1))
	}
	answers := make(map[string]int)
	for node := range c.Nodes { // a refresh token that was replaced is answered with the same successor everywhere, for a while
		b := via(c, b, node+1)
		status, m, err := b.TokenRequest("refresh_token", b.Token())
		if err != nil || status != http.StatusOK {
			t.Fatalf("node %d: %d %v %v", node+1, status, m, err)
		}
		answers[m["refresh_token"].(string)]++
	}
	if len(answers) != 1 {
		t.Errorf("the nodes answer one refresh token with %d successors", len(answers))
	}
	code := b.Code
	if status, m, err := via(c, b, 1).Form("revoke", "token", b.Token()); err != nil || status != http.StatusOK {
		t.Fatalf("%d %v %v", status, m, err)
	}
	refusedWithin(t, c, b, time.Now(), 2, 3)
	for node := range c.Nodes {
		if status, m, err := via(c, b, node+1).TokenRequest("refresh_token", b.Token()); err != nil || status != http.StatusBadRequest || m["error"] != "invalid_grant" {
			t.Errorf("a refresh on node %d: %d %v %v", node+1, status, m, err)
		}
		if status, m, err := b.TokenRequest("code", code); err != nil || status != http.StatusBadRequest {
			t.Errorf("the code again on node %d: %d %v %v", node+1, status, m, err)
		}
	}
}

// The operator signs in on node 1, comes back from the provider on 2, and is known on 3; signed out on 1, on none.
func signInHops(t *testing.T, c *testenv.Cluster) {
	t.Helper()
	nodes := map[string]int{"/callback": 2, "/connections": 3}
	browser := hopping(c, 1, nodes)
	browser.Login(t, c.URL+"/oauth/signin?return_to=/connections", c.URL+"/connections")
	page := ""
	for node := range c.Nodes {
		nodes["/connections"], nodes["/admin"] = node+1, node+1
		page = browser.Open(t, c.URL+"/connections")
		if !strings.Contains(page, "Your connections") || !strings.Contains(page, "Operator") {
			t.Fatalf("node %d does not know her: %s", node+1, page)
		}
		if overview := browser.Open(t, c.URL+"/admin/"); !strings.Contains(overview, `aria-current="page">Overview`) {
			t.Errorf("node %d shows her no console: %s", node+1, overview)
		}
	}
	if out := browser.Submit(t, page, "/oauth/signout"); !strings.Contains(out, "You are signed out") {
		t.Fatalf("signed out: %s", out)
	}
	for node := range c.Nodes {
		nodes["/connections"] = node + 1
		if _, page := browser.Get(t, c.URL+"/connections"); strings.Contains(page, "Operator") {
			t.Errorf("node %d still knows her", node+1)
		}
	}
}

func streamEndsByAnotherNode(t *testing.T, c *testenv.Cluster) {
	t.Helper()
	for version, open := range eras {
		t.Run(version, func(t *testing.T) {
			const tries = 3 // as in TestT58StreamsEndWithinASecondOfRevocation
			var took time.Duration
			for range tries {
				b := c.NewPlainBot(t, nil)
				b.Login(t, testenv.NewBrowser(testenv.Alice))
				s := open(t, c.Balancer, via(c, b, 2), 300*time.Millisecond)
				if status, m, err := via(c, b, 1).Form("revoke", "token", b.Token()); err != nil || status != http.StatusOK {
					t.Fatalf("%d %v %v", status, m, err)
				}
				revoked := time.Now()
				select {
				case err := <-s.ended:
					if err != nil {
						t.Fatalf("the stream broke: %v", err)
					}
				case <-time.After(20 * time.Second):
					t.Fatal("the stream on node 2 is open 20 s after its grant was revoked on node 1")
				}
				if took = time.Since(revoked); took < bound {
					return
				}
			}
			t.Errorf("the stream on node 2 ended %s after the revocation on node 1, and in two tries before not within %s either", took, bound)
		})
	}
}

var keyID = regexp.MustCompile(`"kid":"([^"]+)"`)

// keysOf are the ids of the signing keys that a node publishes.
func keysOf(t *testing.T, c *testenv.Cluster, node int) (ids []string) {
	t.Helper()
	_, body := testenv.NewBrowser(testenv.Alice).Through(c.Client(c.Node(node)).Transport).Get(t, c.URL+"/.well-known/jwks.json")
	for _, m := range keyID.FindAllStringSubmatch(body, -1) {
		ids = append(ids, m[1])
	}
	slices.Sort(ids)
	return ids
}

func rotationIsSeen(t *testing.T, c *testenv.Cluster) {
	t.Helper()
	b := c.NewPlainBot(t, nil)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	for _, flags := range [][]string{nil, {"--compromised"}} {
		before := keysOf(t, c, 2)
		if _, errs, ok := command(t, c.Node(1), append([]string{"rotate-signing-key"}, flags...)...); !ok {
			t.Fatal(errs)
		}
		rotated := time.Now()
		want := keysOf(t, c, 1)
		if slices.Equal(before, want) {
			t.Fatal("nothing was rotated")
		}
		for _, node := range []int{2, 3} {
			for asked := time.Since(rotated); !slices.Equal(keysOf(t, c, node), want); asked = time.Since(rotated) {
				if asked > bound {
					t.Fatalf("%v: node %d publishes %v %s after node 1 publishes %v", flags, node, keysOf(t, c, node), asked, want)
				}
			}
		}
		if flags != nil {
			refusedWithin(t, c, b, rotated, 2, 3)
		}
		via(c, b, 1).Refresh(t)
		for _, node := range []int{2, 3} {
			works(t, via(c, b, node))
		}
	}
}

// limitIsShared registers clients from one address on the nodes in turn.
func limitIsShared(t *testing.T, c *testenv.Cluster, limit int) {
	t.Helper()
	every := time.Minute / time.Duration(limit) // there is room for one more
	began, taken, refused := time.Now(), 0, 0
	for i := range 3 * limit {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL+"/api/v1/oauth-proxy/register", strings.NewReader(`{"redirect_uris":["http://localhost/callback"]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Forwarded-For", "203.0.113.7")
		resp, err := c.Client(c.Node(i%3 + 1)).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusCreated:
			taken++
		case resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "":
			refused++
		default:
			t.Fatalf("%s %v", resp.Status, resp.Header)
		}
	}
	if most := limit + int(time.Since(began)/every) + 1; taken < limit || taken > most {
		t.Errorf("the nodes together take %d registrations and refuse %d; want %d to %d taken", taken, refused, limit, most)
	}
}
