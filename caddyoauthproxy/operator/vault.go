package operator

import (
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// VaultInfo is what operators see of the vault.
type VaultInfo struct {
	Storage
	tokenstore.VaultState
}

// showVault is GET /vault.
func (s *Server) showVault(_ http.ResponseWriter, r *http.Request) (any, error) {
	state, err := s.options.Vault.State(r.Context())
	if err != nil {
		return nil, err
	}
	return VaultInfo{s.options.Storage, *state}, nil
}
