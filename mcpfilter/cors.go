package mcpfilter

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// corsRequestHeaders are what MCP clients in browsers send (MCP transports, SPEC of both eras).
const corsRequestHeaders = "Authorization, Content-Type, Accept, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Mcp-Session-Id, Last-Event-ID, X-Session-Token, X-API-Key, Traceparent, Tracestate"

// corsExposedHeaders are what scripts may read of a response.
const corsExposedHeaders = "WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version, Retry-After"

// maxCORSParams is how many Mcp-Param-* headers a preflight may ask for.
const maxCORSParams = 64

// isPreflight says whether r is a CORS preflight. It carries no token, so it is answered before authentication.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}

// answerPreflight allows scripts of any origin: the credential is a header that a
// script must hold itself, and cookies are neither allowed nor read.
func answerPreflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	var allowed strings.Builder
	allowed.WriteString(corsRequestHeaders)
	var params int
	for name := range strings.SplitSeq(strings.Join(r.Header["Access-Control-Request-Headers"], ","), ",") {
		name = strings.TrimSpace(name)
		if hasPrefixFold(name, "Mcp-Param-") && httpguts.ValidHeaderFieldName(name) && params < maxCORSParams {
			allowed.WriteString(", " + name)
			params++
		}
	}
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", allowed.String())
	h.Set("Access-Control-Max-Age", "7200")
	h.Add("Vary", "Access-Control-Request-Headers")
	w.WriteHeader(http.StatusNoContent)
}

// protectResponse sets what the filter's own answers carry: readable by
// scripts that hold the token, kept by no cache, sniffed by no browser.
func protectResponse(h http.Header) { protect(h, "no-store", true) }

// protect does so with what caches are told, and scripts only where there may be one. Handlers may change a response's header in place, so that each response has values of
// its own.
func protect(h http.Header, caching string, script bool) {
	values := [...]string{"nosniff", caching, "*", corsExposedHeaders}
	h["X-Content-Type-Options"] = values[0:1:1]
	h["Cache-Control"] = values[1:2:2]
	if script {
		h["Access-Control-Allow-Origin"] = values[2:3:3]
		h["Access-Control-Expose-Headers"] = values[3:4:4]
	}
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
