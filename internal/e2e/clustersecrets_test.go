package e2e

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
)

// What is backed up of the database, what lies in its files, its write-ahead log with them, and what the nodes log has no token, code, cookie, or address.
func TestT70T77T78NoSecretIsInTheClearInADatabase(t *testing.T) {
	t.Parallel()
	c := testenv.StartCluster(t, testenv.ClusterOptions{
		Options: testenv.Options{
			Env:    []string{"MACHINE_SECRET=secret-of-the-machine-client", "MACHINE_TOKEN=upstream-token-of-the-machine"},
			Global: "client machine {\n client_secret {env.MACHINE_SECRET}\n grant_types client_credentials\n}",
			Proxy:  "machine_token {env.MACHINE_TOKEN}",
		},
		LogLevel: "DEBUG",
	})
	s := &secrets{values: make(map[string]string)}
	cookies := testenv.NewBrowser(testenv.Alice)
	cookies.Login(t, c.URL+"/oauth/signin?return_to=/connections", c.URL+"/connections")
	for name, value := range cookies.Cookies(t, c.URL+"/oauth/") {
		s.add("cookie "+name, value)
	}
	if s.count() == 0 {
		t.Fatal("no cookie was seen: the test is no good")
	}
	everything(t, c.Nodes[0], s)
	s.add("password of the database", testpg.Password)
	s.add("e-mail address", "alice@example.com")
	s.add("e-mail address", "bob@example.com")
	if n := s.count(); n < 25 {
		t.Fatalf("only %d secrets were seen: the test is no good", n)
	}

	dump := dumped(t, c)
	if n := strings.Count(dump, "INSERT INTO"); n < 20 {
		t.Fatalf("only %d rows are in the dump: the test is no good", n)
	}
	s.checkBytes(t, "a dump of the database", dump)
	var dir string
	c.Query(t, &dir, "SHOW data_directory")
	c.Database.Stop(t)
	if err := filepath.WalkDir(filepath.Join(dir, "base"), s.checkFiles(t)); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(filepath.Join(dir, "pg_wal"), s.checkFiles(t)); err != nil {
		t.Fatal(err)
	}
	s.forget("alice@example.com") // the log says who has logged in
	s.forget("bob@example.com")
	for i, node := range c.Nodes {
		s.check(t, "the log of node "+string(rune('1'+i)), node.Log())
	}
	s.check(t, "the log of the database", c.Database.Log(t))
}

// checkFiles is check for the files of a tree.
func (s *secrets) checkFiles(t *testing.T) func(path string, d os.DirEntry, err error) error {
	t.Helper()
	return func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for value, what := range s.snapshot() {
			if bytes.Contains(content, []byte(value)) {
				t.Errorf("%s holds the %s", path, what)
			}
		}
		return nil
	}
}

// checkBytes is check for what shows bytes as hexadecimal digits.
func (s *secrets) checkBytes(t *testing.T, where, content string) {
	t.Helper()
	s.check(t, where, content)
	for value, what := range s.snapshot() {
		if strings.Contains(content, hex.EncodeToString([]byte(value))) {
			t.Errorf("%s holds the %s, in hexadecimal digits", where, what)
		}
	}
}

// dumped is the whole database as its operator backs it up.
func dumped(t *testing.T, c *testenv.Cluster) string {
	t.Helper()
	program, err := exec.LookPath("pg_dump")
	if installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump"); len(installed) > 0 { // the pattern is good
		program, err = slices.Max(installed), nil
	}
	if err != nil {
		missing(t, "pg_dump is not installed; on Debian run: apt-get install postgresql-client")
	}
	cmd := exec.CommandContext(t.Context(), program, "--inserts", "--dbname", c.Database.Connection())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	return out.String()
}
