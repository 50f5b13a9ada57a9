package mcpfilter

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Caddy's logs redact the headers that it knows to hold credentials. X-Session-Token and X-API-Key are not among them, nor is the URL, and what the logs show of a
// request is set before any handler sees it. So requests that carry a credential in one of these are left out of those logs; the audit trail has them.

// carriesLoggedCredential reports whether a request has a credential of the gateway's where Caddy's logs would show it: also one that is
// not written as it should be.
func carriesLoggedCredential(r *http.Request) bool {
	apiKey := func(value string) bool { return strings.Contains(value, tokenstore.APIKeyPrefix) }
	if len(r.Header["X-Session-Token"]) == 0 && !slices.ContainsFunc(r.Header["X-Api-Key"], apiKey) && !queryToken(r.URL.RawQuery) {
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

// conceal answers an error of a request that Caddy must not log: its error log would show the request, too. Error routes are not asked.
func (a *audited) conceal(err error) {
	if err != nil && a.status == 0 {
		a.WriteHeader(a.answered(err))
	}
}
