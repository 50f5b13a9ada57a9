package caddyoauthproxy

import (
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler serves the gateway's OAuth endpoints, its well-known documents and its pages on a site. Requests for any other path
// go on to the site's next handler.
//
// Their query strings carry codes and states, so these requests are left out of Caddy's access log. The logger
// `http.handlers.oauth_proxy` writes a line for each instead, with method, path, status, duration and client address; but none for the health
// routes, `/oauth/live` and `/oauth/ready`, which are asked all the time.
type Handler struct {
	app *App
	log *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.oauth_proxy", New: func() caddy.Module { return new(Handler) }}
}

// Provision finds the app, and tells it that it is served.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log = ctx.Logger()
	app, err := ctx.AppIfConfigured(mcpfilter.AppName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return errors.New("oauth_proxy: no oauth_proxy app is configured: add the global option oauth_proxy { … }")
	}
	if err != nil {
		return err // which names the app
	}
	h.app = app.(*App)
	h.app.endpoints = true
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. It answers errors itself and returns none: Caddy's
// error log would print the URL.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if h.app.serveHealth(w, r) {
		return nil
	}
	g, err := h.app.open()
	if err == nil && !g.handles(r) || err != nil && !h.mayHandle(r) {
		return next.ServeHTTP(w, r)
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	start := time.Now()
	rec := caddyhttp.NewResponseRecorder(w, nil, nil)
	var leave func()
	if err == nil {
		leave, err = g.acquire()
	}
	if err != nil {
		h.log.Error("gateway unavailable", zap.Error(err))
		rec.Header().Set("Retry-After", "2")
		http.Error(rec, "the gateway is not available at the moment", http.StatusServiceUnavailable)
	} else {
		defer leave()
		g.ServeHTTP(rec, r)
	}
	h.log.Info("handled request",
		zap.String("method", r.Method),
		zap.String("path", r.URL.Path),
		zap.Int("status", rec.Status()),
		zap.Duration("duration", time.Since(start)),
		zap.String("client_ip", clientIP(r)))
	return nil
}

// mayHandle reports whether a path looks like one of the gateway's, while there is no gateway to ask.
func (h *Handler) mayHandle(r *http.Request) bool {
	return authserver.MayHandle(r) || operator.MayHandle(r) || h.app.config.admins != nil && operator.MayBeAdminPage(r)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
