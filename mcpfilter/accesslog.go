package mcpfilter

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Caddy's logs redact the headers that it knows to hold credentials. X-Session-Token and X-API-Key are not among them, and what the logs show of a
// request is set before any handler sees it. So requests that carry a credential in one of these are left out of those logs, and get a line of
// the filter's own.

// carriesLoggedCredential reports whether a request has a credential of the gateway's in a header that Caddy's logs would show: also one that is
// not written as it should be.
func carriesLoggedCredential(r *http.Request) bool {
	apiKey := func(value string) bool { return strings.Contains(value, tokenstore.APIKeyPrefix) }
	if len(r.Header["X-Session-Token"]) == 0 && !slices.ContainsFunc(r.Header["X-Api-Key"], apiKey) {
		return false
	}
	srv, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return !ok || srv.Logs == nil || !srv.Logs.ShouldLogCredentials // the operator wants to see them
}

// redacted reports whether Caddy's logs hide the credential that travels in a header; none is Authorization.
func redacted(header string) bool {
	switch http.CanonicalHeaderKey(header) {
	case "", "Authorization", "Cookie", "Proxy-Authorization":
		return true
	}
	return false
}

// serveUnlogged serves a request that Caddy must not log. It returns no error, because the error log would show the request,
// too; error routes are not asked.
func (f *Filter) serveUnlogged(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	start := time.Now()
	method, path := r.Method, r.URL.Path
	rec := caddyhttp.NewResponseRecorder(w, nil, nil)
	err := f.serve(rec, r, next)
	if err != nil {
		status := http.StatusInternalServerError
		if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok && he.StatusCode != 0 {
			status = he.StatusCode
		}
		if rec.Size() == 0 && rec.Status() == 0 {
			rec.WriteHeader(status)
		}
	}
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	known := func(placeholder string) string {
		if repl == nil {
			return ""
		}
		value, _ := repl.GetString(placeholder)
		return value
	}
	user := cmp.Or(known("http.auth.user.email"), known("http.auth.user.login"))
	clientIP, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	f.log.Info("handled request", zap.String("method", method), zap.String("path", path), zap.Int("status", rec.Status()), zap.Int("size", rec.Size()),
		zap.Duration("duration", time.Since(start)), zap.String("client_ip", clientIP), zap.String("proxy", f.proxy.ID), zap.String("user", user),
		zap.String("user_id", known("http.auth.user.id")), zap.String("client_id", known("mcp.client_id")), zap.String("grant", known("mcp.grant")),
		zap.String("mcp_method", known("mcp.method")), zap.Error(err))
	return nil
}
