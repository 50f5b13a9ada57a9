package mcpfilter

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// maxIdentity is how much may be told the MCP server of who sends a request: names and values of the headers, in bytes. Many servers take no
// more than 8 KiB in a header, or in all of them.
const maxIdentity = 8 << 10

// identityFields are what an identity header can say. A value is encoded, and empty where the user or client has none.
var identityFields = map[string]func(*Session) string{
	"user_id":     ofUser(func(g *tokenstore.Grant) string { return encodeValue(g.UserID) }),
	"email":       ofUser(func(g *tokenstore.Grant) string { return encodeValue(g.User.VerifiedEmail()) }),
	"login":       ofUser(func(g *tokenstore.Grant) string { return encodeValue(g.User.Login) }),
	"name":        ofUser(func(g *tokenstore.Grant) string { return encodeValue(g.User.Name) }),
	"groups":      ofUser(func(g *tokenstore.Grant) string { return encodeList(g.User.Groups, ",") }),
	"org":         ofUser(func(g *tokenstore.Grant) string { return encodeValue(g.User.Org) }),
	"provider":    ofUser(func(g *tokenstore.Grant) string { return encodeValue(g.User.Provider) }),
	"client_id":   func(s *Session) string { return encodeValue(s.Grant.ClientID) },
	"client_name": func(s *Session) string { return encodeValue(s.Grant.Client) },
	"scopes":      func(s *Session) string { return encodeList(s.Scopes, " ") },
}

// ofUser is a field that a client which acts for itself does not have.
func ofUser(value func(*tokenstore.Grant) string) func(*Session) string {
	return func(s *Session) string {
		if !s.Grant.HasUser() {
			return ""
		}
		return value(s.Grant)
	}
}

// encodeValue writes a value so that percent-decoding (RFC 3986 section 2.1) gives it back whatever it is. Visible ASCII and the spaces between it
// stay as they are, but for the percent sign.
func encodeValue(value string) string { return percentEncode(value, "%") }

// encodeList joins values, in which the separator is encoded: a reader splits first, and decodes then. Empty values are left out.
func encodeList(values []string, separator string) string {
	var encoded []string
	for _, value := range values {
		if value != "" {
			encoded = append(encoded, percentEncode(value, "%"+separator))
		}
	}
	return strings.Join(encoded, separator)
}

// percentEncode encodes what is reserved or no visible ASCII, and spaces at either end, which readers cut off.
func percentEncode(value, reserved string) string {
	var b strings.Builder
	for i := range len(value) {
		c := value[i]
		atEnd := c == ' ' && (i == 0 || i == len(value)-1)
		if c < ' ' || c > '~' || atEnd || strings.IndexByte(reserved, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// identityHeader is what a header may be called. Other characters of a name have spellings that some servers cannot tell from it.
var identityHeader = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`)

// reservedHeaders are the request headers with a meaning of their own, folded as foldName does.
var reservedHeaders = compileNames(
	// credentials
	"authorization", "cookie", "cookie2", "dpop", "x-session-token", "x-api-key", "x-forwarded-access-token", "x-forwarded-id-token",
	// routing
	"host", "via", "forwarded", "max-forwards", "x-real-ip", "true-client-ip", "x-original-*", "x-rewrite-*", "x-accel-*",
	"x-http-method*", "x-method-override", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto*", "x-forwarded-port", "x-forwarded-prefix",
	"x-forwarded-server", "x-forwarded-by", "x-forwarded-scheme", "x-forwarded-ssl", "x-forwarded-method", "x-forwarded-uri", "x-forwarded-path",
	// framing and connections; reverse_proxy deletes some of them
	"content-*", "transfer-encoding", "te", "trailer", "expect", "connection", "keep-alive", "proxy-*", "upgrade", "http2-settings", "alt-svc",
	// HTTP and MCP
	"accept*", "mcp-*", "last-event-id", "origin", "referer", "user-agent", "date", "range", "if-*", "cache-control", "pragma", "priority",
	"early-data", "sec-*", "access-control-*", "www-authenticate", "traceparent", "tracestate", "baggage",
)

// CheckIdentity finds what is wrong with a proxy's identity headers, each with its field, and with the header of its identity
// assertion, empty for none. credentialHeader is the one in which its upstream token travels as it is, if there is such a header.
func CheckIdentity(headers map[string]string, assertion, credentialHeader string) error {
	taken := map[string]string{foldName(credentialHeader): "upstream_token"}
	check := func(option, header, example string) error {
		folded := foldName(header)
		switch {
		case !identityHeader.MatchString(header):
			return fmt.Errorf("%s: %q is no name for a header of the gateway's: write letters, digits and - alone, such as %s", option, header, example)
		case reservedHeaders.has(folded):
			return fmt.Errorf("%s: %s carries credentials, or belongs to HTTP or MCP: choose a name of your own, such as %s", option, header, example)
		case taken[folded] != "":
			return fmt.Errorf("%s: %s is the header of %s already: give each one of its own", option, header, taken[folded])
		}
		taken[folded] = "an " + option
		return nil
	}
	for _, header := range slices.Sorted(maps.Keys(headers)) {
		if err := check("identity_header", header, "X-User-Email"); err != nil {
			return err
		}
		if field := headers[header]; identityFields[field] == nil {
			return fmt.Errorf("identity_header %s: %q is unknown; known are %s", header, field, strings.Join(slices.Sorted(maps.Keys(identityFields)), ", "))
		}
	}
	if assertion == "" {
		return nil
	}
	return check("identity_assertion", assertion, "X-Gateway-Assertion")
}

// ownHeaders are the headers that only the gateway sets on a request to the server, folded as foldName does.
func (p *Proxy) ownHeaders() map[string]bool {
	own := make(map[string]bool)
	for header := range p.IdentityHeaders {
		own[foldName(header)] = true
	}
	for _, header := range []string{p.IdentityAssertion, p.CredentialHeader} {
		if header != "" {
			own[foldName(header)] = true
		}
	}
	return own
}

// tellIdentity puts on a cleaned request who sends it, as far as the MCP server is to know. The assertion is left to the transport.
func (f *Filter) tellIdentity(r *http.Request, x *exchange) *refusal {
	size := 0
	for header, field := range f.proxy.IdentityHeaders {
		if value := identityFields[field](x.session); value != "" {
			r.Header.Set(header, value)
			size += len(header) + len(value)
		}
	}
	if f.proxy.IdentityAssertion != "" {
		var err error
		if x.assertion, err = f.gateway.IdentityAssertion(r.Context(), x.session); err != nil {
			return gatewayRefusal(err)
		}
		size += len(f.proxy.IdentityAssertion) + len(x.assertion)
	}
	if size <= maxIdentity {
		return nil
	}
	// A part of it would be a lie: a server may give rights for a group that is there, and take them for one.
	f.log.Warn("identity is too large for headers", zap.String("proxy", f.Proxy), zap.String("user_id", x.session.Grant.UserID),
		zap.String("grant", x.session.Grant.ID), zap.Int("bytes", size), zap.Int("most", maxIdentity), zap.Int("groups", len(x.session.Grant.User.Groups)))
	return identityTooLarge()
}
