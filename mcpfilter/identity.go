package mcpfilter

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// identify says in placeholders and in the access log who sends the request, and what it is.
func (f *Filter) identify(r *http.Request, x *exchange) {
	grant, user := x.session.Grant, x.session.Grant.User
	var said *contents
	if r.Method == http.MethodPost {
		said = x.body.contents()
	}
	describe(r, said)
	x.method, x.target, x.name = aboutRequest(r.Header, said)

	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.auth.user.id", grant.UserID)
		repl.Set("http.auth.user.email", user.VerifiedEmail())
		repl.Set("http.auth.user.login", user.Login)
		repl.Set("http.auth.user.name", user.Name)
		repl.Set("http.auth.user.provider", user.Provider)
		repl.Set("mcp.proxy", f.Proxy)
		repl.Set("mcp.client_id", grant.ClientID)
		repl.Set("mcp.client_name", grant.Client)
		repl.Set("mcp.grant", grant.ID)
	}

	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.String("user", user.Label()))
		extra.Set(zap.String("client_id", grant.ClientID))
		extra.Set(zap.String("grant", grant.ID))
		extra.Set(zap.String("jti", x.session.JTI))
		extra.Set(zap.String("proxy", f.Proxy))
		extra.Set(zap.String("mcp_method", x.method))
		extra.Set(zap.String("mcp_target", string(x.target)))
		extra.Set(zap.String("mcp_name", x.name))
	}
}
