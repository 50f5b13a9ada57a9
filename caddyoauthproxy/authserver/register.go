package authserver

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	josejson "github.com/go-jose/go-jose/v4/json"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Bounds of a registration.
const (
	maxRedirectURIs   = 10
	maxMetadataString = 1024
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
}

// registered is the answer (RFC 7591 §3.2.1): the metadata as stored, and beside it the
// absolute endpoint URLs that chatbots without discovery build on.
type registered struct {
	ClientID              string   `json:"client_id"`
	ClientSecret          string   `json:"client_secret,omitempty"`
	ClientIDIssuedAt      int64    `json:"client_id_issued_at"`
	ClientSecretExpiresAt *int64   `json:"client_secret_expires_at,omitempty"`
	RedirectURIs          []string `json:"redirect_uris"`
	ClientName            string   `json:"client_name,omitempty"`
	ClientURI             string   `json:"client_uri,omitempty"`
	LogoURI               string   `json:"logo_uri,omitempty"`
	ApplicationType       string   `json:"application_type,omitempty"`
	AuthMethod            string   `json:"token_endpoint_auth_method"`
	GrantTypes            []string `json:"grant_types"`
	ResponseTypes         []string `json:"response_types"`
	Scope                 string   `json:"scope,omitempty"`

	AuthorizationURL string `json:"authorization_url"`
	TokenURL         string `json:"token_url"`
	RevocationURL    string `json:"revocation_url"`
	IntrospectionURL string `json:"introspection_url"`
}

// serveRegister is POST register: dynamic client registration (RFC 7591). It takes client metadata
// as JSON, without authentication, and answers 201 with a client_id and, unless the client is public,
// a client_secret that is shown this once. A registration with one redirect URI that is
// not allowed is refused whole (invalid_redirect_uri, naming it).
func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request) {
	answer, err := s.register(w, r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, answer)
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) (*registered, error) {
	pinned, err := s.proxyOf(r)
	if err != nil {
		return nil, err
	}
	meta, err := readRegistration(w, r)
	if err != nil {
		return nil, err
	}
	c, refusal := s.newClient(meta, pinned)
	if refusal != nil {
		return nil, refusal
	}
	var secret string
	if c.AuthMethod != authNone {
		secret = "gw_secret_" + randomHex(16)
		c.SecretHash = s.vault.Hash(purposeClientSecret, secret)
	}
	if err := s.vault.Commit(r.Context(), tokenstore.Save(c)); err != nil {
		return nil, fmt.Errorf("save client: %w", err)
	}
	s.log.Info("client registered", zap.String("client_id", c.ID), zap.String("client_name", c.Name),
		zap.String("proxy", c.Proxy), zap.Strings("redirect_uris", c.RedirectURIs), zap.String("auth_method", c.AuthMethod))

	a := &registered{
		ClientID: c.ID, ClientSecret: secret, ClientIDIssuedAt: c.Created.Unix(),
		RedirectURIs: c.RedirectURIs, ClientName: c.Name, ClientURI: c.URI, LogoURI: c.LogoURI,
		ApplicationType: c.ApplicationType, AuthMethod: c.AuthMethod,
		GrantTypes: c.GrantTypes, ResponseTypes: c.ResponseTypes, Scope: c.Scope,
		AuthorizationURL: s.endpoint(c.Proxy, "authorize"),
		TokenURL:         s.endpoint(c.Proxy, "token"),
		RevocationURL:    s.endpoint(c.Proxy, "revoke"),
		IntrospectionURL: s.endpoint(c.Proxy, "introspect"),
	}
	if secret != "" {
		a.ClientSecretExpiresAt = new(int64) // zero: it does not expire
	}
	return a, nil
}

// readRegistration decodes the body with member names compared exactly and duplicates
// refused, so that no two readers see different metadata.
func readRegistration(w http.ResponseWriter, r *http.Request) (*registration, error) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return nil, refuse("invalid_client_metadata", "the body must be application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, bodyError(err, "the body could not be read")
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

// newClient checks the metadata and makes the client of it.
func (s *Server) newClient(m *registration, pinned *Proxy) (*tokenstore.Client, *Error) {
	c := &tokenstore.Client{
		Meta:          tokenstore.Meta{ID: "gateway_" + randomHex(8)},
		Name:          strings.TrimSpace(m.ClientName),
		URI:           m.ClientURI,
		LogoURI:       m.LogoURI,
		RedirectURIs:  m.RedirectURIs,
		AuthMethod:    m.AuthMethod,
		ResponseTypes: []string{"code"},
		Scope:         m.Scope,
		Created:       s.vault.Now(),
	}
	if pinned != nil {
		c.Proxy = pinned.ID
	}
	if err := s.checkRedirectURIs(m.RedirectURIs, pinned); err != nil {
		return nil, err
	}
	for _, v := range []string{m.ClientName, m.ClientURI, m.LogoURI, m.Scope} {
		if len(v) > maxMetadataString {
			return nil, refuse("invalid_client_metadata", "a member is longer than 1024 bytes")
		}
	}
	for name, v := range map[string]string{"client_uri": m.ClientURI, "logo_uri": m.LogoURI} {
		if u, err := url.Parse(v); v != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
			return nil, refuse("invalid_client_metadata", name+" must be a web address")
		}
	}
	switch m.ApplicationType {
	case "", "web", "native":
		c.ApplicationType = m.ApplicationType
	default:
		return nil, refuse("invalid_client_metadata", "application_type must be web or native")
	}
	switch m.AuthMethod {
	case "": // RFC 7591 §2
		c.AuthMethod = authBasic
	case authNone, authBasic, authPost:
	default:
		return nil, refuse("invalid_client_metadata", "token_endpoint_auth_method must be none, client_secret_post or client_secret_basic")
	}
	if len(m.ResponseTypes) > 0 && !slices.Contains(m.ResponseTypes, "code") {
		return nil, refuse("invalid_client_metadata", "response_types must contain code")
	}
	// Unknown grant types are left out rather than refused: clients list what they
	// can do, and the answer tells them what they may.
	if len(m.GrantTypes) > 0 && !slices.Contains(m.GrantTypes, grantCode) {
		return nil, refuse("invalid_client_metadata", "grant_types must contain authorization_code")
	}
	c.GrantTypes = []string{grantCode}
	if len(m.GrantTypes) == 0 || slices.Contains(m.GrantTypes, grantRefresh) {
		c.GrantTypes = append(c.GrantTypes, grantRefresh)
	}
	return c, nil
}

// checkRedirectURIs applies the rules of a proxy, or of any proxy on the gateway-wide endpoint:
// authorize asks again when the proxy is known.
func (s *Server) checkRedirectURIs(uris []string, pinned *Proxy) *Error {
	if len(uris) == 0 || len(uris) > maxRedirectURIs {
		return refuse("invalid_redirect_uri", fmt.Sprintf("redirect_uris must hold 1 to %d entries", maxRedirectURIs))
	}
	candidates := s.order
	if pinned != nil {
		candidates = []*Proxy{pinned}
	}
	for _, uri := range uris {
		err := errors.New("is not among the proxy's allowed_redirects")
		ok := slices.ContainsFunc(candidates, func(p *Proxy) bool {
			if invalid := validRedirectURI(uri, p.AllowedRedirects); invalid != nil {
				err = invalid
				return false
			}
			return p.allowsRedirect(uri)
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

// randomHex returns n random bytes in hex.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}
