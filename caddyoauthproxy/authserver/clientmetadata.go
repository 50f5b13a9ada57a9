package authserver

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	josejson "github.com/go-jose/go-jose/v4/json"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// registration is the client metadata of RFC 7591 §2 that the gateway knows. Other members are ignored.
type registration struct {
	RedirectURIs    []string `json:"redirect_uris"`
	ClientName      string   `json:"client_name"`
	ClientURI       string   `json:"client_uri"`
	LogoURI         string   `json:"logo_uri"`
	ApplicationType string   `json:"application_type"`
	AuthMethod      string   `json:"token_endpoint_auth_method"`
	GrantTypes      []string `json:"grant_types"`
	ResponseTypes   []string `json:"response_types"`
	Scope           string   `json:"scope"`

	JWKS    josejson.RawMessage `json:"jwks"`
	JWKSURI string              `json:"jwks_uri"`

	// What only a metadata document or an update (RFC 7592) may have.
	ClientID              string  `json:"client_id"`
	ClientSecret          *string `json:"client_secret"`
	ClientSecretExpiresAt *int64  `json:"client_secret_expires_at"`
}

// readRegistration decodes the body with member names compared exactly and duplicates
// refused, so that no two readers see different metadata.
func readRegistration(w http.ResponseWriter, r *http.Request) (*registration, error) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return nil, refuse("invalid_client_metadata", "the body must be application/json")
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	return parseRegistration(body)
}

func parseRegistration(body []byte) (*registration, error) {
	var meta registration
	if err := josejson.Unmarshal(body, &meta); err != nil {
		return nil, refuse("invalid_client_metadata", "the body is not a JSON object of client metadata").because(err)
	}
	return &meta, nil
}

// applyRegistration checks the metadata of a client that registers or updates itself, and gives it to the client.
func (s *Server) applyRegistration(c *tokenstore.Client, m *registration) error {
	var pinned *Proxy
	if c.Proxy != "" {
		if pinned = s.proxies[c.Proxy]; pinned == nil {
			return refuse("invalid_client_metadata", "the MCP server that this client registered for is no longer behind this gateway")
		}
	}
	if len(m.RedirectURIs) == 0 || len(m.RedirectURIs) > maxRedirectURIs {
		return refuse("invalid_redirect_uri", fmt.Sprintf("redirect_uris must hold 1 to %d entries", maxRedirectURIs))
	}
	if err := s.checkRedirectURIs(m.RedirectURIs, pinned); err != nil {
		return err
	}
	if m.AuthMethod == "" { // RFC 7591 §2
		m.AuthMethod = authBasic
	}
	return m.apply(c)
}

// apply checks everything but redirect URIs, and gives the metadata to the client.
func (m *registration) apply(c *tokenstore.Client) error {
	invalid := func(description string) error { return refuse("invalid_client_metadata", description) }
	for _, v := range []string{m.ClientName, m.ClientURI, m.LogoURI, m.Scope, m.JWKSURI} {
		if len(v) > maxMetadataString {
			return invalid("a member is longer than 1024 bytes")
		}
	}
	for name, v := range map[string]string{"client_uri": m.ClientURI, "logo_uri": m.LogoURI} {
		if u, err := url.Parse(v); v != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
			return invalid(name + " must be a web address")
		}
	}
	if !slices.Contains([]string{"", "web", "native"}, m.ApplicationType) {
		return invalid("application_type must be web or native")
	}
	hasKeys := len(m.JWKS) > 0 || m.JWKSURI != ""
	switch m.AuthMethod {
	case authNone, authBasic, authPost:
	case authPrivateKey:
		if (len(m.JWKS) > 0) == (m.JWKSURI != "") {
			return invalid("private_key_jwt needs either jwks or jwks_uri")
		}
	default:
		return invalid("token_endpoint_auth_method must be none, client_secret_post, client_secret_basic or private_key_jwt")
	}
	if hasKeys {
		if err := validClientKeys(m.JWKS, m.JWKSURI); err != nil {
			return invalid(err.Error())
		}
	}
	if len(m.ResponseTypes) > 0 && !slices.Contains(m.ResponseTypes, "code") {
		return invalid("response_types must contain code")
	}
	// Unknown grant types are left out rather than refused: clients list what they
	// can do, and the answer tells them what they may.
	if len(m.GrantTypes) > 0 && !slices.Contains(m.GrantTypes, grantCode) {
		return invalid("grant_types must contain authorization_code")
	}
	c.Name, c.URI, c.LogoURI, c.Scope = strings.TrimSpace(m.ClientName), m.ClientURI, m.LogoURI, m.Scope
	c.ApplicationType, c.AuthMethod, c.RedirectURIs = m.ApplicationType, m.AuthMethod, m.RedirectURIs
	c.JWKS, c.JWKSURI = json.RawMessage(m.JWKS), m.JWKSURI
	c.ResponseTypes, c.GrantTypes = []string{"code"}, []string{grantCode}
	if len(m.GrantTypes) == 0 || slices.Contains(m.GrantTypes, grantRefresh) {
		c.GrantTypes = append(c.GrantTypes, grantRefresh)
	}
	return nil
}

// checkRedirectURIs applies the rules of a proxy, or of any proxy on the gateway-wide endpoint:
// authorize asks again when the proxy is known.
func (s *Server) checkRedirectURIs(uris []string, pinned *Proxy) error {
	candidates := s.order
	if pinned != nil {
		candidates = []*Proxy{pinned}
	}
	for _, uri := range uris {
		var err error
		ok := slices.ContainsFunc(candidates, func(p *Proxy) bool {
			err = p.CheckRedirect(uri)
			return err == nil
		})
		if !ok {
			shown := uri
			if len(shown) > 200 {
				shown = shown[:200] + "…"
			}
			return refuse("invalid_redirect_uri", fmt.Sprintf("redirect URI %q %v", shown, err))
		}
	}
	return nil
}
