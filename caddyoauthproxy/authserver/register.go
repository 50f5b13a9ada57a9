package authserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	josejson "github.com/go-jose/go-jose/v4/json"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Bounds of a registration.
const (
	maxRedirectURIs   = 10
	maxMetadataString = 1024
)

// Prefixes tell people, secret scanners and this server what a string is.
const (
	registeredPrefix = "gateway_"
	managementPrefix = "gwreg_"
)

// Registration says who may register, and how long clients are kept.
type Registration struct {
	// Off closes the endpoint.
	Off bool

	// Tokens are the initial access tokens (RFC 7591 §3), one of which a registration must carry. Empty lets anybody register.
	Tokens []string

	// TTL is how long a client is kept after its last token. It always outlasts the client's grants. Default: 90 d.
	TTL time.Duration

	// UnusedTTL is how long a client is kept that never got a token. Default: 24 h.
	UnusedTTL time.Duration

	// MaxUnused and MaxPerAddress bound how many of those there are, in total and from one address. The oldest give
	// way to new ones. Defaults: 10,000 and 100.
	MaxUnused, MaxPerAddress int
}

func (r *Registration) setDefaults() {
	r.TTL = cmp.Or(r.TTL, 90*24*time.Hour)
	r.UnusedTTL = cmp.Or(r.UnusedTTL, 24*time.Hour)
	r.MaxUnused = cmp.Or(r.MaxUnused, 10_000)
	r.MaxPerAddress = cmp.Or(r.MaxPerAddress, 100)
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

	JWKS    josejson.RawMessage `json:"jwks,omitempty"`
	JWKSURI string              `json:"jwks_uri,omitempty"`

	// The client manages its registration with these two (RFC 7592 §3).
	ManagementToken string `json:"registration_access_token"`
	ManagementURI   string `json:"registration_client_uri"`

	AuthorizationURL string `json:"authorization_url"`
	TokenURL         string `json:"token_url"`
	RevocationURL    string `json:"revocation_url"`
	IntrospectionURL string `json:"introspection_url"`
}

// serveRegister is POST register: dynamic client registration (RFC 7591). It takes client metadata
// as JSON, by default without authentication, and answers 201 with a client_id and, unless the client is public or
// has keys, a client_secret that is shown this once. A registration with one redirect URI that is
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
	if err := s.charge(s.limits.register, r); err != nil {
		return nil, err
	}
	pinned, err := s.proxyOf(r)
	if err != nil {
		return nil, err
	}
	if err := s.mayRegister(r); err != nil {
		return nil, err
	}
	meta, err := readRegistration(w, r)
	if err != nil {
		return nil, err
	}
	address := s.vault.Hash(purposeAddress, s.address(r))
	now := s.vault.Now()
	c := &tokenstore.Client{
		Meta:    tokenstore.Meta{ID: registeredPrefix + randomHex(8), DeleteAfter: now.Add(s.registration.UnusedTTL)},
		Created: now, Address: address,
	}
	if pinned != nil {
		c.Proxy = pinned.ID
	}
	if err := s.applyRegistration(c, meta); err != nil {
		return nil, err
	}
	secret := s.newSecret(c)
	management := managementPrefix + rand.Text()
	c.ManagementHash = s.vault.Hash(purposeManagement, management)
	if err := s.makeRoom(r.Context(), address); err != nil {
		return nil, fmt.Errorf("make room for a client: %w", err)
	}
	if err := s.vault.Commit(r.Context(), tokenstore.Save(c), tokenstore.RecordEvent(s.clientEvent(r.Context(), tokenstore.EventClientRegistered, c))); err != nil {
		return nil, fmt.Errorf("save client: %w", err)
	}
	return s.registered(c, secret, management), nil
}

// mayRegister asks for the initial access token (RFC 7591 §3) where the operator wants one.
func (s *Server) mayRegister(r *http.Request) error {
	switch {
	case s.registration.Off:
		return &Error{Status: http.StatusForbidden, Code: "access_denied", Description: "this gateway registers no clients; ask its operator for a client_id"}
	case len(s.registration.Tokens) == 0:
		return nil
	}
	presented := []byte(s.vault.Hash(purposeManagement, bearer(r)))
	known := 0
	for _, token := range s.registration.Tokens {
		known |= subtle.ConstantTimeCompare([]byte(s.vault.Hash(purposeManagement, token)), presented)
	}
	if known != 1 {
		return errBearer("registration at this gateway needs the initial access token that its operator gives out")
	}
	return nil
}

// errBearer refuses a request whose bearer token is missing or wrong (RFC 6750 §3.1).
func errBearer(description string) error {
	return &Error{Status: http.StatusUnauthorized, Code: "invalid_token", Description: description}
}

// bearer is the token of an Authorization header, "" where there is none or more than one.
func bearer(r *http.Request) string {
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// newSecret gives a client the secret that its authentication method needs.
func (s *Server) newSecret(c *tokenstore.Client) (secret string) {
	if c.AuthMethod != authPost && c.AuthMethod != authBasic {
		c.SecretHash = ""
		return ""
	}
	secret = "gw_secret_" + randomHex(16)
	c.SecretHash = s.vault.Hash(purposeClientSecret, secret)
	return secret
}

// makeRoom keeps clients that never got a token within bounds, by address and in total. It gives up the oldest of them rather than
// refuse the new one: nobody can lock others out, and who registers to log in does so within minutes.
func (s *Server) makeRoom(ctx context.Context, address string) error {
	for _, bound := range []struct {
		ref  string
		most int
	}{{tokenstore.RefAddress(address), s.registration.MaxPerAddress}, {tokenstore.RefUnused, s.registration.MaxUnused}} {
		n, err := s.vault.CountClients(ctx, bound.ref)
		if err != nil {
			return err
		}
		if n < bound.most {
			continue
		}
		ref := bound.ref
		if ref == tokenstore.RefUnused {
			ref = "" // those that end within the life of an unused client are the unused ones
		}
		batch := n - bound.most + 1 + bound.most/20 // a few at once, so that a flood does not pay for every one
		evicted, err := s.vault.EvictClients(ctx, ref, s.vault.Now().Add(s.registration.UnusedTTL), batch)
		if err != nil {
			return err
		}
		s.log.Warn("clients that were never used gave way to new ones", zap.Int("evicted", evicted))
	}
	return nil
}

// registered is the answer to a registration, a read or an update. The secret is there only when it is new.
func (s *Server) registered(c *tokenstore.Client, secret, management string) *registered {
	a := &registered{
		ClientID: c.ID, ClientSecret: secret, ClientIDIssuedAt: c.Created.Unix(),
		RedirectURIs: c.RedirectURIs, ClientName: c.Name, ClientURI: c.URI, LogoURI: c.LogoURI,
		ApplicationType: c.ApplicationType, AuthMethod: c.AuthMethod,
		GrantTypes: c.GrantTypes, ResponseTypes: c.ResponseTypes, Scope: c.Scope,
		JWKS: josejson.RawMessage(c.JWKS), JWKSURI: c.JWKSURI,
		ManagementToken: management, ManagementURI: s.issuer + clientPath + "/" + c.ID,
		AuthorizationURL: s.endpoint(c.Proxy, "authorize"),
		TokenURL:         s.endpoint(c.Proxy, "token"),
		RevocationURL:    s.endpoint(c.Proxy, "revoke"),
		IntrospectionURL: s.endpoint(c.Proxy, "introspect"),
	}
	if c.SecretHash != "" {
		a.ClientSecretExpiresAt = new(int64) // zero: it does not expire
	}
	return a
}

// randomHex returns n random bytes in hex.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}
