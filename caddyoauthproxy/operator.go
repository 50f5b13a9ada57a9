package caddyoauthproxy

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// newOperator makes what operators use, of a gateway that is otherwise put together.
func newOperator(a *App, g *gateway) (*operator.Server, error) {
	storage := operator.Storage{Keys: len(a.EncryptionKeys)}
	if m, ok := a.vault.(caddy.Module); ok {
		storage.Module = m.CaddyModule().ID.Name()
	}
	if b, ok := a.vault.(*BboltVault); ok {
		storage.Path = b.Path
	}
	return operator.New(operator.Options{
		Issuer:    a.config.issuer,
		Gateway:   g.server,
		Vault:     g.vault,
		Providers: a.config.providers,
		Proxies:   a.config.proxies,
		Storage:   storage,
		SignedIn:  g.server.SignedIn,
		Assistant: a.assistant(),
		Pages:     a.config.pages,

		NoConnections: a.Connections.Off,

		Logger: a.log.Named("operator"),
	})
}

// newAssistantPages makes the assistant's pages.
func newAssistantPages(a *App, g *gateway) *operator.AssistantPages {
	return operator.NewAssistantPages(a.config.issuer, operator.AssistantPagesOptions{
		Assistant:     a.assistant(),
		Pages:         a.config.pages,
		SignedIn:      g.server.SignedIn,
		ReadForm:      g.server.ReadForm,
		SignInURL:     g.server.SignInURL,
		ApplyConfig:   a.Admin != nil && a.Admin.ApplyConfig,
		Admin:         func() (*operator.AdminEndpoint, error) { return adminEndpoint(runningAdmin(a.ctx)) },
		NoConnections: a.Connections.Off,
		Vault:         g.vault,
		ClientIP:      clientIP,
		Logger:        a.log.Named("operator"),
	})
}

// handles reports whether a request to the site is the gateway's.
func (g *gateway) handles(r *http.Request) bool {
	return g.server.Handles(r) || g.operator.Handles(r) || g.assistant.Handles(r)
}

// ServeHTTP answers the gateway's part of the site.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.server.Handles(r) {
		g.server.ServeHTTP(w, r)
		return
	}
	if g.assistant.Handles(r) {
		g.assistant.ServeHTTP(w, r)
		return
	}
	g.operator.ServeHTTP(w, r)
}
