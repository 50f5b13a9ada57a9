package operator

import (
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// listClients is GET /clients.
func (s *Server) listClients(w http.ResponseWriter, r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	page, err := s.options.Gateway.Clients(r.Context(), authserver.ClientFilter{Kind: param(r, "kind"), After: param(r, "after"), Limit: limit})
	if err != nil {
		return nil, err
	}
	linkNext(w, r, page.Next)
	return page, nil
}

// showClient is GET /clients/{id}.
func (s *Server) showClient(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.options.Gateway.ClientInfo(r.Context(), r.PathValue("id"))
}

// deleteClient is DELETE /clients/{id}: its answer is the order that ends the client's grants.
func (s *Server) deleteClient(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.options.Gateway.DeleteClient(r.Context(), r.PathValue("id"), by(r.Context()), param(r, "reason"))
}
