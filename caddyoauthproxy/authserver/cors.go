package authserver

import (
	"net/http"
	"slices"
	"strings"
)

// public wraps an endpoint that scripts of any origin may call: it reads no cookie
// and answers preflights (RFC 9700 §2.6 allows CORS on these). Credentials are never allowed.
func public(h http.HandlerFunc, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if preflight(w, r, methods...) || !methodIs(w, r, methods...) {
			return
		}
		h(w, r)
	})
}

// private wraps an endpoint for the user's own browser: no CORS, never framed, never cached.
func private(h http.HandlerFunc, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Pragma", "no-cache")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		if !methodIs(w, r, methods...) {
			return
		}
		h(w, r)
	})
}

// methodIs refuses every method but these. HEAD is not taken for GET: what looks at links would take a step of a login, and
// its outcome would be shown to nobody.
func methodIs(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	allowed := strings.Join(methods, ", ")
	w.Header().Set("Allow", allowed)
	writeJSON(w, http.StatusMethodNotAllowed, map[string]string{
		"error":             "invalid_request",
		"error_description": "this endpoint takes " + allowed + " requests",
	})
	return false
}

// corsRequestHeaders are what MCP clients in browsers send to these endpoints; the
// TypeScript SDK sends MCP-Protocol-Version on metadata requests too.
var corsRequestHeaders = []string{"Authorization", "Content-Type", "Accept", "MCP-Protocol-Version"}

// preflight sets the CORS headers and answers an OPTIONS request.
func preflight(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After")
	if r.Method != http.MethodOptions {
		return false
	}
	h.Set("Access-Control-Allow-Methods", strings.Join(append(slices.Clone(methods), http.MethodOptions), ", "))
	h.Set("Access-Control-Allow-Headers", strings.Join(corsRequestHeaders, ", "))
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
