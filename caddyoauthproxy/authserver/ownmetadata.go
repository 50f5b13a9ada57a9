package authserver

import (
	"net/http"
	"net/url"
	"strings"
)

// ClientMetadataURL is where the gateway of this issuer describes itself as a client, for authorization servers that take such documents;
// empty where it cannot, because the address must be https.
func ClientMetadataURL(issuer *url.URL) string {
	if issuer.Scheme != "https" {
		return ""
	}
	return strings.TrimSuffix(issuer.String(), "/") + ownMetadataPath
}

// ClientName is what the gateway of this issuer calls itself as a client.
func ClientName(issuer *url.URL) string { return "MCP gateway " + issuer.Host }

// serveOwnMetadata is GET client-metadata.json: the gateway as a client of the authorization servers of others (OAuth Client ID Metadata
// Document). It has no secret: PKCE protects its codes.
func (s *Server) serveOwnMetadata(w http.ResponseWriter, _ *http.Request) {
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
		s.issuer + ownMetadataPath, s.name, s.issuer, []string{s.RedirectURI()},
		[]string{"authorization_code", "refresh_token"}, []string{"code"}, "none", "web",
	})
}
