package authserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// DeleteClient deletes the registration of a client, and ends all its grants by an order, which it returns. The registration goes first: without it no new grant
// can be made. When the order then fails, the same call again gives it, as long as there are grants. A client that did not register itself is an
// *Error with status 409, and one that is not there and has no grants one with 404; others are what the vault says.
func (s *Server) DeleteClient(ctx context.Context, id, by, reason string) (*RevocationOrder, error) {
	filter, reason := RevocationFilter{ClientID: id}, cmp.Or(strings.TrimSpace(reason), "the client was deleted")
	if err := checkOrderReason(reason); err != nil {
		return nil, err // before anything is deleted
	}
	switch {
	case s.configured[id] != nil:
		return nil, &Error{Status: http.StatusConflict, Code: "conflict",
			Description: "this client stands in the configuration: take it out there; to end its grants alone, revoke by its client_id"}
	case strings.HasPrefix(id, "https://"):
		return nil, &Error{Status: http.StatusConflict, Code: "conflict",
			Description: "this client is not registered here, but describes itself: to keep it out set metadata_documents; to end its grants alone, revoke by its client_id"}
	case !plausibleID(id):
		return nil, errNoClient()
	}
	if err := s.deleteRegistration(ctx, id); err != nil {
		return nil, err
	}
	return s.RevokeGrants(ctx, filter, by, reason)
}

// deleteRegistration deletes the row of a client. One that is gone counts as deleted while it has grants.
func (s *Server) deleteRegistration(ctx context.Context, id string) error {
	for {
		c, err := s.vault.Client(ctx, id)
		if errors.Is(err, tokenstore.ErrNotFound) {
			grants, err := s.grantsOfClient(ctx, id)
			if err == nil && len(grants) == 0 {
				return errNoClient()
			}
			return err
		}
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		event := s.clientEvent(ctx, tokenstore.EventClientDeleted, c)
		event.Actor = tokenstore.ActorFrom(ctx)
		err = s.vault.Commit(ctx, tokenstore.Delete(c), tokenstore.RecordEvent(event))
		if errors.Is(err, tokenstore.ErrConflict) { // it got a token just now
			continue
		}
		if err != nil {
			return fmt.Errorf("delete client: %w", err)
		}
		return nil
	}
}
