package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// anchor keeps the end of the vault's audit trail in a file of this node's, beside Caddy's data and outside of the vault. By it a vault is known that was set back to an earlier
// state, by whatever means: what was revoked since would live again in it.
type anchor struct {
	log *zap.Logger

	mu    sync.Mutex
	vault *tokenstore.Vault // nil where none is kept
	path  string
	said  bool // that the file is not written
}

// anchorTime bounds how long the vault is asked for its end when the trail has grown.
const anchorTime = 5 * time.Second

// begin compares the vault with the file, which it makes where there is none. Its error is why the vault is not to be served.
func (k *anchor) begin(ctx context.Context, v *tokenstore.Vault) error {
	dir := filepath.Join(caddy.AppDataDir(), "oauth_proxy", "anchors")
	k.mu.Lock()
	defer k.mu.Unlock()
	k.vault, k.path = v, filepath.Join(dir, v.Identity()+".json")
	known, err := k.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("nobody can tell whether it was set back to an earlier state, because what this node knows of it cannot be read: %w; if it was not set back, remove that file, "+
			"and it is made anew; otherwise remove it after %s", err, setBackAdvice)
	default:
		err := v.Holds(ctx, known)
		switch {
		case errors.Is(err, tokenstore.ErrSetBack):
			return fmt.Errorf("%w (this node knows a later one, by %s): stop Caddy, and say what is to become of that, with %s", err, k.path, setBackAdvice)
		case errors.Is(err, tokenstore.ErrTampered):
			return fmt.Errorf("its audit trail does not open, so nobody can tell whether it was set back to an earlier state: %w; restore it from a backup, or, to go on without knowing, remove %s",
				err, k.path)
		case err != nil:
			return err
		}
	}
	k.write(ctx)
	return nil
}

// setBackAdvice is what to do with a vault that was set back.
const setBackAdvice = "caddy oauth-proxy restore --in-place --config with this configuration, and one of --audit-log, --end-all and --revive"

// grown is called when the trail has grown.
func (k *anchor) grown() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.vault == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), anchorTime)
	defer cancel()
	if known, err := k.read(); err == nil {
		switch err := k.vault.Holds(ctx, known); {
		case errors.Is(err, tokenstore.ErrSetBack): // it is the file that shows that, when a gateway starts
			k.say("this node knows a later state of the vault, because it was set back while it is served, or restored elsewhere: this gateway goes on, and none will begin to serve it before that is settled, with "+setBackAdvice, err)
			return
		case err != nil:
			return // with the next segment
		}
	}
	k.write(ctx)
}

func (k *anchor) read() (a tokenstore.Anchor, err error) {
	text, err := os.ReadFile(k.path)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Vault != k.vault.Identity() {
		return a, fmt.Errorf("%s is damaged", k.path)
	}
	return a, nil
}

// write keeps the end of the trail as it is now. A file that cannot be written keeps nobody from being served.
func (k *anchor) write(ctx context.Context) {
	a, err := k.vault.Anchor(ctx)
	if err == nil {
		err = k.replace(a)
	}
	if err != nil {
		k.say("what this node knows of the vault's audit trail cannot be kept: nobody would notice that the vault was set back to an earlier state", err)
		return
	}
	k.said = false
}

func (k *anchor) replace(a tokenstore.Anchor) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(k.path), 0o700); err != nil {
		return err
	}
	return replaceFile(k.path, func(f *os.File) error {
		_, err := f.Write(append(text, '\n'))
		return err
	})
}

// say logs what there is to know once, until it is over.
func (k *anchor) say(what string, err error) {
	if !k.said {
		k.log.Error(what, zap.String("file", k.path), zap.Error(err))
	}
	k.said = true
}

// replaceFile has a file written beside its place, for its owner alone, and put there when that is durable. What was there before remains until then.
func replaceFile(path string, write func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // where directories are not synced
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
