package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// The cluster as a reader of the docs runs it: a node is killed, and the database, and the chatbot notices neither.
func TestExampleClusterOutlivesItsParts(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	w := &testenv.World{URL: c.url}
	bot := w.NewPlainBot(t)
	bot.Login(t, testenv.NewBrowser(testenv.Bob))
	c.callsGoOn(t, bot, "1", "2", "3")

	c.kill(t, "node 2")
	c.callsGoOn(t, bot, "1", "3")
	bot.Refresh(t)
	another := w.NewPlainBot(t)
	another.Login(t, testenv.NewBrowser(testenv.Alice))
	c.callsGoOn(t, another, "1", "3")
	c.until(t, "node 2 is back")
	testenv.Eventually(t, "the balancer to send requests to node 2 again", func() bool { return c.answering(t, bot)["2"] })

	c.kill(t, "PostgreSQL")
	c.callsGoOn(t, bot, "1", "2", "3")
	// Waits for the database; on a machine that takes its time to start it again, for longer than the gateway does. It never says that anything is wrong with the token.
	testenv.Eventually(t, "a refresh", func() bool {
		err := bot.TryRefresh()
		if err != nil && !strings.Contains(err.Error(), "token: 503") {
			t.Fatal(err)
		}
		return err == nil
	})
	c.until(t, "PostgreSQL is back")
	c.callsGoOn(t, bot, "1", "2", "3")

	c.end(t)
}

// cluster is the running example.
type cluster struct {
	url   string
	pids  map[string]int
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

var (
	clusterURL  = regexp.MustCompile(`claude mcp add --transport http demo (http://localhost:\d+)/demo/mcp`)
	clusterKill = regexp.MustCompile(`kill -9 (\d+) +# (node \d|balancer|PostgreSQL) `)
)

func startCluster(t *testing.T) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "cluster-") // where PostgreSQL's user gets to
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "cluster")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../examples/cluster").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := &cluster{pids: make(map[string]int)}
	c.cmd = exec.CommandContext(context.Background(), program, "-port", "0", "-dir", filepath.Join(dir, "cluster.d"))
	var stderr bytes.Buffer
	c.cmd.Stderr = &stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(stdout)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Signal(os.Interrupt)
			_ = c.cmd.Wait()
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(dir, "cluster.d", "*.log"))
			for _, path := range logs {
				log, _ := os.ReadFile(path)
				t.Logf("%s, its end:\n%s", filepath.Base(path), log[max(0, len(log)-2000):])
			}
		}
	})
	for c.lines.Scan() && !strings.HasPrefix(c.lines.Text(), "Ctrl-C") {
		if m := clusterURL.FindStringSubmatch(c.lines.Text()); m != nil {
			c.url = m[1]
		}
		if m := clusterKill.FindStringSubmatch(c.lines.Text()); m != nil {
			c.pids[m[2]], _ = strconv.Atoi(m[1])
		}
	}
	if c.url == "" || len(c.pids) != 5 {
		_ = c.cmd.Wait()
		if strings.Contains(stderr.String(), "PostgreSQL's programs") {
			missing(t, stderr.String())
		}
		t.Fatalf("the cluster did not start: %+v\n%s", c, stderr.String())
	}
	return c
}

// kill ends one of the processes, as the example suggests. What it had in hand is lost: nothing is sent until it is gone.
func (c *cluster) kill(t *testing.T, name string) {
	t.Helper()
	if err := syscall.Kill(c.pids[name], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, name+" to be gone", func() bool { return errors.Is(syscall.Kill(c.pids[name], 0), syscall.ESRCH) })
}

// until reads what the example prints.
func (c *cluster) until(t *testing.T, prefix string) {
	t.Helper()
	for c.lines.Scan() {
		if strings.HasPrefix(c.lines.Text(), prefix) {
			return
		}
	}
	t.Fatalf("the cluster has ended without %q", prefix)
}

// answering calls a tool of the MCP server a dozen times, and returns which nodes answered.
func (c *cluster) answering(t *testing.T, bot *testenv.PlainBot) map[string]bool {
	t.Helper()
	nodes := make(map[string]bool)
	for range 12 {
		a, err := bot.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"))
		if err != nil || a.Status != http.StatusOK || !strings.Contains(a.Body, "You are ") {
			t.Fatalf("%d %s %v", a.Status, a.Body, err)
		}
		nodes[a.Header.Get("X-Node")] = true
	}
	return nodes
}

// callsGoOn calls a tool of the MCP server, which must work each time, and on all of these nodes.
func (c *cluster) callsGoOn(t *testing.T, bot *testenv.PlainBot, nodes ...string) {
	t.Helper()
	got := c.answering(t, bot)
	for _, node := range nodes {
		if !got[node] {
			t.Errorf("node %s answered nothing: %v", node, got)
		}
	}
}

// end ends the example as Ctrl-C does. Nothing is left running.
func (c *cluster) end(t *testing.T) {
	t.Helper()
	start := time.Now()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var printed []string
	for c.lines.Scan() {
		printed = append(printed, c.lines.Text())
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("%v: %q", err, printed)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s to end", took)
	}
	for name, pid := range c.pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s, process %d, is left: %v", name, pid, err)
		}
	}
}
