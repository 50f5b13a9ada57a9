package operator

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// NewAPIKey is the body of a request for an API key.
type NewAPIKey struct {
	// What the key is for, for people. Required.
	Name string `json:"name"`

	// The proxies that the key is for. At least one.
	Proxies []string `json:"proxies"`

	// The key's scopes: at least one. Default: all of the proxies'.
	Scopes []string `json:"scopes,omitzero"`

	// How long the key lives, such as `12h` or `30d`: at most 365d. Default: 90d.
	ExpiresIn string `json:"expires_in,omitempty"`
}

// CreatedAPIKey is the answer to it: the one time that the key is seen.
type CreatedAPIKey struct {
	Key string `json:"key"`
	*authserver.APIKey
}

// listAPIKeys is GET /api_keys.
func (s *Server) listAPIKeys(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.options.Gateway.APIKeys(r.Context())
}

// createAPIKey is POST /api_keys.
func (s *Server) createAPIKey(w http.ResponseWriter, r *http.Request) (any, error) {
	var body NewAPIKey
	if err := readJSON(w, r, &body, "name, proxies, scopes and expires_in"); err != nil {
		return nil, err
	}
	if body.Scopes != nil && len(body.Scopes) == 0 { // such as those of a variable that a script forgot to set
		return nil, bad("scopes is empty: name the key's, or leave it out for all of the proxies'")
	}
	lifetime, err := parseExpiresIn(body.ExpiresIn)
	if err != nil {
		return nil, err
	}
	key, made, err := s.options.Gateway.CreateAPIKey(r.Context(), authserver.NewAPIKey{Name: body.Name, Proxies: body.Proxies, Scopes: body.Scopes, Lifetime: lifetime})
	if err != nil {
		return nil, err
	}
	return CreatedAPIKey{key, made}, nil
}

// revokeAPIKey is DELETE /api_keys/{id}.
func (s *Server) revokeAPIKey(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.options.Gateway.RevokeAPIKey(r.Context(), r.PathValue("id"))
}

// parseExpiresIn is the lifetime of a key, zero where none is given: a duration as Go writes it, or days.
func parseExpiresIn(text string) (time.Duration, error) {
	if strings.TrimSpace(text) == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if days, inDays := strings.CutSuffix(text, "d"); inDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, bad("expires %q is no time to live: write it like 12h or 30d, at most 365d; no key lives for ever", text)
	}
	return d, nil
}
