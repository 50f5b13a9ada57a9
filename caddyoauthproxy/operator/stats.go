package operator

import (
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Stats are what there is of everything.
type Stats struct {
	// Grants is how many there are of each health, as of when each was last looked at: within minutes.
	Grants map[tokenstore.Health]int `json:"grants"`

	// Proxies is how many grants each proxy has that nobody has ended.
	Proxies map[string]int `json:"proxies"`

	// Clients is how many have registered themselves, and UnusedClients how many of them never got a token.
	Clients       int `json:"clients"`
	UnusedClients int `json:"unused_clients"`

	// OpenLogins is how many logins there are that nobody has come back from.
	OpenLogins int `json:"open_logins"`

	// APIKeys and Sessions are how many there are. Those that are over are among them until the clean-up deletes them.
	APIKeys  int `json:"api_keys"`
	Sessions int `json:"sessions"`
}

// showStats is GET /stats. It counts, and opens no record.
func (s *Server) showStats(_ http.ResponseWriter, r *http.Request) (any, error) {
	stats := Stats{Grants: make(map[tokenstore.Health]int), Proxies: make(map[string]int)}
	vault, ctx := s.options.Vault, r.Context()
	var err error
	for _, h := range tokenstore.Healths() {
		if stats.Grants[h], err = vault.CountGrants(ctx, h); err != nil {
			return nil, err
		}
	}
	for _, p := range s.options.Proxies {
		if stats.Proxies[p.ID], err = vault.CountLivingGrants(ctx, p.ID); err != nil {
			return nil, err
		}
	}
	if stats.Clients, err = vault.CountClients(ctx, ""); err != nil {
		return nil, err
	}
	if stats.UnusedClients, err = vault.CountClients(ctx, tokenstore.RefUnused); err != nil {
		return nil, err
	}
	if stats.OpenLogins, err = vault.CountOpenLogins(ctx); err != nil {
		return nil, err
	}
	if stats.APIKeys, err = vault.Count(ctx, tokenstore.KindAPIKey); err != nil {
		return nil, err
	}
	stats.Sessions, err = vault.Count(ctx, tokenstore.KindSignIn)
	return stats, err
}
