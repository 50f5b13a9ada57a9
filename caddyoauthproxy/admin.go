package caddyoauthproxy

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

func init() {
	caddy.RegisterModule(new(AdminAPI))
}

// AdminAPI adds the gateway's admin API to Caddy's admin endpoint, below `/oauth_proxy/`. It is as protected as the endpoint itself.
// `GET /oauth_proxy/openapi.json` describes it. Its errors are JSON objects with `error`, a code, and `error_description`; what Caddy itself
// refuses is in Caddy's form.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.oauth_proxy", New: func() caddy.Module { return new(AdminAPI) }}
}

// adminPrefix is where Caddy's admin endpoint has the API.
const adminPrefix = "/oauth_proxy"

// Routes implements caddy.AdminRouter.
func (*AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminPrefix + "/", Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

// serveAdmin finds the gateway of the config that is running now, and holds it open meanwhile.
func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	app, err := caddy.ActiveContext().AppIfConfigured(mcpfilter.AppName)
	if err != nil {
		operator.Unavailable(w, codeNoGateway, errors.New("the running config has no oauth_proxy"))
		return nil
	}
	g, err := app.(*App).open()
	if err != nil {
		operator.Unavailable(w, codeUnavailable, err)
		return nil
	}
	leave, err := g.acquire()
	if err != nil {
		operator.Unavailable(w, codeUnavailable, err)
		return nil
	}
	defer leave()
	http.StripPrefix(adminPrefix, g.operator.API()).ServeHTTP(w, r)
	return nil
}

// The error codes of a gateway that is not there.
const (
	codeNoGateway   = "no_gateway"
	codeUnavailable = "temporarily_unavailable"
)

// Interface guards
var _ caddy.AdminRouter = (*AdminAPI)(nil)
