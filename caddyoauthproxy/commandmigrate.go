package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	ossignal "os/signal"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// migrateCommand moves the vault.
func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "migrate [--to <config file>]", Short: "Moves the vault to the store of another configuration, or says how that does", Args: usage(cobra.NoArgs),
		Long: `Has the running Caddy copy its vault to the store that the vault option of another configuration names, and compares both. Most is copied while the gateway serves as usual; then it
serves read-only until that configuration is loaded: calls go on, logins and refreshes are answered 503 and tried again. What was cut off goes on when the command is run again. When
it says that it is done, load the new configuration, with caddy reload.`,
		Example: "caddy oauth-proxy migrate --to Caddyfile.new --dry-run",
		RunE:    operate((*call).migrate),
	}
	cmd.Flags().String("to", "", "the new configuration, whose vault is the target; its encryption_key must open this vault")
	cmd.Flags().Bool("dry-run", false, "say whether it can be done, and copy nothing")
	cmd.Flags().Bool("abort", false, "end a migration that is not done: the vault is written again")
	cmd.Flags().Bool("thaw", false, "without a running Caddy: have the vault of --config served again, which was moved and never used where it is now")
	return cmd
}

// migratePoll is how often the command looks how far the migration is.
const migratePoll = 500 * time.Millisecond

func (c *call) migrate() error {
	to, given := c.String("to"), 0
	for _, flag := range []string{"to", "abort", "thaw"} {
		if c.Changed(flag) {
			given++
		}
	}
	switch {
	case given > 1:
		return badUsage("--to, --abort and --thaw are for different things: give one of them")
	case c.Changed("to") && to == "":
		return badUsage("--to is empty: name the new configuration")
	case c.Bool("dry-run") && to == "":
		return badUsage("--dry-run is for --to: name the new configuration")
	case c.Bool("thaw"):
		return c.thawVault()
	}
	var m operator.Migration
	switch {
	case c.Bool("abort"):
		if err := c.ask(http.MethodDelete, "/migration", nil, nil, &m); err != nil {
			return err
		}
	case to == "":
		if err := c.ask(http.MethodGet, "/migration", nil, nil, &m); err != nil {
			return err
		}
	default:
		return c.migrateTo(to)
	}
	return c.printMigration(&m)
}

// migrateTo begins a migration, and follows it to its end. Whoever interrupts it ends the command alone.
func (c *call) migrateTo(file string) error {
	app, err := readApp(file, c.String("adapter"))
	if err != nil {
		return badUsage("--to: %w", err)
	}
	if app.VaultRaw == nil {
		app.VaultRaw = json.RawMessage(`{"module":"bbolt"}`)
	}
	var m operator.Migration
	if err := c.ask(http.MethodPost, "/migration", nil, operator.NewMigration{Vault: app.VaultRaw, EncryptionKeys: app.EncryptionKeys, DryRun: c.Bool("dry-run")}, &m); err != nil {
		return err
	}
	interrupted, stop := ossignal.NotifyContext(c.ctx, os.Interrupt)
	defer stop()
	for said := ""; m.State == operator.MigrationRunning; {
		if line := progressOf(m.Progress); line != said {
			said = line
			fmt.Fprintln(c.notes(), line)
		}
		select {
		case <-interrupted.Done():
			return errors.New("the migration goes on without this command: run it again to follow it, or with --abort to end it")
		case <-time.After(migratePoll):
		}
		m = operator.Migration{}
		if err := c.ask(http.MethodGet, "/migration", nil, nil, &m); err != nil {
			return fmt.Errorf("%w; run the command again to go on where the migration was", err)
		}
	}
	if err := c.printMigration(&m); err != nil {
		return err
	}
	switch m.State {
	case operator.MigrationDone:
		fmt.Fprintf(c.notes(), "Everything is in %s, and the same. This vault is read-only: load the new configuration now, on every node, with caddy reload --config %s\n", cell(m.To), cell(file))
		return nil
	case operator.MigrationReady:
		return nil
	case operator.MigrationFailed:
		if m.ReadOnly == "" {
			return fmt.Errorf("%s; the vault is served as before, and running the command again goes on with what was copied", m.Error)
		}
		return errors.New(m.Error)
	default:
		return fmt.Errorf("the migration is not running any more (%s): run the command again", m.State)
	}
}

// progressOf says how far a migration is, in a line.
func progressOf(p *tokenstore.Progress) string {
	switch {
	case p == nil:
		return "beginning"
	case p.Step == tokenstore.MoveDraining:
		return fmt.Sprintf("read-only from now on; waiting for %d refreshes", p.Done)
	default:
		return fmt.Sprintf("%s %s: %d of %d", p.Step, p.Kind, p.Done, p.Total)
	}
}

func (c *call) printMigration(m *operator.Migration) error {
	return c.print(m, func() error {
		copied := ""
		if m.Copy {
			copied = "an older copy, or a part of one, which is brought up to date"
		}
		if err := c.describe([][2]string{
			{"migration", string(m.State)}, {"from", m.From}, {"to", m.To}, {"has", copied}, {"began", moment(m.Began)}, {"ended", moment(m.Ended)}, {"read-only", m.ReadOnly}, {"error", m.Error},
		}); err != nil || len(m.Kinds) == 0 {
			return err
		}
		fmt.Fprintln(c.out)
		rows := make([][]string, 0, len(m.Kinds))
		for _, k := range m.Kinds {
			same := "same"
			if k.Source != k.Target {
				same = "DIFFERENT"
			}
			rows = append(rows, []string{string(k.Kind), strconv.Itoa(k.Source.Rows), strconv.Itoa(k.Target.Rows), fmt.Sprintf("%.16s", k.Source.SHA256), fmt.Sprintf("%.16s", k.Target.SHA256), same})
		}
		return c.table([]string{"KIND", "ROWS", "IN THE TARGET", "SHA-256", "IN THE TARGET", ""}, rows)
	})
}

// thawVault has a vault served again that was moved, in this process: no gateway may open it as it is.
func (c *call) thawVault() error {
	file := c.String("config")
	if file == "" {
		return badUsage("--thaw is for the vault of a configuration: name that with --config")
	}
	app, err := readApp(file, c.String("adapter"))
	if err != nil {
		return badUsage("--config: %w", err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: c.ctx})
	defer cancel()
	app.ctx = ctx
	vault, name, unload, err := app.loadTarget(app.ownTarget())
	if err != nil {
		return err
	}
	store, err := openTarget(c.ctx, vault, name, unload)
	if err != nil {
		return err
	}
	defer store.release()
	return c.thaw(store)
}

// ownTarget names the app's own vault.
func (a *App) ownTarget() operator.NewMigration {
	if a.VaultRaw == nil {
		return operator.NewMigration{Vault: json.RawMessage(`{"module":"bbolt"}`)}
	}
	return operator.NewMigration{Vault: a.VaultRaw}
}

func (c *call) thaw(store *target) error {
	ctx, cancel := context.WithTimeout(c.ctx, openTimeout)
	defer cancel()
	f, err := store.Frozen(ctx)
	if err != nil {
		return err
	}
	switch {
	case !f.Frozen():
		return fmt.Errorf("%s: it is not frozen", store.name)
	case f.State == tokenstore.FreezeFilling:
		return fmt.Errorf("%s: %s, and is not whole: run the migration again, or empty it", store.name, f)
	}
	if err := store.Freeze(ctx, f, tokenstore.Freeze{}); err != nil {
		return err
	}
	return c.print(operator.Migration{State: operator.MigrationNone, From: f.From, To: f.To}, func() error {
		_, err := fmt.Fprintf(c.out, "%s is served again from now on. The copy in %s must not be: empty it.\n", store.name, f.To)
		return err
	})
}
