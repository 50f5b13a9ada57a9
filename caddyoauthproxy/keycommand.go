package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(new(KeyCommand))
}

// KeyCommand has a program tell an encryption key: one that unwraps it with a key management service, a hardware token, or a secret store. The program
// runs each time a configuration starts, without a shell and without input, and has 10 seconds.
type KeyCommand struct {
	// The program, by its absolute path, and its arguments, which are handed on as they are. What it prints is the key: 32 random bytes in base64 or hex. Required.
	Command []string `json:"command,omitempty"`

	// The environment variables of Caddy's that the program gets, beside `PATH` and `HOME`. Each must be set. Default: none, as others may be secrets.
	Env []string `json:"env,omitempty"`
}

const (
	// maxKeyText bounds what a source tells: a key is 64 digits at most, and a newline.
	maxKeyText = 256

	// minKeyWord is how long a word is at least that may be a key, or a good part of one.
	minKeyWord = 8

	// maxComplaint bounds what is shown of a program's complaint.
	maxComplaint = 512
)

// CaddyModule returns the Caddy module information.
func (*KeyCommand) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth_proxy.keys.command", New: func() caddy.Module { return new(KeyCommand) }}
}

// Provision implements caddy.Provisioner. It runs nothing.
func (k *KeyCommand) Provision(caddy.Context) error { return k.check() }

var (
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	placeholder  = regexp.MustCompile(`\{(env|file)\.`)
)

func (k *KeyCommand) check() error {
	switch {
	case len(k.Command) == 0 || k.Command[0] == "":
		return errors.New("command needs a program, such as command /usr/local/bin/unwrap-key")
	case !filepath.IsAbs(k.Command[0]):
		return fmt.Errorf("command %q must be an absolute path: nobody should be able to put another program before it", k.Command[0])
	}
	if slices.ContainsFunc(k.Command, placeholder.MatchString) {
		return errors.New("command: placeholders are not replaced in arguments, which everybody on this machine can see: hand the program the variable itself, with env")
	}
	for _, name := range k.Env {
		if !variableName.MatchString(name) {
			return errors.New("command: env takes names of environment variables, without values, such as env AWS_REGION")
		}
	}
	return nil
}

// EncryptionKey implements KeySource. Errors have what the program printed as its errors, and never what it printed as the key.
func (k *KeyCommand) EncryptionKey(ctx context.Context) (string, error) {
	program := "command " + k.Command[0]
	env, err := k.environment()
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	key, complaint := &bounded{limit: maxKeyText, full: io.ErrShortWrite}, &bounded{limit: maxComplaint + maxKeyText}
	cmd := exec.CommandContext(ctx, k.Command[0], k.Command[1:]...) //nolint:gosec // the operator's own configuration
	cmd.Env, cmd.Stdout, cmd.Stderr = env, key, complaint
	cmd.WaitDelay = time.Second
	killWhole(cmd)
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		err = errors.New("was ended, as it took too long: a program has 10 seconds to print the key")
	case key.over:
		err = fmt.Errorf("prints more than %d bytes: only the key may go to its standard output", maxKeyText)
	case err != nil:
		err = fmt.Errorf("failed: %w", err)
	case strings.TrimSpace(key.String()) == "":
		err = errors.New("printed nothing: the key must go to its standard output")
	default:
		return key.String(), nil
	}
	return "", fmt.Errorf("%s: %w%s", program, err, complaintOf(complaint.String(), key.String()))
}

// environment is what the program gets.
func (k *KeyCommand) environment() ([]string, error) {
	env := []string{} // nil would hand on everything
	for _, name := range []string{"PATH", "HOME"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for _, name := range k.Env {
		value, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("environment variable %s, which env names, is not set", name)
		}
		env = append(env, name+"="+value)
	}
	return env, nil
}

// complaintOf quotes what a program printed as errors, unless a part of what may be the key is in it, as with a shell that shows what it does. It is given more than it quotes, so that
// no key is cut where the quote ends, and so not found.
func complaintOf(text, key string) string {
	text = strings.TrimSpace(text)
	shown := func(word string) bool { return len(word) >= minKeyWord && strings.Contains(text, word) }
	switch {
	case text == "":
		return ""
	case slices.ContainsFunc(strings.Fields(key), shown):
		return "; its standard error has what it printed as the key, and is not shown"
	default:
		return fmt.Sprintf("; it says %q", text[:min(len(text), maxComplaint)])
	}
}

// bounded keeps the beginning of what is written.
type bounded struct {
	text  []byte
	limit int
	full  error // of writes for which there is no room, which otherwise are taken and forgotten
	over  bool
}

func (b *bounded) String() string { return string(b.text) }

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	kept := min(len(p), b.limit-len(b.text))
	b.text = append(b.text, p[:kept]...)
	if kept == len(p) {
		return kept, nil
	}
	b.over = true
	if b.full != nil {
		return kept, b.full
	}
	return len(p), nil
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens:
//
//	encryption_key command <program> [<argument>…] {
//		env <name>…
//	}
func (k *KeyCommand) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	k.Command = d.RemainingArgs()
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return err
		}
		if d.Val() != "env" {
			return unknown(d, "env")
		}
		if k.Env = d.RemainingArgs(); len(k.Env) == 0 {
			return d.Err("env takes one or more names of environment variables")
		}
	}
	if err := k.check(); err != nil {
		return d.Errf("encryption_key %w", err)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*KeyCommand)(nil)
	_ caddyfile.Unmarshaler = (*KeyCommand)(nil)
	_ KeySource             = (*KeyCommand)(nil)
)
