package upstream

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// nodeEnv has the test binary be a node: a nodeTask as JSON.
const nodeEnv = "CADDY_OAUTH_PROXY_TEST_NODE"

// nodeTask is what a node in a process of its own is to do: to get one account's token, and to say what came.
type nodeTask struct {
	Connection string
	Key        string
	Issuer     string
	Account    string
	Stop       string // where it stops itself: "after the claim" or "after connecting"
}

// nodeLease is a lease of nodes in tests that cannot turn the time.
const nodeLease = 2 * time.Second

func openNode(ctx context.Context, connection string, key tokenstore.RootKey, wrap func(tokenstore.Store) tokenstore.Store) (*tokenstore.Vault, func() error, error) {
	store, err := postgres.Open(ctx, postgres.Options{Connection: connection})
	if err != nil {
		return nil, nil, err
	}
	vault, err := tokenstore.Open(ctx, wrap(store), tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	return vault, store.Close, err
}

// stopSelf stops this process as SIGSTOP does, until somebody has it go on.
func stopSelf() {
	last := time.Now()
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		panic(err)
	}
	for ; time.Since(last) < nodeLease/2; time.Sleep(time.Millisecond) { // threads go on for a moment, and time does not while they are stopped
		last = time.Now()
	}
}

// stoppingStore stops the process after it has taken a lease.
type stoppingStore struct {
	tokenstore.Store
	once atomic.Bool
}

func (s *stoppingStore) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	err := s.Store.Apply(ctx, changes...)
	if err == nil && changes[0].Row.State == string(tokenstore.StateRefreshing) && !s.once.Swap(true) {
		stopSelf()
	}
	return err
}

// TestNodeProcess is no test, but the node of the tests below.
func TestNodeProcess(t *testing.T) {
	text := os.Getenv(nodeEnv)
	if text == "" {
		return // nobody started it as one
	}
	var task nodeTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		t.Fatal(err)
	}
	key, err := tokenstore.ParseRootKey(task.Key)
	if err != nil {
		t.Fatal(err)
	}
	vault, closeStore, err := openNode(t.Context(), task.Connection, key, func(s tokenstore.Store) tokenstore.Store {
		if task.Stop == "after the claim" {
			return &stoppingStore{Store: s}
		}
		return s
	})
	if err != nil {
		t.Fatal(err)
	}
	var once atomic.Bool
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if acc, read := vault.Account(ctx, task.Account); task.Stop == "after connecting" && read == nil && acc.State == tokenstore.StateRefreshing && !once.Swap(true) {
			stopSelf()
		}
		return conn, err
	}}}
	provider := newFakeProvider(task.Issuer).providerOver(t, client)
	if _, err := provider.metadata.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	accounts := NewAccounts(AccountsOptions{Vault: vault, Providers: map[string]*Provider{"idp": provider}, lease: nodeLease})
	fmt.Println("ready")
	token, err := accounts.Token(t.Context(), task.Account)
	fmt.Printf("token %q, error %v\n", token, err)
	if err := accounts.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := closeStore(); err != nil {
		t.Error(err)
	}
}

// nodeProcess is a running one.
type nodeProcess struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startNode(t *testing.T, task nodeTask) *nodeProcess {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNodeProcess$")
	cmd.Env = append(os.Environ(), nodeEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := &nodeProcess{cmd, bufio.NewScanner(out)}
	if line := p.line(t, "ready"); line != "ready" {
		t.Fatal(line)
	}
	return p
}

// line is the next line that begins so.
func (p *nodeProcess) line(t *testing.T, prefix string) string {
	t.Helper()
	for p.lines.Scan() {
		if strings.HasPrefix(p.lines.Text(), prefix) {
			return p.lines.Text()
		}
	}
	t.Fatalf("the node ended before it said %q", prefix)
	return ""
}

// stopped waits until the process is.
func (p *nodeProcess) stopped(t *testing.T) {
	t.Helper()
	eventually(t, "the node is stopped", p.isStopped)
}

func (p *nodeProcess) isStopped() bool {
	stat, _ := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "T")
}

func (p *nodeProcess) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// A node that is stopped while it holds a lease, for longer than that lasts, sends and saves nothing when it goes on: others have taken it over.
func TestR21StoppedNodeSendsAndSavesNothing(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"after the claim", "after connecting", "while the provider answers"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			connection := testpg.Database(t)
			w := &world{t: t, idp: serve(t), key: tokenstore.NewRootKey(), clock: new(clock)}
			vault, closeStore, err := openNode(t.Context(), connection, w.key, func(s tokenstore.Store) tokenstore.Store { return s })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = closeStore() })
			w.vault, w.provider = vault, w.idp.provider(t)
			w.accounts = w.node(func(o *AccountsOptions) { o.lease = nodeLease })
			w.add("a", 2*time.Hour, time.Hour)

			task := nodeTask{Connection: connection, Key: w.key.Text(), Issuer: w.idp.base, Account: "a", Stop: where}
			stop := make(chan *nodeProcess, 1)
			want, posts := "at.a.1", 1
			if where == "while the provider answers" {
				want, posts = "at.a.2", 2
				w.idp.set(func(p *fakeProvider) {
					p.grace = time.Minute
					p.late = func(rw http.ResponseWriter, r *http.Request) { // it has rotated
						p.set(func(p *fakeProvider) { p.late = nil })
						node := <-stop
						node.signal(t, syscall.SIGSTOP)
						for !node.isStopped() {
							time.Sleep(time.Millisecond)
						}
						writeJSON(rw, http.StatusOK, map[string]any{"access_token": "at.a.1", "refresh_token": "rt.a.1", "expires_in": 3600})
					}
				})
			}
			node := startNode(t, task)
			stop <- node // its first request to the token endpoint waits for that
			node.stopped(t)
			began := time.Now()
			if got := w.token("a"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if d := time.Since(began); d > nodeLease+2*slowLook {
				t.Errorf("taken over after %v", d)
			}
			before := w.stored("a")
			node.signal(t, syscall.SIGCONT)
			if line := node.line(t, "token "); line != fmt.Sprintf("token %q, error <nil>", want) {
				t.Error(line)
			}
			if err := node.cmd.Wait(); err != nil {
				t.Error(err)
			}
			if after := w.stored("a"); after.Version != before.Version || after.AccessToken != want || after.State != tokenstore.StateActive {
				t.Errorf("stored %+v", after)
			}
			if n, again := w.idp.tokenPosts(), w.idp.reused(); n != posts || again != 0 {
				t.Errorf("%d token requests, %d refresh tokens came twice", n, again)
			}
		})
	}
}
