package operator

import (
	"context"
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Verification is what a verification of the vault found.
type Verification struct {
	Whole bool `json:"whole"`
	*tokenstore.Verification
}

// verifyVault is GET /verify. It changes nothing, and reads the whole vault, for one caller at a time.
func (s *Server) verifyVault(w http.ResponseWriter, r *http.Request) (any, error) {
	if !s.verifying.TryLock() {
		return nil, Conflict("the vault is being verified for somebody else: try again when that is done")
	}
	defer s.verifying.Unlock()
	return nil, s.work(w, r, func(ctx context.Context, tell func(tokenstore.Progress)) (any, error) {
		report, err := s.options.Vault.Verify(ctx, tell)
		if err != nil {
			return nil, err
		}
		return Verification{report.Whole(), report}, nil
	})
}
