package authserver

import (
	"net/http"
	"net/url"
	"strings"
)

// ClientMetadataURL is where the gateway of this issuer describes itself as a client of the authorization servers of a provider, for those that take
// such documents; empty where it cannot, because the address must be https. Each provider has one, with its own redirect URI alone.
func ClientMetadataURL(issuer *url.URL, provider string) string {
	if issuer.Scheme != "https" {
		return ""
	}
	return strings.TrimSuffix(issuer.String(), "/") + ownMetadataPath + "/" + url.PathEscape(provider) + ".json"
}

// ClientName is what the gateway of this issuer calls itself as a client.
func ClientName(issuer *url.URL) string { return "MCP gateway " + issuer.Host }

// serveOwnMetadata is GET client-metadata/{provider}.json: the gateway as a client of the authorization servers of others (OAuth Client ID Metadata
// Document). It has no secret: PKCE protects its codes.
func (s *Server) serveOwnMetadata(w http.ResponseWriter, r *http.Request) {
	name, isDocument := strings.CutSuffix(r.PathValue("provider"), ".json")
	for _, p := range s.order {
		if !isDocument || p.Provider.Name() != name || !p.Provider.AsksForMore() {
			continue
		}
		w.Header().Set("Cache-Control", "public, max-age=3600")
		writeJSON(w, http.StatusOK, struct {
			ID              string   `json:"client_id"`
			Name            string   `json:"client_name"`
			URI             string   `json:"client_uri"`
			RedirectURIs    []string `json:"redirect_uris"`
			GrantTypes      []string `json:"grant_types"`
			ResponseTypes   []string `json:"response_types"`
			AuthMethod      string   `json:"token_endpoint_auth_method"`
			ApplicationType string   `json:"application_type"`
		}{
			s.issuer + ownMetadataPath + "/" + url.PathEscape(name) + ".json", s.name, s.issuer, []string{s.redirectURI(p.Provider)},
			[]string{"authorization_code", "refresh_token"}, []string{"code"}, "none", "web",
		})
		return
	}
	http.NotFound(w, r)
}
