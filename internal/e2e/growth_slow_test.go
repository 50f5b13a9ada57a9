//go:build slow && !race

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// growthVariable is the environment variable that says how many grants the largest vault has.
const growthVariable = "GROWTH"

// slowestStart is how long a start may take at all, on a machine that is busy with other things.
const slowestStart = 20 * time.Second

// What a gateway on a file costs by how many grants, each with an account of its own, are in it: the time from the start of the process to the first call that is
// answered, the memory, the file, and how long operators wait. It fails only where something is out of all proportion.
func TestSlowGrowthOfAVaultFile(t *testing.T) { //nolint:paralleltest // it measures
	most := numberFrom(t, growthVariable, 100_000)
	var rows []string
	for n := uint64(1000); n <= most; n *= 10 {
		rows = append(rows, measureGrowth(t, int(n)))
	}
	t.Logf("\n| grants | file | start to first call | memory after the start | the same, after all | first page | page of one user | clean-up of a tenth | rekey | backup | compact | verify |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n%s",
		strings.Join(rows, "\n"))
}

// measureGrowth is a line of the table.
func measureGrowth(t *testing.T, n int) string {
	t.Helper()
	w := testenv.Start(t, testenv.Options{TokenLife: time.Hour, Caddyfile: besiegedCaddyfile})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	w.Terminate()
	begun := time.Now()
	inVault(t, w, func(v *tokenstore.Vault) { populate(t, v, b.ID, n) })
	filled := time.Since(begun)

	begun = time.Now()
	w.Launch()
	testenv.Eventually(t, "the first call to be answered", func() bool {
		who, err := b.WhoAmI(t.Context())
		return err == nil && strings.Contains(who, "You are alice")
	})
	start := time.Since(begun)
	w.Await()
	if start > slowestStart {
		t.Errorf("%d grants: the first call was answered after %s", n, start)
	}
	atStart := memory(t, w)
	s := &siege{t: t, w: w, counts: make(map[string]int), office: http.DefaultClient}
	page := s.timed(func() { s.mustAsk(t, "grants?limit=100") })
	one := s.timed(func() { s.mustAsk(t, "grants?limit=100&client_id=client-7") })
	s.findChores()
	var chores []string
	for _, c := range s.chores {
		took := s.timed(func() {
			s.do(c)
			if c.path == rekeyChore.path {
				s.mustRekey()
			}
		})
		chores = append(chores, took.String())
	}
	inAll := memory(t, w)
	info, err := os.Stat(w.VaultPath())
	if err != nil {
		t.Fatal(err)
	}
	size := info.Size()
	w.Terminate()
	var sweep time.Duration
	inVault(t, w, func(v *tokenstore.Vault) {
		sweep = s.timed(func() {
			for deleted := 1; deleted > 0; {
				if deleted, err = v.Sweep(t.Context(), v.Now().AddDate(0, 2, 0), 1000); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
	w.Run()
	t.Logf("%d grants were stored in %s", n, filled.Round(time.Millisecond))
	return fmt.Sprintf("| %d | %d MB | %s | %d MB | %d MB | %s | %s | %s | %s |", n, size>>20, start.Round(time.Millisecond), atStart, inAll, page, one, sweep, strings.Join(chores, " | "))
}

func (s *siege) timed(do func()) time.Duration {
	begun := time.Now()
	do()
	return time.Since(begun).Round(time.Millisecond)
}

func (s *siege) mustAsk(t *testing.T, path string) {
	t.Helper()
	if status, text, err := s.admin(http.MethodGet, path, ""); err != nil || status != http.StatusOK || !strings.Contains(text, `"id"`) {
		t.Errorf("%s: %d %.500s %v", path, status, text, err)
	}
}

// memory is what of Caddy's process is in memory, in MB, without what it has of files.
func memory(t *testing.T, w *testenv.World) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) > 1 && f[0] == "RssAnon:" {
			kB, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kB >> 10
		}
	}
	t.Fatal("the system does not tell")
	return 0
}

// populate stores grants like the only one of a client, each with an account: ten of each user, of a thousand clients. One in ten is to be deleted in a month, all others much later.
func populate(t *testing.T, v *tokenstore.Vault, clientID string, n int) {
	t.Helper()
	grants, err := v.Grants(t.Context(), tokenstore.GrantQuery{ClientID: clientID})
	if err != nil || len(grants) != 1 {
		t.Fatalf("%d grants, %v", len(grants), err)
	}
	account, err := v.Account(t.Context(), grants[0].AccountID)
	if err != nil {
		t.Fatal(err)
	}
	random, now := rand.New(rand.NewPCG(1, 2)), v.Now()
	const batch = 4000
	writes := make([]tokenstore.Write, 0, batch)
	for i := range n {
		user := i / 10
		g, a := *grants[0], *account
		g.Meta = tokenstore.Meta{ID: tokenstore.NewID(now.Add(-time.Duration(i) * time.Second)), DeleteAfter: now.AddDate(0, 6, 0)}
		a.Meta = tokenstore.Meta{ID: fmt.Sprintf("account-%d", i), DeleteAfter: now.AddDate(0, 6, 0)}
		if i%10 == 0 {
			g.DeleteAfter, a.DeleteAfter = now.AddDate(0, 1, 0), now.AddDate(0, 1, 0)
		}
		g.UserID, g.AccountID, g.ClientID, g.Client = fmt.Sprint("user-", user), a.ID, fmt.Sprint("client-", user%1000), fmt.Sprint("Chatbot ", user%1000)
		g.User.Subject, g.User.Name, g.User.Login = fmt.Sprint(user), fmt.Sprint("Ada Number", user), fmt.Sprint("login", user)
		g.User.Email = fmt.Sprintf("user.%d@example-%d.test", user, user%40)
		a.UserID, a.OwnerID = g.UserID, fmt.Sprint("owner-", user)
		a.RefreshToken = fmt.Sprintf("rt-%x%x", random.Uint64(), random.Uint64())
		if writes = append(writes, tokenstore.Save(&g), tokenstore.Save(&a)); len(writes) == batch || i == n-1 {
			if err := v.Commit(t.Context(), writes...); err != nil {
				t.Fatal(err)
			}
			writes = writes[:0]
		}
	}
}
