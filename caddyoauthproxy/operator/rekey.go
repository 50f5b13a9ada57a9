package operator

import (
	"context"
	"net/http"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// rekeyPoll is how often it is looked how far a rekey is.
const rekeyPoll = 200 * time.Millisecond

// beginRekey is POST /rekey.
func (s *Server) beginRekey(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := atEndpoint(r); err != nil {
		return nil, err
	}
	rekey, err := s.options.Vault.BeginRekey(r.Context())
	if err != nil {
		return nil, err
	}
	writeJSON(w, http.StatusAccepted, rekey)
	return nil, nil
}

// showRekey is GET /rekey.
func (s *Server) showRekey(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := atEndpoint(r); err != nil {
		return nil, err
	}
	switch param(r, "follow") {
	case "", "false":
		return s.options.Vault.Rekey(r.Context())
	case "true":
		return nil, s.work(w, r, s.followRekey)
	default:
		return nil, bad("follow must be true or false")
	}
}

// followRekey tells how far a rekey is, until there is nothing to wait for.
func (s *Server) followRekey(ctx context.Context, tell func(tokenstore.Progress)) (any, error) {
	tick := time.NewTicker(rekeyPoll)
	defer tick.Stop()
	for {
		rekey, err := s.options.Vault.Rekey(ctx)
		if err != nil || rekey.State != tokenstore.RekeyRunning || rekey.Error != "" {
			return rekey, err
		}
		if rekey.Progress != nil {
			tell(*rekey.Progress)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
