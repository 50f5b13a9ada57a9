package caddyoauthproxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// newOperator makes what operators use, of a gateway that is otherwise put together.
func newOperator(a *App, g *gateway) (*operator.Server, error) {
	storage := storageOf(a.vault)
	storage.Keys, storage.KeyNames = len(a.EncryptionKeys), keyNames(a.EncryptionKeys)
	return operator.New(operator.Options{
		Issuer:    a.config.issuer,
		Gateway:   g.server,
		Vault:     g.vault,
		Accounts:  g.accounts,
		Providers: a.config.providers,
		Proxies:   a.config.proxies,
		Storage:   storage,
		SignedIn:  g.server.SignedIn,
		ClientIP:  clientIP,
		Assistant: a.assistant(),
		Migrations: operator.Migrations{
			Begin: func(ctx context.Context, n operator.NewMigration) (*operator.Migration, error) {
				return a.beginMigration(ctx, g, n)
			},
			Show:  func(ctx context.Context) (*operator.Migration, error) { return showMigration(ctx, g) },
			Abort: func(ctx context.Context) (*operator.Migration, error) { return a.abortMigration(ctx, g) },
		},
		Compact: func(ctx context.Context, tell func(tokenstore.Progress)) (*operator.Compaction, error) {
			return a.compact(ctx, g, tell)
		},
		Backups: operator.Backups{
			Take: func(ctx context.Context) (io.ReadCloser, int64, *tokenstore.Backup, error) {
				return a.takeBackup(ctx, g)
			},
			Restore: func(ctx context.Context, n operator.NewRestore, tell func(tokenstore.Progress)) (*operator.Restored, error) {
				return a.restore(ctx, n, tell)
			},
		},
		Pages: a.config.pages,

		NoConnections: a.Connections.Off,

		Logger: a.log.Named("operator"),
	})
}

// storageOf says where a vault is.
func storageOf(v Vault) (s operator.Storage) {
	if m, ok := v.(caddy.Module); ok {
		s.Module = m.CaddyModule().ID.Name()
	}
	switch v := v.(type) {
	case *BboltVault:
		s.Path = v.Path
	case *PostgresVault:
		s.Hosts, s.Database, s.Schema = v.storage.Hosts, v.storage.Database, v.storage.Schema
	}
	return s
}

// newAdminPages makes the pages of operators.
func newAdminPages(a *App, g *gateway) *operator.AdminPages {
	return operator.NewAdminPages(operator.AdminPagesOptions{
		Server:       g.operator,
		Health:       g.accounts.Health,
		Cleaned:      func(ctx context.Context) (time.Time, error) { return g.vault.JobBegan(ctx, cleanupJob) },
		CleanupEvery: a.cleanupInterval(),
		ClientIP:     clientIP,
		ApplyConfig:  a.Admin != nil && a.Admin.ApplyConfig,
		Endpoint:     func() (*operator.AdminEndpoint, error) { return a.Admin.adminEndpoint() },
		NoAdmins:     a.config.admins == nil,
	})
}

// handles reports whether a request to the site is the gateway's.
func (g *gateway) handles(r *http.Request) bool {
	return looksOurs(r.URL.Path) && (g.server.Handles(r) || g.operator.Handles(r) || g.admin.Handles(r))
}

// looksOurs reports whether a path has a word that every path of the gateway has, so that those who know which are its own need not be asked about every request to an
// MCP server. Other spellings of a path, with further slashes and dots, have the same words.
func looksOurs(path string) bool {
	return strings.Contains(path, "oauth") || strings.Contains(path, "/.well-known/") || strings.Contains(path, "/admin") || strings.Contains(path, "/connections")
}

// ServeHTTP answers the gateway's part of the site.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case g.server.Handles(r):
		g.server.ServeHTTP(w, r)
	case g.operator.Handles(r):
		g.operator.ServeHTTP(w, r)
	default:
		g.admin.ServeHTTP(w, r)
	}
}
