package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func init() {
	caddy.RegisterModule(new(AdminAPI))
}

// AdminAPI adds the gateway's routes to Caddy's admin endpoint. They are as protected as the endpoint itself.
//
//	GET  /oauth_proxy/signing_keys         the keys that access tokens are signed with
//	POST /oauth_proxy/signing_keys/rotate  makes a new one; ?compromised=true drops the others at once
//
//	GET    /oauth_proxy/api_keys       the API keys, without what is secret of them
//	POST   /oauth_proxy/api_keys       makes one, of a JSON object with name, proxies, scopes and expires_in
//	DELETE /oauth_proxy/api_keys/{id}  revokes one
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.oauth_proxy", New: func() caddy.Module { return new(AdminAPI) }}
}

// Routes implements caddy.AdminRouter.
func (*AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/oauth_proxy/signing_keys", Handler: caddy.AdminHandlerFunc(listSigningKeys)},
		{Pattern: "/oauth_proxy/signing_keys/rotate", Handler: caddy.AdminHandlerFunc(rotateSigningKey)},
		{Pattern: "/oauth_proxy/api_keys", Handler: caddy.AdminHandlerFunc(serveAPIKeys)},
		{Pattern: "/oauth_proxy/api_keys/{id}", Handler: caddy.AdminHandlerFunc(revokeAPIKey)},
	}
}

func listSigningKeys(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return adminError(http.StatusMethodNotAllowed, errors.New("use GET"))
	}
	g, leave, err := runningGateway()
	if err != nil {
		return err
	}
	defer leave()
	return answerAdmin(w, g.server.SigningKeys())
}

func rotateSigningKey(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return adminError(http.StatusMethodNotAllowed, errors.New("use POST"))
	}
	g, leave, err := runningGateway()
	if err != nil {
		return err
	}
	defer leave()
	if err := g.server.RotateSigningKey(asOperator(r), r.URL.Query().Get("compromised") == "true"); err != nil {
		return adminError(http.StatusServiceUnavailable, err)
	}
	return answerAdmin(w, g.server.SigningKeys())
}

// runningGateway is the gateway of the config that is running now, held open until leave is called.
func runningGateway() (g *gateway, leave func(), err error) {
	app, err := caddy.ActiveContext().AppIfConfigured(mcpfilter.AppName)
	if err != nil {
		return nil, nil, adminError(http.StatusNotFound, errors.New("the running config has no oauth_proxy"))
	}
	if g, err = app.(*App).open(); err == nil {
		leave, err = g.acquire()
	}
	if err != nil {
		return nil, nil, adminError(http.StatusServiceUnavailable, err)
	}
	return g, leave, nil
}

// asOperator says who acts through Caddy's admin endpoint: whoever may reach it. Where that asks for a client certificate, it is named.
func asOperator(r *http.Request) context.Context {
	actor := tokenstore.Actor{Kind: tokenstore.ActorOperator, Label: "admin endpoint"}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		actor.ID = r.TLS.PeerCertificates[0].Subject.String()
	}
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr // a Unix socket
	}
	return tokenstore.WithAddress(tokenstore.WithActor(r.Context(), actor), address)
}

func answerAdmin(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}

func adminError(status int, err error) error {
	return caddy.APIError{HTTPStatus: status, Err: err}
}

// Interface guards
var _ caddy.AdminRouter = (*AdminAPI)(nil)
