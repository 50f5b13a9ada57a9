package authserver

import (
	"net/http"
	"strings"
)

// introspection is the answer of RFC 7662 §2.2. For anything that is not alive it is {"active":false} alone.
type introspection struct {
	Active    bool   `json:"active"`
	Scope     string `json:"scope,omitempty"`
	ClientID  string `json:"client_id,omitempty"`
	Username  string `json:"username,omitempty"`
	TokenType string `json:"token_type,omitempty"`
	Expires   int64  `json:"exp,omitempty"`
	IssuedAt  int64  `json:"iat,omitempty"`
	Subject   string `json:"sub,omitempty"`
	Audience  string `json:"aud,omitempty"`
	Issuer    string `json:"iss,omitempty"`
	JTI       string `json:"jti,omitempty"`
}

// serveIntrospect is POST introspect (RFC 7662): a form with token, from a confidential client about its own tokens.
func (s *Server) serveIntrospect(w http.ResponseWriter, r *http.Request) {
	answer, err := s.introspect(w, r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (s *Server) introspect(w http.ResponseWriter, r *http.Request) (*introspection, error) {
	client, _, form, err := s.clientRequest(w, r)
	if err != nil {
		return nil, err
	}
	if client.AuthMethod == authNone {
		return nil, errInvalidClient("introspection by a public client")
	}
	token := form.Get("token")
	if token == "" {
		return nil, refuse("invalid_request", "token is missing")
	}
	grant, claims, err := s.grantOfToken(r.Context(), token)
	if err != nil {
		return nil, err
	}
	if grant == nil || grant.ClientID != client.ID {
		return &introspection{}, nil // and it counts as a failure
	}
	s.ownTokenDone(r, token, grant)
	now := s.vault.Now()
	if s.over(grant) || !now.Before(grant.Expires) {
		return &introspection{}, nil
	}
	a := &introspection{
		Active: true, Scope: strings.Join(grant.Scopes, " "), ClientID: grant.ClientID, Username: grant.User.Label(),
		Subject: grant.UserID, Audience: grant.Resource, Issuer: s.issuer,
	}
	if claims == nil {
		if t, _ := parseRefreshToken(token); t.generation != grant.Family.Generation {
			return &introspection{}, nil
		}
		a.Expires = grant.Expires.Unix()
		return a, nil
	}
	if now.Unix() >= claims.Expires {
		return &introspection{}, nil
	}
	a.TokenType, a.Scope, a.JTI = "Bearer", claims.Scope, claims.JTI
	a.Expires, a.IssuedAt = claims.Expires, claims.IssuedAt
	return a, nil
}
