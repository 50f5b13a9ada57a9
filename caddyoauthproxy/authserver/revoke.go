package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// serveRevoke is POST revoke (RFC 7009): a form with token and client authentication. Revoking
// either token ends the whole grant, here and, where the provider offers it, there. The answer is 200 for
// tokens that are unknown or another client's as well, without any effect.
func (s *Server) serveRevoke(w http.ResponseWriter, r *http.Request) {
	if err := s.revoke(w, r); err != nil {
		s.writeError(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

func (s *Server) revoke(w http.ResponseWriter, r *http.Request) error {
	client, _, form, err := s.clientRequest(w, r)
	if err != nil {
		return err
	}
	if form.Get("token") == "" {
		return refuse("invalid_request", "token is missing")
	}
	grant, _, err := s.grantOfToken(r.Context(), form.Get("token"))
	if err != nil {
		return err
	}
	if grant == nil || grant.ClientID != client.ID {
		return nil // and it counts as a failure: whoever has a token of its own need not guess
	}
	progressOf(r.Context()).proxy = grant.Proxy
	if err := s.endGrant(tokenstore.WithActor(r.Context(), clientActor(client)), grant.ID, reasonClient); err != nil {
		return err
	}
	s.ownTokenDone(r, form.Get("token"), grant)
	return nil
}

// ownTokenDone is clientRequestDone for a request about a token that is genuine and the client's own. A refresh token from long ago
// counts all the same: to judge it takes as many hashes as there were rotations since.
func (s *Server) ownTokenDone(r *http.Request, token string, g *tokenstore.Grant) {
	if t, isRefresh := parseRefreshToken(token); isRefresh && g.Family.Generation-t.generation > maxReplaced {
		return
	}
	s.clientRequestDone(r)
}

// grantOfToken finds the grant of a gateway token of either type, nil when the token is not genuine. Claims are
// those of an access token; they may have expired.
func (s *Server) grantOfToken(ctx context.Context, token string) (*tokenstore.Grant, *Claims, error) {
	var grantID string
	var claims *Claims
	refresh, isRefresh := parseRefreshToken(token)
	if isRefresh {
		grantID = refresh.grantID
	} else {
		var err error
		claims, err = s.verify(ctx, token)
		switch {
		case err == nil && claims.Issuer == s.issuer:
			grantID = claims.GrantID
		case err == nil, errors.Is(err, ErrInvalidToken):
			return nil, nil, nil
		default:
			return nil, nil, err
		}
	}
	grant, err := s.vault.Grant(ctx, grantID)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("grant: %w", err)
	}
	if isRefresh {
		if stands, _ := s.standingOf(refresh, grant.Family); stands == foreign {
			return nil, nil, nil
		}
	}
	return grant, claims, nil
}

// endGrant revokes a grant and its account, both or none. It is effective with the next request that reads the
// grant; the provider is told in the background. Events of why it ends are recorded with it, or by themselves when it had ended before.
func (s *Server) endGrant(ctx context.Context, id, reason string, why ...*tokenstore.Event) error {
	grant, tellProvider, err := s.revokeGrant(ctx, id, reason, nil, why...)
	if err != nil {
		return err
	}
	if grant == nil {
		for _, e := range why {
			s.vault.Note(e)
		}
		return nil
	}
	s.background(ctx, func(ctx context.Context) {
		if err := tellProvider(ctx); err != nil {
			s.log.Warn("provider could not be told that tokens have ended; trying again later",
				zap.String("grant", grant.ID), zap.NamedError("cause", withoutURL(err)))
		}
	})
	return nil
}

// revokeGrant revokes a grant and its account, and returns it, and how to tell the provider. A grant that is gone or ended, or that is not as it
// should be any more, is nil.
func (s *Server) revokeGrant(ctx context.Context, id, reason string, still func(*tokenstore.Grant) bool, why ...*tokenstore.Event) (*tokenstore.Grant, func(context.Context) error, error) {
	for {
		grant, err := s.vault.Grant(ctx, id)
		switch {
		case errors.Is(err, tokenstore.ErrNotFound):
			return nil, nil, nil
		case err != nil:
			return nil, nil, fmt.Errorf("end grant: %w", err)
		case grant.State == tokenstore.StateRevoked, still != nil && !still(grant):
			return nil, nil, nil
		}
		grant.State, grant.Reason = tokenstore.StateRevoked, reason
		grant.DeleteAfter = s.vault.Now().Add(s.life.Retention)
		writes := []tokenstore.Write{tokenstore.Save(grant), tokenstore.RecordEvent(s.ended(ctx, grant))}
		for _, e := range why {
			writes = append(writes, tokenstore.RecordEvent(e))
		}
		tellProvider, err := s.accounts.End(ctx, grant.AccountID, writes...)
		if errors.Is(err, tokenstore.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("end grant: %w", err)
		}
		s.tellEnded(grant)
		return grant, tellProvider, nil
	}
}
