package caddyoauthproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// backupCommands take backups, and restore them.
func backupCommands() []*cobra.Command {
	backup := &cobra.Command{
		Use: "backup --to <file>|-", Short: "Writes the vault of this moment to a file, while it serves", Args: usage(cobra.NoArgs),
		Long: `Has the running Caddy write its vault, as of one moment and sealed as it is, and checks that what arrived is whole. Whoever has the file and the encryption key has every user's
upstream tokens: keep them apart.`,
		Example: "caddy oauth-proxy backup --to /backup/vault-2026-11-21.backup",
		RunE:    operate((*call).backup),
	}
	backup.Flags().String("to", "", "the file, which is made for its owner alone, or - for standard output")
	backup.Flags().Bool("force", false, "replace the file where it exists")
	restore := &cobra.Command{
		Use: "restore --from <file> --config <config file>", Short: "Fills an empty store from a backup, or settles that a vault was set back", Args: usage(cobra.NoArgs),
		Long: `Fills the empty store that the vault option of --config names from a backup, with no Caddy that serves it, and compares both. With --to, the running Caddy fills the store of
that configuration. With --in-place, the vault of --config was set back by other means, such as a copy of its file, and a gateway refuses to serve it.

What was ended since the backup was taken would live again. One of three must be said: --audit-log ends again what the log says was ended, --end-all ends all grants and
API keys, --revive leaves everything alive. Sign-ins, logins under way and the keys that sign access tokens end in any case.`,
		Example: "caddy oauth-proxy restore --from vault.backup --config Caddyfile --audit-log /var/log/caddy/audit.log",
		RunE:    operate((*call).restore),
	}
	restore.Flags().String("from", "", "the backup")
	restore.Flags().Bool("in-place", false, "the vault of --config was set back by other means")
	restore.Flags().String("to", "", "have the running Caddy fill the store of this configuration")
	restore.Flags().StringArray("audit-log", nil, "a file of JSON lines of the logger oauth_proxy.audit; may be given several times")
	restore.Flags().Bool("end-all", false, "end all grants and API keys")
	restore.Flags().Bool("revive", false, "leave alive what was ended since")
	return []*cobra.Command{backup, restore}
}

func (c *call) backup() error {
	to := c.String("to")
	switch {
	case to == "":
		return badUsage("--to is missing: name the file, or - for standard output")
	case to == "-":
		_, err := c.fetchBackup(os.Stdout) // which is checked while it passes
		return err
	}
	switch _, err := os.Lstat(to); {
	case err == nil && !c.Bool("force"):
		return badUsage("%s exists: name another file, or replace it with --force", to)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	var made *tokenstore.Backup
	err := replaceFile(to, func(f *os.File) (err error) {
		made, err = c.fetchBackup(f)
		return err
	})
	if err != nil {
		return err
	}
	return c.print(made, func() error {
		return c.describe([][2]string{
			{"backup", to}, {"taken", moment(made.Taken)}, {"records", strconv.Itoa(made.Rows)}, {"sha-256", made.SHA256},
			{"opens with", "the encryption key of this moment, which is not in it: keep that elsewhere, for as long as the backup"},
		})
	})
}

// fetchBackup writes a backup to w, and checks that all of it arrived.
func (c *call) fetchBackup(w io.Writer) (*tokenstore.Backup, error) {
	resp, err := c.open(http.MethodGet, "/backup", nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	bar := c.progressBar()
	defer bar.end()
	made, err := tokenstore.CheckBackup(c.ctx, io.TeeReader(resp.Body, w), nil, func(p tokenstore.Progress) {
		p.Step = "receiving"
		bar.show(p)
	})
	if err != nil {
		return nil, fmt.Errorf("what arrived is not whole: %w; run the command again", err)
	}
	return made, nil
}

func (c *call) restore() error {
	logs, err := c.GetStringArray("audit-log")
	if err != nil {
		return badUsage("--audit-log: %w", err)
	}
	n := operator.NewRestore{From: c.String("from"), AuditLogs: logs, EndAll: c.Bool("end-all"), Revive: c.Bool("revive")}
	config, flag := c.String("config"), "--config"
	switch {
	case c.Bool("in-place") == (n.From != ""):
		return badUsage("give one of --from, with a backup, and --in-place, for a vault that was set back by other means")
	case c.Bool("in-place") && c.Changed("to"):
		return badUsage("--to is for --from: with --in-place, name the configuration with --config, and stop Caddy")
	case c.Changed("to"):
		config, flag = c.String("to"), "--to"
	}
	if config == "" {
		return badUsage("%s is missing: name the configuration whose vault it is", flag)
	}
	if err := checkChoice(n); err != nil {
		return badUsage("%w", err)
	}
	app, err := readApp(config, c.String("adapter"))
	if err != nil {
		return badUsage("%s: %w", flag, err)
	}
	if app.VaultRaw == nil {
		app.VaultRaw = json.RawMessage(`{"module":"bbolt"}`)
	}
	n.Vault, n.EncryptionKeys = app.VaultRaw, app.EncryptionKeys
	var done *operator.Restored
	if c.Changed("to") {
		done, err = c.restoreThere(n)
	} else {
		done, err = c.restoreHere(app, n)
	}
	if err != nil {
		return err
	}
	return c.printRestored(done)
}

// restoreThere has the running Caddy restore. Files are named as they are for it.
func (c *call) restoreThere(n operator.NewRestore) (*operator.Restored, error) {
	var err error
	if n.From, err = filepath.Abs(n.From); err != nil {
		return nil, err
	}
	for i := range n.AuditLogs {
		if n.AuditLogs[i], err = filepath.Abs(n.AuditLogs[i]); err != nil {
			return nil, err
		}
	}
	done := new(operator.Restored)
	return done, c.work(http.MethodPost, "/restore", n, done)
}

// restoreHere restores in this process, to a store that no other serves.
func (c *call) restoreHere(app *App, n operator.NewRestore) (*operator.Restored, error) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: c.ctx})
	defer cancel()
	app.ctx = ctx
	acting := tokenstore.WithActor(c.ctx, tokenstore.Actor{Kind: tokenstore.ActorOperator, ID: "caddy", Label: "caddy oauth-proxy restore"})
	if n.From == "" {
		return app.settle(acting, n)
	}
	bar := c.progressBar()
	defer bar.end()
	return app.restore(acting, n, bar.show)
}

func (c *call) printRestored(done *operator.Restored) error {
	return c.print(done, func() error {
		fields := [][2]string{{"vault", done.To}}
		if b := done.Backup; b != nil {
			fields = append(fields, [2]string{"backup of", moment(b.Taken)}, [2]string{"records", strconv.Itoa(b.Rows)}, [2]string{"sha-256", b.SHA256})
		}
		e := done.Ended
		for _, ended := range []struct {
			what string
			n    int
		}{
			{"grants ended", e.Grants}, {"API keys ended", e.APIKeys}, {"clients deleted", e.Clients}, {"revocation orders", e.Orders}, {"sign-ins and logins ended", e.Sessions}, {"unreadable", e.Unreadable},
		} {
			if ended.n > 0 {
				fields = append(fields, [2]string{ended.what, strconv.Itoa(ended.n)})
			}
		}
		if err := c.describe(fields); err != nil {
			return err
		}
		fmt.Fprintln(c.notes(), "The vault can be served now. Access tokens of before are refused, and clients refresh by themselves; whoever's refresh token was renewed since logs in once more.")
		return nil
	})
}
