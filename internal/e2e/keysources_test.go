package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

func TestEncryptionKeyOfASource(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	generated, next := filepath.Join(w.Dir(), "vault.key"), writeKey(t, w, "next.key")
	text, err := os.ReadFile(next)
	if err != nil {
		t.Fatal(err)
	}
	fromProgram := "encryption_key command /bin/cat " + next
	for _, global := range []string{
		fromProgram + "\nencryption_key {file." + generated + "}", // the key is changed,
		fromProgram + "\naccess_token_ttl 30m",                    // and the old one not needed any more
	} {
		if err := w.Reload(w.CaddyfileWith(global)); err != nil {
			t.Fatalf("%s: %v", global, err)
		}
		works(t, b)
		b.Refresh(t)
	}
	for name, c := range map[string]struct{ global, want string }{
		"fails":       {`encryption_key command /bin/sh -c "echo the token has expired >&2; exit 7"`, `encryption_key 1: command /bin/sh: failed: exit status 7; it says "the token has expired"`},
		"rubbish":     {"encryption_key command /bin/echo rubbish", "encryption_key 1: command: encryption key: not 32 bytes"},
		"another key": {"encryption_key command /bin/cat " + writeKey(t, w, "other.key"), "wrong encryption key"},
		"no service":  {"encryption_key systemd vault-key", "encryption_key 1: systemd vault-key: CREDENTIALS_DIRECTORY is not set"},
	} {
		if err := w.Reload(w.CaddyfileWith(c.global)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want … %s …", name, err, c.want)
		}
		works(t, b)
	}
	hangs, began := make(chan error, 1), time.Now()
	go func() { hangs <- w.Reload(w.CaddyfileWith("encryption_key command /bin/sleep 300")) }()
	for ended := false; !ended; {
		select {
		case err := <-hangs:
			ended = true
			if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "took too long: a program has 10 seconds") || took < 10*time.Second {
				t.Errorf("a program that hangs: after %v: %v", took, err)
			}
		default:
			works(t, b) // meanwhile
		}
	}
	b.Refresh(t)
	key := strings.TrimSpace(string(text))
	if dump := get(t, w.AdminURL()+"/config/"); !strings.Contains(dump, `"source":"command"`) || strings.Contains(dump, key) || strings.Contains(w.Log(), key) {
		t.Errorf("the key is in the config or the log, or its source is not: %s", dump)
	}
}

func TestCommandsKnowKeysOfASource(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	generated, marker := filepath.Join(w.Dir(), "vault.key"), filepath.Join(t.TempDir(), "ran")
	config := filepath.Join(t.TempDir(), "Caddyfile")
	run := func(global string, args ...string) (string, error) {
		t.Helper()
		write(t, config, w.CaddyfileWith(global))
		out, err := w.Command(t.Context(), append(args, "--adapter", "caddyfile")...).CombinedOutput()
		return string(out), err
	}
	marks := `encryption_key command /bin/sh -c "touch ` + marker + `; cat ` + generated + `"`
	if out, err := run(marks, "validate", "--config", config); err != nil {
		t.Errorf("validate: %s", out)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("validate ran the program")
	}
	if out, err := run(marks, "oauth-proxy", "doctor", "--config", config); err != nil || !strings.Contains(out, "ok       encryption keys that can be had: 1 of 1") {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	if out, err := run("encryption_key systemd vault-key", "oauth-proxy", "doctor", "--config", config); err != nil || !strings.Contains(out, "warning  encryption_key 1: systemd vault-key: CREDENTIALS_DIRECTORY is not set") {
		t.Errorf("doctor outside of the service: %v\n%s", err, out)
	}
	if err := os.Chmod(generated, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run("", "oauth-proxy", "doctor", "--config", config); err != nil || !strings.Contains(out, "warning  "+generated+" has mode 0644") {
		t.Errorf("doctor about the mode of the key file: %v\n%s", err, out)
	}
	if err := w.Reload(w.CaddyfileWith("access_token_ttl 31m")); err != nil || !strings.Contains(w.Log(), "has mode 0644, so others on this machine can read it") {
		t.Errorf("the start says nothing about the mode of the key file: %v", err)
	}
	moved := strings.Replace(w.CaddyfileWith(marks), w.VaultPath(), filepath.Join(t.TempDir(), "moved.db"), 1)
	wrong := strings.Replace(moved, generated, writeKey(t, w, "other.key"), 1)
	for name, c := range map[string]struct {
		file, want string
		fails      bool
	}{"the key": {moved, "ready", false}, "another key": {wrong, "wrong encryption key", true}} {
		write(t, config, c.file)
		out, err := w.Command(t.Context(), "oauth-proxy", "migrate", "--to", config, "--dry-run", "--address", strings.TrimPrefix(w.AdminURL(), "http://"), "--adapter", "caddyfile").CombinedOutput()
		if (err != nil) != c.fails || !strings.Contains(string(out), c.want) {
			t.Errorf("migrate with %s: %v\n%s", name, err, out)
		}
	}
}
