package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
)

// BenchmarkCluster measures what MCP calls, refreshes and logins cost with one, two and three nodes on one database: the time of processors that nodes and
// PostgreSQL use, and the statements that PostgreSQL is given, without what the nodes do when nobody asks them. That is what scales. How many
// there are in a second, where all nodes, the database, the provider, the MCP server and the clients share one machine, does not tell what three machines do.
func BenchmarkCluster(b *testing.B) {
	for nodes := 1; nodes <= 3; nodes++ {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			const users = 64
			database := testpg.Start(b)
			database.Exec(b, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
			database.Restart(b)
			var all []provider.User
			for i := range users {
				all = append(all, provider.User{Name: fmt.Sprintf("user%02d", i), Password: "password", FullName: "A user"})
			}
			c := testenv.StartCluster(b, testenv.ClusterOptions{Options: testenv.Options{TokenLife: time.Hour, Users: all}, Nodes: nodes, Database: database, LogLevel: "ERROR"})
			m := newMeter(b, c)

			bots := make([]*testenv.PlainBot, users)
			registered := c.NewPlainBot(b, nil)
			for i := range bots {
				bots[i] = registered.Twin("")
				bots[i].Client = c.Client(c.Node(i%nodes + 1))
			}
			login := func(i int) error {
				return bots[i].TryLogin(testenv.NewBrowser(all[i]).Through(bots[i].Client.Transport))
			}
			call := func(i int) error {
				a, err := bots[i].Send(b.Context(), http.MethodPost, testenv.ToolCall("whoami"))
				if err == nil && a.Status != http.StatusOK {
					err = fmt.Errorf("status %d: %s", a.Status, a.Body)
				}
				return err
			}
			many(b, users, users, login) // all have logged in, however few the benchmark of that does
			refresh := func(i int) error { return bots[i].TryRefresh() }
			nothing := func() {}
			b.Run("login", func(b *testing.B) { m.measure(b, 1, b.N, nothing, func() { many(b, users, b.N, login) }) })
			b.Run("call", func(b *testing.B) { m.measure(b, 1, b.N, nothing, func() { many(b, users, b.N, call) }) })
			b.Run("refresh", func(b *testing.B) { m.measure(b, 1, b.N, nothing, func() { many(b, users, b.N, refresh) }) })

			// Upstream tokens that have ended when their users come again, all at once.
			const life = 2 * time.Second
			c.Ledger.SayLife(life)
			c.Provider.ExpireTokens()
			many(b, users, users, call)
			b.Run("call with an upstream refresh", func(b *testing.B) { // of each user, b.N times
				m.measure(b, b.N, users, func() { time.Sleep(life + 200*time.Millisecond) }, func() { many(b, users, users, call) })
			})
		})
	}
}

// many has users do something n times, sixteen at a time and no user twice at a time.
func many(b *testing.B, users, n int, do func(user int) error) {
	b.Helper()
	const workers = 16
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				if err := do(i % users); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// usage is what a cluster has used since its meter began.
type clusterUsage struct {
	wall, nodes, database time.Duration
	statements            int64
}

func (u clusterUsage) minus(before clusterUsage) clusterUsage {
	return clusterUsage{u.wall - before.wall, u.nodes - before.nodes, u.database - before.database, u.statements - before.statements}
}

// meter tells what a cluster uses.
type meter struct {
	cluster *testenv.Cluster
	conn    *pgx.Conn
	began   time.Time
	idle    clusterUsage // when nobody asks for anything
}

func newMeter(b *testing.B, c *testenv.Cluster) *meter {
	b.Helper()
	m := &meter{cluster: c, conn: c.Connect(b), began: time.Now()}
	b.Cleanup(func() { _ = m.conn.Close(context.Background()) })
	if _, err := m.conn.Exec(b.Context(), "CREATE EXTENSION pg_stat_statements"); err != nil {
		b.Fatal(err)
	}
	before := m.now(b)
	time.Sleep(3 * time.Second)
	m.idle = m.now(b).minus(before)
	second := func(n float64) float64 { return n / m.idle.wall.Seconds() }
	b.Logf("at rest, in a second: %.1f ms of processors in the nodes, %.1f ms in PostgreSQL, %.1f statements",
		second(1000*m.idle.nodes.Seconds()), second(1000*m.idle.database.Seconds()), second(float64(m.idle.statements)))
	return m
}

func (m *meter) now(b *testing.B) clusterUsage {
	b.Helper()
	u := clusterUsage{wall: time.Since(m.began), database: testenv.DatabaseCPU(m.conn)}
	for _, node := range m.cluster.Nodes {
		u.nodes += testenv.CPU(node.PID())
	}
	const statements = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE rolname = $1"
	if err := m.conn.QueryRow(b.Context(), statements, testpg.User).Scan(&u.statements); err != nil {
		b.Fatal(err)
	}
	return u
}

// measure reports what one of the benchmark's operations takes, of which so many make a part. Before each part there is something to do that does not count.
func (m *meter) measure(b *testing.B, parts, size int, before, part func()) {
	b.Helper()
	var sum clusterUsage
	for range parts {
		before()
		start := m.now(b)
		part()
		u := m.now(b).minus(start)
		sum = clusterUsage{sum.wall + u.wall, sum.nodes + u.nodes, sum.database + u.database, sum.statements + u.statements}
	}
	idle, n := sum.wall.Seconds()/m.idle.wall.Seconds(), float64(parts*size)
	b.ReportMetric(0, "ns/op") // of the clients
	b.ReportMetric(n/sum.wall.Seconds(), "ops/s")
	b.ReportMetric(1000*(sum.nodes.Seconds()-idle*m.idle.nodes.Seconds())/n, "node-ms/op")
	b.ReportMetric(1000*(sum.database.Seconds()-idle*m.idle.database.Seconds())/n, "pg-ms/op")
	b.ReportMetric((float64(sum.statements)-idle*float64(m.idle.statements))/n, "statements/op")
}
