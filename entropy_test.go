package caddyoauthproxyplugin

import (
	"crypto/rand"
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// spreads are the files that spread waits and the like, for which nobody gains anything by guessing right.
var spreads = map[string]bool{
	"caddyoauthproxy/upstream/backoff.go": true, "caddyoauthproxy/upstream/refreshrequest.go": true, "mcpfilter/stream.go": true,
	"tokenstore/auditchain.go": true, "tokenstore/postgres/outage.go": true,
}

// Keys, ids, codes and tokens are made of crypto/rand alone.
func TestNothingIsMadeOfNumbersThatCanBeGuessed(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"caddyoauthproxy", "mcpfilter", "tokenstore"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "storetest") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, of := range file.Imports {
				if strings.HasPrefix(of.Path.Value, `"math/rand`) && !spreads[filepath.ToSlash(path)] {
					t.Errorf("%s uses %s: take crypto/rand, or list it here if it only spreads waits", path, of.Path.Value)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

type noEntropy struct{}

func (noEntropy) Read([]byte) (int, error) { return 0, errors.New("the machine has no entropy") }

// A machine without entropy gets no weak keys: the process ends.
func TestWithoutEntropyNoKeyIsMade(t *testing.T) {
	t.Parallel()
	if os.Getenv("TEST_WITHOUT_ENTROPY") != "" {
		rand.Reader = noEntropy{}
		_, _ = os.Stdout.WriteString("key: " + tokenstore.NewRootKey().Text())
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestWithoutEntropyNoKeyIsMade$")
	cmd.Env = append(os.Environ(), "TEST_WITHOUT_ENTROPY=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "the machine has no entropy") || strings.Contains(string(out), "key: ") {
		t.Errorf("it went on: %v\n%s", err, out)
	}
}
