package authserver

import (
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// serveHome is GET /oauth/: which MCP servers are behind this gateway, and the addresses to
// give to a chatbot.
func (s *Server) serveHome(w http.ResponseWriter, _ *http.Request) {
	h := console.Home{Issuer: s.issuer}
	if s.connections {
		h.Connections = s.issuer + connectionsPath
	}
	for _, p := range s.order {
		h.Proxies = append(h.Proxies, console.HomeProxy{Name: p.Name, Resource: p.Resource})
	}
	s.pages.Home(w, h)
}
