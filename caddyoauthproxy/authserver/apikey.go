package authserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// An API key is for programs that do no OAuth. The operator makes it, for some proxies and a time. It acts for no user, so it is good only at
// proxies that have an upstream token without one, and stands there like a client that acts for itself.
//
// It is "gwk_", the key's id, "_" and 256 random bits, all in lower-case hex, so that no key has two spellings. The vault has the id, and a
// keyed hash of the whole.

const (
	apiKeyIDSize     = 8  // bytes
	apiKeySecretSize = 32 // bytes

	// apiKeyClient begins the client id of requests with an API key; the key's id follows. No client can have such an id.
	apiKeyClient = "api-key:"

	// apiKeyUsedAfter is how long ago a key's last use must be to be written anew.
	apiKeyUsedAfter = 24 * time.Hour
)

// APIKeyID is the id in a text that has the form of an API key.
func APIKeyID(key string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(key, tokenstore.APIKeyPrefix)
	if !ok {
		return "", false
	}
	id, secret, _ := strings.Cut(rest, "_")
	return id, isAPIKeyID(id) && isLowerHex(secret, apiKeySecretSize)
}

// isAPIKeyID reports whether an id has the form of an API key's. No grant's has.
func isAPIKeyID(id string) bool { return isLowerHex(id, apiKeyIDSize) }

func isLowerHex(v string, size int) bool {
	return len(v) == 2*size && strings.Trim(v, "0123456789abcdef") == ""
}

// authenticateAPIKey is Authenticate for an API key. The grant is made for the request, is not in the vault, and has the key's id.
func (s *Server) authenticateAPIKey(ctx context.Context, text string, p *Proxy) (*tokenstore.Grant, *Claims, error) {
	id, ok := APIKeyID(text)
	if !ok {
		return nil, nil, fmt.Errorf("%w: not in the form of an API key", ErrInvalidToken)
	}
	key, err := s.apiKey(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if subtle.ConstantTimeCompare([]byte(s.vault.Hash(purposeAPIKey, text)), []byte(key.Hash)) != 1 {
		return nil, nil, fmt.Errorf("%w: wrong secret for API key %s", ErrInvalidToken, key.ID)
	}
	if err := s.apiKeyGoodFor(key, p); err != nil {
		return nil, nil, err
	}
	s.noteUse(ctx, key)
	client, scopes := apiKeyClient+key.ID, common(key.Scopes, p.Scopes)
	return &tokenstore.Grant{
			Meta: key.Meta, State: tokenstore.StateActive, ClientID: client, Client: key.Name, Proxy: p.ID, Resource: p.Resource, Scopes: scopes,
			UserID: client, User: tokenstore.User{Subject: client, Login: client, Name: key.Name}, Created: key.Created, Expires: key.Expires, Ends: key.Expires,
			Family: tokenstore.RefreshFamily{JTI: key.ID},
		}, &Claims{
			Issuer: s.issuer, Audience: p.Resource, Subject: client, ClientID: client, Scope: strings.Join(scopes, " "), JTI: key.ID, GrantID: key.ID,
			IssuedAt: key.Created.Unix(), Expires: key.Expires.Unix(),
		}, nil
}

// checkAPIKey is CheckGrant for a request that came with an API key.
func (s *Server) checkAPIKey(ctx context.Context, id string, p *Proxy) error {
	key, err := s.apiKey(ctx, id)
	if err != nil {
		return err
	}
	return s.apiKeyGoodFor(key, p)
}

// apiKey finds an API key. Errors are ErrInvalidToken, or what the vault says.
func (s *Server) apiKey(ctx context.Context, id string) (*tokenstore.APIKey, error) {
	key, err := s.vault.RecallAPIKey(ctx, id)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, fmt.Errorf("%w: no such API key", ErrInvalidToken)
	case err != nil:
		return nil, fmt.Errorf("API key: %w", err)
	}
	return key, nil
}

// apiKeyGoodFor returns ErrInvalidToken for a key that is no good, now, for a proxy as it is configured now.
func (s *Server) apiKeyGoodFor(k *tokenstore.APIKey, p *Proxy) error {
	invalid := func(why string) error { return fmt.Errorf("%w: API key %s %s", ErrInvalidToken, k.ID, why) }
	switch {
	case !k.Revoked.IsZero():
		return invalid("was revoked")
	case !s.vault.Now().Before(k.Expires):
		return invalid("has expired")
	case !slices.Contains(k.Proxies, p.ID):
		return invalid("is for other proxies")
	case !p.Machines:
		return invalid("needs a token for clients without a user, which the proxy has no more")
	case len(common(k.Scopes, p.Scopes)) == 0:
		return invalid("has no scope that the proxy knows")
	}
	return nil
}

// noteUse writes down that a key is in use, once a day, apart from the request. Where that fails, the next use tries again.
func (s *Server) noteUse(ctx context.Context, k *tokenstore.APIKey) {
	now := s.vault.Now()
	if now.Before(k.Used.Add(apiKeyUsedAfter)) {
		return
	}
	if _, busy := s.noting.LoadOrStore(k.ID, true); busy {
		return
	}
	used := *k
	used.Used = now
	s.background(ctx, func(ctx context.Context) {
		defer s.noting.Delete(used.ID)
		err := s.vault.Commit(ctx, tokenstore.Save(&used))
		if err != nil && !errors.Is(err, tokenstore.ErrConflict) { // somebody else noted it, or revoked the key
			s.log.Warn("last use of an API key could not be stored", zap.String("api_key", used.ID), zap.Error(err))
		}
	})
}

// common are those of the scopes that are among the others.
func common(scopes, others []string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), func(scope string) bool { return !slices.Contains(others, scope) })
}
