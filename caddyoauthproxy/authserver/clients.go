package authserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// ConfiguredClient is a client that the operator registered in the configuration.
type ConfiguredClient struct {
	// Client is the client's metadata; its ID is the client_id. AuthMethod and GrantTypes are set.
	tokenstore.Client

	// Secret is the client secret, empty for clients without one.
	Secret string

	// Proxies are the ids of the proxies that the client may use; empty means all.
	Proxies []string
}

// errUnreachableClient says that a client's metadata document cannot be had at the moment.
var errUnreachableClient = errors.New("the client's metadata document cannot be fetched")

// client finds a client: in the configuration, by its metadata document when the id is a URL, or among those that
// registered. Errors: tokenstore.ErrNotFound, errUnreachableClient, and those of the vault.
func (s *Server) client(ctx context.Context, id string) (*tokenstore.Client, error) {
	return s.findClient(ctx, id, 0)
}

func (s *Server) findClient(ctx context.Context, id string, staleFor time.Duration) (*tokenstore.Client, error) {
	switch {
	case s.configured[id] != nil:
		return &s.configured[id].Client, nil
	case strings.HasPrefix(id, "https://"):
		return s.documents.client(ctx, id, staleFor)
	case !plausibleID(id):
		return nil, tokenstore.ErrNotFound
	}
	return s.vault.Client(ctx, id)
}

// loadClient is client for code that already knows the client to exist: its absence is a refusal.
func (s *Server) loadClient(ctx context.Context, id string) (*tokenstore.Client, error) {
	c, err := s.client(ctx, id)
	if errors.Is(err, tokenstore.ErrNotFound) {
		return nil, refuse("invalid_client", "This application is no longer registered here.").because(err)
	}
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return c, nil
}

// mayUse says whether a client may use a proxy at all. Clients that registered themselves may use all; whether the
// redirect URI is allowed there is another question.
func (s *Server) mayUse(clientID string, p *Proxy) bool {
	c := s.configured[clientID]
	return c == nil || len(c.Proxies) == 0 || slices.Contains(c.Proxies, p.ID)
}

// clientHash sums up what makes a client the one that the user was shown. A remembered consent covers no other.
func (s *Server) clientHash(c *tokenstore.Client) string {
	parts := append([]string{c.Name, c.AuthMethod, c.JWKSURI, string(c.JWKS)}, c.RedirectURIs...)
	return s.vault.Derive(purposeClientHash, parts...)
}

// holdsGrants reports whether a client is one that people here use, as far as that can be known.
func (s *Server) holdsGrants(ctx context.Context, id string) bool {
	if s.configured[id] != nil {
		return true
	}
	grants, err := s.vault.Grants(ctx, tokenstore.GrantQuery{ClientID: id, Limit: 1})
	return err == nil && len(grants) > 0
}

// isRegistered says whether the client has a row of its own in the vault.
func (s *Server) isRegistered(c *tokenstore.Client) bool { return c.Version > 0 }

// renewAfter is how long a client's row is left as it is: its expiry is counted in weeks, and a write for every
// token would be one too many.
const renewAfter = 24 * time.Hour

// renewClient keeps a client that has proven to be in use, and outlasts its grant.
func (s *Server) renewClient(ctx context.Context, c *tokenstore.Client, g *tokenstore.Grant) error {
	s.documents.keep(c)
	if !s.isRegistered(c) {
		return nil
	}
	for {
		now := s.vault.Now()
		until := now.Add(s.registration.TTL)
		if end := g.Ends.Add(renewAfter + s.registration.UnusedTTL); until.Before(end) {
			until = end
		}
		if !c.Used.IsZero() && c.DeleteAfter.Add(renewAfter).After(until) {
			return nil
		}
		c.Used, c.Address, c.DeleteAfter = now, "", until
		err := s.vault.Commit(ctx, tokenstore.Save(c))
		if !errors.Is(err, tokenstore.ErrConflict) {
			return err
		}
		if c, err = s.vault.Client(ctx, c.ID); err != nil {
			return err
		}
	}
}

// plausibleID keeps anything but short plain identifiers away from the store.
func plausibleID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return isBase64URL(id)
}

// ValidClientID says whether a configured client may have this id. Ids that look like those of other
// kinds of clients are refused.
func ValidClientID(id string) error {
	switch {
	case !plausibleID(id):
		return errors.New("must be 1 to 64 letters, digits, - and _")
	case strings.HasPrefix(id, registeredPrefix):
		return fmt.Errorf("must not begin with %s, which ids of registered clients do", registeredPrefix)
	}
	return nil
}
