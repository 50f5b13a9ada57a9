package authserver

import "github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"

// ConnectPath is where users connect a proxy without a client, followed by a slash and the proxy's id, below the issuer.
const ConnectPath = connectPath

// TakesSessions reports whether the gateway gives out session tokens, and with them has pages at ConnectPath.
func (s *Server) TakesSessions() bool { return s.sessions }

// RedirectURIOf is the callback that a provider must know for the gateway.
func (s *Server) RedirectURIOf(p *upstream.Provider) string { return s.redirectURI(p) }
