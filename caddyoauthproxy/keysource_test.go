//go:build unix

package caddyoauthproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// shell is a source that is a shell's script, which has the key as $1.
func shell(script string, env ...string) *KeyCommand {
	return &KeyCommand{Command: []string{"/bin/sh", "-c", script, "sh", theKey}, Env: env}
}

var theKey = tokenstore.NewRootKey().Text()

func element(t *testing.T, source string, k any) json.RawMessage {
	t.Helper()
	return caddyconfig.JSONModuleObject(k, "source", source, nil)
}

func ask(t *testing.T, elements ...json.RawMessage) ([]tokenstore.RootKey, error) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	return askKeys(t.Context(), ctx, elements)
}

func TestKeyOfAProgram(t *testing.T) {
	t.Setenv("KEYS_TEST_REGION", "eu-north-1")
	t.Setenv("KEYS_TEST_SECRET", "not for the program")
	for name, c := range map[string]struct {
		source *KeyCommand
		want   string // of the error
	}{
		"printed":                  {shell(`echo "$1"`), ""},
		"without a newline":        {shell(`printf %s "$1"`), ""},
		"beside a complaint":       {shell(`echo careful >&2; echo "$1"`), ""},
		"with a variable":          {shell(`test "$KEYS_TEST_REGION" = eu-north-1 && echo "$1"`, "KEYS_TEST_REGION"), ""},
		"no other variables":       {shell(`test -z "$KEYS_TEST_SECRET$KEYS_TEST_REGION" && test -n "$PATH" && echo "$1"`), ""},
		"no input":                 {shell(`cat; echo "$1"`), ""},
		"variable is not set":      {shell(`echo "$1"`, "KEYS_TEST_UNSET"), "environment variable KEYS_TEST_UNSET, which env names, is not set"},
		"fails":                    {shell(`echo access denied >&2; echo "$1"; exit 3`), `command /bin/sh: failed: exit status 3; it says "access denied"`},
		"fails, and shows the key": {shell(`set -x; : "$1"; exit 3`), `failed: exit status 3`},
		"fails, after the key":     {shell(`set -x; echo "$1"; exit 3`), `is not shown`},
		"shows a part of the key":  {shell(`printf %490s . >&2; echo "$1" >&2; echo "$1"; exit 3`), `is not shown`},
		"shows key among others":   {shell(`set -x; echo the key is; echo "$1"; exit 3`), `is not shown`},
		"prints nothing":           {shell(`exit 0`), "printed nothing: the key must go to its standard output"},
		"prints rubbish":           {shell(`echo rubbish-of-the-test`), "encryption_key 1: command: encryption key: not 32 bytes in base64 or hex"},
		"prints a weak key":        {shell(`echo MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=`), "text or a pattern instead of 32 random bytes"},
		"prints two keys":          {shell(`echo "$1"; echo "$1"`), "not 32 bytes"},
		"prints for ever":          {shell(`while echo "$1"; do :; done`), "prints more than 256 bytes: only the key may go to its standard output"},
		"complains for ever":       {shell(`for i in 1 2 3 4 5 6 7 8; do printf %1000s x >&2; done; exit 3`), "failed: exit status 3"},
		"is missing":               {&KeyCommand{Command: []string{"/nowhere/unwrap-key"}}, "/nowhere/unwrap-key: no such file or directory"},
		"is no program":            {&KeyCommand{Command: []string{"/etc/passwd"}}, "permission denied"},
		"is relative":              {&KeyCommand{Command: []string{"sh"}}, "must be an absolute path"},
		"is not named":             {&KeyCommand{}, "command needs a program"},
		"odd variable":             {shell(`echo "$1"`, "A=B"), "env takes names of environment variables"},
		"placeholder":              {&KeyCommand{Command: []string{"/bin/echo", "{env.KEYS_TEST_SECRET}"}}, "placeholders are not replaced in arguments"},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := ask(t, element(t, "command", c.source))
			if c.want == "" {
				if err != nil || len(keys) != 1 || keys[0].Text() != theKey {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 2*maxComplaint {
				t.Errorf("got %v", err)
			}
			if err != nil && name != "fails, and shows the key" && (strings.Contains(err.Error(), theKey[:8]) || strings.Contains(err.Error(), "rubbish-of-the-test")) {
				t.Errorf("the error tells what was printed: %v", err)
			}
		})
	}
}

func TestProgramThatHangsIsEndedWithAllThatItStarted(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	for name, script := range map[string]string{
		"itself":                       `echo waiting for the token >&2; echo $$ >` + pid + `; exec sleep 300`,
		"behind a child":               `echo waiting for the token >&2; sleep 300 & echo $! >` + pid + `; wait`,
		"a child that outlives it":     `echo waiting for the token >&2; sleep 300 & echo $! >` + pid + `; sleep 300; echo "$1"`,
		"although it will not be told": `trap '' TERM INT; echo waiting for the token >&2; echo $$ >` + pid + `; sleep 300; sleep 300`,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { // once it runs
			defer cancel()
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				if text, _ := os.ReadFile(pid); strings.HasSuffix(string(text), "\n") {
					return
				}
			}
		}()
		began := time.Now()
		_, err := shell(script).EncryptionKey(ctx)
		if err == nil || !strings.Contains(err.Error(), `took too long: a program has 10 seconds to print the key; it says "waiting for the token"`) || time.Since(began) > 30*time.Second {
			t.Errorf("%s: after %v: %v", name, time.Since(began), err)
		}
		text, err := os.ReadFile(pid)
		if err != nil {
			t.Fatal(err)
		}
		var child int
		if _, err := fmt.Sscan(string(text), &child); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); syscall.Kill(child, 0) == nil && !zombie(child); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				_ = syscall.Kill(child, syscall.SIGKILL)
				t.Errorf("%s: process %d lives on", name, child)
				break
			}
		}
		if err := os.Remove(pid); err != nil {
			t.Fatal(err)
		}
	}
}

// zombie reports whether a process has ended, and waits for a parent that does not ask.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestKeyOfACredential(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"vault-key": theKey + "\n", "empty": "", "weak": strings.Repeat("ab", 32), "large": strings.Repeat(theKey, 9)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "directory"), 0o700), syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ dir, credential, want string }{
		"there":        {dir, "vault-key", ""},
		"no service":   {"", "vault-key", "encryption_key 1: systemd vault-key: CREDENTIALS_DIRECTORY is not set"},
		"missing":      {dir, "other-key", "no such file or directory; its unit needs LoadCredential=other-key:<file>"},
		"empty":        {dir, "empty", "not 32 bytes"},
		"weak":         {dir, "weak", "text or a pattern"},
		"large":        {dir, "large", "larger than any key"},
		"directory":    {dir, "directory", "is no file"},
		"pipe":         {dir, "pipe", "is no file"},
		"elsewhere":    {dir, "../vault-key", "systemd needs the name of one credential"},
		"the whole":    {dir, "..", "systemd needs the name of one credential"},
		"without name": {dir, "", "systemd needs the name of one credential"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CREDENTIALS_DIRECTORY", c.dir)
			keys, err := ask(t, element(t, "systemd", KeyCredential{Name: c.credential}))
			if c.want == "" && (err != nil || len(keys) != 1 || keys[0].Text() != theKey) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestKeysKeepTheOrderOfTheirConfiguration(t *testing.T) {
	other := tokenstore.NewRootKey().Text()
	t.Setenv("KEYS_TEST_KEY", other)
	placeholder, command := json.RawMessage(`"{env.KEYS_TEST_KEY}"`), element(t, "command", shell(`echo "$1"`))
	for _, elements := range [][]json.RawMessage{{placeholder, command}, {command, placeholder}} {
		keys, err := ask(t, elements...)
		if err != nil || len(keys) != 2 {
			t.Fatal(err)
		}
		if got := keys[0].Text(); (got == other) != bytes.Equal(elements[0], placeholder) {
			t.Errorf("%s came first of %s", got, elements)
		}
	}
	if _, err := ask(t, placeholder, element(t, "command", shell("exit 1"))); err == nil || !strings.Contains(err.Error(), "encryption_key 2: command /bin/sh: failed") {
		t.Errorf("one of two fails: %v", err)
	}
}

func TestElementsThatAreNoKeysAreRefusedAndNotQuoted(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`"` + theKey + `"`:                       "must be a placeholder",
		`{"source":"vaultwarden"}`:               `source "vaultwarden" is unknown; built in are command, systemd`,
		`{"key":"` + theKey + `"}`:               "or an object whose source is one of command, systemd",
		`{"source":7}`:                           "or an object whose source is one of command, systemd",
		`["` + theKey + `"]`:                     "must be a placeholder",
		`null`:                                   "must be a placeholder",
		`""`:                                     "must be a placeholder",
		`{"source":"systemd","key":"x"}`:         `key`,
		`{"source":"command","command":"/x"}`:    "command",
		`{"source":"systemd.nested","name":"x"}`: "is unknown",
	} {
		_, err := ask(t, json.RawMessage(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), theKey) || !strings.HasPrefix(err.Error(), "encryption_key 1: ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestKeyFileBesideTheVault(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		mode fs.FileMode
		want string // of the error
	}{
		"there":                  {theKey + "\n", 0o600, ""},
		"readable for others":    {theKey, 0o644, ""},
		"weak":                   {strings.Repeat("ab", 32), 0o600, "text or a pattern instead of 32 random bytes"},
		"cut":                    {theKey[:20], 0o600, "not 32 bytes"},
		"something else":         {strings.Repeat("x", 1000), 0o600, "is larger than any key"},
		"emptied by a full disk": {"", 0o600, "not 32 bytes"},
		"missing with its vault": {"", 0, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault := &BboltVault{Path: filepath.Join(t.TempDir(), "vault.db")}
			if c.mode != 0 {
				if err := errors.Join(os.WriteFile(vault.KeyFile(), []byte(c.text), c.mode), os.Chmod(vault.KeyFile(), c.mode)); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
			defer cancel()
			keys, err := (&App{ctx: ctx}).rootKeys(t.Context(), vault)
			if c.want == "" && (err != nil || keys[0].Text() != theKey) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v", err)
			}
			if entries, err := os.ReadDir(filepath.Dir(vault.Path)); err != nil || c.mode == 0 && len(entries) > 0 {
				t.Errorf("something was made: %v, %v", entries, err)
			}
			if got := tooOpen(vault.KeyFile()); (got != "") != (c.mode == 0o644) || got != "" && !strings.Contains(got, "has mode 0644, so others on this machine can read it: set it to 0600") {
				t.Errorf("about its mode: %q", got)
			}
		})
	}
}

func TestNoProgramRunsWhileAConfigurationIsOnlyValidated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	app := provisioned(t, filepath.Join(dir, "vault.db"))
	app.EncryptionKeys = []json.RawMessage{element(t, "command", shell(`echo "$1"; touch `+filepath.Join(dir, "ran")))}
	if _, err := app.resolve(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("it ran: %v", err)
	}
	g, err := app.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.hold.leave)
	if _, err := os.Stat(filepath.Join(dir, "ran")); err != nil {
		t.Errorf("it did not run at the start: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".key") }) {
		t.Errorf("a key file was made although a key is configured: %v, %v", entries, err)
	}
}
