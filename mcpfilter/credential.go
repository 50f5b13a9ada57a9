package mcpfilter

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// maxToken is the longest gateway token that is looked at, in bytes.
const maxToken = 4 << 10

// credential returns the one gateway token, or API key, of a request (RFC 6750 section 2). It
// may stand in Authorization, or in X-Session-Token or X-API-Key as scripts send them; two of
// them are refused, because every reader might choose another.
func credential(r *http.Request) (token string, no *refusal) {
	if queryToken(r.URL.RawQuery) {
		return "", malformedCredential("send the access token in the Authorization header, never in the URL")
	}
	authorization, other := r.Header["Authorization"], slices.Concat(r.Header["X-Session-Token"], apiKeys(r.Header))
	switch len(authorization) + len(other) {
	case 0:
		return "", noCredential()
	case 1:
	default:
		return "", malformedCredential("send exactly one credential")
	}
	if len(other) == 1 {
		token = strings.TrimSpace(other[0])
	} else {
		scheme, rest, _ := strings.Cut(authorization[0], " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", noCredential()
		}
		token = strings.TrimSpace(rest)
	}
	switch {
	case token == "":
		return "", noCredential()
	case len(token) > maxToken:
		return "", invalidToken("the access token is too long", nil)
	case !isToken68(token):
		return "", malformedCredential("the credential is malformed")
	}
	return token, nil
}

// apiKeys are the values of X-API-Key that are for the gateway. Any other is none of its business, and is deleted.
func apiKeys(h http.Header) (keys []string) {
	for _, value := range h["X-Api-Key"] {
		if strings.HasPrefix(strings.TrimSpace(value), tokenstore.APIKeyPrefix) {
			keys = append(keys, value)
		}
	}
	return keys
}

// token68 are the characters of a b64token, but the equals signs at its end. Each request has some hundred of them.
var token68 = func() (set [256]bool) {
	for _, c := range "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/" {
		set[c] = true
	}
	return set
}()

// isToken68 checks the b64token syntax of RFC 6750 section 2.1.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if !token68[s[i]] {
			return false
		}
	}
	return s != ""
}

// queryToken says whether a query has an access_token parameter (RFC 6750 section 2.3), in any
// spelling that some server might read as one, or an API key under whatever name.
func queryToken(query string) bool {
	for pair := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(value, tokenstore.APIKeyPrefix) {
			return true
		}
		if decoded, err := url.QueryUnescape(name); err == nil {
			name = decoded
		}
		if strings.EqualFold(strings.TrimSpace(name), "access_token") {
			return true
		}
	}
	return false
}
