package mcpfilter

import (
	"net/http"
	"strings"
)

// deletedHeaders are the request headers that never go upstream, folded as foldName does.
// A trailing star stands for any ending. They are named on [Filter].
var deletedHeaders = compileNames(
	// credentials
	"authorization", "x-session-token", "x-api-key", "proxy-authorization", "dpop", "cookie", "cookie2",
	// identity
	"x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username",
	"x-forwarded-access-token", "x-forwarded-id-token",
	"remote-user", "remote-email", "remote-groups", "remote-name", "x-remote-*",
	"x-auth-request-*", "x-authenticated-*", "x-gateway-*", "x-gw-*",
	"x-user", "x-user-id", "x-user-email", "x-user-name", "x-user-login", "x-user-groups", "x-user-roles",
	"x-webauth-*", "x-ms-client-principal*", "x-goog-authenticated-user-*", "x-goog-iap-*", "x-amzn-oidc-*",
	"cf-access-*", "tailscale-user-*", "x-pomerium-*", "x-authentik-*", "x-vouch-*", "oidc-claim-*",
	"impersonate-user", "impersonate-group", "impersonate-uid", "impersonate-extra-*", "x-consumer-*", "x-hasura-*", "x-scope-orgid",
	"x-userinfo", "x-endpoint-api-userinfo", "x-apigateway-api-userinfo",
	"x-forwarded-client-cert", "x-forwarded-tls-client-cert*", "client-cert*", "x-ssl-client-*", "ssl-client-*", "x-credential-identifier",
	// path and method overrides
	"x-original-url", "x-original-uri", "x-rewrite-url", "x-http-method-override", "x-http-method", "x-method-override",
	// protocol upgrades: MCP has none, and what follows one would pass unseen
	"upgrade", "http2-settings",
	// unlike X-Forwarded-*, reverse_proxy neither checks nor replaces this one
	"forwarded",
)

type nameSet struct {
	exact    map[string]bool
	prefixes []string
}

func compileNames(names ...string) nameSet {
	s := nameSet{exact: make(map[string]bool)}
	for _, name := range names {
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			s.prefixes = append(s.prefixes, prefix)
		} else {
			s.exact[name] = true
		}
	}
	return s
}

func (s nameSet) has(folded string) bool {
	if s.exact[folded] {
		return true
	}
	for _, prefix := range s.prefixes {
		if strings.HasPrefix(folded, prefix) {
			return true
		}
	}
	return false
}

// foldName brings a header name to the form in which servers that make variables of
// headers (CGI, WSGI, Rack) cannot tell it from others: some of them have one character for all that are neither letters nor digits.
func foldName(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			return c
		case 'A' <= c && c <= 'Z':
			return c + ('a' - 'A')
		default:
			return '-'
		}
	}, name)
}

// mirrorHeaders are the headers that say which session a request is for, and what its body says. They are checked by these names alone.
var mirrorHeaders = compileNames("mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name")

// cleanRequest deletes from a client's request what must not go upstream, and every spelling of the headers that are the
// gateway's own, which are folded already.
func cleanRequest(r *http.Request, own map[string]bool) {
	h := r.Header
	cleanConnection(h)
	for name := range h {
		judged, usual := usualHeaders[name]
		if !usual {
			judged = judgeName(name)
		}
		if judged.deleted || own[judged.folded] {
			delete(h, name)
		}
	}
	// Some servers merge trailers into headers, behind every check of them.
	r.Trailer = nil
	delete(h, "Trailer")
}

// judgedName is what is to be known of a header's name.
type judgedName struct {
	folded  string
	deleted bool
}

func judgeName(name string) judgedName {
	folded := foldName(name)
	odd := (strings.HasPrefix(folded, "x-forwarded-") || mirrorHeaders.has(folded)) && http.CanonicalHeaderKey(folded) != name
	return judgedName{folded, odd || deletedHeaders.has(folded)}
}

// usualHeaders are judged once: those that clients, browsers and proxies send with most requests. All others are judged when they come.
var usualHeaders = judgeNames(
	"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Baggage", "Cache-Control", "Content-Length", "Content-Type", "Cookie", "Dnt", "Last-Event-Id",
	"Mcp-Method", "Mcp-Name", "Mcp-Protocol-Version", "Mcp-Session-Id", "Origin", "Pragma", "Priority", "Referer",
	"Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Traceparent", "Tracestate", "User-Agent", "Via",
	"X-Api-Key", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Real-Ip", "X-Request-Id", "X-Session-Token",
)

func judgeNames(names ...string) map[string]judgedName {
	judged := make(map[string]judgedName, len(names))
	for _, name := range names {
		judged[name] = judgeName(name)
	}
	return judged
}

// cleanConnection deletes Connection and the headers that it names (RFC 9110 section
// 7.6.1). reverse_proxy would do the same later, and delete with them what we and its
// own options set meanwhile.
func cleanConnection(h http.Header) {
	values, named := h["Connection"]
	if !named {
		return
	}
	delete(h, "Connection")
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
}
