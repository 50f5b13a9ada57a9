package authserver

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// An identity assertion tells an MCP server who sends a request, signed, so that the server can check it with the gateway's published keys. It
// opens nothing at the gateway.

const (
	// identityType is the JWT type of identity assertions (RFC 8725 §3.11). No other JWT of the gateway has it.
	identityType = "gateway-identity+jwt"

	// identityLife is how long an assertion is good.
	identityLife = 5 * time.Minute
)

// identityClaims are the claims of an identity assertion. Those of the user are missing where a client acts for itself.
type identityClaims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"` // the proxy's resource, as a string
	Subject  string `json:"sub"` // the user's id in the gateway, or the client that acts for itself

	// The address is there only where the provider calls it verified.
	Email         string `json:"email,omitempty"`
	EmailVerified bool   `json:"email_verified,omitempty"`

	Name     string   `json:"name,omitempty"`
	Login    string   `json:"login,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	Org      string   `json:"org,omitempty"`
	Provider string   `json:"provider,omitempty"`

	ClientID   string `json:"client_id"`
	ClientName string `json:"client_name,omitempty"`
	Scope      string `json:"scope,omitempty"`
	GrantID    string `json:"sid"`
	JTI        string `json:"jti"` // of the access token, as in the gateway's log: assertions are good for many requests
	IssuedAt   int64  `json:"iat"`
	Expires    int64  `json:"exp"`
}

// IdentityAssertion says to a proxy's server who sends the requests that come with an access token: the one with this jti and these scopes, of this
// grant. At least half of the assertion's life is left.
func (s *Server) IdentityAssertion(g *tokenstore.Grant, proxyID, jti string, scopes []string) (string, error) {
	p := s.proxies[proxyID]
	if p == nil {
		return "", fmt.Errorf("identity assertion: no proxy %q", proxyID)
	}
	// A session token is good for several proxies.
	id, key, now := assertionID{p.ID, g.ID, jti, g.Version}, s.keys.signing(), s.vault.Now()
	// Signing one for every request would cost more than all the rest of it.
	if kept, ok := s.assertions.get(id); ok && kept.good(key, now) {
		return kept.text, nil
	}
	c := identityClaims{
		Issuer: s.issuer, Audience: p.Resource, Subject: g.UserID,
		ClientID: g.ClientID, ClientName: g.Client, Scope: strings.Join(scopes, " "),
		GrantID: g.ID, JTI: jti, IssuedAt: now.Unix(), Expires: now.Add(identityLife).Unix(),
	}
	if g.HasUser() {
		u := g.User
		c.Email, c.EmailVerified = u.VerifiedEmail(), u.VerifiedEmail() != ""
		c.Name, c.Login, c.Groups, c.Org, c.Provider = u.Name, u.Login, u.Groups, u.Org, u.Provider
	}
	text, err := key.signClaims(key.identity, c)
	if err != nil {
		return "", fmt.Errorf("sign identity assertion: %w", err)
	}
	if len(text) <= maxKeptAssertion {
		s.assertions.put(id, assertion{text, key, c.IssuedAt})
	}
	return text, nil
}

// assertionID is what an assertion was made of. The version is the grant's.
type assertionID struct {
	proxy, grant, jti string
	version           uint64
}

// assertion is one that was made.
type assertion struct {
	text     string
	key      *signingKey
	issuedAt int64
}

// good reports whether the assertion would be signed with the same key now, and half of its life is left.
func (a assertion) good(key *signingKey, now time.Time) bool {
	age := now.Unix() - a.issuedAt
	return a.key == key && 0 <= age && age < int64(identityLife/time.Second)/2
}

const (
	// maxAssertions bounds how many are kept.
	maxAssertions = 4096

	// maxKeptAssertion is the longest that is kept, in bytes. None that is longer goes to a server.
	maxKeptAssertion = 8 << 10
)
