package mcpfilter

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Caddy's logs redact the headers that it knows to hold credentials. X-Session-Token is not one of them, and what the logs show of a
// request is set before any handler sees it. So requests that carry the header are left out of those logs; the audit trail has them.

// carriesSessionToken reports whether a request has a header that Caddy's logs would show.
func carriesSessionToken(r *http.Request) bool {
	if len(r.Header["X-Session-Token"]) == 0 {
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
// too; error routes are not asked. The audit trail tells of it all the same.
func (f *Filter) serveUnlogged(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	a := newAudited(w)
	if err := f.serve(a, r, next); err != nil && a.status == 0 {
		a.WriteHeader(a.answered(err))
	}
}
