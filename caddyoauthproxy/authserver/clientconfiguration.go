package authserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// serveClientConfiguration is the client configuration endpoint (RFC 7592): with the registration access token of its
// registration a client reads (GET), replaces (PUT) or deletes (DELETE) it. Deleting ends the client's grants.
func (s *Server) serveClientConfiguration(w http.ResponseWriter, r *http.Request) {
	answer, err := s.configureClient(w, r)
	switch {
	case err != nil:
		s.writeError(w, r, err)
	case answer == nil:
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
	default:
		writeJSON(w, http.StatusOK, answer)
	}
}

func (s *Server) configureClient(w http.ResponseWriter, r *http.Request) (*registered, error) {
	if err := s.charge(s.limits.register, r); err != nil {
		return nil, err
	}
	c, token, err := s.ownClient(r)
	if err != nil {
		return nil, err
	}
	switch r.Method {
	case http.MethodPut:
		return s.replaceClient(w, r, c, token)
	case http.MethodDelete:
		return nil, s.deleteClient(r.Context(), c)
	default:
		return s.registered(c, "", token), nil
	}
}

// ownClient finds the client of the path and insists on its token. A client that does not exist answers as a
// wrong token does (RFC 7592 §2.1).
func (s *Server) ownClient(r *http.Request) (*tokenstore.Client, string, error) {
	refused := errBearer("the registration access token is not that of this client, or the client is gone")
	token := bearer(r)
	hash := s.vault.Hash(purposeManagement, token)
	id := r.PathValue("client")
	if !plausibleID(id) {
		return nil, "", refused
	}
	c, err := s.vault.Client(r.Context(), id)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, "", refused
	case err != nil:
		return nil, "", fmt.Errorf("client: %w", err)
	case c.ManagementHash == "" || subtle.ConstantTimeCompare([]byte(hash), []byte(c.ManagementHash)) != 1:
		return nil, "", refused
	}
	return c, token, nil
}

func (s *Server) replaceClient(w http.ResponseWriter, r *http.Request, c *tokenstore.Client, token string) (*registered, error) {
	meta, err := readRegistration(w, r)
	if err != nil {
		return nil, err
	}
	if meta.ClientID != c.ID {
		return nil, refuse("invalid_client_metadata", "client_id must be the client's own")
	}
	if meta.ClientSecret != nil && subtle.ConstantTimeCompare([]byte(s.vault.Hash(purposeClientSecret, *meta.ClientSecret)), []byte(c.SecretHash)) != 1 {
		return nil, refuse("invalid_client_metadata", "client_secret must be the client's own; it cannot be chosen")
	}
	before := c.AuthMethod
	if err := s.applyRegistration(c, meta); err != nil {
		return nil, err
	}
	var secret string
	if usesSecret(before) != usesSecret(c.AuthMethod) {
		secret = s.newSecret(c)
	}
	if err := s.vault.Commit(r.Context(), tokenstore.Save(c), tokenstore.RecordEvent(s.clientEvent(r.Context(), tokenstore.EventClientUpdated, c))); err != nil {
		return nil, fmt.Errorf("save client: %w", err)
	}
	return s.registered(c, secret, token), nil
}

func usesSecret(method string) bool { return method == authPost || method == authBasic }

// deleteClient deletes a client and ends its grants. They come first: where that is cut off, the client is still there, and can be deleted again.
func (s *Server) deleteClient(ctx context.Context, c *tokenstore.Client) error {
	ctx = tokenstore.WithActor(ctx, clientActor(c))
	if err := s.endGrantsOf(ctx, c.ID); err != nil {
		return err
	}
	if err := s.deleteRegistration(ctx, c.ID); err != nil {
		return err
	}
	return s.endGrantsOf(ctx, c.ID) // those that were made meanwhile
}

// endGrantsOf ends the grants of a client that is being deleted. Those that do not open are of no use to anybody.
func (s *Server) endGrantsOf(ctx context.Context, clientID string) error {
	query := tokenstore.GrantQuery{ClientID: clientID}
	for {
		grants, err := s.vault.Grants(ctx, query)
		if err != nil && !errors.Is(err, tokenstore.ErrTampered) {
			return fmt.Errorf("end the client's grants: %w", err)
		}
		for _, g := range grants {
			if err := s.endGrant(ctx, g.ID, reasonDeleted); err != nil {
				return err
			}
			query.After = g.ID
		}
		if len(grants) == 0 {
			return nil
		}
	}
}
