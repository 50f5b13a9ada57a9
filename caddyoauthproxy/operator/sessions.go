package operator

import (
	"context"
	"net/http"
	"slices"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// SessionPage is a page of those who are signed in to the gateway's own pages, the latest first. Next is the `after` of the page behind it, empty on the last.
type SessionPage struct {
	Sessions []*authserver.SignIn `json:"sessions"`
	Next     string               `json:"next,omitempty"`
}

// listSessions is GET /sessions.
func (s *Server) listSessions(w http.ResponseWriter, r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	page, err := s.sessionsAfter(r.Context(), param(r, "after"), limit)
	if err != nil {
		return nil, err
	}
	linkNext(w, r, page.Next)
	return page, nil
}

func (s *Server) sessionsAfter(ctx context.Context, after string, limit int) (page SessionPage, err error) {
	all, err := s.options.Gateway.SignIns(ctx)
	if err != nil {
		return page, err
	}
	if after != "" {
		i := slices.IndexFunc(all, func(s *authserver.SignIn) bool { return s.ID == after })
		if i < 0 {
			return page, bad("after: the sign-in that the page before ended with is over: begin again")
		}
		all = all[i+1:]
	}
	page.Sessions = all
	if len(all) > limit {
		page.Sessions, page.Next = all[:limit], all[limit-1].ID
	}
	return page, nil
}

// endSession is DELETE /sessions/{id}.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.options.Gateway.EndSignIn(r.Context(), r.PathValue("id")); err != nil {
		return nil, err
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return nil, nil
}
