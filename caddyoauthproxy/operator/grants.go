package operator

import (
	"net/http"
	"slices"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Grants are what DESIGN calls them; as tokens they are known to those who come from gateways that store one token for each. Both paths are one.

// grantParameters are the query parameters of the list of grants.
var grantParameters = slices.Concat([]string{"user_id", "client_id", "proxy", "provider", "account_id", "health", "text", "sort"}, paging)

// listGrants is GET /tokens and GET /grants.
func (s *Server) listGrants(w http.ResponseWriter, r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	page, err := s.options.Gateway.Grants(r.Context(), authserver.GrantFilter{
		UserID: param(r, "user_id"), ClientID: param(r, "client_id"), Proxy: param(r, "proxy"), Provider: param(r, "provider"), AccountID: param(r, "account_id"),
		Health: tokenstore.Health(param(r, "health")), Text: param(r, "text"), Sort: param(r, "sort"), After: param(r, "after"), Limit: limit,
	})
	if err != nil {
		return nil, err
	}
	linkNext(w, r, page.Next)
	return page, nil
}

// showGrant is GET /tokens/{id} and GET /grants/{id}.
func (s *Server) showGrant(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.options.Gateway.GrantInfo(r.Context(), r.PathValue("id"))
}

// endGrant is DELETE /tokens/{id} and DELETE /grants/{id}.
func (s *Server) endGrant(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.options.Gateway.EndGrant(r.Context(), r.PathValue("id"), param(r, "reason"))
}
