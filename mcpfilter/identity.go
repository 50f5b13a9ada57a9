package mcpfilter

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// identify says in placeholders and in the access log who sends the request, and what it is.
func (f *Filter) identify(r *http.Request, x *exchange) {
	var said *contents
	if r.Method == http.MethodPost {
		said = x.body.contents()
	}
	p := describe(r, said)
	p.x = x
	x.method, x.target, x.name = p.method, p.target, p.name

	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		p.prevail(repl, identityPlaceholders)
	}

	if srv, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); srv != nil && srv.Logs == nil {
		return // there is no access log
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.Inline(x))
	}
}

// MarshalLogObject tells the access log of the request. It is asked when a line is written.
func (x *exchange) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	grant := x.session.Grant
	enc.AddString("user", grant.User.Label())
	enc.AddString("client_id", grant.ClientID)
	enc.AddString("grant", grant.ID)
	enc.AddString("jti", x.session.JTI)
	enc.AddString("proxy", x.proxy.ID)
	enc.AddString("mcp_method", x.method)
	enc.AddString("mcp_target", string(x.target))
	enc.AddString("mcp_name", x.name)
	return nil
}
