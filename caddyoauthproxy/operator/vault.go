package operator

import (
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// VaultInfo is what operators see of the vault.
type VaultInfo struct {
	Storage
	tokenstore.VaultState

	// RemovableKeys are the configured encryption keys that encrypt nothing, by their placeholders or the names of their sources. They are needed for older backups alone.
	RemovableKeys []string `json:"removable_keys,omitempty"`
}

// showVault is GET /vault.
func (s *Server) showVault(_ http.ResponseWriter, r *http.Request) (any, error) {
	state, err := s.options.Vault.State(r.Context())
	if err != nil {
		return nil, err
	}
	info := VaultInfo{Storage: s.options.Storage, VaultState: *state}
	for i, id := range state.Configured {
		if id != state.EncryptionKey && i < len(info.KeyNames) {
			info.RemovableKeys = append(info.RemovableKeys, info.KeyNames[i])
		}
	}
	return info, nil
}
