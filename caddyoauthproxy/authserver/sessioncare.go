package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	josejson "github.com/go-jose/go-jose/v4/json"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// sessionState is the answer to a validation.
type sessionState struct {
	Valid        bool       `json:"valid"`
	UserIdentity string     `json:"user_identity,omitempty"`
	UserEmail    string     `json:"user_email,omitempty"`
	UserName     string     `json:"user_name,omitempty"`
	Provider     string     `json:"provider,omitempty"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty"`
}

// sessionToken reads the token from the JSON body's session_token, or else from the headers in which it is sent to proxies.
func sessionToken(w http.ResponseWriter, r *http.Request) (string, error) {
	var body struct {
		SessionToken string `json:"session_token"`
	}
	raw, err := readBody(w, r)
	if err != nil {
		return "", err
	}
	if len(raw) > 0 && josejson.Unmarshal(raw, &body) != nil {
		return "", refuse("invalid_request", "the body is not a JSON object with session_token")
	}
	if body.SessionToken != "" {
		return body.SessionToken, nil
	}
	if token := r.Header.Get("X-Session-Token"); token != "" {
		return token, nil
	}
	if token := bearer(r); token != "" {
		return token, nil
	}
	return "", refuse("invalid_request", "session_token is missing: send it in a JSON body, or as X-Session-Token")
}

// liveSession finds the living grant of a session token.
func (s *Server) liveSession(ctx context.Context, token string) (*tokenstore.Grant, *Claims, error) {
	g, c, err := s.grantOfAccessToken(ctx, token, s.vault.Grant)
	switch {
	case errors.Is(err, ErrInvalidToken):
	case err != nil:
		return nil, nil, err
	case g.ClientID != sessionClient || !slices.ContainsFunc(s.order, func(p *Proxy) bool { return s.goodFor(g, c, p) == nil }):
		err = errors.New("not a session, or of a user who may use nothing any more")
	default:
		return g, c, nil
	}
	return nil, nil, &Error{Status: http.StatusUnauthorized, Code: "invalid_token", Cause: err,
		Description: "the session token is unknown, expired or logged out; log in again"}
}

// serveSessionValidate is POST validate: is the token good, and whose is it?
func (s *Server) serveSessionValidate(w http.ResponseWriter, r *http.Request) {
	state, err := s.validateSession(w, r)
	if err != nil {
		s.writeSessionError(w, r, err)
		return
	}
	// Scripts look for the members inside data, and beside it.
	writeJSON(w, http.StatusOK, struct {
		Success bool          `json:"success"`
		Data    *sessionState `json:"data"`
		*sessionState
	}{true, state, state})
}

func (s *Server) validateSession(w http.ResponseWriter, r *http.Request) (*sessionState, error) {
	if err := s.charge(s.limits.token, r); err != nil {
		return nil, err
	}
	token, err := sessionToken(w, r)
	if err != nil {
		return nil, err
	}
	g, c, err := s.liveSession(r.Context(), token)
	if asError(err).Code == "invalid_token" {
		return &sessionState{}, nil
	}
	if err != nil {
		return nil, err
	}
	s.clientRequestDone(r)
	data, err := s.sessionOf(g)
	if err != nil {
		return nil, err
	}
	expires := time.Unix(c.Expires, 0).UTC()
	return &sessionState{Valid: true, UserIdentity: data.UserIdentity, UserEmail: data.UserEmail, UserName: data.UserName, Provider: data.Provider, ExpiresAt: &expires}, nil
}

// serveSessionRefresh is POST refresh: a new token for one that is still good.
func (s *Server) serveSessionRefresh(w http.ResponseWriter, r *http.Request) {
	data, err := s.refreshSession(w, r)
	if err != nil {
		s.writeSessionError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Success bool         `json:"success"`
		Data    *sessionData `json:"data"`
		*sessionData
	}{true, data, data})
}

func (s *Server) refreshSession(w http.ResponseWriter, r *http.Request) (*sessionData, error) {
	if err := s.charge(s.limits.token, r); err != nil {
		return nil, err
	}
	token, err := sessionToken(w, r)
	if err != nil {
		return nil, err
	}
	for {
		g, _, err := s.liveSession(r.Context(), token)
		if err != nil {
			return nil, err
		}
		if err := s.checkAccount(r.Context(), g); err != nil {
			return nil, err
		}
		s.extendSession(g, s.vault.Now())
		ctx := tokenstore.WithActor(r.Context(), userActor(g.UserID, g.User.Label()))
		err = s.vault.Commit(ctx, tokenstore.Save(g), tokenstore.RecordEvent(s.grantEvent(ctx, tokenstore.EventSessionRefreshed, g)))
		if errors.Is(err, tokenstore.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("refresh session: %w", err)
		}
		s.clientRequestDone(r)
		s.tellIssued(r.Context(), grantSession, g, g.Expires)
		return s.sessionOf(g)
	}
}

// serveSessionLogout is POST logout: it ends the session, whether its token has expired or not.
func (s *Server) serveSessionLogout(w http.ResponseWriter, r *http.Request) {
	if err := s.logoutSession(w, r); err != nil {
		s.writeSessionError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, envelope{Success: true, Message: "logged out"})
}

func (s *Server) logoutSession(w http.ResponseWriter, r *http.Request) error {
	if err := s.charge(s.limits.token, r); err != nil {
		return err
	}
	token, err := sessionToken(w, r)
	if err != nil {
		return err
	}
	g, _, err := s.grantOfToken(r.Context(), token)
	if err != nil || g == nil || g.ClientID != sessionClient {
		return err // an unknown token is logged out already
	}
	s.clientRequestDone(r)
	return s.endGrant(tokenstore.WithActor(r.Context(), userActor(g.UserID, g.User.Label())), g.ID, reasonLogout)
}
