package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// takeBackup reads the vault of one moment into a temporary file, which ends with its reader: whoever reads it slowly holds up nothing in the vault.
func (a *App) takeBackup(ctx context.Context, g *gateway) (io.ReadCloser, int64, *tokenstore.Backup, error) {
	from, ok := g.store.(tokenstore.Movable)
	if !ok {
		return nil, 0, nil, operator.Conflict(fmt.Sprintf("no backup can be made of vaults of the module %s", storageOf(a.vault).Module))
	}
	leave, err := g.acquire()
	if err != nil {
		return nil, 0, nil, err
	}
	defer leave()
	dir := os.TempDir()
	if b, ok := a.vault.(*BboltVault); ok { // where there is room for one vault, and it is as safe
		dir = filepath.Dir(b.Path)
	}
	noRoom := func(err error) error {
		return operator.Conflict(fmt.Sprintf("the backup cannot be written to a temporary file in %s: %v; make room there, or, for a vault that is no file, set TMPDIR for Caddy", dir, err))
	}
	f, err := newSpool(dir)
	if err != nil {
		return nil, 0, nil, noRoom(err)
	}
	made, err := g.vault.WriteBackup(ctx, from, f, nil)
	if err == nil {
		err = a.noteBackup(ctx, g, made)
	}
	var size int64
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		if _, full := errors.AsType[*os.PathError](err); full {
			err = noRoom(err)
		}
		if errors.Is(err, tokenstore.ErrDamaged) || errors.Is(err, tokenstore.ErrTampered) || errors.Is(err, tokenstore.ErrWrongKey) {
			err = operator.Conflict(fmt.Sprintf("no backup can be made of what is damaged: %v; caddy oauth-proxy verify names all that is, with what to do", err))
		}
		return nil, 0, nil, err
	}
	return f, size, made, nil
}

// noteBackup has the audit trail say that there is a copy of the vault, before anybody has it. A vault that is read-only cannot be told; its log is.
func (a *App) noteBackup(ctx context.Context, g *gateway, made *tokenstore.Backup) error {
	e := g.vault.NewEvent(ctx, tokenstore.EventVaultBackedUp)
	e.Details = map[string]string{"sha256": made.SHA256, "rows": strconv.Itoa(made.Rows), "taken": made.Taken.Format(time.RFC3339)}
	err := g.vault.Commit(ctx, tokenstore.RecordEvent(e))
	if errors.Is(err, tokenstore.ErrReadOnly) {
		a.auditor.recorded(e)
		return nil
	}
	return err
}

// spool is a temporary file without a name, which is gone when it is closed, and when the process ends.
type spool struct{ *os.File }

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, ".vault-backup-*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name()) // where open files have names that stay, Close removes it
	return &spool{f}, nil
}

// Close implements io.Closer.
func (s *spool) Close() error {
	err := s.File.Close()
	_ = os.Remove(s.Name()) // nothing, mostly
	return err
}

// restore fills the store of another configuration from a backup.
func (a *App) restore(ctx context.Context, n operator.NewRestore, tell func(tokenstore.Progress)) (*operator.Restored, error) {
	conflict := func(format string, args ...any) error { return operator.Conflict(fmt.Errorf(format, args...).Error()) }
	caught, err := catchUp(n, time.Duration(a.Retention))
	if err != nil {
		return nil, conflict("%w", err)
	}
	vault, name, unload, err := a.loadTarget(operator.NewMigration{Vault: n.Vault})
	if err != nil {
		return nil, conflict("%w", err)
	}
	keys, err := a.targetKeys(ctx, vault, n.EncryptionKeys)
	if err != nil {
		unload()
		return nil, conflict("encryption_key: %w", err)
	}
	backup, err := checkBackupFile(ctx, n.From, keys, tell)
	if err != nil {
		unload()
		return nil, conflict("%w", err)
	}
	to, err := openTarget(ctx, vault, name, unload)
	if err != nil {
		return nil, conflict("%w", err)
	}
	defer to.release()
	r := &tokenstore.Restore{
		Backup: backup, Open: func() (io.ReadCloser, error) { return os.Open(n.From) },
		To: to.Movable, Target: to.name, Options: a.restoredOptions(keys), CatchUp: caught, Progress: tell,
	}
	done, err := r.Run(ctx)
	if err != nil {
		return nil, conflict("%w", err)
	}
	return &operator.Restored{To: to.name, Backup: backup, Ended: done}, nil
}

// restoredOptions are those of a vault that catches up: what it records is in the log as well.
func (a *App) restoredOptions(keys []tokenstore.RootKey) tokenstore.Options {
	log := processLog("oauth_proxy.audit")
	told := &auditor{log: log}
	return tokenstore.Options{
		Keys: keys, Recorded: told.line,
		Audit: tokenstore.AuditOptions{Off: a.Audit.Off, Retention: time.Duration(a.Audit.Retention), Chained: told.chained, Failed: func(err error) { log.Error("audit trail", zap.Error(err)) }},
	}
}

// checkBackupFile returns what the file holds, which is whole and of the vault that the keys open.
func checkBackupFile(ctx context.Context, file string, keys []tokenstore.RootKey, tell func(tokenstore.Progress)) (*tokenstore.Backup, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	backup, err := tokenstore.CheckBackup(ctx, f, keys, tell)
	return backup, ofBackup(file, err)
}

// ofBackup names the file of a backup in an error, nil where there is none.
func ofBackup(file string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tokenstore.ErrWrongKey):
		return fmt.Errorf("%s: the vault was encrypted with another key when this backup was taken: list that one in encryption_key, behind the one that is to encrypt it", file)
	default:
		return fmt.Errorf("%s: %w", file, err)
	}
}

// settle says what becomes of what was ended in a vault that was set back by other means, which nobody may have open but this.
func (a *App) settle(ctx context.Context, n operator.NewRestore) (*operator.Restored, error) {
	caught, err := catchUp(n, time.Duration(a.Retention))
	if err != nil {
		return nil, err
	}
	vault, name, unload, err := a.loadTarget(operator.NewMigration{Vault: n.Vault})
	if err != nil {
		return nil, err
	}
	to, err := openTarget(ctx, vault, name, unload)
	if err != nil {
		return nil, err
	}
	defer to.release()
	if f, err := to.Frozen(ctx); err != nil || f.Frozen() {
		if err == nil {
			err = fmt.Errorf("%s: %s", name, f)
		}
		return nil, err
	}
	switch there, err := tokenstore.Initialized(ctx, to.Movable); {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case !there:
		return nil, fmt.Errorf("%s holds no vault: to fill it from a backup, use --from in place of --in-place", name)
	}
	keys, err := a.targetKeys(ctx, vault, n.EncryptionKeys)
	if err != nil {
		return nil, fmt.Errorf("encryption_key: %w", err)
	}
	v, err := tokenstore.Open(ctx, to.Movable, a.restoredOptions(keys))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	done, err := v.CatchUp(ctx, caught, "an earlier state, by other means")
	if err != nil {
		return nil, fmt.Errorf("%s: %w; run the command again", name, err)
	}
	return &operator.Restored{To: name, Ended: done}, nil
}

// checkChoice returns why it is not clear what is to become of what was ended.
func checkChoice(n operator.NewRestore) error {
	given := 0
	for _, is := range []bool{len(n.AuditLogs) > 0, n.EndAll, n.Revive} {
		if is {
			given++
		}
	}
	if given == 1 {
		return nil
	}
	return errors.New("what was ended since lives again unless something is done: say one of --audit-log with the log of since, which ends it again; " +
		"--end-all, which ends all grants and API keys; and --revive, which leaves everything alive")
}

// catchUp reads what is to become of what was ended.
func catchUp(n operator.NewRestore, retention time.Duration) (c tokenstore.CatchUp, err error) {
	if err := checkChoice(n); err != nil {
		return c, err
	}
	c = tokenstore.CatchUp{EndAll: n.EndAll, Revive: n.Revive, Retention: retention}
	for _, file := range n.AuditLogs {
		if c.AuditLog == nil {
			c.AuditLog = new(tokenstore.AuditLog)
		}
		if err := readAuditLog(c.AuditLog, file); err != nil {
			return c, fmt.Errorf("audit log %s: %w", file, err)
		}
	}
	return c, nil
}

func readAuditLog(l *tokenstore.AuditLog, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return l.Read(f)
}
