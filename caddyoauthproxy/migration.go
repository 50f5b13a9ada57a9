package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// migration is one move of the vault. It goes on when the configuration is reloaded, so it belongs to the process.
type migration struct {
	mu    sync.Mutex
	state operator.Migration

	cancel context.CancelFunc
	ended  chan struct{}
}

// migrations has the last one of this process.
var migrations struct {
	sync.Mutex
	last *migration
}

// abortTime bounds how long somebody waits for a migration to end.
const abortTime = 15 * time.Second

// target is the store that a vault is moved to.
type target struct {
	tokenstore.Movable
	name    string
	release func()
}

// beginMigration moves the vault in the background, or says how the migration to that place does which runs already.
func (a *App) beginMigration(ctx context.Context, g *gateway, n operator.NewMigration) (*operator.Migration, error) {
	migrations.Lock()
	defer migrations.Unlock()
	from, ok := g.store.(tokenstore.Movable)
	if !ok {
		return nil, operator.Conflict(fmt.Sprintf("vaults of the module %s cannot be moved", storageOf(a.vault).Module))
	}
	vault, name, unload, err := a.loadTarget(n)
	if err != nil {
		return nil, operator.Conflict(err.Error())
	}
	if last := migrations.last; last.running() && !n.DryRun {
		unload()
		if to := last.show().To; to != name {
			return nil, operator.Conflict(fmt.Sprintf("the vault is being moved to %s: abort that first", to))
		}
		return last.describe(ctx, g)
	}
	to, err := openTarget(ctx, vault, name, unload)
	if err != nil {
		return nil, operator.Conflict(err.Error())
	}
	move := &tokenstore.Move{From: from, To: to, Source: placeOf(a.vault), Target: to.name, Vault: g.vault.Identity(), Leased: g.vault.Leased}
	copied, err := a.checkMove(ctx, g, vault, n, move)
	if err != nil || n.DryRun {
		to.release()
		if err != nil {
			return nil, err
		}
		return &operator.Migration{State: operator.MigrationReady, From: move.Source, To: move.Target, Copy: copied}, nil
	}
	m := &migration{state: operator.Migration{State: operator.MigrationRunning, From: move.Source, To: move.Target, Copy: copied, Began: g.vault.Now()}, ended: make(chan struct{})}
	if err := a.startMigration(ctx, g, m, move, to.release); err != nil {
		to.release()
		return nil, err
	}
	migrations.last = m
	return m.describe(ctx, g)
}

// loadTarget makes the vault module of a configuration that is to be, which opens nothing.
func (a *App) loadTarget(n operator.NewMigration) (v Vault, name string, unload func(), err error) {
	var module struct {
		Module string `json:"module"`
	}
	if err := json.Unmarshal(n.Vault, &module); err != nil || module.Module == "" {
		return nil, "", nil, errors.New("vault: its module is missing, such as bbolt or postgres")
	}
	var settings map[string]json.RawMessage
	if err := json.Unmarshal(n.Vault, &settings); err != nil {
		return nil, "", nil, errors.New("vault: it is no JSON object")
	}
	delete(settings, "module")
	raw, err := json.Marshal(settings)
	if err != nil {
		return nil, "", nil, err
	}
	parent := a.ctx
	parent.Context = context.WithoutCancel(parent.Context)
	loading, unload := caddy.NewContext(parent)
	mod, err := loading.LoadModuleByID("oauth_proxy.vaults."+module.Module, raw)
	if err == nil {
		if vault, ok := mod.(Vault); ok {
			return vault, placeOf(vault), unload, nil
		}
		err = fmt.Errorf("module %T is not a vault", mod)
	}
	unload()
	return nil, "", nil, fmt.Errorf("vault: %w", err)
}

// openTarget opens the store that a vault is to be moved to.
func openTarget(ctx context.Context, vault Vault, name string, unload func()) (*target, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	store, release, err := vault.OpenVault(ctx)
	if err != nil {
		unload()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	to := &target{name: name, release: func() {
		release()
		unload()
	}}
	var ok bool
	if to.Movable, ok = store.(tokenstore.Movable); !ok {
		to.release()
		return nil, fmt.Errorf("%s: no vault can be moved to this module", name)
	}
	return to, nil
}

// placeOf says in words where a vault is.
func placeOf(v Vault) string {
	s := storageOf(v)
	switch {
	case s.Path != "":
		return s.Module + " " + s.Path
	case s.Database != "":
		return fmt.Sprintf("%s %s, database %s, schema %s", s.Module, strings.Join(s.Hosts, ","), s.Database, s.Schema)
	default:
		return s.Module
	}
}

// checkMove returns why the vault cannot be moved, and whether the target has an older copy.
func (a *App) checkMove(ctx context.Context, g *gateway, to Vault, n operator.NewMigration, m *tokenstore.Move) (copied bool, err error) {
	if m.Source == m.Target || m.To.(*target).Movable == m.From {
		return false, operator.Conflict(m.Target + " is where the vault is: name another in the new configuration")
	}
	if err := a.checkTargetKeys(ctx, g, to, n.EncryptionKeys); err != nil {
		return false, operator.Conflict("encryption_key of the new configuration: " + err.Error())
	}
	copied, err = m.Check(ctx)
	if errors.Is(err, tokenstore.ErrMove) {
		return false, operator.Conflict(err.Error())
	}
	return copied, err
}

// checkTargetKeys returns why the new configuration could not open the vault.
func (a *App) checkTargetKeys(ctx context.Context, g *gateway, to Vault, elements []json.RawMessage) error {
	keys, err := a.targetKeys(ctx, to, elements)
	if err != nil {
		return err
	}
	return tokenstore.CheckKeys(ctx, g.store, keys)
}

// targetKeys are the encryption keys of a configuration that is to serve a vault which exists already.
func (a *App) targetKeys(ctx context.Context, to Vault, elements []json.RawMessage) ([]tokenstore.RootKey, error) {
	if len(elements) == 0 && to.KeyFile() == "" {
		return nil, errors.New("it is missing, and this vault makes none: set it, to the key that this vault is encrypted with")
	}
	keys, err := keysOf(ctx, a.ctx, elements, to)
	if errors.Is(err, fs.ErrNotExist) && len(elements) == 0 {
		return nil, fmt.Errorf("none is set, and the key file is missing: set encryption_key, or copy the key file of this vault there: %w", err)
	}
	return keys, err
}

// startMigration runs the move in the background.
func (a *App) startMigration(ctx context.Context, g *gateway, m *migration, move *tokenstore.Move, release func()) error {
	leave, err := g.acquire()
	if err != nil {
		return err
	}
	if f, err := move.From.Frozen(ctx); err == nil && !f.Frozen() {
		if err := g.vault.Commit(ctx, tokenstore.RecordEvent(moveEvent(ctx, g, move, "begun"))); err != nil {
			leave()
			return err
		}
	}
	move.Progress = m.progress
	moving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	log := processLog("oauth_proxy.migration").With(zap.String("from", move.Source), zap.String("to", move.Target))
	log.Info("migration begins")
	go func() {
		defer close(m.ended)
		defer leave()
		defer release()
		defer cancel()
		kinds, err := move.Run(moving)
		m.end(g.vault.Now(), kinds, err)
		event := moveEvent(moving, g, move, "done")
		if err != nil {
			log.Error("migration failed", zap.Error(err))
			event.Details["step"] = "failed"
			event = event.Refused(err.Error())
		} else {
			log.Info("migration done: the copy was compared, and can be served; this vault is read-only until the new configuration is loaded")
		}
		g.vault.Note(event)
	}()
	return nil
}

func moveEvent(ctx context.Context, g *gateway, m *tokenstore.Move, step string) *tokenstore.Event {
	e := g.vault.NewEvent(ctx, tokenstore.EventVaultMove)
	e.Details = map[string]string{"from": m.Source, "to": m.Target, "step": step}
	return e
}

// running reports whether there is a migration that goes on.
func (m *migration) running() bool {
	if m == nil {
		return false
	}
	return m.show().State == operator.MigrationRunning
}

func (m *migration) show() (none operator.Migration) {
	if m == nil {
		return none
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *migration) progress(p tokenstore.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Progress = &p
}

func (m *migration) end(now time.Time, kinds []tokenstore.MovedKind, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.State, m.state.Ended, m.state.Kinds, m.state.Progress = operator.MigrationDone, now, kinds, nil
	if err != nil {
		m.state.State, m.state.Error = operator.MigrationFailed, err.Error()
	}
}

// showMigration says how the last migration of this process does, or what one was broken off at.
func showMigration(ctx context.Context, g *gateway) (*operator.Migration, error) {
	migrations.Lock()
	last := migrations.last
	migrations.Unlock()
	return last.describe(ctx, g)
}

// describe says how a migration does, or, when there is none, what one was broken off at.
func (m *migration) describe(ctx context.Context, g *gateway) (*operator.Migration, error) {
	state := operator.Migration{State: operator.MigrationNone}
	if m != nil {
		state = m.show()
	}
	f, err := g.frozen(ctx)
	if err != nil {
		return nil, err
	}
	if f.Frozen() {
		state.ReadOnly = f.String()
		if state.State == operator.MigrationNone {
			state.State, state.From, state.To = operator.MigrationInterrupted, f.From, f.To
		}
	}
	return &state, nil
}
